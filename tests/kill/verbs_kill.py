"""Kills the verbs that write at random moments, and looks at what is left.

    python tests/kill/verbs_kill.py --kills 200 --seed 7 [--workdir RUN] [--store]

starts a command, kills it alone with SIGKILL after a random time, looks whether what it writes is
there whole or not at all and whether a process of it goes on, and ends with the same command
undisturbed: it writes what an undisturbed one wrote, and nothing lies beside it. Verbs: import and
build of datasets; with the workdir of a run of `quickstart` also embed, evaluate, export, and the
import of what was exported. With `--store` all of it is in an object store.
"""

import argparse
import contextlib
import hashlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))

from object_store import BUCKET, emulator, environment

from retfm_jax import dataset_folders, files
from retfm_jax.data import datasets
from retfm_jax.errors import UserError
from retfm_jax.runtime.checkpoints import checksum, find_checkpoint, load_network

_MARK = "RETFM_KILLED_VERB"
_PATIENTS = 24


def write_patients(folder: Path) -> None:
    """Photographs and a manifest for an import."""
    rng = np.random.default_rng(0)
    lines = ["patient_id,left,right,report"]
    for number in range(_PATIENTS):
        for eye in ("left", "right"):
            pixels = rng.integers(0, 255, (200, 200, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{number}_{eye}.png")
        lines.append(f"p{number},{number}_left.png,{number}_right.png,report {number}")
    (folder / "patients.csv").write_text("\n".join(lines) + "\n")


def verbs(out: str, workdir: str | None) -> dict[str, list[str]]:
    """The commands, which write below `out`."""
    manifest = ["--manifest", "patients.csv", "--images", ".", "--image_size", "64"]
    built = ["--patients", "40", "--image_size", "64", "--workers", "2"]
    commands = {
        "import": ["data", "import", "--name", "own", *manifest, "--data_dir", f"{out}/own"],
        "build": ["data", "build", "synthetic_fundus", *built, "--data_dir", f"{out}/drawn"],
    }
    if workdir is not None:
        run = ["--workdir", workdir]
        commands |= {
            "embed": ["embed", *run, "--images", ".", "--out", f"{out}/own.npz"],
            "evaluate": ["evaluate", *run, "--out", f"{out}/found.json", "--draws", "20"],
            "export": ["export", *run, "--to", "retclip", "--out", f"{out}/own.safetensors"],
            "import of weights": [
                "import", f"{out}/own.safetensors", "--method", "retclip", "--text_num_heads", "2",
                "--workdir", f"{out}/imported",
            ],
        }  # fmt: skip
    return commands


def contents(out: str, under_way: bool = False) -> dict[str, str]:
    """What stands below a folder: records of datasets, bytes of other files.

    Args:
      under_way: leaves out what nobody takes for anything: hidden names on a disk, what a workdir
        without a checkpoint has, and objects of a dataset in a store that lacks its last one.
    """
    found, built = {}, []
    checkpoint = None
    with contextlib.suppress(UserError):
        checkpoint = find_checkpoint(f"{out}/imported")
    if checkpoint is not None:
        built.append(f"{checkpoint}/")
        params, statistics, _ = load_network(checkpoint)
        found["imported network"] = str(checksum([params, statistics]))
    for name in ("own", "drawn"):
        for folder in dataset_folders.below(f"{out}/{name}"):
            built.append(f"{folder}/")
            for split, digest in datasets.stored_digests(folder).items():
                found[f"{os.fspath(folder)[len(out) :]}/{split}"] = digest
            datasets.open_builder(folder)
    imported = () if "imported network" in found else (f"{out}/imported/",)
    unfinished = (f"{out}/own/", f"{out}/drawn/") if files.is_remote(out) else ()
    for path in map(str, files.files_below(out)):
        part = ".writing-" in path or path.startswith(unfinished + imported)
        if path.startswith(tuple(built)) or (under_way and part):
            continue
        # A page and a picture hold no bits that count, but they are there.
        exact = path.endswith((".json", ".safetensors", ".npz"))
        data = files.read_bytes(path) if exact else b""
        found[path[len(out) :]] = hashlib.sha256(data).hexdigest()
    return found


def survivors(mark: str) -> Iterator[int]:
    """Processes that a command with this mark started, itself included."""
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                if f"{_MARK}={mark}".encode() in (folder / "environ").read_bytes():
                    yield int(folder.name)
            except OSError:
                continue


def kill(command: list[str], cwd: Path, environ: Mapping[str, str], seconds: float) -> bool:
    """Runs a command and kills it after a time; whether it was still running then."""
    mark = uuid.uuid4().hex
    process = subprocess.Popen(
        [sys.executable, "-m", "retfm_jax.cli", *command],
        cwd=cwd, env={**environ, _MARK: mark}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        _, said = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stderr.close()
    else:
        # Twice is refused where the first time came to its end.
        refused = any(words in said for words in (b"is there already", b"is not empty"))
        assert process.returncode == 0 or refused, said.decode()
        return False
    until = time.monotonic() + 60
    while found := list(survivors(mark)):
        assert time.monotonic() < until, f"{' '.join(command)}: processes {found} go on"
        time.sleep(0.1)
    return True


def run(
    folder: Path, kills: int, seed: int, *, root: str, environ: Mapping[str, str],
    workdir: str | None = None, said: Callable[[str], None] = lambda text: None,
) -> int:  # fmt: skip
    """Kills every verb in turn until so many kills have hit; returns how many did.

    Raises:
      AssertionError: something was half-written, left over or left running.
    """
    drawn = random.Random(seed)
    write_patients(folder)
    whole, killed = f"{root}/whole", f"{root}/killed"
    lengths = {}
    for name, command in verbs(whole, workdir).items():
        began = time.monotonic()
        assert not kill(command, folder, environ, 3600)
        lengths[name] = time.monotonic() - began
    wanted, hit = contents(whole), 0
    assert wanted
    while hit < kills:
        files.remove(killed)
        for name, command in verbs(killed, workdir).items():
            # The second half is where things are written.
            if kill(command, folder, environ, lengths[name] * drawn.uniform(0.3, 1.0)):
                hit += 1
                said(f"{hit}: {name}")
            there = contents(killed, under_way=True).items()
            assert there <= wanted.items(), f"{name} is half-written: {there}"
            kill(command, folder, environ, 3600)
        differing = sorted({*contents(killed).items()} ^ {*wanted.items()})
        assert not differing, f"not what an undisturbed run wrote: {differing}"
    return hit


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workdir", help="of a trained RET-CLIP, for embed, evaluate and export")
    parser.add_argument("--store", action="store_true", help="write into an object store")
    args = parser.parse_args()
    workdir = args.workdir and os.path.abspath(args.workdir)
    with emulator() as address, tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "patients"
        folder.mkdir()
        environ = environment(address)
        os.environ.update(environ)
        root = f"gs://{BUCKET}" if args.store else name
        hit = run(
            folder, args.kills, args.seed, root=root, environ=environ, workdir=workdir,
            said=lambda text: print(text, flush=True),
        )  # fmt: skip
    print(f"{hit} kills: nothing half-written, nothing left over, nothing left running")


if __name__ == "__main__":
    main()
