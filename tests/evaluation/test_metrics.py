"""Metrics equal scikit-learn, plain and weighted; undefined classes are left out and said."""

import math
import time

import numpy as np
import pytest
from sklearn import metrics as sk

from retfm_jax.evaluation.metrics import classification as metrics
from retfm_jax.evaluation.metrics.bootstrap import Estimate


@pytest.mark.parametrize("ties", [False, True])
def test_weighted_ranking_equals_scikit_learn_with_sample_weights(ties):
    generator = np.random.default_rng(0)
    labels = (generator.random(200) < 0.3).astype(int)
    scores = generator.normal(size=200) + labels
    if ties:
        scores = scores.round(0)
    weights = generator.integers(0, 4, size=(200, 5)).astype(np.float32)
    area, ap = metrics.weighted_ranking(labels, scores, weights)
    for draw in range(5):
        weight = weights[:, draw]
        # scikit-learn counts samples of weight 0 as thresholds: they change neither metric.
        expected = sk.roc_auc_score(labels, scores, sample_weight=weight)
        assert area[draw] == pytest.approx(expected, abs=1e-6)
        expected = sk.average_precision_score(labels, scores, sample_weight=weight)
        assert ap[draw] == pytest.approx(expected, abs=1e-6)


def test_weighted_ranking_is_undefined_where_a_draw_has_one_value_only():
    labels, scores = np.array([1, 0, 0]), np.array([0.9, 0.2, 0.1])
    area, ap = metrics.weighted_ranking(
        labels, scores, np.array([[0, 1], [1, 0], [2, 0]], np.float32)
    )
    assert np.isnan(area).all()
    assert np.isnan(ap).all()


@pytest.mark.parametrize("decimals", [0, 6])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.8])
def test_the_fast_auroc_is_that_of_weighted_ranking(share, decimals):
    generator = np.random.default_rng(2)
    labels = (generator.random(150) < share).astype(int)
    labels[:2] = [0, 1]
    scores = np.round(generator.normal(size=150) + labels, decimals)
    weights = generator.integers(0, 3, size=(150, 40)).astype(np.float32)
    weights[labels == 1, 0] = weights[labels == 0, 1] = 0
    found = metrics.weighted_auroc(labels, scores, weights)
    np.testing.assert_allclose(found, metrics.weighted_ranking(labels, scores, weights)[0])
    assert np.isnan(found[:2]).all()


def test_auroc_by_brute_force():
    generator = np.random.default_rng(1)
    labels = np.array([1, 0] * 15)
    scores = generator.integers(0, 6, 30).astype(float)
    pairs = [
        1.0 if p > n else 0.5 if p == n else 0.0
        for p in scores[labels == 1]
        for n in scores[labels == 0]
    ]
    assert metrics.auroc(labels, scores) == pytest.approx(np.mean(pairs))


def test_multi_label_leaves_out_classes_with_one_value_and_unknown_labels():
    labels = np.array([[1, 0, 1], [0, 0, -1], [1, 0, 0], [0, 0, 1]])
    scores = np.array([[0.9, 0, 0.3], [0.1, 0, 9.0], [0.8, 0, 0.5], [0.2, 0, 0.9]])
    result = metrics.multi_label(labels, scores, ["a", "b", "c"], list("wxyz"), draws=50)
    assert result.left_out == {"b": "no positive among 4 labeled samples"}
    assert result.classes["a"]["auroc"].value == 1.0
    assert result.classes["c"]["auroc"].value == 0.5
    assert (result.classes["c"]["positives"], result.classes["c"]["negatives"]) == (2, 1)
    assert result.macro["auroc"].value == 0.75


def test_multi_label_without_any_usable_class_is_undefined_not_wrong():
    labels = np.ones((3, 2), int)
    result = metrics.multi_label(labels, np.zeros((3, 2)), ["a", "b"], [1, 2, 3])
    assert math.isnan(result.macro["auroc"].value)
    assert result.macro["auroc"].to_json() == {"value": None, "low": None, "high": None}
    assert set(result.left_out) == {"a", "b"}


def test_a_thousand_draws_of_5000_patients_and_20_classes_are_quick():
    generator = np.random.default_rng(2)
    labels = (generator.random((5000, 20)) < 0.1).astype(int)
    scores = generator.normal(size=(5000, 20)) + labels
    start = time.process_time()
    result = metrics.multi_label(labels, scores, [str(i) for i in range(20)], np.arange(5000))
    assert time.process_time() - start < 20
    assert result.macro["auroc"].low < result.macro["auroc"].value < result.macro["auroc"].high


