"""What is optional can be installed by what messages and README say."""

import importlib
import importlib.metadata
import re
import subprocess
import sys
from pathlib import Path

import pytest

from retfm_jax import extras

_ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("extra", "command"),
    [
        ("torch", r"pip install 'torch>=[\d.]+'"),
        ("plan", r"pip install 'jax\[tpu\]'"),
        ("onnx", r"pip install 'torch>=[\d.]+' 'onnx>=[\d.]+' 'onnxruntime>=[\d.]+' .+"),
        ("beam", r"pip install 'apache-beam>=[\d.]+'"),
        (
            "train",
            r"pip install 'array_record>=.+' 'grain>=[\d.]+' 'scikit.+' 'tensorboardX>=[\d.]+'",
        ),
    ],
)
def test_the_command_names_what_the_extra_asks_for(extra, command):
    assert re.fullmatch(command, extras.install(extra))


def test_a_checkout_that_is_not_installed_still_says_how(monkeypatch):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "requires", missing)
    assert extras.install("torch").startswith("pip install '.[torch]'")


def test_an_extra_that_came_after_the_installation_still_says_how(monkeypatch):
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: ["jax>=0.10"])
    assert extras.install("gcs").startswith("pip install '.[gcs]'")


def test_a_package_is_absent_for_others_and_only_inside(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "heavy_one.py").write_text("")
    with extras.absent("heavy_one"), pytest.raises(ModuleNotFoundError, match="heavy_one"):
        import heavy_one
    import heavy_one

    with extras.absent("heavy_one"):
        assert importlib.import_module("heavy_one") is heavy_one


def test_training_starts_without_what_it_does_not_need():
    code = (
        "import sys, retfm_jax.experiments.training, retfm_jax.evaluation.evaluate\n"
        "from retfm_jax.config import TextConfig\n"
        "from retfm_jax.data.text import Tokenizer\n"
        "assert Tokenizer(TextConfig()).vocab_size == 21128\n"
        "print({'torch', 'transformers', 'sklearn', 'pandas', 'tensorflow',"
        " 'google.cloud.storage'} & set(sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (result.stdout, result.stderr) == ("set()\n", "")


#: Extra -> what works with nothing else: a command, or modules of verbs that can be imported. With
#: all of them the smoke suite runs in an environment of its own, and before it the first of these
#: (.ci/run).
_ALONE = {
    "core": ["extras/inference.py", "FOLDER", "--core"],
    "data": ["extras/building.py", "FOLDER"],
    "train": ["extras/imports.py", "experiments.training", "experiments.cross_validation"],
    "eval": ["extras/imports.py", "evaluation.evaluate", "experiments.labeling"],
}


@pytest.mark.parametrize("extra", _ALONE)
def test_what_an_extra_installs_is_enough_for_its_verbs(extra, tmp_path):
    """Nothing else is there for the process; and libraries write nothing of their own."""
    folder = Path(__file__).parent
    script, *arguments = (each.replace("FOLDER", str(tmp_path)) for each in _ALONE[extra])
    command = [sys.executable, folder / "extras/only.py", extra, folder / script, *arguments]
    result = subprocess.run(command, capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")


def test_nothing_sends_people_to_an_index_that_does_not_have_the_package():
    patterns = ("README.md", "docs/**/*.md", "colab/*.ipynb", "retfm_jax/**/*.py")
    readers = [path for pattern in patterns for path in _ROOT.glob(pattern)]
    for path in readers:
        for command in re.findall(r"pip install[^\n`#]*", path.read_text(encoding="utf-8")):
            named = re.search(r"retfm[-_]jax(\[[\w,]+\])?['\" ]*$", command)
            assert "git+" in command or not named, (path, command)
    assert len(readers) > 50
