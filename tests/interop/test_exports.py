"""An export computes what this package computes, and goes without it."""

import json
import subprocess
import sys

import numpy as np
import pytest
from exported_models import MODELS
from PIL import Image

from retfm_jax.errors import UserError
from retfm_jax.experiments import exporting
from retfm_jax.experiments.exporting import PARITY, export_program, write_program
from retfm_jax.interop.formats import get_form

#: Refuses this package, and what a program of a form goes without.
_ALONE = """
import sys


class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {refused}:
            raise ImportError(name)


sys.meta_path.insert(0, Refuse())
sys.path.insert(0, {folder!r})
import model

program = model.load()
found = program.outputs({paths!r})
if program.run_texts is not None:
    found.update(program.text_outputs({texts!r}))
import numpy as np

np.savez({out!r}, **found)
"""
_TEXTS = ["右眼可见硬性渗出", "Drusen of the macula, OD: “naïve” ｆｕｌｌ"]


@pytest.fixture(scope="session")
def models():
    return {name: make() for name, make in MODELS.items()}


@pytest.fixture(scope="session")
def photographs(tmp_path_factory):
    """Files of several kinds, deep, transparent and turned ones among them."""
    folder = tmp_path_factory.mktemp("photographs")
    pixels = np.random.default_rng(0).integers(0, 256, (70, 90, 3), np.uint8)
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.fromarray(pixels).save(folder / "a.jpg", quality=95, exif=turned)
    Image.fromarray(np.dstack([pixels, pixels[..., :1]])).save(folder / "b.png")
    Image.fromarray(pixels[..., 0].astype(np.uint16) * 16).save(folder / "c.png")
    return sorted(map(str, folder.iterdir()))


@pytest.fixture(scope="session")
def exports(models, tmp_path_factory):
    """Folders by form and network, each made once."""
    made = {}

    def export(form, name):
        if (form, name) not in made:
            out = tmp_path_factory.mktemp("exports") / f"{name}_{form}"
            write_program(models[name], get_form(form), out)
            made[form, name] = out
        return made[form, name]

    return export


def run_alone(folder, photographs, refused, tmp_path):
    """Outputs of a program in a process that cannot import what is refused."""
    out = str(tmp_path / "found.npz")
    code = _ALONE.format(
        refused=refused, folder=str(folder), paths=photographs, texts=_TEXTS, out=out
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return np.load(out)


@pytest.mark.parametrize("name", MODELS)
def test_a_pytorch_file_computes_the_same_without_this_package(
    name, models, exports, photographs, tmp_path
):
    refused = ("retfm_jax", "jax", "flax", "transformers", "torchvision")
    found = run_alone(exports("torch", name), photographs, refused, tmp_path)
    model = models[name]
    exact = exporting._exact(model)
    np.testing.assert_allclose(
        found["image_embedding"], exact.encode_images(photographs), atol=1e-5
    )
    if model.method.text is not None:
        np.testing.assert_allclose(found["text_embedding"], exact.encode_texts(_TEXTS), atol=1e-5)
    if model.classes:
        np.testing.assert_allclose(
            found["class_probabilities"], exact.predict(photographs), atol=1e-5
        )


def test_a_folder_says_what_it_is(exports, models):
    folder = exports("torch", "grades")
    names = {path.name for path in folder.iterdir()}
    assert names == {
        "README.md", "classes.json", "model.py", "parity.json", "preprocessing.json", "weights.pt"
    }  # fmt: skip
    classes = json.loads((folder / "classes.json").read_text())
    assert classes == models["grades"].decisions.to_json()
    parity = json.loads((folder / PARITY).read_text())
    assert parity["outputs"]["class_probabilities"]["largest_difference"] <= 1e-5
    assert json.loads((folder / "preprocessing.json").read_text())["contrast"] == "clahe"


def test_an_export_that_differs_leaves_nothing(models, tmp_path, monkeypatch):
    form = get_form("torch")
    run = form.run
    monkeypatch.setattr(
        form, "run", lambda *given: {name: x + 2e-5 for name, x in run(*given).items()}
    )
    with pytest.raises(UserError, match="differs from this package in image_embedding"):
        write_program(models["tower"], form, tmp_path / "out")
    monkeypatch.setattr(
        form, "run", lambda *given: {name: x * np.nan for name, x in run(*given).items()}
    )
    with pytest.raises(UserError, match="differs"):
        write_program(models["tower"], form, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_mistakes_are_told_before_anything_is_computed(models, tmp_path, monkeypatch):
    with pytest.raises(UserError, match="did you mean 'torch'"):
        export_program("nowhere", "torhc", tmp_path / "out")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").write_text("mine")
    with pytest.raises(UserError, match="is not empty: give a new folder"):
        export_program("nowhere", "torch", tmp_path / "taken")
    monkeypatch.setattr(exporting, "_SPARE", 1 << 60)
    with pytest.raises(UserError, match="GB free, and this export needs"):
        write_program(models["tower"], get_form("torch"), tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]
