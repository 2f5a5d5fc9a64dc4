"""Checkpoints come back whole on any mesh, or are said to be damaged and the one before is used."""

import errno
import json
import os
import resource
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from retfm_jax.config import MeshConfig
from retfm_jax.errors import UserError
from retfm_jax.runtime import checkpoints
from retfm_jax.runtime.checkpoints import (
    Checkpoints,
    checksum,
    find_checkpoint,
    load_network,
    not_finite,
    save_network,
)
from retfm_jax.runtime.mesh import make_mesh, shardings

META = {"config": {"method": "toy"}}


def _trees(mesh, factor=1.0):
    rng = np.random.default_rng(0)
    kernel = factor * rng.normal(size=(64, 128)).astype(np.float32)
    params = {"kernel": kernel, "scale": np.float32(3)}
    trees = (
        {"params": params, "batch_stats": {}},
        {
            "step": np.int32(7),
            "opt_state": ({"mu": {"kernel": kernel / 2}},),
            "key": np.uint32([1, 2]),
            "labels": np.zeros((8, 0), np.float32),
        },
    )
    return jax.device_put(trees, shardings(trees, mesh))


def _abstract(trees):
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), trees
    )


def _save(workdir, mesh, steps=(1, 2), keep=3):
    checkpoints = Checkpoints(workdir, keep)
    for step in steps:
        data = {"next_batch": step}
        checkpoints.save(step, *_trees(mesh, factor=step), data, META)
    checkpoints.close()


def _restore(workdir, mesh, check=lambda data, meta: None):
    checkpoints = Checkpoints(workdir)
    try:
        return checkpoints.restore(*_abstract(_trees(mesh)), check)
    finally:
        checkpoints.close()


def _assert_is(restored, step, mesh):
    wanted = _trees(mesh, factor=step)
    assert restored.step == step
    assert restored.data == {"next_batch": step}
    for ours, leaf in zip(
        jax.tree.leaves((restored.network, restored.training)), jax.tree.leaves(wanted), strict=True
    ):
        np.testing.assert_array_equal(ours, leaf)
        assert ours.sharding == leaf.sharding


@pytest.fixture(scope="module")
def eight():
    return make_mesh(MeshConfig(4, 2))


@pytest.fixture(scope="module")
def two():
    return make_mesh(MeshConfig(1, 2), jax.devices()[:2])


def test_restores_onto_another_mesh_and_keeps_the_newest(tmp_path, eight, two):
    _save(tmp_path, eight, steps=(1, 2, 3), keep=2)
    assert sorted(os.listdir(tmp_path / "checkpoints")) == ["2", "3"]
    _assert_is(_restore(tmp_path, eight), 3, eight)
    _assert_is(_restore(tmp_path, two), 3, two)


def test_a_new_workdir_has_nothing_to_restore(tmp_path, two):
    assert _restore(tmp_path, two) is None


def _largest_file(folder):
    files = [path for path in folder.rglob("*") if path.is_file()]
    return max(files, key=lambda path: path.stat().st_size)


def _cut_short(checkpoint):
    file = _largest_file(checkpoint / "training")
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def _lose_a_file(checkpoint):
    _largest_file(checkpoint / "network").unlink()


def _lose_an_item(checkpoint):
    shutil.rmtree(checkpoint / "training")


def _lose_the_position(checkpoint):
    (checkpoint / "data" / "metadata").write_text('{"next_b')


def _flip_a_bit(checkpoint):
    file = _largest_file(checkpoint / "network")
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(bytes(content))


def _empty_files(checkpoint):
    """What a power cut makes of files that were not on the disk yet."""
    for path in checkpoint.rglob("*"):
        if path.is_file():
            path.write_bytes(b"")


def _another_position(checkpoint):
    file = checkpoint / "data" / "metadata"
    file.write_text(file.read_text().replace("2", "3"))


def _another_description(checkpoint):
    file = checkpoint / "meta" / "metadata"
    file.write_text(file.read_text().replace("toy", "tax"))


def _no_object(checkpoint):
    (checkpoint / "meta" / "metadata").write_text("[]")


def _half_deleted(checkpoint):
    for item in ("data", "meta", "network"):
        shutil.rmtree(checkpoint / item)


@pytest.mark.parametrize(
    "damage",
    [
        _cut_short,
        _lose_a_file,
        _lose_an_item,
        _lose_the_position,
        _flip_a_bit,
        _empty_files,
        _another_position,
        _another_description,
        _no_object,
        _half_deleted,
    ],
)
def test_a_damaged_checkpoint_is_said_and_the_one_before_it_used(tmp_path, capsys, two, damage):
    _save(tmp_path, two)
    damage(tmp_path / "checkpoints" / "2")
    _assert_is(_restore(tmp_path, two), 1, two)
    said = capsys.readouterr().err
    assert f"checkpoint {tmp_path / 'checkpoints' / '2'} is damaged" in said
    assert sorted(os.listdir(tmp_path / "checkpoints")) == ["1", "damaged-2"]
    # The run comes to step 2 again and saves it again.
    _save(tmp_path, two, steps=(2,))
    _assert_is(_restore(tmp_path, two), 2, two)


