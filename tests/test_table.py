"""Tables are arrays in everything, and know what their rows and columns are."""

import copy
import pickle

import numpy as np
import pandas as pd
import pytest

import retfm_jax
from retfm_jax.errors import UserError
from retfm_jax.table import Table

VALUES = np.array([[0.75, 0.25], [0.5, 0.5], [0.125, 0.875]], np.float32)


@pytest.fixture
def table():
    return Table(VALUES, ["a.jpg", "<b>.jpg", "c\n.jpg"], ["normal", "<i>drusen"])


@pytest.mark.parametrize(
    "made",
    [
        lambda x: x,
        lambda x: x + x,
        lambda x: x.T,
        lambda x: x.sum(1),
        lambda x: x.sum(),
        lambda x: x.argmax(1),
        lambda x: x[0],
        lambda x: x[:, 1],
        lambda x: x[::2],
        lambda x: x[x[:, 0] > 0.3],
        lambda x: x[1, 1],
        lambda x: x.astype(np.float64),
        lambda x: np.sort(x, axis=1),
        lambda x: np.concatenate([x, x]),
        lambda x: list(x),
        lambda x: x.tolist(),
        lambda x: x.copy(),
    ],
)
def test_it_computes_as_the_array_does(table, made):
    ours, theirs = made(table), made(VALUES)
    np.testing.assert_array_equal(ours, theirs)
    assert np.shape(ours) == np.shape(theirs)
    assert getattr(ours, "dtype", None) == getattr(theirs, "dtype", None)


def test_names_follow_rows_and_nothing_else(table):
    assert table[1:].rows == ("<b>.jpg", "c\n.jpg")
    assert table[1:].columns == table.columns
    for plain in (table + 1, table[0], table[table[:, 0] > 0.3], table.sum(1)):
        assert type(plain) is np.ndarray
    square = table[:2]
    assert (square.T.rows, square.T.columns) == ((), ())
    assert repr(square.T) == repr(VALUES[:2].T)


def test_a_column_has_a_name(table):
    np.testing.assert_array_equal(table["normal"], VALUES[:, 0])
    with pytest.raises(UserError, match=r"no column 'Normal'.*did you mean 'normal'"):
        table["Normal"]


def test_copies_keep_the_names(table):
    for again in (pickle.loads(pickle.dumps(table)), copy.deepcopy(table)):
        np.testing.assert_array_equal(again, table)
    assert pickle.loads(pickle.dumps(table)).rows == table.rows


def test_pandas_has_the_same(table):
    expected = pd.DataFrame(VALUES, index=list(table.rows), columns=list(table.columns))
    pd.testing.assert_frame_equal(table.to_pandas(), expected)


def test_names_are_escaped_in_notebooks(table):
    page = table._repr_html_()
    assert "&lt;i&gt;drusen" in page
    assert "&lt;b&gt;.jpg" in page
    assert "<i>" not in page
    assert "0.875" in page
    assert "\n" not in repr(table).splitlines()[-1]


def test_of_many_rows_the_first_and_last_are_shown():
    many = Table(np.zeros((1000, 1), int), range(1000), ["x"])
    lines = repr(many).splitlines()
    assert (len(lines), lines[1].split(), lines[-1].split()) == (22, ["0", "0"], ["999", "0"])
    assert "... 1000 rows" in lines[11]


def test_names_are_as_many_as_the_numbers():
    with pytest.raises(ValueError, match="1 x 2 names"):
        Table(VALUES, ["a"], ["b", "c"])


def test_lazy_names_are_listed():
    assert set(retfm_jax.__all__) <= set(dir(retfm_jax))
