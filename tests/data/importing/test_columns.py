"""Columns under names that are not quite theirs: said before anything is lost."""

import json
from pathlib import Path

import pytest

from retfm_jax.cli import data_import
from retfm_jax.data.building.validation import ProblemLog
from retfm_jax.data.importing import manifest
from retfm_jax.data.importing.columns import meant
from retfm_jax.errors import UserError


def read(tmp_path: Path, columns: str, name: str = "m.csv"):
    path = tmp_path / name
    names = columns.split(",")
    if name.endswith("jsonl"):
        path.write_text(json.dumps(dict.fromkeys(names, "x")))
    else:
        path.write_text(f"{columns}\n{','.join('x' * len(names))}\n")
    return manifest.read_manifest(path, tmp_path, ProblemLog())


@pytest.mark.parametrize("name", ["m.csv", "m.jsonl"])
@pytest.mark.parametrize(
    ("columns", "strange", "name_meant"),
    [
        ("patient_id,left,right_eye,report", "right_eye", "right"),
        ("patient_id,left,Right,report", "Right", "right"),
        ("patient_id,left,right,rigth", "rigth", None),  # right is there
        ("patient_id,left,rigth", "rigth", "right"),
        ("patient_id,left,Right-Fundus", "Right-Fundus", "right"),
        ("patient_id,left,rightEyeImage", "rightEyeImage", "right"),
        ("patient_id,left,img_right_path", "img_right_path", "right"),
        ("patient_id,left,OD", "OD", "right"),
        ("patient_id,left,右眼", "右眼", "right"),
        ("patient_id,右眼图像,left", "右眼图像", "right"),
        ("patient_id,left,right,label", "label", "labels"),
        ("patient_id,left,right,Labels", "Labels", "labels"),
        ("patient_id,left,right,lables", "lables", "labels"),
        ("patient_id,left,right,left_label", "left_label", "left_labels"),
        ("patient_id,left,right,classes", "classes", "labels"),
        ("patient_id,left,right,标签", "标签", "labels"),
        ("patient_id,left,right,reports", "reports", "report"),
        ("patient_id,left,right,REPORT", "REPORT", "report"),
        ("patient_id,left,right,report_text", "report_text", "report"),
        ("patient_id,left,right,caption", "caption", "report"),
        ("patient_id,left,right,报告", "报告", "report"),
        ("patient_id,left,right,report,Report_ZH", "Report_ZH", None),
        ("patient_id,left,right,left report", "left report", "left_report"),
        ("patient_id,left,right,splits", "splits", "split"),
        ("patient_id,left,right,Group", "Group", "group"),
        ("patient_id,left,right,ｒｅｐｏｒｔ", "ｒｅｐｏｒｔ", "report"),
        ("image,Caption", "Caption", "caption"),
        ("image,report", "report", "caption"),
        ("image,caption,patient", "patient", "patient_id"),
        ("image,caption,Category", "Category", "categories"),
        ("patient_id,left,right,report,text", "text", None),
        ("patient_id,left,right,report,labels,class", "class", None),
        ("patient_id,left,right,report,age,sex,reporter,left_va,iop_right,date,age_group,id",
         "age", None),
    ],
)  # fmt: skip
def test_a_column_that_nobody_reads_is_said(tmp_path, columns, strange, name_meant, name):
    if name_meant is None:
        assert strange in read(tmp_path, columns, name)[1]
        return
    with pytest.raises(UserError, match=f"{strange!r}.*did you mean {name_meant!r}") as said:
        read(tmp_path, columns, name)
    assert name in str(said.value)


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ("患者,左眼,右眼,报告", "'patient_id' .*'患者'.*'left' or 'right' .*'左眼' and '右眼'"),
        ("Patient ID,left,right", "'Patient ID'"),
        ("ID,left,right", "'ID'"),
        ("patient_id,left_eye,right_eye", "'left_eye' and 'right_eye'"),
        ("patient_id,a,b", "no column 'left' or 'right'; its columns are: patient_id, a, b"),
        ("image_path,caption", "no column 'image' .did you mean it by 'image_path'"),
        ("Image,caption", "'Image'"),
        ("filename,caption", "'filename'"),
    ],
)  # fmt: skip
def test_a_wanted_column_is_suggested(tmp_path, columns, words):
    with pytest.raises(UserError, match=words):
        read(tmp_path, columns)


