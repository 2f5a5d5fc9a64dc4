"""What is installed is everything that the repository has: no package is listed by hand."""

import functools
import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
#: Folder of the repository -> where it is installed.
_INSTALLED = {
    "retfm_jax": "retfm_jax",
    "configs": "retfm_jax/configs",
    "data_builders": "retfm_jax/data_builders",
}
#: Extras whose versions are held.
_PINNED = (
    *("data", "train", "eval", "transformers", "plan", "gcs", "demo", "dicom", "onnx"),
    *("notebooks", "test", "docs"),
)
_ALONE = """
import pathlib, sys
# Without what an editable installation put into this environment.
sys.meta_path[:] = [finder for finder in sys.meta_path if "editable" not in str(finder)]
import retfm_jax
from retfm_jax.config import bundled_configs, load_config
from retfm_jax.data.building.registry import builder_class, builder_names
from retfm_jax.data.tasks import described_tasks
from retfm_jax.knowledge.vocabulary import load_vocabulary
for name in bundled_configs():
    print(load_config(name).method)
for name in builder_names():
    builder_class(name)
    print(name)
assert described_tasks() and load_vocabulary()
print(pathlib.Path(retfm_jax.__file__).parents[1])
"""


@pytest.fixture(scope="module")
def distributions(tmp_path_factory):
    """The source distribution, and the wheel that is built from nothing but it."""
    out = tmp_path_factory.mktemp("distributions")
    # A copy, for a build leaves its folder behind and takes what an older one left.
    source = out / "source"
    source.mkdir()
    files = (path.name for path in ROOT.iterdir() if path.is_file())
    for name in (*_INSTALLED, *files):
        path = ROOT / name
        copy = functools.partial(shutil.copytree, ignore=shutil.ignore_patterns("__pycache__"))
        (copy if path.is_dir() else shutil.copy)(path, source / name)
    command = [sys.executable, "-m", "build", "--outdir", out, source]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Package would be ignored" not in done.stdout + done.stderr
    (archive,), (wheel,) = out.glob("*.tar.gz"), out.glob("*.whl")
    return archive, wheel


@pytest.fixture(scope="module")
def wheel(distributions):
    return distributions[1]


def _files():
    for folder, installed in _INSTALLED.items():
        for path in (ROOT / folder).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                yield f"{installed}/{path.relative_to(ROOT / folder).as_posix()}"


def test_an_index_would_take_what_is_built(distributions):
    command = [sys.executable, "-m", "twine", "check", "--strict", *distributions]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("PASSED") == 2


def test_the_source_distribution_has_the_papers_and_no_tests(distributions):
    with tarfile.open(distributions[0]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {path.name for path in ROOT.glob("constraints*.txt")} <= names
    assert {"CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md", "LICENSE", "NOTICE"} <= names
    assert not [name for name in names if name.startswith("tests")]


@pytest.mark.parametrize("file", ["constraints.txt", "constraints-3.13.txt"])
def test_constraints_hold_every_requirement(file):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *(each for name in _PINNED for each in extras[name])]
    names = {canonicalize_name(Requirement(each).name) for each in wanted} - {"retfm-jax"}
    lines = (ROOT / file).read_text(encoding="utf-8").splitlines()[1:]
    pinned = [Requirement(line) for line in lines]
    assert names <= {canonicalize_name(each.name) for each in pinned}
    assert all([each.operator for each in line.specifier] == ["=="] for line in pinned)


def test_the_wheel_has_every_file(wheel):
    there = set(zipfile.ZipFile(wheel).namelist())
    assert set(_files()) <= there
    # And nothing of others, such as the tests.
    assert {name.split("/")[0] for name in there} == {"retfm_jax", wheel.name[:15] + ".dist-info"}


def test_what_is_installed_works_away_from_the_repository(wheel, tmp_path):
    target = tmp_path / "installed"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", target]
    subprocess.run([*command, wheel], check=True)
    done = subprocess.run(
        [sys.executable, "-c", _ALONE],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(target)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.split()
    assert lines[-1] == str(target)
    modules = (ROOT / "data_builders").glob("*/*_dataset_builder.py")
    assert {module.parent.name for module in modules} <= set(lines)
