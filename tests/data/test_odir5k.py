"""ODIR-5K in both of its layouts, with the faults that the releases have."""

import csv
import shutil
from pathlib import Path

import openpyxl
import pytest
from test_importers import everything, photograph, problems_of

from retfm_jax.data.building import registry as build
from retfm_jax.data.building.builder import SUMMARY_FILE, BuildOptions, write_dataset
from retfm_jax.errors import UserError
from retfm_jax.files import read_json

LONG = (
    "Normal ", "Diabetes", "Glaucoma", "Cataract", "Age related Macular Degeneration ",
    "Hypertension", "Pathological Myopia", "Other diseases/abnormalities",
)  # fmt: skip


def release(folder: Path, labels: tuple[str, ...], per_image: bool) -> Path:
    """Three invented patients: one with several keywords, one with one eye, one plain."""
    images = folder / "preprocessed_images"
    images.mkdir(parents=True)
    patients = {
        "7": ("hard exudates，mild  retinopathy", "normal fundus", (0, 1, 0, 0, 0, 0, 0, 0), "lr"),
        "12": ("cataract", "glaucoma ,cataract", (0, 0, 1, 1, 0, 0, 0, 0), "r"),
        "30": ("normal fundus", "normal fundus", (1, 0, 0, 0, 0, 0, 0, 0), "lr"),
    }
    head = ("ID", "Patient Age", "Patient Sex", "Left-Fundus", "Right-Fundus",
            "Left-Diagnostic Keywords", "Right-Diagnostic Keywords", *labels)  # fmt: skip
    rows = []
    for number, (patient, (left, right, hot, eyes)) in enumerate(patients.items()):
        names = (f"{patient}_left.jpg", f"{patient}_right.jpg")
        for name, eye in zip(names, "lr", strict=True):
            if eye in eyes or not per_image:
                (images / name).write_bytes(photograph(10 * number + ord(eye)))
        row = (patient, "60", "Female", *names, left, right, *hot)
        rows += [row] * (len(eyes) if per_image else 1)
    with (folder / "full_df.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([head, *rows])
    return folder


def prepare(source: Path, data_dir: Path, **options) -> Path:
    builder = build.builder_class("odir5k")(options=BuildOptions(**options), data_dir=data_dir)
    return write_dataset(builder, source, overwrite=False)


@pytest.mark.parametrize(("labels", "per_image"), [(LONG, True), (tuple("NDGCAHMO"), False)])
def test_both_layouts_give_the_same_patients(tmp_path, labels, per_image):
    folder = prepare(release(tmp_path / "odir", labels, per_image), tmp_path / "data")
    found = {name: record for name, (_, record) in everything(folder).items()}
    assert set(found) == {"7", "12", "30"}
    assert found["7"].report == {
        "en": "Left eye: hard exudates, mild retinopathy. Right eye: normal fundus.",
        "zh": "",
    }
    assert found["7"].left_report["en"] == "hard exudates, mild retinopathy"
    assert found["12"].labels.tolist() == [0, 0, 1, 1, 0, 0, 0, 0]
    # Of each eye by its keywords, where both eyes together have the patient's labels.
    assert found["12"].left_labels.tolist() == [0, 0, 0, 1, 0, 0, 0, 0]
    assert found["12"].right_labels.tolist() == [0, 0, 1, 1, 0, 0, 0, 0]
    assert (found["7"].left_labels == -1).all()
    assert (found["7"].right_labels == -1).all()
    assert found["30"].report["zh"] == "左眼：正常眼底；右眼：正常眼底。"
    assert bool(found["12"].left) != per_image
    assert found["12"].right
    assert problems_of(folder) == []


def test_a_file_that_should_be_there_is_a_problem(tmp_path):
    source = release(tmp_path / "odir", LONG, per_image=True)
    (source / "preprocessed_images" / "30_left.jpg").unlink()
    table = source / "full_df.csv"
    text = table.read_text(encoding="utf-8").replace(
        "30,60,Female,30_left.jpg,30_right.jpg,normal fundus,normal fundus,1,",
        "30,60,Female,30_left.jpg,30_right.jpg,normal fundus,normal fundus,x,", 1,
    )  # fmt: skip
    table.write_text(text, encoding="utf-8")
    folder = prepare(source, tmp_path / "data")
    said = {(p["kind"], p["row"], p["record"]) for p in problems_of(folder)}
    assert said == {("unreadable_row", "5", "30"), ("missing_image", "6", "30")}
    assert everything(folder)["30"][1].left == b""


def test_rows_that_contradict_each_other_are_said(tmp_path):
    source = release(tmp_path / "odir", LONG, per_image=True)
    lines = (source / "full_df.csv").read_text(encoding="utf-8").splitlines()
    lines[2] = lines[2].replace("normal fundus", "drusen")
    (source / "full_df.csv").write_text("\n".join(lines), encoding="utf-8")
    folder = prepare(source, tmp_path / "data")
    assert [(p["kind"], p["row"]) for p in problems_of(folder)] == [("duplicate_id", "3")]


def official(folder: Path) -> Path:
    """OIA-ODIR: three sets with a patient each, English and Chinese tables, an Excel lock file."""
    head = ["ID", "Patient Age", "Patient Sex", "Left-Fundus", "Right-Fundus",
            "Left-Diagnostic Keywords", "Right-Diagnostic Keywords", *"NDGCAHMO"]  # fmt: skip
    sets = {"Training Set": "training", "Off-site Test Set": "off-site test",
            "On-site Test Set": "on-site test"}  # fmt: skip
    for number, (name, called) in enumerate(sets.items()):
        images, tables = folder / name / "Images", folder / name / "Annotation"
        images.mkdir(parents=True)
        tables.mkdir()
        names = [f"{number}_{eye}.jpg" for eye in ("left", "right")]
        for seed, image in enumerate(names):
            (images / image).write_bytes(photograph(10 * number + seed))
        for language, words in (("English", "cataract"), ("Chinese", "白内障")):
            book = openpyxl.Workbook()
            book.active.append(head)
            book.active.append([number, 60, "Female", *names, words, words, 0, 0, 0, 1, 0, 0, 0, 0])
            book.save(tables / f"{called} annotation ({language}).xlsx")
        (tables / f"~${called} annotation (English).xlsx").write_bytes(b"lock")
    return folder


@pytest.mark.parametrize("above", ["", "archive/OIA-ODIR"])
def test_the_official_division_is_taken_as_it_is(tmp_path, above):
    official(tmp_path / "odir" / above)
    folder = prepare(tmp_path / "odir", tmp_path / "data")
    found = everything(folder)
    assert {name: split for name, (split, _) in found.items()} == {
        "0": "train", "1": "validation", "2": "test"
    }  # fmt: skip
    for _, record in found.values():
        assert record.left
        assert record.right
        assert record.left_labels.tolist() == [0, 0, 0, 1, 0, 0, 0, 0]
        assert record.report["en"] == "Left eye: cataract. Right eye: cataract."
    assert problems_of(folder) == []
    notes = "; ".join(read_json(folder / SUMMARY_FILE)["notes"])
    assert "publishes 3500 patients in 'training set', 1 are here" in notes


def test_a_set_of_the_official_division_that_is_missing_is_said(tmp_path):
    source = official(tmp_path / "odir")
    shutil.rmtree(source / "Off-site Test Set")
    folder = prepare(source, tmp_path / "data")
    assert {split for split, _ in everything(folder).values()} == {"train", "test"}
    notes = "; ".join(read_json(folder / SUMMARY_FILE)["notes"])
    assert "'off-site test set' is not there: no patient is in validation" in notes
    for table in (source / "On-site Test Set" / "Annotation").iterdir():
        table.unlink()
    with pytest.raises(UserError, match="holds no table"):
        prepare(source, tmp_path / "again")


def test_a_folder_without_the_release_is_named(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").write_text("nothing")
    with pytest.raises(UserError, match=r"holds no annotation table \(full_df.csv\)"):
        prepare(tmp_path / "empty", tmp_path / "data")


def test_a_missing_column_is_named(tmp_path):
    source = release(tmp_path / "odir", ("X", *LONG[1:]), per_image=True)
    with pytest.raises(UserError, match="no column 'Normal' or 'N'"):
        prepare(source, tmp_path / "data")


def test_a_spreadsheet_without_its_reader_says_what_to_install(tmp_path, monkeypatch):
    import sys

    source = release(tmp_path / "odir", LONG, per_image=True)
    (source / "full_df.csv").rename(source / "data.xlsx")
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    with pytest.raises(UserError, match="pip install openpyxl"):
        prepare(source, tmp_path / "data")


def test_the_original_spreadsheet_and_empty_cells_are_read(tmp_path):
    import openpyxl

    source = release(tmp_path / "odir", LONG, per_image=False)
    with (source / "full_df.csv").open(encoding="utf-8") as file:
        rows = list(csv.reader(file))
    book = openpyxl.Workbook()
    for row in rows:
        book.active.append([float(cell) if cell in ("0", "1") else cell for cell in row])
    book.active["F2"] = "nan"
    book.active["D3"] = "#N/A"
    (source / "full_df.csv").unlink()
    book.save(source / "data.xlsx")
    found = {name: record for name, (_, record) in
             everything(prepare(source, tmp_path / "data")).items()}  # fmt: skip
    assert set(found) == {"7", "12", "30"}
    assert found["7"].report["en"] == "Right eye: normal fundus."
    assert found["12"].left == b""
    assert found["12"].labels.tolist() == [0, 0, 1, 1, 0, 0, 0, 0]
