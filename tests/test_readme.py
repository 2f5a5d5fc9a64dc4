"""README: what it shows is what comes out, and what it says to type works as it stands there."""

import contextlib
import csv
import importlib.util
import io
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import retfm_jax
from retfm_jax import cli
from retfm_jax.data_builders.synthetic_fundus.as_files import (
    photograph,
    write_class_folders,
    write_patient_table,
)
from retfm_jax.interop.zoo import zoo
from retfm_jax.models.bert import BertConfig

sys.path.insert(0, str(Path(__file__).parent / "extras"))
from inference import network

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
#: Stands for the published weights that a recipe begins with.
_TOWER = "retfound-mae-cfp"
#: What is added to a recipe's training for its size, by config.
_SMALL = {
    "finetune": [
        "--config.train.batch_size=8", "--config.train.epochs=1",
        "--config.optimizer.warmup_epochs=0", "--config.model.dtype=float32",
    ],
    "retclip_vit_b16": [
        '--config.model.image={"image_size": 32, "patch_size": 16, "width": 32, "layers": 1}',
        "--config.model.text.width=32", "--config.model.text.layers=1",
        "--config.model.text.heads=2", "--config.model.text.mlp_width=32",
        "--config.model.embed_dim=16", "--config.model.dtype=float32",
        "--config.data.image.size=32", "--config.data.text.context_length=24",
        "--config.train.batch_size=8", "--config.train.steps=2",
        "--config.optimizer.warmup_steps=1",
    ],
}  # fmt: skip


def section(title):
    """The text below a heading."""
    return re.split(r"^## ", TEXT.split(f"\n## {title}\n")[1], flags=re.MULTILINE)[0]