def test_only_damaged_checkpoints_are_no_fresh_start(tmp_path, two):
    _save(tmp_path, two, steps=(1,))
    _cut_short(tmp_path / "checkpoints" / "1")
    with pytest.raises(UserError, match=r"none of the checkpoints under .*can be read \(1: "):
        _restore(tmp_path, two)
    assert os.listdir(tmp_path / "checkpoints") == ["1"]


def _failing(monkeypatch, times, error):
    """Reading fails so often, as that of a disk that is away for a moment."""
    read, left = Checkpoints._item, [times]

    def item(self, *arguments):
        if left[0] > 0:
            left[0] -= 1
            raise error
        return read(self, *arguments)

    monkeypatch.setattr(Checkpoints, "_item", item)
    monkeypatch.setattr(checkpoints.time, "sleep", lambda seconds: None)


PASSING = {
    "a disk": OSError(errno.EIO, "Input/output error"),
    "a network disk": OSError(errno.ESTALE, "Stale file handle"),
    "a server": TimeoutError("timed out"),
    "tensorstore": ValueError("UNKNOWN: Error opening zarr driver: Failed to read 115 bytes"),
    "a store": ValueError("UNAVAILABLE: the service is overloaded"),
    "rights": PermissionError(errno.EACCES, "Permission denied"),
    "memory": MemoryError(),
}


@pytest.mark.parametrize("error", PASSING.values(), ids=PASSING)
def test_an_error_that_passes_is_no_damage(tmp_path, capsys, two, monkeypatch, error):
    _save(tmp_path, two)
    _failing(monkeypatch, 2, error)
    _assert_is(_restore(tmp_path, two), 2, two)
    assert "trying again" in capsys.readouterr().err
    assert sorted(os.listdir(tmp_path / "checkpoints")) == ["1", "2"]


def test_an_error_that_stays_refuses_and_renames_nothing(tmp_path, two, monkeypatch):
    _save(tmp_path, two)
    with monkeypatch.context() as patch:
        _failing(patch, 1000, PASSING["a disk"])
        with pytest.raises(UserError) as raised:
            _restore(tmp_path, two)
    message = str(raised.value)
    assert f"{tmp_path / 'checkpoints' / '2'} cannot be read: [Errno 5]" in message
    assert f"the run resumes from {tmp_path / 'checkpoints' / '1'}" in message
    assert sorted(os.listdir(tmp_path / "checkpoints")) == ["1", "2"]
    _assert_is(_restore(tmp_path, two), 2, two)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e30])
def test_a_state_that_makes_no_finite_loss_is_not_gone_on_from(tmp_path, capsys, two, value):
    """1e30 is a number, but no norm of such parameters is."""
    _save(tmp_path, two, steps=(1,))
    network, training = _trees(two)
    network["params"]["kernel"] = network["params"]["kernel"].at[3, 4].set(value)
    with Checkpoints(tmp_path) as saving:
        saving.save(2, network, training, {"next_batch": 2}, META)
    _assert_is(_restore(tmp_path, two), 1, two)
    assert "params/kernel is not finite" in capsys.readouterr().err
    assert sorted(os.listdir(tmp_path / "checkpoints")) == ["1", "nonfinite-2"]


def test_where_only_such_states_are_left_the_run_begins_anew(tmp_path, capsys, two):
    network, training = _trees(two, factor=np.float32(np.nan))
    with Checkpoints(tmp_path) as saving:
        saving.save(2, network, training, {"next_batch": 2}, META)
    assert _restore(tmp_path, two) is None
    assert os.listdir(tmp_path / "checkpoints") == ["nonfinite-2"]
    assert "is not finite" in capsys.readouterr().err


def test_what_was_begun_is_written_whatever_ends_the_run(tmp_path, two):
    def fails():
        with Checkpoints(tmp_path) as saving:
            saving.save(1, *_trees(two), {"next_batch": 1}, META)
            raise OSError("the data went away")

    with pytest.raises(OSError, match="the data went away"):
        fails()
    _assert_is(_restore(tmp_path, two), 1, two)


