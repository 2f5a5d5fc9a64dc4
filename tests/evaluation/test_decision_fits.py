"""Temperatures, thresholds and conformal quantiles are what they are defined to be."""

import numpy as np
import pytest
from scipy.special import expit, softmax

from retfm_jax.decisions import Conformal, Decisions
from retfm_jax.evaluation.metrics.calibration import calibration, set_coverage
from retfm_jax.evaluation.metrics.classification import expected_calibration_error
from retfm_jax.evaluation.metrics.decision_fits import (
    conformal_quantile,
    log_losses,
    temperature,
    youden_threshold,
)


def patients(seed: int, count: int, classes: int = 4) -> tuple[np.ndarray, ...]:
    """Logits, one-hot labels and patients of one to six photographs, alike within a patient."""
    rng = np.random.default_rng(seed)
    images = rng.integers(1, 7, count)
    patient = np.repeat(np.arange(count), images)
    truth = rng.integers(classes, size=count)[patient]
    # A patient is hard or easy as a whole: its photographs share most of their error.
    shared = rng.normal(0, 1.2, (count, classes))[patient]
    logits = 2 * np.eye(classes)[truth] + shared + rng.normal(0, 0.4, (len(truth), classes))
    return logits, np.eye(classes, dtype=int)[truth], patient


def test_log_losses_are_the_logarithms_of_probabilities():
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 3, (20, 3))
    one_hot = np.eye(3, dtype=int)[rng.integers(3, size=20)]
    wanted = -np.log(softmax(logits, 1)) * one_hot
    np.testing.assert_allclose(log_losses(logits, one_hot, False), wanted, atol=1e-12)
    labels = rng.integers(-1, 2, (20, 3))
    p = expit(logits)
    wanted = np.select([labels == 1, labels == 0], [-np.log(p), -np.log(1 - p)], 0)
    np.testing.assert_allclose(log_losses(logits, labels, True), wanted, atol=1e-12)


@pytest.mark.parametrize("findings", [False, True])
@pytest.mark.parametrize("true_temperature", [0.4, 1.0, 3.5])
def test_the_temperature_of_generated_labels_is_found(findings, true_temperature):
    rng = np.random.default_rng(1)
    logits = rng.normal(0, 3, (6000, 4))
    if findings:
        labels = (rng.random(logits.shape) < expit(logits / true_temperature)).astype(int)
        labels[rng.random(labels.shape) < 0.3] = -1
    else:
        chances = softmax(logits / true_temperature, 1).cumsum(1)
        labels = np.eye(4, dtype=int)[(rng.random((6000, 1)) > chances).sum(1).clip(max=3)]
    found = temperature(logits, labels, findings)
    assert found == pytest.approx(true_temperature, rel=0.08)


def test_the_temperature_is_a_minimum():
    logits, labels, _ = patients(3, 60)

    def loss(t):
        return log_losses(logits / t, labels, False).sum() + np.log(t) ** 2 / 2

    found = temperature(logits, labels, False)
    assert loss(found) <= min(loss(found * factor) for factor in (0.5, 0.98, 1.02, 2)) + 1e-9


def test_a_perfect_split_does_not_make_the_network_certain():
    labels = np.eye(2, dtype=int)[[0, 1] * 10]
    found = temperature(labels * 2.0, labels, False)
    assert 0.2 < found < 1
    assert temperature(labels[:2] * 2.0, labels[:2], False) > found


def test_youden_thresholds_are_the_best_of_all():
    rng = np.random.default_rng(2)
    labels = rng.integers(-1, 2, 300)
    scores = np.clip(rng.normal(0.4 + 0.25 * (labels == 1), 0.2), 0, 1).round(2)
    threshold, sensitivity, specificity = youden_threshold(scores, labels)

    def index(t):
        return (scores[labels == 1] >= t).mean() + (scores[labels == 0] < t).mean()

    assert index(threshold) == pytest.approx(max(index(t) for t in np.linspace(0, 1.01, 2000)))
    assert sensitivity == pytest.approx((scores[labels == 1] >= threshold).mean())
    assert specificity == pytest.approx((scores[labels == 0] < threshold).mean())
    assert np.abs(scores - threshold).min() > 1e-3, "no probability lies on it"


