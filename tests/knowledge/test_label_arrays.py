"""Labels as arrays, and as classes of ODIR-5K."""

import numpy as np
import pytest

from retfm_jax.errors import UserError
from retfm_jax.knowledge.labels import label_reports, multi_hot
from retfm_jax.knowledge.odir import CLASSES, odir_class, odir_classes


def test_multi_hot_rows():
    matrix = multi_hot([["b", "x"], [], ["a", "b"]], ["a", "b", "c"])
    assert matrix.dtype == np.float32
    np.testing.assert_array_equal(matrix, [[0, 1, 0], [0, 0, 0], [1, 1, 0]])
    assert multi_hot([], ["a"]).shape == (0, 1)


def test_a_column_may_not_stand_twice():
    with pytest.raises(UserError, match="'a' occurs twice"):
        multi_hot([["a"]], ["a", "b", "a"])


def test_reports_as_a_matrix(labeler):
    ids = labeler.vocabulary.ids
    matrix = label_reports(["Mild NPDR.", "未见出血。", "Normal fundus."], labeler=labeler)
    assert matrix.shape == (3, len(ids))
    assert {ids[c] for c in np.flatnonzero(matrix[0])} == {
        "mild_npdr",
        "npdr",
        "diabetic_retinopathy",
    }
    assert not matrix[1].any()
    assert [ids[c] for c in np.flatnonzero(matrix[2])] == ["normal"]
    columns = ("normal", "drusen")
    np.testing.assert_array_equal(
        label_reports(["Drusen.", "Normal fundus."], columns, labeler), [[0, 1], [1, 0]]
    )


@pytest.mark.parametrize(
    ("left", "right", "classes"),
    [
        ("normal fundus", "normal fundus", {"normal"}),
        ("normal fundus", "drusen", {"other"}),
        ("mild NPDR", "normal fundus", {"diabetic_retinopathy"}),
        ("moderate NPDR, hypertensive retinopathy", "cataract",
         {"diabetic_retinopathy", "hypertensive_retinopathy", "cataract"}),
        ("suspected glaucoma", "glaucoma suspect", {"glaucoma"}),
        ("dry AMD", "wet AMD, epiretinal membrane", {"amd", "other"}),
        ("myopic maculopathy", "tessellated fundus", {"pathologic_myopia", "other"}),
        ("pseudophakia, normal fundus", "normal fundus", {"normal"}),
        ("poor image", "poor image", set()),
    ],
)  # fmt: skip
def test_classes_of_odir(labeler, left, right, classes):
    found = odir_classes(labeler.label_sides(left, right))
    assert set(found) == classes
    assert list(found) == [name for name in CLASSES if name in found]


def test_every_condition_has_a_class_or_none(labeler):
    for condition in labeler.vocabulary:
        assert odir_class(condition.id, labeler.vocabulary) in (*CLASSES, None)


@pytest.mark.parametrize(
    ("reports", "columns", "message"),
    [
        ("Drusen.", None, "as a list of texts, not as str"),
        (b"Drusen.", None, "as a list of texts, not as bytes"),
        (None, None, "as a list of texts, not as NoneType"),
        (["Drusen.", None], None, "report number 1: a report is a text, not NoneType"),
        (["Drusen.", float("nan")], None, "report number 1: .*not float nan"),
        ([b"Drusen."], None, "report number 0: .*not bytes"),
        ([{"en": "Drusen."}], None, "report number 0: .*not dict"),
        (["Drusen."], "drusen", "columns as a list"),
        (["Drusen."], ["drussen"], "drussen: no condition"),
        (["Drusen."], ["drusen", "drusen"], "occurs twice"),
    ],
)
def test_what_is_no_report_or_column_is_refused(labeler, reports, columns, message):
    with pytest.raises(UserError, match=message):
        label_reports(reports, columns, labeler)


@pytest.mark.parametrize("text", [None, 3, float("nan"), b"x", ["Drusen."]])
def test_what_is_no_text_of_an_eye_is_refused(labeler, text):
    for call in (lambda: labeler.label(text), lambda: labeler.label_sides(left=text)):
        with pytest.raises(UserError, match="a report is a text"):
            call()