def test_half_written_and_half_removed_ones_are_not_there(tmp_path, two):
    _save(tmp_path, two, steps=(1,))
    folder = tmp_path / "checkpoints"
    for left in ("2.orbax-checkpoint-tmp", "7.orbax-checkpoint-tmp-1700000", ".removed/5"):
        shutil.copytree(folder / "1", folder / left)
    with Checkpoints(tmp_path) as opened:
        assert opened.steps == [1]
    assert os.listdir(folder) == ["1"]
    (folder / "3.orbax-checkpoint-tmp").mkdir()
    assert find_checkpoint(tmp_path) == folder / "1"


def test_containers_may_change_where_the_arrays_are_the_same(tmp_path, two):
    """An optimizer whose mask is gone has one wrapper less, and no other arrays."""
    network, training = _trees(two)
    wrapped = training | {"opt_state": (training["opt_state"], {"mask": ()})}
    with Checkpoints(tmp_path) as saving:
        saving.save(1, network, wrapped, {"next_batch": 1}, META)
    with Checkpoints(tmp_path) as opened:
        restored = opened.restore(
            *_abstract((network, training)),
            lambda data, meta: None,
            lambda name: name.replace("opt_state/0/", "opt_state/0/0/"),
        )
    assert jax.tree.structure(restored.training) == jax.tree.structure(training)
    np.testing.assert_array_equal(
        restored.training["opt_state"][0]["mu"]["kernel"], training["opt_state"][0]["mu"]["kernel"]
    )


def test_a_check_that_fails_itself_is_no_damage(tmp_path, two):
    _save(tmp_path, two)
    with pytest.raises(AttributeError):
        _restore(tmp_path, two, check=lambda data, meta: data.missing)
    assert sorted(os.listdir(tmp_path / "checkpoints")) == ["1", "2"]


def test_checkpoints_of_version_0_1_have_no_seal(tmp_path, two):
    _save(tmp_path, two)
    file = tmp_path / "checkpoints" / "2" / "meta" / "metadata"
    meta = json.loads(file.read_text())
    del meta["seal"]
    file.write_text(json.dumps(meta))
    _assert_is(_restore(tmp_path, two), 2, two)


def test_arrays_of_another_shape_are_no_damage(tmp_path, two):
    _save(tmp_path, two)
    network, training = _abstract(_trees(two))
    network["params"]["kernel"] = jax.ShapeDtypeStruct((8, 8), jnp.float32)
    network["params"]["bias"] = jax.ShapeDtypeStruct((8,), jnp.float32)
    with pytest.raises(UserError) as raised:
        Checkpoints(tmp_path).restore(network, training, lambda data, meta: None)
    assert "params/bias: missing there, (8,) here" in str(raised.value)
    assert "params/kernel: (64, 128) there, (8, 8) here" in str(raised.value)
    assert sorted(os.listdir(tmp_path / "checkpoints")) == ["1", "2"]


def test_what_is_saved_is_the_state_at_the_call(tmp_path, two):
    """Steps that take the old state's memory go on while it is written."""
    step = jax.jit(lambda trees: jax.tree.map(lambda leaf: leaf + 1, trees), donate_argnums=0)
    trees = _trees(two)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, *trees, {"next_batch": 1}, META)
    for _ in range(20):
        trees = step(trees)
    checkpoints.close()
    _assert_is(_restore(tmp_path, two), 1, two)


def test_network_alone_is_read_onto_one_device(tmp_path, eight):
    _save(tmp_path, eight)
    params, batch_stats, meta = load_network(tmp_path)
    np.testing.assert_array_equal(params["kernel"], _trees(eight, factor=2)[0]["params"]["kernel"])
    assert len(params["kernel"].devices()) == 1
    assert batch_stats == {}
    assert meta["config"] == META["config"]
    assert load_network(tmp_path / "checkpoints" / "1")[0]["kernel"].shape == (64, 128)


def test_a_network_alone_is_written_and_is_no_run(tmp_path, two):
    network, _ = _trees(two)
    path = tmp_path / "checkpoints" / "0"
    save_network(path, network["params"], {}, META)
    np.testing.assert_array_equal(load_network(tmp_path)[0]["kernel"], network["params"]["kernel"])
    with pytest.raises(UserError, match=r"without a run .*config.init.weights"):
        _restore(tmp_path, two)
    with pytest.raises(UserError, match="not empty"):
        save_network(path, network["params"], {}, META)


def _raises(error):
    def fails(*_):
        raise error

    return fails


def test_damage_and_absence_are_said_on_loading(tmp_path, two, monkeypatch):
    with pytest.raises(UserError, match="no checkpoint under"):
        find_checkpoint(tmp_path)
    _save(tmp_path, two)
    _lose_a_file(tmp_path / "checkpoints" / "2")
    with pytest.raises(UserError, match=r"2 is damaged: .*an earlier one is .*checkpoints/1$"):
        load_network(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "checksum", _raises(OSError(errno.EIO, "Input/output error")))
        with pytest.raises(UserError, match="1 cannot be read, though it may be whole"):
            load_network(tmp_path / "checkpoints" / "1")