def test_confusion_metrics_equal_scikit_learn():
    generator = np.random.default_rng(3)
    labels = generator.integers(0, 4, 300)
    probabilities = generator.dirichlet(np.ones(4), 300)
    probabilities[np.arange(300), labels] += 0.3
    probabilities /= probabilities.sum(1, keepdims=True)
    predicted = probabilities.argmax(1)
    result = metrics.single_label(
        labels, probabilities, list("abcd"), np.arange(300), draws=200, positions=range(4)
    )
    expected = {
        "aca": sk.balanced_accuracy_score(labels, predicted),
        "accuracy": sk.accuracy_score(labels, predicted),
        "f1": sk.f1_score(labels, predicted, average="macro"),
        "kappa": sk.cohen_kappa_score(labels, predicted),
        "quadratic_kappa": sk.cohen_kappa_score(labels, predicted, weights="quadratic"),
        "auroc": sk.roc_auc_score(labels, probabilities, multi_class="ovr"),
        "average_precision": sk.average_precision_score(np.eye(4)[labels], probabilities),
    }
    for name, value in expected.items():
        assert result.overall[name].value == pytest.approx(value), name
        assert result.overall[name].low < value < result.overall[name].high
    assert result.overall["expected_calibration_error"].value > 0
    recall = sk.recall_score(labels, predicted, average=None)
    for index, name in enumerate("abcd"):
        row = result.classes[name]
        specificity = sk.recall_score(labels != index, predicted != index)
        assert row["sensitivity"].value == pytest.approx(recall[index])
        assert row["specificity"].value == pytest.approx(specificity)
        assert row["auroc"].value == pytest.approx(
            sk.roc_auc_score(labels == index, probabilities[:, index])
        )
    np.testing.assert_array_equal(result.confusion, sk.confusion_matrix(labels, predicted))


def test_a_class_without_samples_is_in_no_mean():
    labels = np.array([0, 0, 1, 1])
    probabilities = np.array([[0.9, 0.1, 0], [0.8, 0.1, 0.1], [0.1, 0.9, 0], [0.1, 0.1, 0.8]])
    result = metrics.single_label(labels, probabilities, list("abc"), list("wxyz"), draws=20)
    assert result.overall["aca"].value == 0.75
    assert result.left_out == {"c": "no sample"}
    assert result.to_json()["confusion"] == [[2, 0, 0], [0, 1, 1], [0, 0, 0]]


def test_one_class_only_leaves_ranking_undefined():
    result = metrics.single_label(
        np.zeros(3, int), np.full((3, 2), 0.5), ["a", "b"], [1, 2, 3], draws=10
    )
    assert result.overall["accuracy"].value == 1.0
    assert math.isnan(result.overall["auroc"].value)


def test_expected_calibration_error_by_hand():
    right = np.array([1, 0, 1, 1])
    confidence = np.array([0.9, 0.9, 0.5, 0.5])
    # Two bins of two samples: |0.5 - 0.9| and |1 - 0.5|.
    error = metrics.expected_calibration_error(right, confidence)
    assert error[0] == pytest.approx((0.4 + 0.5) / 2)
    weights = np.array([[1, 1], [0, 1], [0, 1], [0, 1]], np.float32)
    weighted = metrics.expected_calibration_error(right, confidence, weights)
    np.testing.assert_allclose(weighted, [0.1, 0.45], rtol=1e-6)


def test_calibrated_probabilities_have_a_small_error():
    generator = np.random.default_rng(4)
    confidence = generator.random(20000)
    right = (generator.random(20000) < confidence).astype(int)
    assert metrics.expected_calibration_error(right, confidence)[0] < 0.02


def test_folds_give_mean_and_spread():
    def fold(value):
        return {"aca": Estimate(value, math.nan, math.nan)}

    summary = metrics.over_folds([fold(0.5), fold(0.7), fold(math.nan)])
    assert summary["aca"]["mean"] == pytest.approx(0.6)
    assert summary["aca"]["spread"] == pytest.approx(np.std([0.5, 0.7], ddof=1))
    assert summary["aca"]["folds"] == [0.5, 0.7, None]
