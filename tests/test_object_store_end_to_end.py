"""A run that lives in an object store: import, train, kill -9, resume, evaluate, export."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from object_store import environment
from PIL import Image

from retfm_jax import files
from retfm_jax.runtime.checkpoints import find_checkpoint, load_network

TINY = (
    '--config.model.image={"image_size": 32, "patch_size": 8, "width": 64, "layers": 1}',
    "--config.model.text.width=64",
    "--config.model.text.layers=1",
    "--config.data.image.size=32",
    "--config.data.text.context_length=24",
    "--config.train.batch_size=8",
    "--config.train.steps=5",
    "--config.train.checkpoint_every=2",
    "--config.train.log_every=1",
    "--config.train.evaluate_every=0",
    "--config.data.dataset=own",
)


@pytest.fixture
def retfm(emulator_address, tmp_path):
    """Starts a verb of the command line in a folder of its own, with the store at hand."""

    def start(*arguments):
        log = (tmp_path / "log").open("ab")
        command = [sys.executable, "-m", "retfm_jax.cli", *map(str, arguments)]
        environ = environment(emulator_address) | {"JAX_NUM_CPU_DEVICES": "1"}
        return subprocess.Popen(command, cwd=tmp_path, env=environ, stdout=log, stderr=log)

    return start


def _write_patients(folder):
    rng = np.random.default_rng(0)
    with (folder / "patients.jsonl").open("w") as file:
        for number in range(16):
            for eye in ("left", "right"):
                pixels = rng.integers(0, 255, (40, 40, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}_{eye}.png")
            row = {
                "patient_id": f"p{number}",
                "left": f"{number}_left.png",
                "right": f"{number}_right.png",
                "report": "drusen" if number % 2 else "normal fundus",
                "labels": ["drusen"] if number % 2 else ["normal"],
                "split": "train" if number < 10 else "test",
            }
            file.write(json.dumps(row) + "\n")


def test_a_run_that_lives_in_a_store(bucket, retfm, tmp_path):
    def run(*arguments):
        assert retfm(*arguments).wait() == 0, (tmp_path / "log").read_text()

    _write_patients(tmp_path)
    data, workdir = f"{bucket}/datasets", f"{bucket}/run"
    train = ("train", "--config", "quickstart", *TINY, f"--config.data.data_dir={data}")
    manifest = ("--manifest", "patients.jsonl", "--images", ".", "--image_size", "0")
    run("data", "import", "--name", "own", "--data_dir", data, *manifest)
    run(*train, "--workdir", "local")

    killed = retfm(*train, "--workdir", workdir)
    first = files.as_path(workdir) / "checkpoints" / "2" / "commit_success.txt"
    while not first.exists():
        assert killed.poll() is None, (tmp_path / "log").read_text()
        time.sleep(0.05)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert find_checkpoint(workdir).name in ("2", "4")
    run(*train, "--workdir", workdir)

    uninterrupted, _, _ = load_network(tmp_path / "local")
    resumed, _, _ = load_network(workdir)
    _assert_same_bits(uninterrupted, resumed)
    metrics = (files.as_path(workdir) / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in metrics] == [1, 2, 3, 4, 5]

    run("evaluate", "--workdir", workdir, "--out", f"{bucket}/evaluation.json", "--draws", "20")
    assert "zero_shot" in files.read_json(f"{bucket}/evaluation.json")
    run("export", "--workdir", workdir, "--to", "retclip", "--out", f"{bucket}/own.safetensors")
    run("embed", "--workdir", workdir, "--images", ".", "--out", f"{bucket}/own.npz")
    written = {os.path.basename(path) for path in files.files_below(bucket)}
    assert {"evaluation.html", "own.safetensors", "own.npz", "config.json"} <= written


def _assert_same_bits(one, other):
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for name in one:
            _assert_same_bits(one[name], other[name])
    else:
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other))