def cases_of(tmp_path: Path, *lines: str, columns: dict[str, str] | None = None):
    """Group and case of every image, and the notes."""
    path, problems = tmp_path / "m.csv", ProblemLog()
    path.write_text("\n".join(lines))
    rows, _ = manifest.read_manifest(path, tmp_path, problems, columns=columns)
    return [(row.record_id, row.group, row.case) for row in rows], problems.notes


def test_cases_are_told_by_the_usual_names_of_their_column(tmp_path):
    said = ["a.png,p,1,same", "b.png,p,1,", "c.png,p,2,same"]
    named = [("a.png", "p", "1"), ("b.png", "p", "1"), ("c.png", "p", "2")]
    for name in ("case_id", "Case", "检查号", "Visit No", "study date", "accession_number"):
        found, notes = cases_of(tmp_path, f"image,patient_id,{name},caption", *said)
        assert found == named
        assert notes == ([f"cases are those that the column {name} names"] * (name != "case_id"))
    found, _ = cases_of(tmp_path, "image,who,when,caption", *said,
                        columns={"case_id": "when", "patient_id": "who"})  # fmt: skip
    assert found == named
    # A number of visits names nothing without a patient, nor a column whose cases have two reports.
    found, notes = cases_of(tmp_path, "image,age,visit,caption", *said)
    assert ([case for *_, case in found], notes) == ([None] * 3, [])
    found, notes = cases_of(tmp_path, "image,patient_id,case,caption", *said, "d.png,p,1,other")
    assert {case for *_, case in found} == {None}
    assert notes == [
        "case names no cases, for '1' has several reports (unless it is called case_id)"
    ]


def test_columns_are_named_in_pairs():
    assert data_import._columns("case_id=Visit no, caption=Befund") == {
        "case_id": "Visit no", "caption": "Befund",
    }  # fmt: skip
    for text in ("case_id", "case_id=", "=Visit"):
        with pytest.raises(UserError, match="give NAME=COLUMN"):
            data_import._columns(text)


def test_images_of_a_row_are_a_case(tmp_path):
    found, _ = cases_of(
        tmp_path, "images,patient_id,caption", "a.png; b.png|c.png,p,same", "d.png,p,same",
        '"[""e;1.png"", ""f,2.png""]",,same',
    )  # fmt: skip
    assert found == [
        ("a.png", "p", "a.png"), ("b.png", "p", "a.png"), ("c.png", "p", "a.png"),
        ("d.png", "p", ""), ("e;1.png", "", "e;1.png"), ("f,2.png", "", "e;1.png"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("header", "columns", "words"),
    [
        ("image,caption", {"cases": "image"}, "'cases' is no column of a manifest.*'case_id'"),
        ("image,Visit", {"case_id": "visit"}, "has no column 'visit'.*'Visit'"),
        ("image,case_id,v", {"case_id": "v"}, "has a column 'case_id' beside 'v'"),
        ("image,v", {"case_id": "v", "patient_id": "v"}, "is given for two"),
        (
            "image,caption_fr",
            {},
            "'caption_fr' holds texts in a language that is not known.*en, zh",
        ),
        ("patient_id,left,report_ja", {}, "'report_ja' holds texts in a language"),
    ],
)
def test_columns_that_cannot_be_meant_are_said(tmp_path, header, columns, words):
    (tmp_path / "m.csv").write_text(f"{header}\n{','.join('x' * len(header.split(',')))}\n")
    with pytest.raises(UserError, match=words):
        manifest.read_manifest(tmp_path / "m.csv", tmp_path, ProblemLog(), columns=columns)


def test_what_is_not_close_is_not_meant():
    known = ["patient_id", "left", "right", "report", "labels", "split", "group"]
    for name in ("age", "sex", "felt", "bright", "reporter", "left_va", "eye", "image_quality",
                 "diabetes", "性别", "年龄", "", "_", "Unnamed: 0", "group_of_age"):  # fmt: skip
        assert meant(name, known) is None
