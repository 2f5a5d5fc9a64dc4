"""Logits become probabilities, statements and sets by a rule that survives JSON."""

import dataclasses
import json

import numpy as np
import pytest
from scipy.special import expit, softmax

from retfm_jax.decisions import (
    Conformal,
    Decisions,
    default_decisions,
    read_decisions,
    write_decisions,
)
from retfm_jax.errors import UserError
from retfm_jax.mask_decisions import (
    MaskDecisions,
    default_mask_decisions,
)

LOGITS = np.random.default_rng(0).normal(0, 4, (50, 3)).astype(np.float32)
NAMES = ("normal", "drusen", "糖尿病")
EXCLUSIVE = Decisions(NAMES, "exclusive", 2.0, (), Conformal(0.9, (0.4,)), {"images": 50})
FINDINGS = Decisions(NAMES, "findings", 0.5, (0.2, 0.5, 0.9), Conformal(0.8, (0.4, 0.6, 1.0)))


@pytest.mark.parametrize(
    ("decisions", "wanted"),
    [(EXCLUSIVE, softmax(LOGITS / 2, 1)), (FINDINGS, expit(LOGITS * 2))],
)
def test_probabilities_are_those_of_the_scaled_logits(decisions, wanted):
    found = decisions.probabilities(LOGITS)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-7)


def test_large_logits_overflow_nothing():
    logits = np.array([[1e4, -1e4, 0.0]], np.float32)
    with np.errstate(all="raise", under="ignore"):
        np.testing.assert_array_equal(FINDINGS.probabilities(logits), [[1, 0, 0.5]])
        np.testing.assert_array_equal(EXCLUSIVE.probabilities(logits), [[1, 0, 0]])


def test_the_temperature_changes_no_statement():
    warm = dataclasses.replace(EXCLUSIVE, temperature=7.0)
    predicted = EXCLUSIVE.predicted(EXCLUSIVE.probabilities(LOGITS))
    np.testing.assert_array_equal(predicted, warm.predicted(warm.probabilities(LOGITS)))
    np.testing.assert_array_equal(predicted, LOGITS.argmax(1))


def test_a_photograph_without_pixels_has_no_class():
    logits = np.full((1, 3), np.nan, np.float32)
    probabilities = EXCLUSIVE.probabilities(logits)
    assert np.isnan(probabilities).all()
    assert EXCLUSIVE.predicted(probabilities).tolist() == [-1]
    assert not FINDINGS.predicted(FINDINGS.probabilities(logits)).any()
    assert EXCLUSIVE.sets(probabilities).all(), "nothing can be ruled out"


def test_findings_are_present_from_their_threshold_on():
    probabilities = np.array([[0.2, 0.49, 0.95]], np.float32)
    assert FINDINGS.predicted(probabilities).tolist() == [[True, False, True]]


def test_sets_hold_what_cannot_be_ruled_out():
    probabilities = np.array([[0.6, 0.4, 0.0], [0.34, 0.33, 0.33]], np.float32)
    assert EXCLUSIVE.sets(probabilities).tolist() == [[True, False, False], [False] * 3]
    assert FINDINGS.sets(probabilities).tolist() == [[True, True, True], [False, False, True]]
    assert default_decisions(NAMES, "grades").sets(probabilities) is None


def test_expected_grades_are_means_of_the_distribution():
    grades = default_decisions(("0", "1", "2"), "grades")
    found = grades.expected_grade(np.array([[0, 0, 1], [0.5, 0, 0.5], [1, 0, 0]], np.float32))
    np.testing.assert_allclose(found, [2, 1, 0])


@pytest.mark.parametrize(
    "decisions", [EXCLUSIVE, FINDINGS, default_decisions(NAMES, "grades")], ids=str
)
def test_decisions_survive_json_to_the_bit(decisions, tmp_path):
    written = json.loads(json.dumps(decisions.to_json()))
    assert Decisions.from_json(written, "here") == decisions
    assert read_decisions(tmp_path, Decisions) is None
    write_decisions(tmp_path, decisions)
    assert read_decisions(tmp_path, Decisions) == decisions


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"classes": "normal"}, "classes must be a list of names"),
        ({"classes": ["a", "a", "b"]}, "each once"),
        ({"classes": ["a"]}, "two or more"),
        ({"outcome": "exclusiv"}, "did you mean 'exclusive'"),
        ({"outcome": None}, "outcome is no text"),
        ({"temperature": 0}, "above 0"),
        ({"temperature": float("nan")}, "above 0"),
        ({"temperature": True}, "must be a number"),
        ({"thresholds": [0.5]}, "must be 0 numbers"),
        ({"conformal": {"coverage": 1.5, "quantiles": [0.1]}}, "between 0 and 1"),
        ({"conformal": {"coverage": 0.9, "quantiles": [0.1, 0.1]}}, "must be 1"),
        ({"conformal": {"coverage": 0.9, "quantile": 0.1}}, "did you mean 'quantiles'"),
        ({"conformal": {"coverage": 0.9}}, "quantiles is missing"),
        ({"conformal": [0.9]}, "must be a mapping"),
        ({"fitted_on": []}, "fitted_on must be a mapping"),
        ({"temperatur": 1.0}, "did you mean 'temperature'"),
    ],
)
def test_what_is_no_decision_is_refused_in_one_sentence(change, said):
    with pytest.raises(UserError, match=said) as caught:
        Decisions.from_json({**EXCLUSIVE.to_json(), **change}, "W/decisions.json")
    assert str(caught.value).startswith("W/decisions.json: ")
    assert "\n" not in str(caught.value)


def test_a_missing_entry_and_another_thing_are_refused():
    with pytest.raises(UserError, match="classes is missing"):
        Decisions.from_json({"outcome": "grades"}, "here")
    with pytest.raises(UserError, match="must be a mapping"):
        Decisions.from_json([1], "here")


MASKS = MaskDecisions(("disc", "cup"), (51 / 255, 0.5), {"images": 7})


def test_a_pixel_shows_what_is_above_its_threshold():
    edge = np.float32(51 / 255)  # rounded up: it is above 51 / 255
    found = MASKS.masks(np.array([[edge, 0.5], [np.nextafter(edge, 0), 0.51]], np.float32))
    assert found.tolist() == [[True, False], [False, True]]
    assert default_mask_decisions(("disc",)).thresholds == (0.5,)
    assert MASKS.by_name == {"disc": 51 / 255, "cup": 0.5}


def test_mask_decisions_survive_json_to_the_bit(tmp_path):
    assert read_decisions(tmp_path, MaskDecisions) is None
    write_decisions(tmp_path, MASKS)
    assert read_decisions(tmp_path, MaskDecisions) == MASKS
    with pytest.raises(UserError, match=r"decisions\.json: decisions has no entry 'structures'"):
        read_decisions(tmp_path, Decisions)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"structures": "disc"}, "structures must be a list of names"),
        ({"structures": ["disc", "disc"]}, "each once"),
        ({"thresholds": [0.5]}, "must be 2 numbers"),
        ({"thresholds": [0.5, 1.5]}, "from 0 to 1"),
        ({"thresholds": [0.5, float("nan")]}, "from 0 to 1"),
        ({"fitted_on": []}, "must be a mapping"),
        ({"threshold": []}, "did you mean 'thresholds'"),
    ],
)
def test_what_is_no_mask_decision_is_refused_in_one_sentence(change, said):
    with pytest.raises(UserError, match=said) as caught:
        MaskDecisions.from_json({**MASKS.to_json(), **change}, "W/decisions.json")
    assert str(caught.value).startswith("W/decisions.json: ")
