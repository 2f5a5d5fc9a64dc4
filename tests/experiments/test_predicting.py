"""Predictions of photographs: every one has its row, in order, whatever happens on the way."""

import csv
import io
import json
import os
import signal
import sys

import jax
import numpy as np
import pandas as pd
import pytest
from PIL import Image

import retfm_jax
from retfm_jax import cli
from retfm_jax.config import DataConfig, ExperimentConfig, ImageConfig
from retfm_jax.data_builders.synthetic_fundus.drawing import draw_eye
from retfm_jax.data_builders.synthetic_fundus.population import POPULATIONS, draw_patient
from retfm_jax.decisions import Conformal, Decisions
from retfm_jax.errors import Stopped, UserError
from retfm_jax.experiments import predicting
from retfm_jax.experiments.photograph_list import photograph_list
from retfm_jax.experiments.predicting import predict
from retfm_jax.experiments.prediction_files import Parts
from retfm_jax.methods import get_method_class
from retfm_jax.models.vit import ViTConfig

CLASSES = ("normal", "=drusen", "large; cup")


def build(outcome="exclusive", seed=0, **decisions):
    cls = get_method_class("classifier")
    tower = ViTConfig(image_size=32, patch_size=16, width=16, layers=1, heads=2)
    method = cls(cls.config_class(image=tower, embed_dim=8, classes=CLASSES, outcome=outcome))
    params, state = jax.jit(method.init)(jax.random.key(seed))
    kernel = np.asarray(params["head"]["kernel"])
    params["head"]["kernel"] = np.random.default_rng(seed).normal(size=kernel.shape).astype("f4")
    config = ExperimentConfig("classifier", method.config, DataConfig(image=ImageConfig(size=32)))
    model = retfm_jax.RetinalModel(method, params, state, config)
    if decisions:
        model.decisions = Decisions(CLASSES, outcome, **decisions)
    return model


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "exclusive"
    build(temperature=2.0, conformal=Conformal(0.9, (0.7,))).save(path)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Ten eyes, a page of text, a damaged file, and what is no photograph."""
    folder = tmp_path_factory.mktemp("photographs")
    patient = draw_patient(POPULATIONS["clinic"], 0, "test", 0)
    for number in range(10):
        eye = patient.eyes[number % 2]
        picture = draw_eye(eye, patient.look, 64 + 8 * number)
        Image.fromarray(picture).save(folder / f"{number}.png")
    Image.fromarray(np.full((40, 40, 3), 255, np.uint8)).save(folder / "page.png")
    (folder / "z.jpg").write_bytes(b"\xff\xd8\xff\xe0 no more")
    (folder / "notes.txt").write_text("notes")
    return folder


def rows_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_photograph_has_its_row_with_what_the_model_says(workdir, folder, tmp_path):
    out = tmp_path / "out.jsonl"
    made = predict(workdir, folder, out)
    rows = rows_of(out)
    names = [f"{number}.png" for number in range(10)] + ["page.png", "z.jpg"]
    assert [os.path.basename(row["image"]) for row in rows] == names
    assert (made.count, made.resumed, made.unreadable) == (12, 0, 1)
    assert made.not_fundus == 1
    assert "z.jpg: " in made.first_problems[0]
    model = retfm_jax.load(workdir)
    wanted = model.predict([folder / name for name in names[:11]])
    found = np.array([[row[f"p_{name}"] for name in CLASSES] for row in rows[:11]])
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    for row, values in zip(rows[:11], wanted, strict=True):
        assert row["predicted"] == CLASSES[values.argmax()]
        assert row["confidence"] == pytest.approx(values.max(), abs=1e-6)
        assert row["set"] == [n for n, p in zip(CLASSES, values, strict=True) if 1 - p <= 0.7]
        assert row["unreadable"] is False
        assert 0 <= row["quality"] <= 1
    assert rows[0]["not_fundus"] is False
    assert rows[10]["not_fundus"] is True
    assert rows[10]["eye"] is None
    assert {row["eye"] for row in rows[:10]} <= {"left", "right", None}
    assert {row["eye_from"] for row in rows} <= {"guess", None}
    last = rows[11]
    assert last["unreadable"] is True
    assert "z.jpg" in last["problem"]
    assert last["predicted"] is last["p_normal"] is last["not_fundus"] is None
    assert not out.with_name("out.jsonl.parts").exists()
    assert os.listdir(tmp_path) == ["out.jsonl"]


def test_scans_have_no_flags_of_fundus_photographs(folder, tmp_path, capsys):
    model = build()
    image = ImageConfig(size=32, modality="oct")
    model.config = ExperimentConfig("classifier", model.method.config, DataConfig(image=image))
    model.save(tmp_path / "model")
    out = tmp_path / "out.csv"
    command = ["predict", "--workdir", tmp_path / "model", "--images", folder, "--out", out]
    assert cli.main([str(each) for each in command]) == 0
    said = capsys.readouterr().out
    assert "11 have no flags of quality, which are of color fundus photographs" in said
    assert "not_fundus" not in said
    table = pd.read_csv(out)
    seen = table[~table["unreadable"]]
    measures = ["not_fundus", "low_quality", "quality", "sharpness", "illumination", "field", "eye"]
    assert len(seen) == 11
    assert seen[measures].isna().all(axis=None)
    assert seen["predicted"].notna().all()


def test_every_format_says_the_same(workdir, folder, tmp_path):
    for suffix in ("jsonl", "csv", "parquet"):
        predict(workdir, folder, tmp_path / f"out.{suffix}")
    rows = rows_of(tmp_path / "out.jsonl")
    with (tmp_path / "out.csv").open(newline="") as file:
        said = list(csv.DictReader(file))
    table = pd.read_parquet(tmp_path / "out.parquet")
    assert list(table.columns) == list(rows[0]) == [name.lstrip("'") for name in said[0]]
    for row, line, (_, record) in zip(rows, said, table.iterrows(), strict=True):
        assert line["image"] == record["image"] == row["image"]
        for name in CLASSES:
            if row["unreadable"]:
                assert line[f"p_{name}"] == ""
                assert np.isnan(record[f"p_{name}"])
            else:
                assert float(line[f"p_{name}"]) == record[f"p_{name}"] == row[f"p_{name}"]
        assert line["unreadable"] == str(row["unreadable"]).lower()
        if not row["unreadable"]:
            # No cell is a formula, and a name that holds the separator makes a list.
            assert line["predicted"].removeprefix("'") == row["predicted"]
            assert not line["predicted"].startswith("=")
            named = line["set"]
            listed = json.loads(named) if named.startswith("[") else named.removeprefix("'")
            listed = listed.split(";") if isinstance(listed, str) else listed
            assert [each for each in listed if each] == row["set"]
            assert list(record["set"]) == row["set"]


def test_findings_and_grades_say_what_they_are(folder, tmp_path):
    build("findings", thresholds=(0.2, 0.5, 0.9)).save(tmp_path / "findings")
    predict(tmp_path / "findings", folder / "1.png", tmp_path / "a.jsonl")
    (row,) = rows_of(tmp_path / "a.jsonl")
    values = np.array([row[f"p_{name}"] for name in CLASSES])
    present = values >= [0.2, 0.5, 0.9]
    assert row["predicted"] == [name for name, there in zip(CLASSES, present, strict=True) if there]
    assert row["confidence"] == pytest.approx(np.where(present, values, 1 - values).min())
    assert "set" not in row
    build("grades").save(tmp_path / "grades")
    predict(tmp_path / "grades", folder / "1.png", tmp_path / "b.jsonl")
    (row,) = rows_of(tmp_path / "b.jsonl")
    assert row["expected_grade"] == pytest.approx(row["p_=drusen"] + 2 * row["p_large; cup"])


def test_a_table_and_a_list_keep_their_names_and_their_order(
    workdir, folder, tmp_path, monkeypatch
):
    names = ["3.png", "1.png", "gone.png", "3.png", "PAGE.png", "../outside.png"]
    (folder / "list.csv").write_text("patient,image\n" + "".join(f"p,{n}\n" for n in names) + "p\n")
    predict(workdir, folder / "list.csv", tmp_path / "a.jsonl")
    rows = rows_of(tmp_path / "a.jsonl")
    assert [row["image"] for row in rows[:6]] == names
    assert [row["unreadable"] for row in rows] == [False, False, True, False, False, True, True]
    assert "list.csv row 4: " in rows[2]["problem"]
    assert rows[6]["image"].endswith("list.csv row 8")
    assert rows[0] == rows[3]
    monkeypatch.chdir(folder)
    (folder / "list.csv").unlink()
    lines = io.TextIOWrapper(io.BytesIO(b"3.png\r\n\n1.png\nodd\xff.png\n"))
    monkeypatch.setattr(sys, "stdin", lines)
    predict(workdir, "-", tmp_path / "b.jsonl")
    again = rows_of(tmp_path / "b.jsonl")
    assert [row["image"] for row in again] == ["3.png", "1.png", "odd\udcff.png"]
    assert again[:2] == rows[:2]


@pytest.fixture
def small_parts(monkeypatch):
    monkeypatch.setattr(predicting, "PART_SIZE", 3)


@pytest.mark.usefixtures("small_parts")
def test_finished_parts_are_not_made_again_and_nothing_is_twice(
    workdir, folder, tmp_path, monkeypatch
):
    whole, out = tmp_path / "whole.csv", tmp_path / "out.csv"
    predict(workdir, folder, whole, batch_size=8)
    write, written = Parts.write, []

    def fails(self, part, rows):
        if part == 2:
            raise UserError("the disk is full")
        written.append(part)
        write(self, part, rows)

    monkeypatch.setattr(Parts, "write", fails)
    with pytest.raises(UserError, match="full"):
        predict(workdir, folder, out, batch_size=8)
    assert not out.exists()
    assert written == [0, 1]
    looked = []
    look = predicting._look
    monkeypatch.setattr(predicting, "_look", lambda *a: looked.append(a[1].name) or look(*a))
    monkeypatch.setattr(Parts, "write", write)
    made = predict(workdir, folder, out, batch_size=8)
    assert made.resumed == 6
    assert len(looked) == 6
    assert out.read_bytes() == whole.read_bytes()
    assert sorted(os.listdir(tmp_path)) == ["out.csv", "whole.csv"]


@pytest.mark.usefixtures("small_parts")
def test_a_damaged_part_is_said_and_made_again(workdir, folder, tmp_path, monkeypatch):
    out = tmp_path / "out.csv"
    join = predicting.join
    monkeypatch.setattr(predicting, "join", lambda *a: (_ for _ in ()).throw(UserError("no")))
    with pytest.raises(UserError, match="no"):
        predict(workdir, folder, out)
    monkeypatch.setattr(predicting, "join", join)
    part = tmp_path / "out.csv.parts" / "000001.jsonl"
    part.write_bytes(part.read_bytes().replace(b"3.png", b"4.png"))
    with pytest.raises(UserError, match=r"000001\.jsonl was damaged and is removed"):
        predict(workdir, folder, out)
    assert not out.exists()
    assert predict(workdir, folder, out).resumed == 9
    assert len(out.read_text().splitlines()) == 13


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("what", ["weights", "list of photographs", "decisions", "preprocessing"])
def test_parts_of_something_else_are_refused(workdir, folder, tmp_path, monkeypatch, what):
    out = tmp_path / "out.csv"
    write = Parts.write

    def stops(self, part, rows):
        write(self, part, rows)
        if part == 0:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Parts, "write", stops)
    with pytest.raises(Stopped, match=r"after 3 of 12 photographs; the same command resumes"):
        predict(workdir, folder, out, batch_size=8)
    monkeypatch.setattr(Parts, "write", write)
    images = folder / "1.png" if what == "list of photographs" else folder
    if what == "weights":
        workdir = tmp_path / "other"
        build(seed=1, temperature=2.0, conformal=Conformal(0.9, (0.7,))).save(workdir)
    elif what == "decisions":
        workdir = tmp_path / "other"
        build(temperature=3.0, conformal=Conformal(0.9, (0.7,))).save(workdir)
    elif what == "preprocessing":
        model = retfm_jax.load(workdir)
        image = ImageConfig(size=32, contrast="clahe")
        model.config = ExperimentConfig("classifier", model.config.model, DataConfig(image=image))
        workdir = tmp_path / "other"
        model.save(workdir)
    with pytest.raises(UserError, match=f"predicted with another {what}"):
        predict(workdir, images, out, batch_size=8)
    assert not out.exists()


def test_the_rows_do_not_depend_on_the_batch(workdir, folder, tmp_path):
    predict(workdir, folder, tmp_path / "a.jsonl", batch_size=8)
    predict(workdir, folder, tmp_path / "b.jsonl")
    for one, two in zip(rows_of(tmp_path / "a.jsonl"), rows_of(tmp_path / "b.jsonl"), strict=True):
        for name, value in one.items():
            if name.startswith("p_") and value is not None:
                assert two[name] == pytest.approx(value, abs=1e-6)
            elif name != "confidence":
                assert two[name] == value


def test_what_cannot_be_predicted_is_said_in_a_sentence(
    workdir, folder, tmp_path, capsys, monkeypatch
):
    plain = tmp_path / "plain"
    cls = get_method_class("vision")
    tower = ViTConfig(image_size=32, patch_size=16, width=16, layers=1, heads=2)
    method = cls(cls.config_class(image=tower, embed_dim=8))
    params, state = jax.jit(method.init)(jax.random.key(0))
    config = ExperimentConfig("vision", method.config, DataConfig(image=ImageConfig(size=32)))
    retfm_jax.RetinalModel(method, params, state, config).save(plain)
    (tmp_path / "empty").mkdir()
    (tmp_path / "no.csv").write_text("picture\n1.png\n")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\n")))
    before = sorted(os.listdir(tmp_path))
    for run, images, out, said in (
        (plain, folder, "a.csv", "has no classes of its own"),
        (workdir, folder, "a.txt", r"predictions are written as .csv"),
        (workdir, tmp_path / "empty", "a.csv", "no image in it"),
        (workdir, tmp_path / "gone", "a.csv", "no such folder or CSV"),
        (workdir, tmp_path / "no.csv", "a.csv", "has no column 'image'"),
        (workdir, "-", "a.csv", "standard input holds no path"),
    ):
        command = ["predict", "--workdir", run, "--images", images, "--out", tmp_path / out]
        assert cli.main([str(each) for each in command]) == 1
        assert said in capsys.readouterr().err
        assert sorted(os.listdir(tmp_path)) == before
    command = ["--images", folder, "--out", tmp_path / "a.csv", "--on_error", "refuse"]
    assert cli.main([str(x) for x in ["predict", "--workdir", workdir, *command]]) == 1
    assert "z.jpg: " in capsys.readouterr().err
    assert sorted(os.listdir(tmp_path)) == before


def test_the_verb_says_what_it_wrote(workdir, folder, tmp_path, capsys):
    out = tmp_path / "a.csv"
    command = ["predict", "--workdir", workdir, "--images", folder, "--out", out]
    assert cli.main([str(each) for each in command]) == 0
    said = capsys.readouterr().out
    assert f"12 rows in {out}\n" in said
    assert "1 images cannot be used:" in said
    assert "not_fundus 1, " in said


def test_a_second_process_is_refused(workdir, folder, tmp_path):
    import subprocess

    held = "from retfm_jax.runtime import lock\nimport sys\n" + (
        f"with lock.hold({str(tmp_path / 'a.csv.parts')!r}):\n print(flush=True)\n"
        " sys.stdin.read()\n"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", held], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    holder.stdout.readline()
    try:
        with pytest.raises(UserError, match=r"a\.csv\.parts is in use: process"):
            predict(workdir, folder, tmp_path / "a.csv")
    finally:
        holder.communicate()
    assert not (tmp_path / "a.csv").exists()


def test_a_list_is_read_by_parts_and_its_digest_is_of_its_order(tmp_path):
    (tmp_path / "a.csv").write_text("image\n" + "\n".join(f"{n}.png" for n in range(10)))
    (tmp_path / "b.csv").write_text("image\n" + "\n".join(f"{n}.png" for n in range(9, -1, -1)))
    for number in range(10):
        (tmp_path / f"{number}.png").write_bytes(b"")
    digests = []
    for name in ("a.csv", "a.csv", "b.csv"):
        with photograph_list(tmp_path / name, 4) as listed:
            digests.append(listed.digest)
            assert (listed.count, listed.parts) == (10, 3)
            assert [listed.length(part) for part in range(3)] == [4, 4, 2]
            parts = [[each.name for each in listed.part(part)] for part in (2, 0, 1)]
    assert digests[0] == digests[1] != digests[2]
    assert parts == [["1.png", "0.png"], [f"{n}.png" for n in (9, 8, 7, 6)],
                     [f"{n}.png" for n in (5, 4, 3, 2)]]  # fmt: skip