@pytest.mark.parametrize("labels", [[1, 1, -1], [0, 0, 0], [-1, -1, -1]])
def test_without_both_kinds_the_threshold_is_one_half(labels):
    found = youden_threshold(np.array([0.2, 0.4, 0.9]), np.array(labels))
    assert found[0] == 0.5
    assert np.isnan(found[1:]).all()


def test_with_one_photograph_a_patient_it_is_the_quantile_of_split_conformal():
    scores = np.random.default_rng(0).random(99)
    found, count = conformal_quantile(scores, np.arange(99), 0.9)
    assert (found, count) == (np.sort(scores)[89], 99)  # the 90th: ceil(0.9 * 100)


def test_a_patient_votes_once_however_many_photographs_it_has():
    scores, patient = np.arange(20) / 20, np.arange(20)
    once, _ = conformal_quantile(scores, patient, 0.8)
    again = np.concatenate([scores, np.full(500, 0.95)])
    more, count = conformal_quantile(again, np.concatenate([patient, np.full(500, 19)]), 0.8)
    assert (once, count) == (more, 20)


def test_too_few_patients_rule_nothing_out():
    assert conformal_quantile(np.array([0.1, 0.2, 0.3]), [0, 1, 2], 0.9) == (1.0, 3)
    assert conformal_quantile(np.zeros(0), [], 0.9) == (1.0, 0)
    assert conformal_quantile(np.full(30, 0.1), [7] * 30, 0.9) == (1.0, 1)


COVERAGE = 0.9


def fitted(logits, labels, patient, outcome="exclusive"):
    """Decisions as `decision_fitting` fits them."""
    found = outcome == "findings"
    warmth = temperature(logits, labels, found)
    count = labels.shape[1]
    names = tuple("abcdefgh"[:count])
    thresholds = (0.5,) * count if found else ()
    plain = Decisions(names, outcome, warmth, thresholds)
    scores = 1 - plain.probabilities(logits).astype(np.float64)
    if found:
        quantiles = tuple(
            conformal_quantile(scores[rows, k], patient[rows], COVERAGE)[0]
            for k in range(count)
            for rows in [labels[:, k] == 1]
        )
    else:
        quantiles = (conformal_quantile(scores[labels == 1], patient, COVERAGE)[0],)
    return Decisions(names, outcome, warmth, thresholds, Conformal(COVERAGE, quantiles))


def covered(decisions, logits, labels, patient):
    sets = decisions.sets(decisions.probabilities(logits))
    found, by_class = set_coverage(
        sets, labels, decisions.outcome == "findings", patient, decisions.classes, draws=2
    )
    return found["coverage"].value, [each.value for each in by_class.values()]


def test_sets_cover_new_patients_over_twenty_seeds():
    found = []
    for seed in range(20):
        decisions = fitted(*patients(seed, 3000))
        found.append(covered(decisions, *patients(1000 + seed, 4000))[0])
    assert np.abs(np.array(found) - COVERAGE).max() < 0.02
    assert abs(np.mean(found) - COVERAGE) < 0.005


def test_a_vote_for_each_photograph_would_not_cover_patients_alike():
    """Where who has many photographs is hard, photographs and patients are covered differently."""

    def uneven(seed, count):
        rng = np.random.default_rng(seed)
        hard = rng.random(count) < 0.5
        patient = np.repeat(np.arange(count), np.where(hard, 8, 1))
        labels = np.eye(2, dtype=int)[rng.integers(2, size=count)[patient]]
        noise = rng.normal(0, np.where(hard, 3.0, 0.3)[patient][:, None], labels.shape)
        return 2 * labels + noise, labels, patient

    by_patient, by_image = [], []
    for seed in range(20):
        calibrating, new = uneven(seed, 1000), uneven(500 + seed, 1000)
        by_patient.append(covered(fitted(*calibrating), *new)[0])
        logits, labels, patient = calibrating
        by_image.append(covered(fitted(logits, labels, np.arange(len(patient))), *new)[0])
    assert abs(np.mean(by_patient) - COVERAGE) < 0.01
    assert np.mean(by_image) > COVERAGE + 0.02


