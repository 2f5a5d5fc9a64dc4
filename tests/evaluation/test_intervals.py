"""Intervals that need no resampling hold what they promise, and never say that all is known."""

import math

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from retfm_jax.evaluation.metrics import classification as metrics
from retfm_jax.evaluation.metrics import intervals
from retfm_jax.evaluation.metrics.bootstrap import Estimate


def test_clopper_and_pearson_equal_scipy():
    for hits, trials in ((0, 1), (0, 7), (3, 7), (7, 7), (10, 10), (499, 500)):
        expected = stats.binomtest(hits, trials).proportion_ci(0.95, "exact")
        assert intervals.clopper_pearson(hits, trials) == pytest.approx(expected)


def test_ten_of_ten_leave_room_for_doubt():
    found = intervals.proportion(np.ones(10, bool), range(10))
    assert found[:3] == pytest.approx((1.0, 0.025**0.1, 1.0))
    assert found.interval == "Clopper-Pearson"
    none = intervals.proportion(np.zeros(10, bool), range(10))
    assert none[:3] == pytest.approx((0.0, 0.0, 1 - 0.025**0.1))


def test_ten_images_of_two_patients_say_as_much_as_two_patients():
    found = intervals.proportion(np.ones(10, bool), [0] * 5 + [1] * 5)
    assert found[:3] == pytest.approx((1.0, 0.025**0.5, 1.0))
    assert "Korn and Graubard" in found.interval


def test_no_sample_has_no_share_and_one_patient_says_almost_nothing():
    assert math.isnan(intervals.proportion(np.zeros(0, bool), []).value)
    found = intervals.proportion(np.array([1, 1, 1, 0], bool), ["p"] * 4)
    assert found.value == 0.75
    assert found.low < 0.05
    assert found.high > 0.99


@pytest.mark.parametrize("share", [0.5, 0.9, 0.98])
@pytest.mark.parametrize("eyes", [1, 2])
def test_intervals_of_shares_cover_the_truth_where_eyes_of_a_patient_agree(share, eyes):
    generator = np.random.default_rng(0)
    covered = 0
    for _ in range(300):
        # Both eyes are right or wrong together: as dependent as can be.
        hits = np.repeat(generator.random(40) < share, eyes)
        found = intervals.proportion(hits, np.repeat(np.arange(40), eyes))
        covered += found.low <= share <= found.high
    assert covered >= 0.94 * 300


def test_independent_eyes_are_not_counted_as_half():
    generator = np.random.default_rng(1)
    hits, eyes = generator.random(400) < 0.7, np.repeat(np.arange(200), 2)
    whole = intervals.proportion(hits, range(400))
    found = intervals.proportion(hits, eyes)
    assert (found.high - found.low) == pytest.approx(whole.high - whole.low, rel=0.15)


def test_the_interval_of_an_area_by_the_equation_it_solves():
    for value, positives, negatives in ((0.8, 20, 30), (0.5, 5, 5), (0.97, 12, 90)):
        found = intervals.area(value, positives, negatives)
        assert found.low < value < found.high
        for limit in found[1:3]:
            half = (positives + negatives) / 2 - 1
            spread = 1 + half * ((1 - limit) / (2 - limit) + limit / (1 + limit))
            variance = limit * (1 - limit) * spread / (positives * negatives)
            assert abs(limit - value) == pytest.approx(1.959964 * variance**0.5, rel=1e-4)


def test_the_interval_of_an_area_covers_the_truth_with_few_cases():
    generator = np.random.default_rng(2)
    truth = stats.norm.cdf(1.5 / 2**0.5)
    covered = 0
    for _ in range(300):
        scores = np.r_[generator.normal(1.5, 1, 8), generator.normal(0, 1, 25)]
        value = roc_auc_score([1] * 8 + [0] * 25, scores)
        found = intervals.area(value, 8, 25)
        covered += found.low <= truth <= found.high
    assert covered >= 0.92 * 300


