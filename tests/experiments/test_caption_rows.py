"""Reports of cases: every case has its row, in order, whatever happens on the way."""

import csv
import dataclasses
import json
import os

import case_photographs as scenes
import pytest

from retfm_jax import cli
from retfm_jax.errors import Stopped, UserError
from retfm_jax.experiments import captioning
from retfm_jax.experiments.captioning import caption
from retfm_jax.experiments.case_list import case_list
from retfm_jax.experiments.prediction_files import Parts


@pytest.fixture(autouse=True)
def model(monkeypatch):
    """The network whatever workdir is named."""
    model = scenes.writer()
    monkeypatch.setattr(captioning, "load", lambda workdir: model)
    return model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A red, a green and a blue photograph, and a broken one."""
    folder = tmp_path_factory.mktemp("photographs")
    for seed, color in enumerate("rgb"):
        (folder / f"{color}.png").write_bytes(scenes.photograph(seed, seed))
    (folder / "x.png").write_bytes(scenes.photograph(0)[:300])
    return folder


def table(folder, text, name="cases.csv"):
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def rows_of(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def cases_of(images):
    with case_list(images, 2) as listed:
        return [each for part in range(listed.parts) for each in listed.part(part)]


def named(images):
    return [
        (each.name, [p if p is None else os.path.basename(p.name) for p in each.photographs])
        for each in cases_of(images)
    ]


def test_a_column_joins_photographs_to_cases(folder):
    text = "image,case_id\nr.png,1\ng.png,2\nb.png,1\nx.png,\nr.png,\n"
    assert named(table(folder, text)) == [
        ("1", ["r.png", "b.png"]), ("2", ["g.png"]), ("x.png", ["x.png"]), ("r.png", ["r.png"])
    ]  # fmt: skip
    positions = [each.position for each in cases_of(folder / "cases.csv")]
    assert positions == [0, 1, 2, 3]


def test_cases_of_two_patients_may_have_one_name(folder, capsys):
    text = "patient_id,Case,image\na,1,r.png\nb,1,g.png\na,1,b.png\n"
    assert named(table(folder, text)) == [("a/1", ["r.png", "b.png"]), ("b/1", ["g.png"])]
    text = "patient_id,image\na,r.png\nb,g.png\na,b.png\n"
    assert [name for name, _ in named(table(folder, text))] == ["a", "b"]
    assert "the same patient_id are taken for one case" in capsys.readouterr().out


def test_a_missing_eye_keeps_its_place(folder):
    text = "patient_id,left,right\na,r.png,g.png\nb,,g.png\nc,-,nan\n"
    assert named(table(folder, text)) == [
        ("a", ["r.png", "g.png"]), ("b", [None, "g.png"]), ("c", [None, None])
    ]  # fmt: skip


def test_lines_of_json_hold_lists(folder):
    lines = [
        {"case_id": "1", "images": ["r.png", "b.png"]},
        {"case_id": "2", "images": "g.png;r.png"},
        {"case_id": "1", "images": ["g.png"]},
        {"case_id": "3", "images": [{"path": "r.png"}]},
        {"case_id": "4", "images": []},
    ]
    path = table(folder, "\n".join(map(json.dumps, lines)), "cases.jsonl")
    found = cases_of(path)
    assert named(path)[0] == ("1", ["r.png", "b.png", "g.png"])
    assert [each.name for each in found] == ["1", "2", f"{path} row 4", "4"]
    assert "row 4: " in found[2].photographs[0].problem
    assert found[3].photographs == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("picture_of,case_id\na,1\n", "none of the columns image, left and right is there"),
        ("image,case_id\nnothing.png,1\n", "no image in it: .* row 2"),
        ("image\n-\n", "no image in it"),
    ],
)
def test_a_table_without_photographs_is_one_sentence(folder, text, message):
    with pytest.raises(UserError, match=message) as caught:
        cases_of(table(folder, text))
    assert "\n" not in str(caught.value)


def test_every_case_has_its_row_with_what_its_report_says(folder, tmp_path):
    text = "patient_id,left,right\na,r.png,g.png\nb,,g.png\nc,,\nd,x.png,b.png\ne,x.png,\n"
    out = tmp_path / "out.jsonl"
    made = caption("w", table(folder, text), out)
    rows = rows_of(out)
    assert [row["case"] for row in rows] == list("abcde")
    assert (made.count, made.resumed, made.unreadable) == (5, 0, 2)
    assert rows[1]["images"] == ["", "g.png"]
    assert rows[1]["report"] == "drusen. retinal hemorrhage."
    assert rows[1]["findings"] == ["retinal_haemorrhage", "drusen"] or set(rows[1]["findings"]) >= {
        "drusen",
        "retinal_haemorrhage",
    }
    assert rows[1]["denied"] == rows[1]["uncertain"] == rows[1]["left_findings"] == []
    assert (rows[1]["log_probability"], rows[1]["words"], rows[1]["complete"]) == (-2.0, 5, True)
    assert rows[2]["report"] is rows[4]["report"] is None
    assert rows[2]["unreadable"] is rows[4]["unreadable"] is True
    assert rows[2]["problem"] == "c has no photograph that can be used: it has none"
    assert "x.png" in rows[4]["problem"]
    assert (rows[3]["report"], rows[3]["unread_images"]) == ("normal eye.", 1)
    assert "x.png" in rows[3]["problem"]
    assert list(rows[0]) == list(captioning.COLUMNS)
    assert os.listdir(tmp_path) == ["out.jsonl"]


def test_angiograms_have_no_flags_of_color_photographs(folder, tmp_path, model):
    image = dataclasses.replace(model.data_config.image, modality="ffa")
    data = dataclasses.replace(model.data_config, image=image)
    model.config = dataclasses.replace(model.config, data=data)
    caption("w", folder / "r.png", tmp_path / "out.jsonl")
    (row,) = rows_of(tmp_path / "out.jsonl")
    assert row["not_fundus"] is row["low_quality"] is None
    assert row["unreadable"] is False


def test_photographs_of_a_folder_are_cases(folder, tmp_path):
    for suffix in ("jsonl", "csv"):
        caption("w", folder, tmp_path / f"out.{suffix}")
    rows = rows_of(tmp_path / "out.jsonl")
    assert [os.path.basename(row["case"]) for row in rows] == ["b.png", "g.png", "r.png", "x.png"]
    assert [row["report"] for row in rows[:3]] == [
        "normal eye.", "drusen. retinal hemorrhage.", "macular edema."
    ]  # fmt: skip
    with (tmp_path / "out.csv").open(newline="", encoding="utf-8") as file:
        said = list(csv.DictReader(file))
    assert [row["report"] for row in said] == [row["report"] or "" for row in rows]
    assert said[1]["findings"] == ";".join(rows[1]["findings"])


def test_a_killed_command_makes_only_what_is_missing(folder, tmp_path, monkeypatch, model):
    monkeypatch.setattr(captioning, "PART_SIZE", 2)
    text = "image,case_id\n" + "".join(f"{'rgb'[n % 3]}.png,{n}\n" for n in range(7))
    cases, out = table(folder, text), tmp_path / "out.jsonl"
    whole = tmp_path / "whole.jsonl"
    caption("w", cases, whole)
    write, count = Parts.write, [0]

    def killed(self, part, rows):
        if count[0] == 2:
            raise KeyboardInterrupt
        count[0] += 1
        write(self, part, rows)

    monkeypatch.setattr(Parts, "write", killed)
    with pytest.raises((KeyboardInterrupt, Stopped)):
        caption("w", cases, out)
    monkeypatch.setattr(Parts, "write", write)
    with pytest.raises(UserError, match="another search of reports"):
        caption("w", cases, out, search=captioning.Search(beams=1))
    assert caption("w", cases, out).resumed == 4
    assert out.read_bytes() == whole.read_bytes()


def test_options_and_cases_that_cannot_be_used_end_it(folder, tmp_path):
    cases = table(folder, "image,case_id\nr.png,1\nx.png,2\n")
    with pytest.raises(UserError, match=r"x\.png.*no table was written"):
        caption("w", cases, tmp_path / "out.jsonl", on_error="refuse")
    with pytest.raises(UserError, match="length must be a whole number from 1 to 20"):
        caption("w", cases, tmp_path / "out.jsonl", search=captioning.Search(length=50))
    assert os.listdir(tmp_path) == []


def test_the_verb_says_what_it_wrote(folder, tmp_path, capsys):
    cases = table(folder, "image,case_id\nr.png,1\nx.png,2\n")
    arguments = ["--workdir", "w", "--images", str(cases), "--out", str(tmp_path / "out.csv")]
    assert cli.main(["caption", *arguments, "--beams", "2"]) == 0
    said = capsys.readouterr().out
    assert "1 cases cannot be used:" in said
    assert f"2 rows in {tmp_path}/out.csv" in said
