"""Kills training at random moments, again and again, and looks at what is left.

    python tests/kill/train_kill.py --kills 200 --seed 7 [--store]

starts one command, kills it with SIGKILL after a random time (all of its processes together, or
its own alone), and starts it again, until so many kills have hit. Between them nothing may stand
under the name of a checkpoint that is not whole, and nothing may run or hold shared memory. In the
end the run finishes with the bits of an undisturbed one, and every step stands once in its metrics.
With `--store` the workdir is in an object store.
"""

import argparse
import dataclasses
import io
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

import toy_training
from object_store import BUCKET, emulator, environment

from retfm_jax import files

STEPS = 40


@dataclasses.dataclass
class Report:
    """What was seen.

    Attributes:
      kills: that hit a living process.
      checkpoints: how many of them met a checkpoint half-written or half-removed.
      starts: processes, the last one included.
    """

    kills: int = 0
    checkpoints: int = 0
    starts: int = 0


def run(folder: Path, kills: int, seed: int, root: str | None = None) -> Report:
    """Kills a training of the toy so often, lets it finish, and compares.

    Args:
      folder: for the logs and compiled programs.
      root: where the workdirs are; `folder` where None.

    Raises:
      AssertionError: something was lost, half-written or left running.
    """
    drawn = random.Random(seed)
    report = Report()
    shared = set(os.listdir("/dev/shm"))
    whole, killed = (files.as_path(f"{root or folder}/{name}") for name in ("whole", "killed"))
    log = folder / "log"
    began = time.monotonic()
    _finish(whole, log)
    length = time.monotonic() - began
    while report.kills < kills:
        process = _start(killed, log)
        report.starts += 1
        # Half of them early in the run's life, where it opens, restores and begins to write.
        wait = drawn.uniform(0, length) * drawn.choice((1.0, 0.6))
        try:
            process.wait(timeout=wait)
        except subprocess.TimeoutExpired:
            _kill(process, everything=drawn.random() < 0.5)
            report.kills += 1
            report.checkpoints += _inspect(killed)
            continue
        assert process.returncode == 0, _output(log)
        _compare(whole, killed)
        files.remove(killed)  # it came to its end: once more
    _finish(killed, log)
    report.starts += 1
    _compare(whole, killed)
    assert not set(os.listdir("/dev/shm")) - shared, "shared memory is left"
    return report


def _start(workdir: files.Path, log: Path) -> subprocess.Popen:
    cache = {
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(log.with_name("cache")),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_NUM_CPU_DEVICES": "1",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    }
    command = [sys.executable, toy_training.__file__, str(workdir), "--steps", str(STEPS)]
    with log.open("w") as file:
        return subprocess.Popen(
            command, env=os.environ | cache, stdout=file, stderr=file, start_new_session=True
        )


def _output(log: Path) -> str:
    return log.read_text()[-3000:]


def _finish(workdir: files.Path, log: Path) -> None:
    process = _start(workdir, log)
    assert process.wait(timeout=600) == 0, _output(log)


def _kill(process: subprocess.Popen, everything: bool) -> None:
    if everything:
        os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    process.wait()
    deadline = time.monotonic() + 20
    while _processes(process.pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    left = _processes(process.pid)
    assert not left, f"these are left running: {left}"


def _processes(session: int) -> list[str]:
    """Living processes of a session."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, *fields = (folder / "stat").read_text().rpartition(")")[2].split()
            if int(fields[2]) == session and state not in "ZX":
                found.append((folder / "cmdline").read_text().replace("\0", " "))
        except OSError:  # it has ended
            continue
    return found


def _inspect(workdir: files.Path) -> bool:
    """Looks whether every checkpoint is whole; whether one was being written or removed."""
    folder = workdir / "checkpoints"
    if not folder.is_dir():
        return False
    remote, half = files.is_remote(folder), False
    for path in folder.iterdir():
        if path.name.isdigit() and (not remote or (path / "commit_success.txt").exists()):
            items = {child.name for child in path.iterdir()}
            assert {"network", "training", "data", "meta"} <= items, (path, items)
            for file in files.files_below(path):
                assert file.read_bytes() or remote, f"{file} is empty"
            data = json.loads((path / "data" / "metadata").read_text())
            assert data["next_batch"] == int(path.name)
        else:
            parts = (".removed", "orbax-checkpoint-tmp")
            assert remote or any(part in path.name for part in parts), f"what is {path}?"
            half = half or bool(files.files_below(path))
    return half


def _compare(whole: files.Path, killed: files.Path) -> None:
    ours, other = (
        np.load(io.BytesIO(files.read_bytes(run / "final.npz"))) for run in (whole, killed)
    )
    assert set(ours) == set(other)
    for name in ours:
        np.testing.assert_array_equal(other[name], ours[name], err_msg=name)
    runs = [
        [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        for run in (whole, killed)
    ]
    steps = [[line["step"] for line in run] for run in runs]
    assert steps[0] == steps[1] == list(range(1, STEPS + 1)), steps
    assert [line["loss"] for line in runs[0]] == [line["loss"] for line in runs[1]]
    names = [path.name for path in (killed / "checkpoints").iterdir()]
    assert all(name.isdigit() for name in names), names
    assert not (killed / "lock.json").exists()


def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=200, help="how many")
    parser.add_argument("--seed", type=int, default=0, help="of their moments")
    parser.add_argument("--store", action="store_true", help="workdirs in an object store")
    arguments = parser.parse_args()
    with emulator() as address, tempfile.TemporaryDirectory() as folder:
        os.environ.update(environment(address))
        root = f"gs://{BUCKET}" if arguments.store else None
        print(run(Path(folder), arguments.kills, arguments.seed, root))


if __name__ == "__main__":
    _main()
