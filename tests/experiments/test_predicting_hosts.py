"""Two hosts make one file: each its parts, and one of them joins."""

import os
import socket
import subprocess
import sys

import jax
import numpy as np
from PIL import Image

import retfm_jax
from retfm_jax import cli
from retfm_jax.config import DataConfig, ExperimentConfig, ImageConfig
from retfm_jax.experiments import predicting
from retfm_jax.methods import get_method_class
from retfm_jax.models.vit import ViTConfig

PART = 4


def host(index: int, address: str, command: list[str]) -> subprocess.Popen:
    there = {
        "JAX_COORDINATOR_ADDRESS": address,
        "JAX_NUM_PROCESSES": "2",
        "JAX_PROCESS_ID": str(index),
        "JAX_NUM_CPU_DEVICES": "2",
    }
    return subprocess.Popen(
        [sys.executable, __file__, *command],
        env=os.environ | there, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def test_two_hosts_write_the_rows_of_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "images").mkdir()
    for number in range(18):
        pixels = np.random.default_rng(number).integers(0, 256, (20, 20, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{number:02d}.png")
    cls = get_method_class("classifier")
    tower = ViTConfig(image_size=16, patch_size=8, width=16, layers=1, heads=2)
    sizes = cls.config_class(image=tower, embed_dim=8, classes=("a", "b"), outcome="exclusive")
    method = cls(sizes)
    params, state = jax.jit(method.init)(jax.random.key(0))
    config = ExperimentConfig("classifier", sizes, DataConfig(image=ImageConfig(size=16)))
    retfm_jax.RetinalModel(method, params, state, config).save("model")
    command = ["predict", "--workdir", "model", "--images", "images", "--out", "two.csv"]
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        address = f"localhost:{listener.getsockname()[1]}"
    processes = [host(index, address, command) for index in range(2)]
    said = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    assert "18 rows in two.csv" in said[0]
    assert "rows in" not in said[1]
    assert "parts 1, 3" in said[1]
    predicting.predict("model", "images", "one.csv", batch_size=8)
    assert len((tmp_path / "one.csv").read_text().splitlines()) == 19
    assert (tmp_path / "two.csv").read_text() == (tmp_path / "one.csv").read_text()
    assert sorted(os.listdir()) == ["images", "model", "one.csv", "two.csv"]


if __name__ == "__main__":
    predicting.PART_SIZE = PART
    write, written = predicting.Parts.write, []

    def wrapped(self, part, rows):
        written.append(part)
        write(self, part, rows)

    predicting.Parts.write = wrapped
    status = cli.main(sys.argv[1:])
    print("parts", ", ".join(map(str, written)), flush=True)
    sys.exit(status)
