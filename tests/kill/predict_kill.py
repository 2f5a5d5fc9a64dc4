"""Kills `retfm predict` at random moments, resumes it, and compares with an undisturbed one.

    python tests/kill/predict_kill.py --kills 30 --photographs 3000 --seed 7

kills the command alone with SIGKILL after a random time, looks whether its file is there whole or
not at all, and starts it again until it ends by itself: the file is the undisturbed one to the
byte, so that no row is there twice or missing, and nothing lies beside it.
"""

import argparse
import contextlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from PIL import Image

import retfm_jax
from retfm_jax.config import DataConfig, ExperimentConfig, ImageConfig
from retfm_jax.experiments.predicting import predict
from retfm_jax.methods import get_method_class
from retfm_jax.models.vit import ViTConfig

#: Small parts make many moments at which a process can be killed.
_CODE = (
    "import sys; from retfm_jax import cli; from retfm_jax.experiments import predicting; "
    "predicting.PART_SIZE = 16; sys.exit(cli.main(sys.argv[1:]))"
)


def write_inputs(folder: Path, photographs: int) -> None:
    """Photographs, of which some are damaged, and a network that tells two classes apart."""
    rng = np.random.default_rng(0)
    (folder / "images").mkdir()
    for number in range(photographs):
        path = folder / "images" / f"{number:06d}.jpg"
        if number % 50 == 7:
            path.write_bytes(b"\xff\xd8\xff damaged")
            continue
        Image.fromarray(rng.integers(0, 255, (24, 24, 3), dtype=np.uint8)).save(path)
    cls = get_method_class("classifier")
    tower = ViTConfig(image_size=16, patch_size=8, width=16, layers=1, heads=2)
    sizes = cls.config_class(image=tower, embed_dim=8, classes=("a", "b"), outcome="exclusive")
    method = cls(sizes)
    params, state = jax.jit(method.init)(jax.random.key(0))
    config = ExperimentConfig("classifier", sizes, DataConfig(image=ImageConfig(size=16)))
    retfm_jax.RetinalModel(method, params, state, config).save(folder / "model")


def start(folder: Path, out: str) -> subprocess.Popen:
    """Starts the command; it writes `out` in the folder."""
    command = ["predict", "--workdir", "model", "--images", "images", "--out", out]
    return subprocess.Popen(
        [sys.executable, "-c", _CODE, *command, "--batch_size", "16"],
        cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip


def finish(process: subprocess.Popen) -> None:
    """Waits for a command that must end well."""
    _, said = process.communicate(timeout=600)
    assert process.returncode == 0, said.decode()


def parts_of(folder: Path, out: str) -> int:
    return len(list((folder / f"{out}.parts").glob("*.jsonl")))


def run(
    folder: Path, kills: int, photographs: int, seed: int,
    said: Callable[[str], None] = lambda text: None,
) -> int:  # fmt: skip
    """Kills so many times after some parts were written; returns the number of rows.

    Raises:
      AssertionError: the file differs from the undisturbed one, or something is left over.
    """
    write_inputs(folder, photographs)
    with contextlib.chdir(folder):
        predict("model", "images", "whole.csv", batch_size=16)
    whole = (folder / "whole.csv").read_bytes()
    assert len(whole.splitlines()) == photographs + 1
    drawn, done = random.Random(seed), 0
    while done < kills:
        process = start(folder, "out.csv")
        # A signal before the first part tells nothing of parts: wait for one more, then a moment.
        before, until = parts_of(folder, "out.csv"), time.monotonic() + 300
        while process.poll() is None and parts_of(folder, "out.csv") <= before:
            assert time.monotonic() < until
            time.sleep(0.005)
        time.sleep(drawn.uniform(0, 0.2))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        out = folder / "out.csv"
        assert not out.exists() or out.read_bytes() == whole, "half-written"
        done += 1
        said(f"{done}: {parts_of(folder, 'out.csv')} parts")
        if out.exists():
            finish(start(folder, "out.csv"))
            out.unlink()
    finish(start(folder, "out.csv"))
    assert (folder / "out.csv").read_bytes() == whole
    left = {path.name for path in folder.iterdir()}
    assert left == {"images", "model", "whole.csv", "out.csv"}, left
    return photographs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--photographs", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    os.environ["JAX_PLATFORMS"] = "cpu"
    with tempfile.TemporaryDirectory() as name:
        rows = run(
            Path(name), args.kills, args.photographs, args.seed,
            said=lambda text: print(text, flush=True),
        )  # fmt: skip
    print(f"{args.kills} kills: {rows} rows, none twice, none missing, nothing left over")


if __name__ == "__main__":
    main()
