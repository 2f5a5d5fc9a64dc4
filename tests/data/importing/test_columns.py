"""Columns under names that are not quite theirs: said before anything is lost."""

import json
from pathlib import Path

import pytest

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


def test_what_is_not_close_is_not_meant():
    known = ["patient_id", "left", "right", "report", "labels", "split", "group"]
    for name in ("age", "sex", "felt", "bright", "reporter", "left_va", "eye", "image_quality",
                 "diabetes", "性别", "年龄", "", "_", "Unnamed: 0", "group_of_age"):  # fmt: skip
        assert meant(name, known) is None
