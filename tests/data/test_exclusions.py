"""Exclusion lists: what they name is left out wherever sets are opened, what they lack is said."""

import numpy as np
import pytest
from PIL import Image

from retfm_jax.config import DataConfig
from retfm_jax.data.audit.audit import audit
from retfm_jax.data.class_files import Reading
from retfm_jax.data.exclusions import read_exclusions, records
from retfm_jax.data.kinds import get_kind
from retfm_jax.data.sources import open_dataset
from retfm_jax.data.tasks import open_splits
from retfm_jax.errors import UserError

HEADER = "set,split,row,record,reason,of\n"


def write(path, *rows):
    path.write_text(HEADER + "".join(f"{row}\n" for row in rows))
    return str(path)


def ids(source):
    return [record.record_id for record in source]


@pytest.mark.parametrize("row", ["3", "", "5"])
def test_a_record_is_left_out_wherever_the_list_says_it_is(data_dir, tmp_path, capsys, row):
    listed = write(tmp_path / "list.csv", f"pairs,train,{row},p3,repeated,p1")
    whole = open_dataset("pairs", "train", data_dir)
    left = open_dataset("pairs", "train", data_dir, listed)
    expected = [record for record in ids(whole) if record != "p3"]
    assert ids(left) == expected
    assert left.identity != whole.identity
    said = capsys.readouterr().out
    assert f"1 of {len(whole)} records of pairs, split train, are left out" in said
    assert "1 repeated" in said


def test_another_split_of_a_built_set_keeps_its_record(data_dir, tmp_path):
    listed = write(
        tmp_path / "list.csv", "pairs,train,,p3,repeated,p1", "pairs,validation,,,audited,"
    )
    assert "p3" in ids(open_dataset("pairs", "validation", data_dir, listed))
    assert "p3" not in ids(open_dataset("pairs", "train[:50%]+validation[5:]", data_dir, listed))


@pytest.mark.parametrize("kind", ["patient", "photograph"])
def test_training_leaves_it_out(data_dir, tmp_path, kind):
    listed = write(tmp_path / "list.csv", "pairs,train,,p3,repeated,p1")
    config = DataConfig(dataset="pairs", data_dir=str(data_dir), exclude=listed)
    source, _ = get_kind(kind).open(config)
    assert not [record for record in ids(source) if record.split("/")[0] == "p3"]
    assert [record for record in ids(source) if record.split("/")[0] == "p4"]


def test_a_folder_of_classes_leaves_it_out(tmp_path):
    for number in range(8):
        split, label = ("train", "test")[number % 2], ("a", "b")[number // 2 % 2]
        path = tmp_path / "eyes" / split / label / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (16, 16, 3), np.uint8)
        Image.fromarray(pixels).save(path)
    listed = write(tmp_path / "list.csv", "eyes,train,,train/a/4.png,repeated,train/a/0.png")
    found = open_splits(str(tmp_path / "eyes"), ("train", "test"), "", Reading(exclude=listed))
    assert found["train"].record_ids == ["train/a/0.png", "train/b/2.png", "train/b/6.png"]
    assert found["train"].labels.tolist() == [[1, 0], [0, 1], [0, 1]]
    assert len(found["test"]) == 4


@pytest.mark.parametrize(
    ("rows", "what"),
    [
        (["captions,train,,i1,x,"], "says nothing of pairs"),
        (["pairs,validation,,p1,x,"], "says nothing of pairs, split train"),
        (["pairs,train,,,x,"], "row 2 names no record"),
        (["pairs,,,p1,x,"], "row 2: the cells of set and split"),
        (["pairs,train,-1,p1,x,"], "row 2: row '-1' is no position"),
        ([f"pairs,train,,p{n},x," for n in range(23)], "leaves out all 23 records"),
    ],
)
def test_a_list_that_cannot_be_used_is_refused(data_dir, tmp_path, rows, what):
    listed = write(tmp_path / "list.csv", *rows)
    with pytest.raises(UserError, match=what):
        open_dataset("pairs", "train", data_dir, listed)


@pytest.fixture
def graded(tmp_path):
    """A small release of IDRiD: 4 photographs to train on, 2 to test; two tasks read it."""
    for letter, split, many in (("a", "Training", 4), ("b", "Testing", 2)):
        images = f"idrid/B. Disease Grading/1. Original Images/{letter}. {split} Set"
        rows = ["Image name,Retinopathy grade,Risk of macular edema ,,"]
        for number in range(many):
            path = tmp_path / images / f"IDRiD_00{number}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = np.random.default_rng(number + 9 * many).integers(
                0, 256, (16, 16, 3), np.uint8
            )
            Image.fromarray(pixels).save(path)
            rows.append(f"IDRiD_00{number},{number % 2},{number % 2},,")
        tables = tmp_path / "idrid/B. Disease Grading/2. Groundtruths"
        tables.mkdir(exist_ok=True)
        name = f"{letter}. IDRiD_Disease Grading_{split} Labels.csv"
        (tables / name).write_text("\n".join(rows) + "\n")
    return tmp_path


def test_a_list_holds_for_every_task_of_the_same_records(graded, tmp_path):
    names = ("train", "test")
    opened = open_splits("IDRiD", names, str(graded))
    ids = opened["train"].record_ids
    listed = write(
        tmp_path / "list.csv",
        f'IDRiD,train,,,audited,"{records(ids)}"',
        f'IDRiD,test,,,audited,"{records(opened["test"].record_ids)}"',
        f"IDRiD,train,,{ids[1]},repeated,x",
        f"IDRiD,test,,{ids[2]},repeated,x",
    )
    left = open_splits("IDRiD_DME", names, str(graded), Reading(exclude=listed))
    assert left["train"].record_ids == [ids[0], *ids[2:]]
    assert left["test"].record_ids == opened["test"].record_ids
    for other in (records(ids[:3]), ""):
        write(tmp_path / "list.csv", f'IDRiD,train,,,audited,"{other}"')
        with pytest.raises(UserError, match=r"says nothing of IDRiD_DME \(it knows IDRiD\)"):
            open_splits("IDRiD_DME", ("train",), str(graded), Reading(exclude=listed))


def test_two_tasks_on_the_same_photographs_are_audited_once(graded, tmp_path):
    with pytest.raises(UserError, match="IDRiD and IDRiD_DME are two tasks on the same photograph"):
        audit(["IDRiD", "IDRiD_DME"], str(graded), tmp_path / "out")


def test_what_is_no_list_is_refused(data_dir, tmp_path):
    with pytest.raises(UserError, match=r"gone\.csv"):
        open_dataset("pairs", "train", data_dir, tmp_path / "gone.csv")
    (tmp_path / "other.csv").write_text("image,label\na,b\n")
    with pytest.raises(UserError, match="column"):
        read_exclusions(tmp_path / "other.csv")