def test_a_perfect_area_is_not_certain_and_more_cases_make_it_surer():
    few, many = intervals.area(1.0, 3, 3), intervals.area(1.0, 300, 300)
    assert few.high == many.high == 1.0
    assert few.low < 0.7 < 0.98 < many.low < 1.0
    worst = intervals.area(0.0, 3, 3)
    assert (worst.low, worst.high) == pytest.approx((0.0, 1 - few.low))


def test_a_mean_of_equal_intervals_is_narrower_by_the_root_of_their_number():
    part = Estimate(0.8, 0.6, 0.9)
    found = intervals.mean([part] * 4)
    assert found[:3] == pytest.approx((0.8, 0.7, 0.85))


def single(count, groups=None, **arguments):
    labels = np.repeat([0, 1], count)
    probabilities = np.where(labels[:, None] == [0, 1], 0.9, 0.1)
    groups = range(2 * count) if groups is None else groups
    return metrics.single_label(
        labels, probabilities, ["a", "b"], list(groups), draws=50, **arguments
    )


@pytest.mark.parametrize("groups", [None, [0, 0, 1, 1, 2, 2, 3, 3], [0] * 8])
def test_no_metric_of_perfect_predictions_claims_certainty(groups):
    found = single(4, groups)
    rows = [found.overall, *found.classes.values()]
    measured = [value for row in rows for value in row.values() if isinstance(value, Estimate)]
    assert len(measured) > 10
    for value in measured:
        assert math.isnan(value.low) or value.high - value.low > 0.01
        json = value.to_json()
        assert ("interval" in json) == (json["low"] is not None)
    for name in ("aca", "accuracy", "auroc"):
        assert found.overall[name].low < 0.95
    assert "no interval of f1, kappa" in " ".join(found.caveats)
    assert found.to_json()["caveats"] == list(found.caveats)


def test_one_patient_is_said():
    assert "all samples are of one patient" in " ".join(single(4, [0] * 8).caveats)


def test_few_cases_are_counted_with_what_the_resamples_lacked():
    generator = np.random.default_rng(3)
    labels = np.zeros((60, 2), int)
    labels[:2, 0], labels[:30, 1] = 1, 1
    scores = generator.normal(size=(60, 2)) + labels
    found = metrics.multi_label(labels, scores, ["rare", "common"], range(60), draws=200)
    rare = found.classes["rare"]["auroc"]
    assert 10 < rare.left_out < 50  # (58 / 60)^60 = 13% of the resamples have neither
    assert rare.to_json()["resamples_left_out"] == rare.left_out
    (caveat,) = found.caveats
    assert caveat.startswith("rare: 2 with it and 58 without (patients), at least 10 of each")
    assert f"{rare.left_out} of 200 resamples lacked one side" in caveat
    assert found.classes["common"]["auroc"].left_out == 0


def test_constant_scores_rank_nothing():
    labels = np.array([[1], [0], [1], [0]])
    found = metrics.multi_label(labels, np.zeros((4, 1)), ["a"], range(4), draws=50)
    assert found.macro["auroc"].value == 0.5
    assert found.macro["auroc"].low < 0.5 < found.macro["auroc"].high


def test_kappa_is_quadratic_only_of_grades_and_goes_by_their_positions():
    generator = np.random.default_rng(4)
    labels = generator.integers(0, 3, 90)
    probabilities = generator.dirichlet(np.ones(3), 90)
    probabilities[np.arange(90), labels] += 0.5
    probabilities /= probabilities.sum(1, keepdims=True)
    names, groups = ["mild", "none", "severe"], range(90)
    plain = metrics.single_label(labels, probabilities, names, groups, draws=5)
    assert "quadratic_kappa" not in plain.overall
    graded = metrics.single_label(
        labels, probabilities, names, groups, draws=5, positions=(1, 0, 3)
    )
    predicted = probabilities.argmax(1)
    grade = np.array([1, 0, 3])
    confusion = np.zeros((4, 4))
    np.add.at(confusion, (grade[labels], grade[predicted]), 1)
    expected = metrics.quadratic_kappa(confusion)
    assert graded.overall["quadratic_kappa"].value == pytest.approx(expected)
    assert graded.overall["kappa"] == plain.overall["kappa"]
