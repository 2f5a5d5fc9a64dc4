"""The worked examples of CONTRIBUTING.md run as they stand there."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
_, *EXAMPLES = re.split(r"^## (?=Example)", TEXT, flags=re.MULTILINE)
#: The first line of a block that is a file: its path, as a comment.
_PATH = re.compile(r"(?:# |<!-- )([\w./]+)(?: -->)?\n")


def blocks(text):
    """The fenced blocks of a text as (language, contents)."""
    return re.findall(r"^```(\w+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def clone(folder):
    """What a clone of the repository has and an example adds to, as links."""
    for package in ("retfm_jax", "data_builders"):
        (folder / package).mkdir()
        for path in (ROOT / package).iterdir():
            (folder / package / path.name).symlink_to(path)
    # An installed package holds both.
    (folder / "retfm_jax" / "configs").symlink_to(ROOT / "configs")
    (folder / "retfm_jax" / "data_builders").symlink_to(folder / "data_builders")


def write_files(text, folder):
    """Writes the files of examples; returns the commands."""
    commands = []
    for language, contents in blocks(text):
        if language == "sh":
            commands.append(contents)
            continue
        named = _PATH.match(contents)
        path = folder / named[1]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(contents[named.end() :], encoding="utf-8")
    return "".join(commands)


def test_there_is_an_example_of_each_kind():
    titles = [example.partition("\n")[0].partition(": ")[2] for example in EXAMPLES]
    assert titles == ["a method", "a dataset", "an evaluation protocol"]


def test_every_block_is_a_file_or_commands_and_as_ruff_wants_it(tmp_path):
    for example in EXAMPLES:
        found = blocks(example)
        assert example.count("```") == 2 * len(found)
        assert all(language == "sh" or _PATH.match(contents) for language, contents in found)
    write_files("".join(EXAMPLES), tmp_path)
    config = ["--no-cache", "--config", str(ROOT / "pyproject.toml")]
    for verb in (["check"], ["format", "--diff"]):
        command = [sys.executable, "-m", "ruff", *verb, *config, "."]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout


# The protocol is asked of the network that the method's example trains.
@pytest.mark.parametrize("numbers", [(0, 2), (1,)], ids=["method and protocol", "dataset"])
def test_the_examples_run_as_they_are_written(numbers, tmp_path):
    clone(tmp_path)
    commands = write_files("".join(EXAMPLES[number] for number in numbers), tmp_path)
    done = subprocess.run(
        ["bash", "-euxc", commands],
        cwd=tmp_path,
        env=os.environ
        | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "JAX_NUM_CPU_DEVICES": "1",  # as the text has it
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
