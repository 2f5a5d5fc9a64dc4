"""Masks of photographs: all files say the same, each photograph has its row, whatever happens."""

import csv
import dataclasses
import io
import json
import os
import re
import shutil
import signal
import sys
from pathlib import Path

import jax
import mask_photographs as scenes
import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

import retfm_jax
from retfm_jax import cli
from retfm_jax.config import DataConfig, ExperimentConfig, ImageConfig
from retfm_jax.data import masks
from retfm_jax.data.images import decode
from retfm_jax.data.segmented import open_segmented, truth_of
from retfm_jax.errors import Stopped, UserError
from retfm_jax.experiments import areas, mask_files, segmenting
from retfm_jax.experiments.mask_files import FileNames, Found, folders_of, levels_of
from retfm_jax.experiments.photograph_list import photograph_list
from retfm_jax.experiments.prediction_files import Parts
from retfm_jax.experiments.segmenting import segment
from retfm_jax.mask_decisions import MaskDecisions
from retfm_jax.methods import get_method_class
from retfm_jax.models.vit import ViTConfig

THRESHOLDS = (153 / 255, 0.5, 89 / 255)


def photograph(seed: int, height: int = 60, width: int = 80) -> np.ndarray:
    """A scene as a camera shows it: lit in a circle, with noise."""
    image, drawn = scenes.scene(height, width, seed)
    noise = np.random.default_rng(seed).integers(0, 20, image.shape)
    seen = np.where(image > 0, 225, [100, 60, 40]) + noise
    return (seen * drawn["field"][..., None]).astype(np.uint8)


def fitted(model):
    model.mask_decisions = MaskDecisions(model.structures, THRESHOLDS, {"dataset": "some"})
    return model


@pytest.fixture(scope="module")
def model():
    return fitted(scenes.reader())


