"""Kills training at random moments, again and again, and looks at what is left.

    python tests/kill/train_kill.py --kills 200 --seed 7

starts one command, kills it with SIGKILL after a random time (all of its processes together, or
its own alone), and starts it again, until so many kills have hit. Between them nothing may stand
under the name of a checkpoint that is not whole, and nothing may run or hold shared memory. In the
end the run finishes with the bits of an undisturbed one, and every step stands once in its metrics.
"""

import argparse
import dataclasses
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

import toy_training

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


def run(workdir: Path, kills: int, seed: int) -> Report:
    """Kills a training of the toy so often, lets it finish, and compares.

    Raises:
      AssertionError: something was lost, half-written or left running.
    """
    drawn = random.Random(seed)
    report = Report()
    shared = set(os.listdir("/dev/shm"))
    began = time.monotonic()
    _finish(workdir / "whole")
    length = time.monotonic() - began
    killed = workdir / "killed"
    while report.kills < kills:
        process = _start(killed)
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
        assert process.returncode == 0, _output(killed)
        _compare(workdir, killed)
        shutil.rmtree(killed)  # it came to its end: once more
    _finish(killed)
    report.starts += 1
    _compare(workdir, killed)
    assert not set(os.listdir("/dev/shm")) - shared, "shared memory is left"
    return report


def _start(workdir: Path) -> subprocess.Popen:
    cache = {
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(workdir.parent / "cache"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "XLA_FLAGS": "--xla_backend_optimization_level=0",
    }
    command = [sys.executable, toy_training.__file__, workdir, "--steps", str(STEPS)]
    with _log(workdir).open("w") as log:
        return subprocess.Popen(
            command, env=os.environ | cache, stdout=log, stderr=log, start_new_session=True
        )


def _log(workdir: Path) -> Path:
    return workdir.with_suffix(".log")


def _output(workdir: Path) -> str:
    return _log(workdir).read_text()[-3000:]


def _finish(workdir: Path) -> None:
    process = _start(workdir)
    assert process.wait(timeout=600) == 0, _output(workdir)


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


def _inspect(workdir: Path) -> bool:
    """Looks whether every checkpoint is whole; whether one was being written or removed."""
    folder = workdir / "checkpoints"
    if not folder.is_dir():
        return False
    names = os.listdir(folder)
    for name in names:
        if name.isdigit():
            items = {path.name for path in (folder / name).iterdir()}
            assert {"network", "training", "data", "meta"} <= items, (name, items)
            for path in (folder / name).rglob("*"):
                assert path.is_dir() or path.stat().st_size, f"{path} is empty"
            data = json.loads((folder / name / "data" / "metadata").read_text())
            assert data["next_batch"] == int(name)
        else:
            assert name == ".removed" or "orbax-checkpoint-tmp" in name, f"what is {name}?"
    return any(not name.isdigit() and os.listdir(folder / name) for name in names)


def _compare(workdir: Path, killed: Path) -> None:
    with np.load(workdir / "whole" / "final.npz") as whole, np.load(killed / "final.npz") as other:
        assert set(whole) == set(other)
        for name in whole:
            np.testing.assert_array_equal(other[name], whole[name], err_msg=name)
    runs = [
        [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        for run in (workdir / "whole", killed)
    ]
    steps = [[line["step"] for line in run] for run in runs]
    assert steps[0] == steps[1] == list(range(1, STEPS + 1)), steps
    assert [line["loss"] for line in runs[0]] == [line["loss"] for line in runs[1]]
    names = os.listdir(killed / "checkpoints")
    assert all(name.isdigit() for name in names), names
    assert not (killed / "lock.json").exists()


def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=200, help="how many")
    parser.add_argument("--seed", type=int, default=0, help="of their moments")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(run(Path(folder), arguments.kills, arguments.seed))


if __name__ == "__main__":
    _main()
