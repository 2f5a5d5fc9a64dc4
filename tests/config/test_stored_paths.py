"""A workdir may be moved, and used from any folder: its configuration finds its files again."""

import os
import shutil

import pytest

from retfm_jax.config import stored_paths


def _values(**data):
    return {"method": "toy", "data": {"dataset": "d", "data_dir": "datasets", **data}, "init": {}}


def _build(folder):
    """As much of a dataset as says that there is one."""
    folder.mkdir(parents=True)
    (folder / "dataset_info.json").write_text("{}")


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The folder in which a run begins."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def test_what_lies_in_the_workdir_moves_with_it(here, tmp_path, monkeypatch):
    _build(here / "run" / "datasets" / "d" / "1.0.0")
    (here / "run" / "words.yaml").touch()
    stored = stored_paths.portable(
        _values(data_dir="run/datasets", vocabulary="run/words.yaml", extend=["run/../run/x.yaml"]),
        "run",
    )
    assert str(here) not in str(stored)
    moved = tmp_path / "elsewhere" / "renamed"
    moved.parent.mkdir()
    shutil.move(here / "run", moved)
    monkeypatch.chdir("/")
    found = stored_paths.located(stored, moved)["data"]
    assert found["data_dir"] == str(moved / "datasets")
    assert found["vocabulary"] == str(moved / "words.yaml")
    assert found["extend"] == [str(moved / "x.yaml")]


def test_what_lies_elsewhere_is_found_from_any_folder(here, monkeypatch):
    _build(here / "ds" / "d" / "1.0.0")
    _build(here / "own" / "1.0.0")
    (here / "vocab.txt").touch()
    values = _values(
        data_dir="ds",
        dataset="./own",
        expert={"dataset": "own", "split": "train"},
        text={"tokenizer": "vocab.txt"},
    )
    values["init"] = {"weights": "../w.pt", "image": None, "text": "~/bert"}
    stored = stored_paths.portable(values, "run")
    monkeypatch.chdir("/")
    found = stored_paths.located(stored, here / "run")
    assert found["data"]["data_dir"] == str(here / "ds")
    assert found["data"]["dataset"] == str(here / "own")
    assert found["data"]["expert"] == {"dataset": str(here / "own"), "split": "train"}
    assert found["data"]["text"] == {"tokenizer": str(here / "vocab.txt")}
    assert found["init"] == {
        "weights": str(here.parent / "w.pt"),
        "image": None,
        "text": os.path.expanduser("~/bert"),
    }


def test_names_stay_names(here):
    (here / "d").mkdir()  # a folder of that name that holds no dataset
    values = _values(text={"tokenizer": "bert-base-chinese"}, dataset="d", expert=None)
    stored = stored_paths.portable(values, "run")
    assert stored["data"]["dataset"] == "d"
    assert stored["data"]["text"] == {"tokenizer": "bert-base-chinese"}
    assert stored["data"]["expert"] is None


def test_stores_keep_their_paths_and_workdirs_in_them_move_too(bucket):
    values = _values(data_dir=f"{bucket}/run/datasets", vocabulary=f"{bucket}/words.yaml")
    stored = stored_paths.portable(values, f"{bucket}/run")
    found = stored_paths.located(stored, f"{bucket}/copy")["data"]
    assert found["data_dir"] == f"{bucket}/copy/datasets"
    assert found["vocabulary"] == f"{bucket}/words.yaml"


@pytest.mark.parametrize("name", ["quickstart", "renamed"])
def test_relative_paths_of_version_0_1_are_looked_for_where_they_may_have_been(
    here, monkeypatch, capsys, name
):
    # A folder of that name with other datasets is not taken for it.
    _build(here / "elsewhere" / "quickstart" / "datasets" / "other" / "1.0.0")
    _build(here / name / "datasets" / "d" / "1.0.0")
    monkeypatch.chdir(here / "elsewhere")
    found = stored_paths.located(_values(data_dir="quickstart/datasets"), here / name)
    assert found["data"]["data_dir"] == str(here / name / "datasets")
    assert "is taken to be" in capsys.readouterr().out


def test_relative_paths_of_version_0_1_are_taken_from_the_working_folder_first(here, capsys):
    _build(here / "datasets" / "d" / "1.0.0")
    found = stored_paths.located(_values(), here / "somewhere" / "run")
    assert found["data"]["data_dir"] == "datasets"
    assert capsys.readouterr().out == ""


def test_a_project_moves_with_its_datasets_and_workdirs(here, tmp_path, monkeypatch, capsys):
    _build(here / "data" / "sets" / "d" / "1.0.0")
    _build(here / "own" / "1.0.0")
    (here / "words.yaml").touch()
    (here / "vocab").mkdir()
    values = _values(
        data_dir="data/sets",
        vocabulary="words.yaml",
        expert={"dataset": "own", "split": "train"},
        text={"tokenizer": "vocab"},
    )
    values["init"] = {"weights": "lost.pt", "image": None, "text": None}
    stored = stored_paths.portable(values, "runs/1")
    moved = tmp_path / "other disk" / "renamed"
    moved.parent.mkdir()
    shutil.move(here, moved)
    # Of that name, but with other datasets: not taken.
    _build(moved / "runs" / "sets" / "other" / "1.0.0")
    monkeypatch.chdir("/")
    found = stored_paths.located(stored, moved / "runs" / "1")
    assert found["data"]["data_dir"] == str(moved / "data" / "sets")
    assert found["data"]["vocabulary"] == str(moved / "words.yaml")
    assert found["data"]["expert"]["dataset"] == str(moved / "own")
    assert found["data"]["text"]["tokenizer"] == str(moved / "vocab")
    assert found["init"]["weights"] == str(here / "lost.pt")  # what is lost keeps its name
    assert "config.data.data_dir" in capsys.readouterr().out


def test_the_bundled_tokenizer_is_no_folder_of_its_name(here, capsys):
    (here / "bert-base-chinese").mkdir()  # as Hugging Face's downloads are called
    values = _values(text={"tokenizer": "bert-base-chinese"})
    for found in (stored_paths.portable(values, "run"), stored_paths.located(values, "runs/run")):
        assert found["data"]["text"] == {"tokenizer": "bert-base-chinese"}
    assert capsys.readouterr().out == ""