@pytest.fixture(autouse=True)
def loaded(model, monkeypatch):
    monkeypatch.setattr(segmenting, "load", lambda workdir: model)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Five photographs, of which one lies on its side, and a damaged file."""
    folder = tmp_path_factory.mktemp("photographs") / "images"
    (folder / "more").mkdir(parents=True)
    for number in range(3):
        Image.fromarray(photograph(number)).save(folder / f"{number}.png")
    turned = Image.fromarray(photograph(3, 50, 90))
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(folder / "turned.jpg", quality=95, exif=exif)
    Image.fromarray(photograph(4)).save(folder / "more" / "1.tif")
    (folder / "z.jpg").write_bytes(b"\xff\xd8\xff\xe0 no more")
    return folder


NAMES = ["0", "1~2", "2", "1~4", "turned"]


@pytest.fixture(scope="module")
def whole(model, folder, tmp_path_factory):
    """What an undisturbed command writes."""
    out = tmp_path_factory.mktemp("whole") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(segmenting, "load", lambda workdir: model)
        made = segment("workdir", folder, out, probabilities=True, overlays=True)
    assert (made.count, made.resumed, made.unreadable) == (6, 0, 1)
    return out


def rows_of(out):
    with (out / "areas.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def files_of(out):
    return {
        str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()
    }


def mask(out, *parts):
    return masks.decode(out.joinpath(*parts).read_bytes(), str(parts), masks.STORED)


def test_every_file_says_what_the_network_finds(model, folder, whole):
    rows = rows_of(whole)
    assert [os.path.basename(row["image"]) for row in rows] == [
        "0.png", "1.png", "2.png", "1.tif", "turned.jpg", "z.jpg"
    ]  # fmt: skip
    assert [row["mask"] for row in rows] == [*(f"masks/{name}.png" for name in NAMES), ""]
    for row, name in zip(rows[:5], NAMES, strict=True):
        image = decode(Path(row["image"]).read_bytes(), name)
        p = model.segment(image)
        field = mask(whole, "fov", f"{name}.png")
        assert 0.5 < field.mean() < 0.99
        wanted = (p > np.array(THRESHOLDS)) & (field[..., None] == 1)
        assert wanted.any((0, 1)).all()
        numbers = np.array(Image.open(whole / row["mask"]))
        np.testing.assert_array_equal(numbers, (wanted * [1, 2, 3]).max(-1))
        for index, structure in enumerate(model.structures):
            here = wanted[..., index]
            np.testing.assert_array_equal(mask(whole, "masks", structure, f"{name}.png"), here)
            path = whole / "probabilities" / structure / f"{name}.png"
            levels = np.array(Image.open(path)).astype(np.float64)
            np.testing.assert_array_equal(levels > 65535 * THRESHOLDS[index], here)
            assert np.abs(levels / 65535 - p[..., index] * field).max() <= 1 / 65535
            parts, count = ndimage.label(here, np.ones((3, 3)))
            y, x = ndimage.center_of_mass(here)
            assert int(row[f"pixels_{structure}"]) == here.sum()
            assert float(row[f"share_{structure}"]) == pytest.approx(here.sum() / field.sum(), 1e-5)
            assert int(row[f"parts_{structure}"]) == count
            assert float(row[f"x_{structure}"]) == pytest.approx(x, abs=0.051)
            assert float(row[f"y_{structure}"]) == pytest.approx(y, abs=0.051)
            if structure != "vessels":
                largest = parts == 1 + np.bincount(parts.ravel())[1:].argmax()
                assert int(row[f"height_{structure}"]) == largest.any(1).sum()
                assert int(row[f"width_{structure}"]) == largest.any(0).sum()
        for ratio, length in (("vertical", "height"), ("horizontal", "width")):
            wanted = int(row[f"{length}_cup"]) / int(row[f"{length}_disc"])
            assert float(row[f"{ratio}_cup_disc_ratio"]) == pytest.approx(wanted, 1e-5)
        assert (int(row["image_height"]), int(row["image_width"])) == image.shape[:2]
        assert int(row["fov_pixels"]) == field.sum()
        assert (row["fov_found"], row["thresholds"]) == ("true", "fitted")
        assert (row["unreadable"], row["not_fundus"]) != ("true", "")
        overlay = Image.open(whole / "overlays" / f"{name}.jpg")
        assert overlay.size == image.shape[1::-1]
    assert image.shape == (90, 50, 3)  # the one that lay on its side
    last = rows[5]
    assert last["unreadable"] == "true"
    assert "z.jpg" in last["problem"]
    assert last["pixels_disc"] == last["fov_found"] == last["thresholds"] == ""


def test_colors_are_those_of_overlays(whole):
    numbers = Image.open(whole / "masks" / "0.png")
    assert (numbers.mode, numbers.size) == ("P", (80, 60))
    assert numbers.getpalette()[:12] == [0, 0, 0, 86, 180, 233, 240, 228, 66, 255, 255, 255]
    said = json.loads((whole / "segmented.json").read_text())
    assert [each["color"] for each in said["structures"]] == [
        [86, 180, 233], [240, 228, 66], [255, 255, 255]
    ]  # fmt: skip
    assert [each["threshold"] for each in said["structures"]] == list(THRESHOLDS)
    assert "fitted" in said["thresholds"]
    assert len(set(mask_files.palette(8)[:8])) == 8
    assert mask_files.palette(255)[8] == mask_files.palette(1)[1]


def test_the_page_shows_photographs_beside_their_masks(whole):
    page = (whole / "index.html").read_text()
    assert "6 photographs, of which 5 are shown" in page
    assert page.count("<figure>") == 5
    assert 'href="overlays/1~2.jpg"' in page
    assert 'background: rgb(86, 180, 233)"></i><bdi>disc</bdi> above 0.6' in page
    assert "Thresholds were fitted" in page
    assert "vertical cup-disc ratio" in page


def test_masks_beside_their_photographs_are_a_set_to_train_on(model, folder, whole, tmp_path):
    shutil.copytree(whole, tmp_path / "set")
    (tmp_path / "set" / "images").mkdir()
    for number, name in ((0, "0"), (2, "2")):
        shutil.copy(folder / f"{number}.png", tmp_path / "set" / "images" / f"{name}.png")
    config = DataConfig(dataset=str(tmp_path / "set"), shares=(1.0, 0.0, 0.0))
    opened = open_segmented(config, ("train",))
    assert sorted(opened.structures) == ["cup", "disc", "vessels"]
    source = opened.sources["train"]
    assert len(source) == 2
    for row in range(2):
        record = source[row]
        name = Path(record.record_id).stem
        truth = truth_of(record)
        np.testing.assert_array_equal(truth.field, mask(whole, "fov", f"{name}.png"))
        for index, structure in enumerate(opened.structures):
            wanted = mask(whole, "masks", structure, f"{name}.png")
            np.testing.assert_array_equal(truth.masks[..., index], wanted)


def test_names_are_those_of_photographs_as_far_as_files_can_have_them(tmp_path, monkeypatch):
    given = [
        "a/1.png", "b/1.PNG", "张三_左眼.jpg", "x/../..", "=1+1.jpg", "A B.png", "a-b.tif",
        "1.2.840.113", f"c/{'é' * 120}.jpg", "d\\win.jpg", "odd\udcff.png", "e~1.png"
    ]  # fmt: skip
    lines = "\n".join(given).encode("utf-8", "surrogateescape")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(lines)))
    with photograph_list("-", 4) as listed:
        names = FileNames(listed)
        found = [
            names.of(each.name, each.position)
            for part in range(listed.parts)
            for each in listed.part(part)
        ]
    assert found[:8] == [
        "1~1", "1~2", "张三_左眼", "x", "1-1", "A-B~6", "a-b~7", "1.2.840.113"
    ]  # fmt: skip
    assert found[8] == "é" * 50
    assert found[9:] == ["win", "odd", "e-1"]
    assert len({name.casefold() for name in found}) == len(found)
    for name in found:
        (tmp_path / f".{name}.png.writing").write_bytes(b"")
    assert folders_of(("a b", "A-b", "../c", "")) == ("a-b~1", "A-b~2", "c", "x")
    with pytest.raises(UserError, match="256 structures, and a mask holds the numbers of 255"):
        folders_of([str(number) for number in range(256)])


@pytest.mark.parametrize("threshold", [0.0, 0.5, 1.0, 77 / 255, 254 / 255])
def test_rounding_moves_no_pixel_over_the_threshold(threshold):
    rng = np.random.default_rng(0)
    close = threshold + rng.normal(0, 1e-5, 500)
    p = np.concatenate([rng.random(500), close, [0, 1, threshold]]).clip(0, 1).astype(np.float32)
    found = p.astype(np.float64) > threshold
    levels = levels_of(p[None], found[None], threshold)[0].astype(np.float64)
    np.testing.assert_array_equal(levels > threshold * 65535, found)
    assert np.abs(levels / 65535 - p).max() <= 1 / 65535


def test_exclusive_structures_measure_the_disc_with_its_cup(folder, tmp_path, monkeypatch):
    model = scenes.reader(("disc", "cup"), "exclusive")
    monkeypatch.setattr(segmenting, "load", lambda workdir: model)
    segment("workdir", folder / "0.png", tmp_path / "out")
    (row,) = rows_of(tmp_path / "out")
    rim, cup = (mask(tmp_path / "out", "masks", name, "0.png") for name in ("disc", "cup"))
    assert not (rim & cup).any()
    assert int(row["pixels_disc"]) == rim.sum()
    assert int(row["height_disc"]) == (rim | cup).any(1).sum()
    assert row["thresholds"] == "default"
    assert "Thresholds are 0.5" in (tmp_path / "out" / "index.html").read_text()
    assert not (tmp_path / "out" / "overlays").exists()
    assert not (tmp_path / "out" / "probabilities").exists()
    assert 'href="masks/0.png"' in (tmp_path / "out" / "index.html").read_text()


def test_what_is_not_there_has_no_place():
    nothing = np.zeros((6, 7, 2), bool)
    image = np.zeros((6, 7, 3), np.uint8)
    field, found = areas.field_of(image)
    assert field.all()
    assert not found
    row = areas.measured(("disc", "cup"), Found(image, nothing, nothing, field), False)
    assert row["pixels_disc"] == row["share_cup"] == row["parts_cup"] == row["height_disc"] == 0
    assert row["x_disc"] is row["vertical_cup_disc_ratio"] is None
    assert set(row) | {"fov_found"} == set(areas.columns_of(("disc", "cup")))
    assert not any("ratio" in name for name in areas.columns_of(("disc", "vessels")))


@pytest.fixture
def small_parts(monkeypatch):
    monkeypatch.setattr(segmenting, "PART_SIZE", 2)


@pytest.mark.usefixtures("small_parts")
def test_a_command_that_ended_early_is_resumed(folder, whole, tmp_path, monkeypatch):
    out, write, made = tmp_path / "out", Parts.write, []
    command = {"probabilities": True, "overlays": True}

    def ends(self, part, rows):
        made.append(part)
        if made == [0, 1]:
            raise UserError("the disk is full")
        write(self, part, rows)
        if made == [0, 1, 1]:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Parts, "write", ends)
    with pytest.raises(UserError, match="full"):
        segment("workdir", folder, out, **command)
    assert not (out / "areas.csv").exists()
    assert (out / "masks" / "2.png").exists()  # of the part that is not finished
    with pytest.raises(Stopped, match="after 4 of 6 photographs; the same command resumes"):
        segment("workdir", folder, out, **command)
    assert segment("workdir", folder, out, **command).resumed == 4
    assert made == [0, 1, 1, 2]
    assert files_of(out) == files_of(whole)


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("what", ["choice of pictures", "decisions", "geometry", "list"])
def test_an_unfinished_folder_is_of_its_own_command_alone(folder, tmp_path, monkeypatch, what):
    out, write = tmp_path / "out", Parts.write

    def ends(self, part, rows):
        write(self, part, rows)
        raise UserError("the disk is full")

    monkeypatch.setattr(Parts, "write", ends)
    with pytest.raises(UserError, match="full"):
        segment("workdir", folder, out)
    before = files_of(out)
    other = {
        "decisions": scenes.reader(),
        "geometry": fitted(scenes.reader(geometry="whole")),
    }
    if what in other:
        monkeypatch.setattr(segmenting, "load", lambda workdir: other[what])
    images = folder / "0.png" if what == "list" else folder
    with pytest.raises(UserError, match=f"another {what}.*: repeat that command to finish them"):
        segment("workdir", images, out, overlays=what == "choice of pictures")
    assert files_of(out) == before


def test_a_refused_photograph_is_mended_and_the_command_repeated(folder, tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    for name in ("a", "b"):
        (images / f"{name}.png").write_bytes((folder / "0.png").read_bytes())
    (images / "c.png").write_bytes((folder / "z.jpg").read_bytes())
    with pytest.raises(UserError, match=r"c\.png: not a readable image .*the same command resumes"):
        segment("workdir", images, tmp_path / "out", on_error="refuse")
    (images / "c.png").write_bytes((folder / "1.png").read_bytes())
    segment("workdir", images, tmp_path / "out", on_error="refuse")
    assert [row["mask"] for row in rows_of(tmp_path / "out")] == [
        "masks/a.png", "masks/b.png", "masks/c.png"
    ]  # fmt: skip


def test_a_photograph_that_is_too_long_has_a_row_that_says_so(tmp_path, monkeypatch):
    model = scenes.reader(geometry="whole")
    monkeypatch.setattr(segmenting, "load", lambda workdir: model)
    Image.fromarray(np.full((1, 40_000, 3), 90, np.uint8)).save(tmp_path / "long.png")
    made = segment("workdir", tmp_path / "long.png", tmp_path / "out")
    (row,) = rows_of(tmp_path / "out")
    assert made.unreadable == 1
    assert row["unreadable"] == "true"
    assert "long.png: it is longer than 32,766 px" in row["problem"]
    assert sorted(files_of(tmp_path / "out")) == ["areas.csv", "index.html", "segmented.json"]


def test_names_of_structures_do_no_harm(folder, tmp_path, monkeypatch):
    name = "=<i>cup"
    model = scenes.reader()
    config = dataclasses.replace(model.method.config, structures=(name, "b", "c"))

    class Named(scenes.Reader):
        def pixel_logits(self, params, state, images, *, keys=None):
            return 6 * images

    model = type(model)(Named(config), {}, model.state, model.config)
    monkeypatch.setattr(segmenting, "load", lambda workdir: model)
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "=a&b.png").write_bytes((folder / "0.png").read_bytes())
    segment("workdir", tmp_path / "images", tmp_path / "out")
    assert (tmp_path / "out" / "masks" / "i-cup" / "a-b.png").exists()
    page = (tmp_path / "out" / "index.html").read_text()
    assert "=&lt;i&gt;cup" in page
    assert "<i>cup" not in page
    header = (tmp_path / "out" / "areas.csv").read_text().splitlines()[0]
    assert f"pixels_{name}" in header
    assert not any(cell.startswith("=") for cell in header.split(","))


def test_what_cannot_be_segmented_is_said_in_a_sentence(
    model, folder, whole, tmp_path, capsys, monkeypatch
):
    cls = get_method_class("vision")
    tower = ViTConfig(image_size=32, patch_size=16, width=16, layers=1, heads=2)
    method = cls(cls.config_class(image=tower, embed_dim=8))
    params, state = jax.jit(method.init)(jax.random.key(0))
    config = ExperimentConfig("vision", method.config, DataConfig(image=ImageConfig(size=32)))
    plain = retfm_jax.RetinalModel(method, params, state, config)
    monkeypatch.setattr(segmenting, "load", {"plain": plain, "run": model}.__getitem__)
    (tmp_path / "empty").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("notes")
    (tmp_path / "no.csv").write_text("picture\n1.png\n")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\n")))
    before = sorted(map(str, tmp_path.rglob("*")))
    for run, images, out, said in (
        ("plain", folder, "a", "finds no structures in photographs"),
        ("run", tmp_path / "empty", "a", "no image in it"),
        ("run", tmp_path / "gone", "a", "no such folder or CSV"),
        ("run", tmp_path / "no.csv", "a", "has no column 'image'"),
        ("run", "-", "a", "standard input holds no path"),
        ("run", folder, "full", "is not empty: give a new folder"),
        ("run", folder, "no.csv", "cannot write"),
        ("run", folder, whole, "holds finished masks: give a new folder"),
        ("run", folder, folder / "a", "masks would be taken for photographs"),
    ):
        command = ["segment", "--workdir", run, "--images", images, "--out", tmp_path / out]
        assert cli.main([str(each) for each in command]) == 1
        error = capsys.readouterr().err
        assert said in error
        assert error.startswith("retfm segment: ")
        assert error.count("\n") == 1
        assert sorted(map(str, tmp_path.rglob("*"))) == before


def test_the_verb_says_what_it_wrote(folder, whole, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(segmenting, "load", retfm_jax.load)
    model = fitted(scenes.reader())
    model.config = dataclasses.replace(model.config, method="mask_photographs:Reader")
    model.save(tmp_path / "run")
    out = tmp_path / "out"
    command = ["segment", "--workdir", tmp_path / "run", "--images", folder, "--out", out]
    options = ["--overlays", "--probabilities"]
    assert cli.main([*map(str, command), *options]) == 0
    said = capsys.readouterr().out
    assert f"6 rows in {out}/areas.csv\n" in said
    assert "1 images cannot be used:" in said
    assert f"page  {out}/index.html" in said
    ours, theirs = files_of(out), files_of(whole)
    header = rb'<p class="about">.*?</p>'  # names the checkpoint
    pages = [re.sub(header, b"", each.pop("index.html")) for each in (ours, theirs)]
    assert pages[0] == pages[1]
    assert ours == theirs
