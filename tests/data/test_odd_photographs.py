"""Photographs that are somewhere else, of another spelling, or odd, in an import and in `embed`."""

import argparse
import csv
import io
import json
import os
from collections import Counter

import cv2
import numpy as np
import pytest
from PIL import Image

from retfm_jax.cli import embed
from retfm_jax.data import image_files
from retfm_jax.data.building.builder import PROBLEMS_FILE, SUMMARY_FILE, BuildOptions
from retfm_jax.data.building.validation import ProblemLog, drop_duplicates, prepare_image
from retfm_jax.data.images import ImageError, decode
from retfm_jax.data.importing import importers, manifest
from retfm_jax.data.inspection.check import check_dataset
from retfm_jax.data.sources import open_dataset
from retfm_jax.errors import Unusable, UserError
from retfm_jax.experiments import embedding


def photograph(seed: int, kind: str = "PNG") -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (24, 24, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(3):
        (folder / f"{number}.png").write_bytes(photograph(number))
    return folder


def bring(root, tmp_path, rows: list[str], header: str = "image,caption", **options):
    """Imports single images and returns the dataset's folder and the kinds of its problems."""
    table = tmp_path / "m.csv"
    table.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    problems = ProblemLog()
    read, _ = manifest.read_manifest(table, root, problems)
    shares = {"train": 1.0, "validation": 0.0, "test": 0.0}
    options = BuildOptions(image_size=0, shares=shares, **options)
    folder = importers.import_rows(read, problems, "odd", tmp_path / "data", options)
    with (folder / PROBLEMS_FILE).open() as file:
        found = list(csv.DictReader(file))
    return folder, found


def test_what_is_odd_is_named_and_kept(root, tmp_path):
    (root / "flat.png").write_bytes(b"")
    Image.new("RGB", (20, 20), (3, 3, 3)).save(root / "flat.png")
    pages = [Image.open(io.BytesIO(photograph(seed))) for seed in (7, 8)]
    pages[0].save(root / "pages.tif", save_all=True, append_images=pages[1:])
    os.mkfifo(root / "pipe.png")
    (root / "UPPER.PNG").write_bytes(photograph(9))
    names = ["0.png", "flat.png", "pages.tif", "pipe.png", "upper.png", "3.png"]
    folder, problems = bring(root, tmp_path, [f"{name},x" for name in names])
    kinds = {problem["record"]: problem["kind"] for problem in problems}
    assert kinds == {
        "flat.png": "flat_image", "pages.tif": "several_pages", "pipe.png": "broken_image",
        "upper.png": "other_spelling", "3.png": "missing_image",
    }  # fmt: skip
    said = {problem["record"]: problem["what"] for problem in problems}
    assert "one value everywhere (3, 3, 3)" in said["flat.png"]
    assert "is a named pipe" in said["pipe.png"]
    assert "'UPPER.PNG' is" in said["upper.png"]
    assert len(open_dataset("odd", "train", str(tmp_path / "data"))) == 4
    assert any(
        "by image" in note for note in json.loads((folder / SUMMARY_FILE).read_text())["notes"]
    )
    report = check_dataset("odd", str(tmp_path / "data"), None, tmp_path / "check")
    assert report["splits"]["train"]["flat_photographs"] == {"count": 1, "first": ["flat.png"]}
    assert "by image" in report["patients"]


def test_links_are_followed_by_the_switch_alone(root, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    (disk / "9.png").write_bytes(photograph(9))
    (root / "9.png").symlink_to(disk / "9.png")
    (root / "loop.png").symlink_to("loop.png")
    rows = ["0.png,x", "9.png,x", "loop.png,x"]
    _, problems = bring(root, tmp_path, rows)
    assert Counter(problem["kind"] for problem in problems) == {
        "outside_root": 1, "missing_image": 1
    }  # fmt: skip
    assert any("follow_links" in problem["what"] for problem in problems)
    (tmp_path / "again").mkdir()
    _, problems = bring(root, tmp_path / "again", rows, follow_links=True)
    assert [problem["kind"] for problem in problems] == ["missing_image"]


def test_eyes_of_a_patient_are_stored_as_one_patients(root, tmp_path):
    for number in range(3):
        for eye in ("left", "right"):
            (root / f"{number}_{eye}.png").write_bytes(photograph(100 + number))
    rows = [f"{number}_{eye}.png,x" for number in range(3) for eye in ("left", "right")]
    folder, _ = bring(root, tmp_path, rows)
    records = list(open_dataset("odd", "train", str(tmp_path / "data")))
    assert Counter(record.patient_id for record in records) == {"0": 2, "1": 2, "2": 2}
    assert "a guess" in json.loads((folder / SUMMARY_FILE).read_text())["notes"][-1]
    (tmp_path / "other").mkdir()
    with pytest.raises(UserError, match="matches none of 6 names"):
        bring(root, tmp_path / "other", rows, patient_regex="^P")


def test_a_manifest_that_is_a_pipe_is_not_waited_for(root, tmp_path):
    os.mkfifo(tmp_path / "m.csv")
    with pytest.raises(UserError, match="is a named pipe, not a file"):
        manifest.read_manifest(tmp_path / "m.csv", root, ProblemLog())


class Sees:
    """Embeds what can be decoded, as `RetinalModel` does."""

    def encode_images(self, paths, progress, unusable):
        rows = np.ones((len(paths), 4), np.float32)
        for index, path in enumerate(paths):
            try:
                decode(image_files.read(path), str(path))
            except (ImageError, Unusable) as error:
                if unusable is None:
                    raise
                unusable.append((index, str(error)))
        return rows


@pytest.fixture
def embedded(root, tmp_path, monkeypatch):
    monkeypatch.setattr(embedding, "load", lambda *_: Sees())

    def run(images=root, on_error="skip"):
        out = tmp_path / "e.npz"
        embed.run(
            argparse.Namespace(workdir="w", images=str(images), out=str(out), on_error=on_error)
        )
        with np.load(out) as found:
            return [os.path.basename(name) for name in found["image"]]

    return run


def test_embed_leaves_out_and_names_what_cannot_be_used(root, embedded, capsys):
    (root / "cut.png").write_bytes(photograph(5)[:-300])
    (root / "text.png").write_text("x")
    (root / "list.csv").write_text("image\n")
    (root / "._0.png").write_bytes(b"\0\5\x16\7")
    os.mkfifo(root / "pipe.png")
    (root / "loop").symlink_to(root)
    assert embedded() == ["0.png", "1.png", "2.png"]
    said = capsys.readouterr().out
    for name in ("cut.png", "text.png", "list.csv", "pipe.png", "loop"):
        assert name in said
    with pytest.raises(UserError, match=r"text.png holds no image"):
        embedded(on_error="refuse")
    (root / "text.png").unlink()
    with pytest.raises(UserError, match=r"cut\.png"):
        embedded(on_error="refuse")


def test_embed_reads_a_table_of_names(root, embedded, tmp_path, capsys):
    table = tmp_path / "t.csv"
    table.write_text("image\nimages/0.png\nIMAGES/1.PNG\nNA\nimages/2.jpg\nimages\n")
    assert embedded(table) == ["0.png", "1.png"]
    said = capsys.readouterr().out
    assert "row 5" in said
    assert "close by: 'images/2.png'" in said
    assert "'images/1.png' for 'IMAGES/1.PNG'" in said


def test_embed_of_nothing_is_said(embedded, tmp_path):
    (tmp_path / "none").mkdir()
    (tmp_path / "none/notes.txt").write_text("x")
    with pytest.raises(UserError, match=r"no image in it \(passed over: 1 no images"):
        embedded(tmp_path / "none")


def test_a_jpeg_cut_short_that_ends_as_a_whole_one_is_named(tmp_path):
    data = photograph(0, "JPEG")
    big = io.BytesIO()
    pixels = np.random.default_rng(0).integers(60, 200, (128, 128, 3), np.uint8)
    Image.fromarray(pixels).save(big, "JPEG")
    cut = big.getvalue()[: len(big.getvalue()) // 2] + b"\xff\xd9"
    for encoded, wanted in ((data, []), (big.getvalue(), []), (cut, ["flat_rest"])):
        remarks: list = []
        prepare_image(encoded, "a.jpg", 0, remarks)
        assert [kind for kind, _, _ in remarks] == wanted
    dark = pixels.copy()
    dark[100:] = 0  # what surrounds the retina
    big = io.BytesIO()
    Image.fromarray(dark).save(big, "JPEG")
    remarks = []
    prepare_image(big.getvalue(), "a.jpg", 0, remarks)
    assert remarks == []


@pytest.mark.parametrize("suffix", [".ppm", ".jp2", ".png"])
def test_twelve_bits_in_sixteen_are_as_bright_in_every_format(suffix):
    ramp = np.linspace(0, 4095, 64 * 64).reshape(64, 64).astype(np.uint16)
    deep = np.dstack([ramp // 4, ramp // 2, ramp])
    encoded = cv2.imencode(suffix, deep, [cv2.IMWRITE_JPEG2000_COMPRESSION_X1000, 1000])[1]
    image = decode(encoded.tobytes(), suffix)
    np.testing.assert_allclose(image, deep[..., ::-1] >> 4, atol=2)


def test_a_photograph_of_two_patients_is_said(root, tmp_path, capsys):
    rows = ["a,0.png,1.png,x", "b,./0.png,2.png,y", "c,2.png,2.png,z"]
    problems = ProblemLog()
    path = tmp_path / "m.csv"
    path.write_text("\n".join(["patient_id,left,right,report", *rows]))
    found, _ = manifest.read_manifest(path, root, problems)
    drop_duplicates(found, problems)
    said = next(note for note in problems.notes if "occur more than once" in note)
    assert said.startswith("3 photographs")
    assert "'./0.png' is the left eye of 'b' in row 3 and the left eye of 'a' in row 2" in said
