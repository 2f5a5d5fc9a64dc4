"""FFA-IR: cases of several angiograms with reports in two languages, in the published splits."""

import json

import pytest
from test_importers import photograph, problems_of

from retfm_jax.data.building.builder import SUMMARY_FILE, BuildOptions, write_dataset
from retfm_jax.data.cases import as_cases
from retfm_jax.data.inspection.check import check_dataset
from retfm_jax.data.sources import open_dataset
from retfm_jax.data_builders.ffa_ir.ffa_ir_dataset_builder import Builder
from retfm_jax.errors import UserError

SAME = "Normal filling of both eyes."


def release(folder, **cases):
    """A release with two training cases of one report, and one test case."""
    annotations = {
        "train": {
            "10": {"En_Report": SAME, "Ch_Report": "双眼充盈正常。",
                   "Image_path": ["10/2.jpg", "10/10.jpg", "10/1.jpg"]},
            "11": {"En_Report": SAME, "Fr_Report": "normal", "Image_path": "['11/1.jpg']"},
            **cases,
        },
        "val": {},
        "test": {"12": {"En_Report": "Leakage.", "Image_path": ["12/1.jpg", "12/2.jpg"]}},
    }  # fmt: skip
    for number, name in enumerate(["10/1", "10/2", "10/10", "11/1", "12/1", "12/2"]):
        path = folder / "FFAIR" / f"{name}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(photograph(number))
    (folder / "data").mkdir()
    (folder / "data" / "ffair_annotation.json").write_text(
        json.dumps(annotations, ensure_ascii=False)
    )
    (folder / "lesion_dict.json").write_text('{"1": "drusen"}')
    return folder


def build(tmp_path):
    builder = Builder(options=BuildOptions(threads=1), data_dir=str(tmp_path / "data"))
    return write_dataset(builder, tmp_path / "release", overwrite=False)


def cases_of(folder, split):
    return {case.record_id: case for case in as_cases(open_dataset(str(folder), split, "."))}


def test_cases_are_joined_in_the_published_splits(tmp_path):
    release(tmp_path / "release")
    folder = build(tmp_path)
    train, test = cases_of(folder, "train"), cases_of(folder, "test")
    assert {name: tuple(case.names) for name, case in train.items()} == {
        "10": ("10/1.jpg", "10/2.jpg", "10/10.jpg"),
        "11": ("11/1.jpg",),
    }
    assert train["10"].report == {"en": SAME, "zh": "双眼充盈正常。"}
    assert train["11"].report == {"en": SAME, "zh": ""}
    assert train["10"].images[2] == photograph(2)
    assert test.keys() == {"12"}
    assert problems_of(folder) == []
    found = check_dataset(str(folder), "", None, tmp_path / "check")
    assert found["splits"]["train"]["cases"] == {
        "count": 2, "median_images": 2.0, "most_images": 3,
    }  # fmt: skip
    assert found["broken"] == []
    notes = json.loads((folder / SUMMARY_FILE).read_text())["notes"]
    assert any(
        "languages that are not known here are passed over: Fr_Report (1)" in n for n in notes
    )
    assert sum("patient" in note for note in notes) == 1
    assert any(note.startswith("3 cases name no patient: each counts as one") for note in notes)


def test_cases_that_cannot_be_used_are_named_once(tmp_path):
    release(
        tmp_path / "release",
        empty={"En_Report": " ", "Image_path": ["e/1.jpg", "e/2.jpg"]},
        blind={"En_Report": SAME, "Image_path": []},
        lost={"En_Report": SAME, "Image_path": ["x/1.jpg", "x/2.jpg"]},
        odd={"En_Report": ["a"], "Image_path": ["o/1.jpg"]},
        none=None,
        long={"En_Report": "leakage " * 5000, "Image_path": ["10/3.jpg"]},
        greek={"En_Report": "διαρροή στο αριστερό μάτι", "Image_path": ["10/4.jpg"]},
    )  # fmt: skip
    folder = build(tmp_path)
    found = [(p["kind"], p["record"]) for p in problems_of(folder)]
    assert sorted(set(found)) == sorted([
        ("empty_report", "e/1.jpg"), ("no_image", "blind"), ("unreadable_row", "odd"),
        ("unreadable_row", "none"), ("long_report", "10/3.jpg"), ("unknown_language", "10/4.jpg"),
        *(("missing_image", name) for name in ("x/1.jpg", "x/2.jpg", "10/3.jpg", "10/4.jpg")),
    ])  # fmt: skip
    assert len(found) == len(set(found))
    said = {p["kind"]: p["what"] for p in problems_of(folder)}
    assert said["empty_report"] == "case 'empty' has no report"
    assert said["long_report"].startswith("a report of 5,000 words")
    assert cases_of(folder, "train").keys() == {"10", "11"}
    notes = json.loads((folder / SUMMARY_FILE).read_text())["notes"]
    assert "3 of 6 cases have no readable image and are left out: lost, long, greek" in notes


@pytest.mark.parametrize(
    ("written", "words"),
    [
        (None, r"no JSON file of cases by split \(reports and Image_path\) in .* \(0 JSON files"),
        ("{", "1 JSON files looked at; .*annotation.json: "),
        ('{"train": {"1": {"En_Report": "x"}}}', "no JSON file of cases by split"),
        ('{"fold": {"1": {"Image_path": ["1/1.jpg"]}}}', "'fold' is no split of cases"),
        ('{"train": {"1": {"Image_path": ["1/1.jpg"]}}}', "hold no 1/1.jpg"),
        ('{"train": {"1": {"Image_path": []}}}', "names no image of any case"),
    ],
)
def test_what_is_no_release_is_told(tmp_path, written, words):
    folder = tmp_path / "release"
    folder.mkdir()
    (folder / "x.txt").write_text("x")
    if written is not None:
        (folder / "annotation.json").write_text(written)
    with pytest.raises(UserError, match=words):
        build(tmp_path)
