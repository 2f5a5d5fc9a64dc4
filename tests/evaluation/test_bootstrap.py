"""Intervals draw patients, not eyes; they repeat with the seed and cover the truth."""

import math

import numpy as np
import pytest

from retfm_jax.evaluation.metrics import bootstrap as bootstrapping
from retfm_jax.evaluation.metrics.bootstrap import Estimate, bootstrap, estimates


def mean_of(values):
    return lambda weights: ((values[:, None] * weights).sum(0) / weights.sum(0))[:, None]


def test_eyes_of_a_patient_are_drawn_together():
    groups = ["p1", "p2", "p1", "p3"]
    drawn = bootstrap(groups, lambda weights: weights.T, draws=100)
    np.testing.assert_array_equal(drawn[:, 0], drawn[:, 2])
    assert (drawn[:, [0, 1, 3]].sum(1) == 3).all()
    assert drawn[:, 1].std() > 0


def test_same_seed_same_draws_whatever_the_block_size(monkeypatch):
    values = np.random.default_rng(0).normal(size=50)
    whole = bootstrap(np.arange(50), mean_of(values), draws=40, seed=3)
    monkeypatch.setattr(bootstrapping, "_BLOCK", 50 * 7)
    np.testing.assert_array_equal(
        whole, bootstrap(np.arange(50), mean_of(values), draws=40, seed=3)
    )
    assert (whole != bootstrap(np.arange(50), mean_of(values), draws=40, seed=4)).any()


def test_intervals_by_patient_are_wider_than_by_eye_where_eyes_agree():
    values = np.random.default_rng(1).normal(size=200)
    both = np.repeat(values, 2)

    def width(groups):
        estimate = estimates([both.mean()], bootstrap(groups, mean_of(both)))[0]
        return estimate.high - estimate.low

    ratio = width(np.repeat(np.arange(200), 2)) / width(np.arange(400))
    assert ratio == pytest.approx(math.sqrt(2), rel=0.1)


def test_95_percent_intervals_cover_the_truth_about_95_times_in_100():
    generator = np.random.default_rng(2)
    covered = 0
    for trial in range(200):
        values = generator.normal(loc=1.0, size=80)
        drawn = bootstrap(np.arange(80), mean_of(values), draws=300, seed=trial)
        estimate = estimates([values.mean()], drawn)[0]
        covered += estimate.low <= 1.0 <= estimate.high
    assert 180 <= covered <= 199


def test_undefined_draws_do_not_count_and_undefined_values_stay_undefined():
    drawn = np.array([[1.0, 5.0], [math.nan, 6.0], [3.0, 7.0]])
    first, second = estimates([2.0, math.nan], drawn)
    assert (first.low, first.high) == (pytest.approx(1.05), pytest.approx(2.95))
    assert math.isnan(second.low)
    assert str(second) == "–"
    assert str(Estimate(0.5, 0.25, 0.75)) == "0.500 (0.250–0.750)"
