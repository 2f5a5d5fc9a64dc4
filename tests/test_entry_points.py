"""Wrong arguments for every function that opens, reads or writes something of a user's."""

import pathlib

import numpy as np
import pytest

from retfm_jax.config import from_dict, load_config
from retfm_jax.data.sources import open_dataset
from retfm_jax.data.tasks import open_task
from retfm_jax.errors import UserError
from retfm_jax.files import as_path
from retfm_jax.interop.weights import read_tensors, write_tensors
from retfm_jax.knowledge.vocabulary import load_vocabulary
from retfm_jax.model import load

NO_PATHS = [None, 3, 1.5, b"x", ["x"], {"x"}, np.ones(2)]


@pytest.mark.parametrize("value", [*NO_PATHS[1:], "nul\0byte"], ids=str)
def test_what_is_no_path_is_refused_wherever_one_is_wanted(value, tmp_path):
    for call in (
        lambda: as_path(value),
        lambda: load(value),
        lambda: load_config(value),
        lambda: load_vocabulary(value),
        lambda: open_dataset(value, "test", tmp_path),
        lambda: open_dataset("name", "test", value),
        lambda: open_task(value, "test", str(tmp_path)),
        lambda: open_task("name", "test", value),
        lambda: read_tensors(value),
        lambda: write_tensors(value, {"a": np.ones(2)}),
    ):
        with pytest.raises(UserError, match=r"is no path|give a path"):
            call()


def test_none_is_no_path_where_there_is_no_default(tmp_path):
    for call in (
        lambda: as_path(None),
        lambda: load_config(None),
        lambda: open_dataset(None, "test", tmp_path),
        lambda: open_task(None, "test", str(tmp_path)),
        lambda: read_tensors(None),
        lambda: write_tensors(None, {"a": np.ones(2)}),
    ):
        with pytest.raises(UserError, match="None is no path"):
            call()


def test_names_are_taken_as_paths_too(tmp_path):
    assert load_config(pathlib.Path("quickstart")) == load_config("quickstart")
    (tmp_path / "mine.json").write_text('{"method": "vilref"}')
    assert load_config(tmp_path / "mine.json") == load_config(str(tmp_path / "mine.json"))
    with pytest.raises(UserError, match="'absent' is not built"):
        open_task(pathlib.Path("absent"), "test", str(tmp_path))


@pytest.mark.parametrize("name", ["", " "])
def test_an_empty_name_is_no_dataset(tmp_path, name):
    """An unset variable of a shell; the folder of all datasets is not one of them."""
    for call in (open_dataset, open_task):
        with pytest.raises(UserError, match="has a name"):
            call(name, "test", str(tmp_path))


def test_a_name_that_is_too_long_is_one_message(tmp_path):
    for call in (
        lambda: load(tmp_path / ("a" * 300)),
        lambda: load(tmp_path / ("a" * 300), "vilref"),
        lambda: read_tensors(tmp_path / ("a" * 300)),
    ):
        with pytest.raises(UserError, match="File name too long"):
            call()


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (None, "by name, not NoneType"),
        ([], "by name, not list"),
        ("x", "by name, not str"),
        ({}, "no tensor to write"),
        ({1: np.ones(2)}, "1 is none"),
        ({"a": 1}, "a is no array of numbers, but int"),
        ({"a": None}, "a is no array of numbers, but NoneType"),
        ({"a": np.array(["x"])}, "a is no array of numbers, but an array of <U1"),
        ({"a": np.array([None])}, "an array of object"),
        ({"a": np.ones(2, complex)}, "an array of complex128"),
        ({"a": np.array([1, np.nan], np.float32)}, "not finite"),
    ],
    ids=repr,
)
@pytest.mark.parametrize("name", ["w.safetensors", "w.pt"])
def test_what_is_no_state_dict_is_not_written(tmp_path, name, tensors, message):
    with pytest.raises(UserError, match=message):
        write_tensors(tmp_path / name, tensors)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("container", [None, "", "checkpoints", 1])
def test_an_unknown_container_is_refused(tmp_path, container):
    with pytest.raises(UserError, match="checkpoint or state_dict"):
        write_tensors(tmp_path / "w.pt", {"a": np.ones(2)}, container=container)


@pytest.mark.parametrize(
    "overrides", ["train.steps=1", [None], [("train.steps", 1)], {"a": 1}.items()]
)
def test_overrides_are_a_list_of_texts(overrides):
    with pytest.raises(UserError, match="give overrides as a list"):
        load_config("quickstart", overrides)


@pytest.mark.parametrize("values", [None, 3, "x", [1]])
def test_a_config_is_a_mapping(values):
    with pytest.raises(UserError, match="a config is a mapping"):
        from_dict(values)