def blocks(text, language):
    """The contents of its fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def table(text):
    """The cells of its table, a list for each row below the head."""
    rows = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row] for row in rows[2:]]


@pytest.fixture(scope="module")
def front():
    spec = importlib.util.spec_from_file_location("docs_front", ROOT / "docs" / "front.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """The workdir of an untrained network of images and texts."""
    folder = tmp_path_factory.mktemp("tiny") / "tiny"
    text = BertConfig(21128, width=16, layers=1, heads=2, mlp_width=16, positions=12)
    network("retclip", text=text).save(folder)
    return folder


def test_it_is_read_in_minutes():
    assert len(TEXT.split()) < 900


def test_every_link_leads_somewhere():
    links = re.findall(r"\]\(([^)]*)\)|(?:src|srcset)=\"([^\"]*)\"", TEXT)
    inside = {(one or other).partition("#")[0] for one, other in links}
    inside = {link for link in inside if not link.startswith("https://")}
    assert len(inside) > 10
    assert not [link for link in inside if not (ROOT / link).exists()]
    notebooks = set(re.findall(r"/blob/main/(colab/\w+\.ipynb)", TEXT))
    assert notebooks == {f"colab/{path.name}" for path in (ROOT / "colab").glob("*.ipynb")}


def test_the_answer_that_is_printed_is_the_answer(monkeypatch):
    (code,), (answer,) = blocks(TEXT, "python"), blocks(TEXT, "text")
    monkeypatch.chdir(ROOT)
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        exec(code, {})
    number = re.compile(r"\d\.\d+")
    assert number.sub("#", said.getvalue()) == number.sub("#", answer)
    ours, theirs = (np.array(number.findall(text), float) for text in (said.getvalue(), answer))
    # What another machine rounds otherwise may change the last digit.
    np.testing.assert_allclose(ours, theirs, atol=0.0021)


def test_the_pictures_show_what_the_network_says(front):
    example = ROOT / "docs" / "example"
    eye = (example / "eye.jpg").read_bytes()
    asked = front.ask(retfm_jax.load(example / "retclip"), eye)
    for name in front.THEMES:
        with Image.open(ROOT / "docs" / "pictures" / name) as picture:
            shown = json.loads(picture.text["probabilities"])
            assert picture.width >= 1200
        for language, said in asked.items():
            assert shown[language] == pytest.approx(said, abs=0.0021)
    pixels = [np.asarray(Image.open(io.BytesIO(data)), int) for data in (
        eye, front.photograph(front.PATIENT))]  # fmt: skip
    assert np.abs(pixels[0] - pixels[1]).mean() < 1


def test_the_script_makes_pictures_of_any_network(front, tiny, tmp_path):
    front.make(tiny, tmp_path, size=48)
    light, dark = (
        np.asarray(Image.open(tmp_path / "pictures" / name).convert("RGB"), int)
        for name in front.THEMES
    )
    assert light.shape == dark.shape
    assert light[0, 0].min() == 255
    assert dark[0, 0].max() < 40
    again = retfm_jax.load(tmp_path / "example" / "retclip")
    eye = (tmp_path / "example" / "eye.jpg").read_bytes()
    np.testing.assert_allclose(
        again.encode_images(eye), retfm_jax.load(tiny).encode_images(eye), atol=2e-3
    )


def test_the_table_of_weights_is_that_of_retfm_models():
    rows = table(section("Weights"))
    assert len(rows) >= 10
    for name, tower, license_, place in rows:
        model = zoo()[name.strip("`")]
        assert (tower, license_) == (model.tower, model.license), name
        link = re.search(r"\((.*)\)", place)[1]
        address = model.address or model.page
        if address.startswith("hf:"):
            owner, _, _ = address.removeprefix("hf:").partition(":")
            assert link == f"https://huggingface.co/{owner}"
        else:
            assert link == model.page
        assert place.startswith("by hand") == (model.address is None), name
    assert f"weights of {len(zoo())} networks" in section("Weights").replace("\n", " ")


def test_the_plans_are_those_of_their_page():
    page = (ROOT / "docs" / "planning.md").read_text(encoding="utf-8")
    rows = [line for line in section("Scale").splitlines() if line.startswith("| v")]
    assert len(rows) >= 4
    assert all(line in page for line in rows)


@pytest.fixture(scope="module")
def desk(tmp_path_factory, tiny, one_device):
    """A folder with what the recipes begin with."""
    folder = tmp_path_factory.mktemp("desk")
    write_class_folders(folder / "my_classes", patients=20, size=32)
    (folder / "new").mkdir()
    for number in (1, 2):
        (folder / "new" / f"{number}.jpg").write_bytes(photograph("drusen", 100 + number, size=32))
    write_patient_table(folder, patients=40, size=32)
    return folder


def test_the_recipes_work_as_they_are_written(desk, tiny, monkeypatch):
    monkeypatch.chdir(desk)
    done = []
    for command in "".join(blocks(section("Recipes"), "sh")).replace("\\\n", " ").splitlines():
        words = shlex.split(command, comments=True)
        words = [word.replace(_TOWER, str(tiny)) for word in words]
        if words[0] == "retfm":
            if words[1] == "train":
                words += _SMALL[words[words.index("--config") + 1]]
            assert cli.main(words[1:]) == 0, command
        else:
            assert words[0] == "python", command
            said = subprocess.run(
                [sys.executable, *words[1:]], check=True, capture_output=True, text=True,
                env=os.environ | {"OMP_NUM_THREADS": "1"},
            )  # fmt: skip
            assert "drusen" in said.stdout
        done.append(" ".join(words[:2]))
    assert len(done) >= 9
    with (desk / "predictions.csv").open(encoding="utf-8") as file:
        assert [row["image"] for row in csv.DictReader(file)] == [
            "new/1.jpg",
            "new/2.jpg",
        ]
    measured = json.loads((desk / "run" / "evaluation.json").read_text(encoding="utf-8"))
    assert {"zero_shot", "retrieval"} <= measured.keys()
    assert (desk / "maps" / "explained.html").is_file()