def test_sets_of_findings_hold_those_that_are_present_over_twenty_seeds():
    def generated(seed, count):
        rng = np.random.default_rng(seed)
        patient = np.repeat(np.arange(count), rng.integers(1, 4, count))
        labels = (rng.random((count, 3)) < (0.5, 0.3, 0.2)).astype(int)[patient]
        shared = rng.normal(0, 1.5, (count, 3))[patient]
        return 3 * labels - 2 + shared + rng.normal(0, 0.5, labels.shape), labels, patient

    found = []
    for seed in range(20):
        decisions = fitted(*generated(seed, 5000), "findings")
        found.append(covered(decisions, *generated(100 + seed, 5000))[1])
    assert np.abs(np.mean(found, 0) - COVERAGE).max() < 0.01
    assert abs(np.mean(found) - COVERAGE) < 0.005


def test_coverage_does_not_depend_on_order_or_names_of_patients():
    logits, labels, patient = patients(4, 50)
    decisions = fitted(logits, labels, patient)
    order = np.random.default_rng(0).permutation(len(patient))
    renamed = np.array([f"P{1000 - each}" for each in patient])
    again = fitted(logits[order], labels[order], renamed[order])
    assert again.conformal == decisions.conformal


def test_calibration_is_its_definition():
    rng = np.random.default_rng(5)
    p = softmax(rng.normal(0, 2, (400, 3)), 1)
    truth = rng.integers(3, size=400)
    labels = np.eye(3, dtype=int)[truth]
    found = calibration(p, labels, False, np.arange(400), draws=50)
    right = (p.argmax(1) == truth).astype(int)
    wanted = expected_calibration_error(right, p.max(1))[0]
    assert found["expected_calibration_error"].value == pytest.approx(wanted)
    assert found["brier"].value == pytest.approx(((p - labels) ** 2).sum(1).mean())
    nll = -np.log(p[np.arange(400), truth]).mean()
    assert found["negative_log_likelihood"].value == pytest.approx(nll)
    assert all(each.low < each.value < each.high for each in found.values())


def test_calibration_of_findings_leaves_out_what_is_unknown():
    rng = np.random.default_rng(6)
    p, labels = rng.random((200, 2)), rng.integers(-1, 2, (200, 2))
    found = calibration(p, labels, True, np.arange(200), draws=2)
    known = labels >= 0
    assert found["brier"].value == pytest.approx(((p - labels)[known] ** 2).mean())
    error = expected_calibration_error(labels[known], p[known])[0]
    assert found["expected_calibration_error"].value == pytest.approx(error)


def test_frequencies_are_calibrated_and_certainty_is_not():
    rng = np.random.default_rng(7)
    p = softmax(rng.normal(0, 2, (5000, 3)), 1)
    labels = np.eye(3, dtype=int)[(rng.random((5000, 1)) > p.cumsum(1)).sum(1).clip(max=2)]
    fair = calibration(p, labels, False, np.arange(5000), draws=2)
    sure = softmax(3 * np.log(p), 1)
    sharp = calibration(sure, labels, False, np.arange(5000), draws=2)
    assert fair["expected_calibration_error"].value < 0.02
    assert sharp["expected_calibration_error"].value > 0.1
    assert sharp["negative_log_likelihood"].value > fair["negative_log_likelihood"].value
    assert sharp["brier"].value > fair["brier"].value


def test_sets_that_always_hold_the_truth_have_an_exact_interval():
    labels = np.eye(3, dtype=int)[[0, 1, 2, 0, 1, 2]]
    found, by_class = set_coverage(
        np.ones((6, 3), bool), labels, False, [0, 0, 1, 1, 2, 2], "abc", draws=20
    )
    assert found["coverage"].value == 1
    assert found["coverage"].low == pytest.approx(0.025 ** (1 / 3))  # three patients
    assert found["set_size"].value == 3
    assert found["empty"].value == 0
    assert set(by_class) == set("abc")
