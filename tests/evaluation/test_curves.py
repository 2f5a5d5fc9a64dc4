"""Curves of a ranking: those of scikit-learn, with bands that hold them and that patients widen."""

import numpy as np
import pytest
from sklearn.metrics import auc, average_precision_score, precision_recall_curve, roc_curve

from retfm_jax.evaluation.metrics.curves import ranking_curves


def sample(count, seed=0, levels=None):
    generator = np.random.default_rng(seed)
    labels = (generator.random(count) < 0.3).astype(int)
    scores = generator.normal(size=count) + labels
    return labels, scores if levels is None else np.round(scores * levels) / levels


@pytest.mark.parametrize("levels", [None, 2])
def test_they_are_the_curves_of_scikit_learn(levels):
    labels, scores = sample(120, levels=levels)
    found = ranking_curves(labels, scores, np.arange(120), draws=0)
    false, true, _ = roc_curve(labels, scores, drop_intermediate=False)
    np.testing.assert_allclose(found.roc.x, false)
    np.testing.assert_allclose(found.roc.y, true)
    precision, recall, _ = precision_recall_curve(labels, scores)
    np.testing.assert_allclose(found.precision_recall.x[1:], recall[-2::-1])
    np.testing.assert_allclose(found.precision_recall.y[1:], precision[-2::-1])
    assert found.roc.band is None
    assert found.precision_recall.band is None


def test_of_many_scores_the_curves_keep_some_hundred_and_their_areas():
    labels, scores = sample(20_000)
    found = ranking_curves(labels, scores, np.arange(20_000), draws=0)
    assert len(found.roc.x) <= 401
    false, true, _ = roc_curve(labels, scores)
    assert auc(found.roc.x, found.roc.y) == pytest.approx(auc(false, true), abs=1e-4)
    steps = np.diff(found.precision_recall.x) @ found.precision_recall.y[1:]
    assert steps == pytest.approx(average_precision_score(labels, scores), abs=2e-3)


def test_a_band_holds_its_curve_and_is_that_of_resampled_patients():
    labels, scores = sample(200)
    patients = np.arange(200) // 2
    found = ranking_curves(labels, scores, patients, draws=400)
    for curve in found:
        assert curve.band is not None
        places, low, high = curve.band
        assert (low <= high).all()
        inside = slice(8, -8)
        rows = np.searchsorted(curve.x, places).clip(max=len(curve.x) - 1)
        middle = curve.y[rows][inside]
        assert (low[inside] - 0.03 <= middle).all()
        assert (middle <= high[inside] + 0.03).all()
    # The plain way: patients with replacement, and scikit-learn on what they have.
    generator, resampled = np.random.default_rng(1), []
    for _ in range(400):
        chosen = generator.integers(100, size=100)
        rows = np.concatenate([2 * chosen, 2 * chosen + 1])
        false, true, _ = roc_curve(labels[rows], scores[rows], drop_intermediate=False)
        resampled.append(np.interp(found.roc.places, false, true))
    low, high = np.percentile(resampled, (2.5, 97.5), axis=0)
    assert np.abs(found.roc.low - low)[inside].mean() < 0.02
    assert np.abs(found.roc.high - high)[inside].mean() < 0.02


def test_equal_samples_of_a_patient_say_no_more_than_one():
    labels, scores = sample(60, seed=2)
    once = ranking_curves(labels, scores, np.arange(60))
    thrice = ranking_curves(*(np.repeat(a, 3) for a in (labels, scores, np.arange(60))))
    np.testing.assert_allclose(thrice.roc.low, once.roc.low)
    np.testing.assert_allclose(thrice.precision_recall.high, once.precision_recall.high)


def test_few_patients_have_no_band():
    labels, scores = np.array([1] * 40 + [0] * 40), np.linspace(1, 0, 80)
    assert ranking_curves(labels, scores, np.r_[np.arange(40) % 9, 100:140]).roc.band is None
    assert ranking_curves(labels, scores, np.r_[np.arange(40) % 10, 100:140]).roc.band is not None
