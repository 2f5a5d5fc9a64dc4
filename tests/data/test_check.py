"""What the check of a built dataset counts, and what it calls broken."""

import argparse
import json

import numpy as np
import pytest
from PIL import Image

from retfm_jax.cli import data_check
from retfm_jax.data import records
from retfm_jax.data.inspection.check import check_dataset
from retfm_jax.errors import UserError


def patient(number: int, left: bytes, right: bytes | None, **values) -> dict:
    values = {"report": {"en": f"drusen {number}"}, "labels": ["drusen"]} | values
    return records.patient_example(f"q{number}", left=left, right=right, **values)


def test_a_sound_dataset_is_counted(data_dir, tmp_path, capsys):
    args = argparse.Namespace(
        name="captions", data_dir=str(data_dir), split=None, out=str(tmp_path / "out")
    )
    data_check.run(args)
    report = json.loads((tmp_path / "out/check.json").read_text(encoding="utf-8"))
    train = report["splits"]["train"]
    assert train["photographs"] == train["patients"] == 11
    assert train["sizes"] == {"48x40": 11}
    assert train["labels"]["image"] == {
        "known": 11,
        "present": {"normal": 4, "drusen": 4, "hard_exudates": 3},
    }
    assert train["empty_reports"] == {"en": 0, "zh": 11}
    assert train["tokens"]["en"]["cut"] == 0
    assert report["broken"] == []
    with Image.open(tmp_path / "out/train.png") as sheet:
        assert np.asarray(sheet.convert("L")).std() > 20  # something is drawn
    assert "hard_exudates" in capsys.readouterr().out


def test_every_fault_is_counted_and_breaks_the_check(tmp_path, make_dataset, make_jpeg):
    twin, copy = make_jpeg(1), make_jpeg(2)
    train = [
        patient(0, twin, twin),  # the same photograph twice
        patient(1, make_jpeg(3)[:-60], copy),  # one eye cut short
        patient(2, make_jpeg(4), None, report=None, labels=None),  # nothing said of it
        patient(3, make_jpeg(5), None, report=None),
        patient(4, make_jpeg(6), make_jpeg(7), report={"en": "drusen " * 200}),
    ]
    make_dataset(tmp_path, "faults", {"train": train, "test": [patient(9, copy, None)]})
    args = argparse.Namespace(
        name="faults", data_dir=str(tmp_path), split=None, out=str(tmp_path / "out")
    )
    with pytest.raises(UserError, match=r"faults: train: 1 undecodable.*1 photographs in more"):
        data_check.run(args)
    report = json.loads((tmp_path / "out/check.json").read_text(encoding="utf-8"))
    counted = report["splits"]["train"]
    assert counted["missing_eyes"] == 2
    assert counted["repeated_photographs"]["first"] == [["q0/left", "q0/right"]]
    assert counted["undecodable"]["count"] == 1
    assert "q1/left" in counted["undecodable"]["first"][0]
    assert counted["neither_report_nor_label"] == {"count": 1, "first": ["q2"]}
    assert counted["empty_reports"]["en"] == 2
    assert counted["tokens"]["en"]["cut"] == 1
    assert report["across_splits"]["photographs"]["first"] == [
        {"train": "q1/right", "test": "q9/left"}
    ]
    assert (tmp_path / "out" / "train.png").is_file()


def test_one_split_alone_can_be_checked(data_dir, tmp_path):
    report = check_dataset("pairs", str(data_dir), "train[:5]", tmp_path)
    (counted,) = report["splits"].values()
    assert counted["records"] == 5
    assert counted["missing_eyes"] == 1
    with pytest.raises(UserError, match="has no split 'tset'"):
        check_dataset("pairs", str(data_dir), "tset", tmp_path)


def test_the_contact_sheet_has_a_page_with_every_text_in_its_own_language(
    tmp_path, make_dataset, make_jpeg
):
    texts = [
        {"zh": "左眼：玻璃膜疣。", "en": "Drusen $5_{ $ <script>."},
        {"zh": "右眼未见异常。" * 60},
        {"en": "x" * 500},
    ]
    rows = [patient(n, make_jpeg(n), None, report=text) for n, text in enumerate(texts)]
    make_dataset(tmp_path, "clinic", {"train": rows})
    check_dataset("clinic", str(tmp_path), None, tmp_path / "out")
    page = (tmp_path / "out/train.html").read_text(encoding="utf-8")
    long = ("右眼未见异常。" * 60, "x" * 500)
    for text in ("左眼：玻璃膜疣。", "Drusen $5_{ $ &lt;script&gt;.", *long):
        assert text in page
    with Image.open(tmp_path / "out/train.png") as sheet:
        assert sheet.width > 1000