def test_a_checkpoint_that_its_run_removes_meanwhile_is_not_called_damaged(
    tmp_path, two, monkeypatch
):
    network, _ = _trees(two)
    save_network(tmp_path / "checkpoints" / "2", network["params"], {}, META)
    find, newest = checkpoints.find_checkpoint, [tmp_path / "checkpoints" / "1"]
    monkeypatch.setattr(
        checkpoints, "find_checkpoint", lambda path: newest.pop() if newest else find(path)
    )
    np.testing.assert_array_equal(load_network(tmp_path)[0]["kernel"], network["params"]["kernel"])
    assert not newest


def test_a_name_that_cannot_hold_arrays_is_refused_before_there_are_any(tmp_path):
    folder = tmp_path / os.fsdecode(b"run\xe9")
    for use in (
        Checkpoints,
        find_checkpoint,
        load_network,
        lambda path: save_network(path, {}, {}, META),
    ):
        with pytest.raises(UserError, match="not UTF-8"):
            use(folder)
    assert os.listdir(tmp_path) == []


def test_a_full_disk_is_said_and_spares_the_earlier_checkpoints(tmp_path, two, monkeypatch):
    _save(tmp_path, two)

    def full(self, *args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(ocp.CheckpointManager, "save", full)
    checkpoints = Checkpoints(tmp_path)
    with pytest.raises(UserError) as raised:
        checkpoints.save(3, *_trees(two), {"next_batch": 3}, META)
    assert "checkpoint of step 3" in str(raised.value)
    assert "no space left on the device" in str(raised.value)
    assert "the earlier ones are intact (1, 2)" in str(raised.value)
    _assert_is(_restore(tmp_path, two), 2, two)


def test_a_write_that_stops_halfway_leaves_the_earlier_checkpoints(tmp_path):
    """The operating system itself refuses to write on, in the middle of an array."""
    process = subprocess.run(
        [sys.executable, __file__, str(tmp_path)], capture_output=True, text=True, timeout=120
    )
    assert "cannot write the checkpoint of step 2" in process.stdout, process.stderr
    assert "the earlier ones are intact (1)" in process.stdout
    assert "cannot write" in process.stdout.splitlines()[1]  # a network without its training
    assert "Traceback" not in process.stderr
    assert not list(tmp_path.glob("alone/*"))
    assert load_network(tmp_path)[0]["kernel"].shape == (64, 1024)
    Checkpoints(tmp_path).close()
    assert os.listdir(tmp_path / "checkpoints") == ["1"]


def _write_against_a_limit(workdir):
    rng = np.random.default_rng(0)
    network = {"params": {"kernel": jnp.asarray(rng.normal(size=(64, 1024)))}, "batch_stats": {}}
    checkpoints = Checkpoints(workdir)
    checkpoints.save(1, network, {"step": jnp.int32(1)}, {"next_batch": 1}, META)
    checkpoints.wait()
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
    try:
        checkpoints.save(2, network, {"step": jnp.int32(2)}, {"next_batch": 2}, META)
        checkpoints.wait()
    except UserError as error:
        print(error)
    try:
        many = [network["params"]["kernel"] + i for i in range(20)]
        save_network(f"{workdir}/alone/0", dict(enumerate(many)), {}, META)
    except UserError as error:
        print(error)


def test_checksum_sees_a_bit_and_not_the_mesh(eight, two):
    network, _ = _trees(eight)
    assert checksum(network) == checksum(_trees(two)[0])
    other = jax.tree.map(lambda leaf: leaf.at[(0,) * leaf.ndim].multiply(1 + 2**-23), network)
    assert checksum(network) != checksum(other)
    assert checksum({"flag": jnp.array([True, False]), "half": jnp.ones(2, jnp.bfloat16)}) > 0


def test_programs_find_what_is_found_in_place(eight, monkeypatch):
    tree = _trees(eight, factor=1e18), {"half": jnp.full(3, -2, jnp.bfloat16), "on": np.True_}
    odd = tree, {"nan": jnp.array([[0, jnp.nan]]), "-inf": -jnp.array(jnp.inf, jnp.bfloat16)}
    found = []
    for _ in range(2):
        found.append([checksum(tree), checksum(odd), not_finite(odd), not_finite(odd, norms=True)])
        monkeypatch.setattr(checkpoints, "at_hand", lambda leaves: None)
    assert found[0] == found[1]
    assert [len(names) for names in found[0][2:]] == [2, 4]


if __name__ == "__main__":
    _write_against_a_limit(sys.argv[1])
