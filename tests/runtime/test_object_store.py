"""Checkpoints and metrics in an object store: the same promises as on a disk."""

import json

import jax
import numpy as np
import pytest

from retfm_jax import files
from retfm_jax.errors import UserError
from retfm_jax.runtime.checkpoints import Checkpoints, find_checkpoint, load_network, save_network
from retfm_jax.runtime.writers import MetricWriter

META = {"config": {"method": "toy"}}


def _trees(value: float):
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    trees = (
        {"params": {"kernel": np.full((3, 4), value, np.float32)}, "batch_stats": {}},
        {"step": np.int32(value)},
    )
    return jax.device_put(trees, device)


def _save(workdir, *steps):
    checkpoints = Checkpoints(workdir, keep=2)
    for step in steps:
        checkpoints.save(step, *_trees(step), {"next_batch": step}, META)
    checkpoints.close()


def _restored_step(workdir) -> int:
    checkpoints = Checkpoints(workdir)
    abstract = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding),
        _trees(0),
    )
    restored = checkpoints.restore(*abstract, lambda data, meta: None)
    checkpoints.close()
    np.testing.assert_array_equal(restored.network["params"]["kernel"], restored.step)
    assert restored.data == {"next_batch": restored.step}
    return restored.step


def test_the_newest_checkpoints_stay_and_come_back(bucket):
    _save(bucket, 1, 2, 3)
    names = {path.name for path in (files.as_path(bucket) / "checkpoints").iterdir()}
    assert names == {"2", "3"}
    assert _restored_step(bucket) == 3
    assert load_network(bucket)[0]["kernel"][0, 0] == 3


def test_half_written_and_damaged_checkpoints_are_passed_over(bucket, capsys):
    _save(bucket, 1, 2)
    folder = files.as_path(bucket) / "checkpoints"
    for path in files.files_below(folder / "2"):
        relative = path.relative_to(folder / "2").as_posix()
        if relative != "commit_success.txt":
            (folder / "3" / relative).write_bytes(path.read_bytes())
        if relative.startswith("network/params"):
            path.write_bytes(path.read_bytes()[:-7])
    assert find_checkpoint(bucket) == folder / "2"
    assert _restored_step(bucket) == 1
    assert "checkpoints/2 is damaged" in capsys.readouterr().err
    assert {path.name for path in folder.iterdir()} == {"1", "damaged-2"}


def test_a_network_is_saved_into_a_new_folder_only(bucket):
    network, _ = _trees(5)
    save_network(f"{bucket}/weights", network["params"], {}, META)
    assert load_network(f"{bucket}/weights")[0]["kernel"][0, 0] == 5
    with pytest.raises(UserError, match="not empty"):
        save_network(f"{bucket}/weights", network["params"], {}, META)


def _steps(workdir) -> list[int]:
    text = (files.as_path(workdir) / "metrics.jsonl").read_text()
    return [json.loads(line)["step"] for line in text.splitlines()]


def test_metrics_are_there_as_soon_as_a_checkpoint_counts_on_them(bucket):
    writer = MetricWriter(bucket, 0)
    for step in (1, 2, 3):
        writer.write(step, {"loss": 0.5})
    writer.flush()
    assert _steps(bucket) == [1, 2, 3]
    writer.write(4, {"loss": 0.5})  # and then the run is killed
    after = MetricWriter(bucket, 2)
    after.write(3, {"loss": 0.25})
    after.close()
    assert _steps(bucket) == [1, 2, 3]
    events = [path for path in files.files_below(bucket) if "tfevents" in path.name]
    assert events
    assert all(path.stat().length for path in events)
