"""ROC and precision-recall curves with bands that say how far they vary with the patients."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from retfm_jax.evaluation.metrics.bootstrap import Weights, bootstrap
from retfm_jax.evaluation.metrics.classification import FEW

#: Thresholds of a curve: more cannot be told apart in a picture.
_THRESHOLDS = 400
#: Places at which a band is computed.
_PLACES = 65

Line = Float[np.ndarray, " _"]
Places = Float[np.ndarray, " places"]


class Banded(NamedTuple):
    """A curve and its band.

    Attributes:
      x, y: points of the curve, (k) floats.
      places, low, high: pointwise 95% limits of y by bootstrap, at these x; NaN where there are
        none.
    """

    x: Line
    y: Line
    places: Places
    low: Places
    high: Places

    @property
    def band(self) -> tuple[Places, Places, Places] | None:
        """Places and both limits; None where there is no band."""
        there = np.isfinite(self.low).any()
        return (self.places, self.low, self.high) if there else None


class RankingCurves(NamedTuple):
    """Both curves of a class.

    Attributes:
      roc: sensitivity over 1 - specificity.
      precision_recall: precision over recall; a recall between two points has the precision of the
        higher one, as average precision sums them.
    """

    roc: Banded
    precision_recall: Banded


def ranking_curves(
    labels: Int[np.ndarray, " n"],
    scores: Float[np.ndarray, " n"],
    patients: Sequence[Any] | np.ndarray,
    draws: int = 400,
    seed: int = 0,
) -> RankingCurves:
    """Computes both curves of a class, each with a band.

    Of many distinct scores the curves keep some hundred, evenly spaced along the ROC curve. There
    is no band where fewer than ten patients have the class, or do not: it would be too narrow.

    Args:
      labels: 1 positive, 0 negative; (n) integers, both present.
      scores: higher means more likely positive; (n) floats of any scale.
      patients: of every sample, (n); they are resampled.
      draws: number of resamples; 0 for no bands.
      seed: of the resamples.
    """
    order = np.argsort(-scores, kind="stable")
    positive, patients = labels[order] == 1, np.asarray(patients)[order]
    ends = _ends(scores[order], positive)
    starts = np.r_[0, ends[:-1] + 1]
    places = np.linspace(0.0, 1.0, _PLACES)

    def counted(weights: Weights) -> tuple[np.ndarray, np.ndarray]:
        """Weights of positives and of negatives down to each threshold, (k, draws)."""
        true = np.add.reduceat(weights * positive[:, None], starts, axis=0, dtype=np.float64)
        false = np.add.reduceat(weights * ~positive[:, None], starts, axis=0, dtype=np.float64)
        return true.cumsum(0), false.cumsum(0)

    def at_places(weights: Weights) -> Float[np.ndarray, "draws values"]:
        found = np.full((weights.shape[1], 2 * _PLACES), np.nan)
        for row, true, false in zip(found, *(each.T for each in counted(weights)), strict=True):
            if true[-1] and false[-1]:
                roc, pr = _roc(true, false), _precision_recall(true, false)
                row[:_PLACES] = np.interp(places, *roc)
                row[_PLACES:] = pr[1][np.searchsorted(pr[0], places - 1e-12).clip(max=len(ends))]
        return found

    band = np.full((2, 2 * _PLACES), np.nan)
    enough = min(len(np.unique(patients[which])) for which in (positive, ~positive)) >= FEW
    if draws and enough:
        resampled = bootstrap(patients, at_places, draws, seed)
        resampled = resampled[~np.isnan(resampled).any(1)]
        if len(resampled):
            band = np.percentile(resampled, (2.5, 97.5), axis=0)
    true, false = (each[:, 0] for each in counted(np.ones((len(labels), 1), np.float32)))
    (low_roc, low_pr), (high_roc, high_pr) = (np.split(limit, 2) for limit in band)
    return RankingCurves(
        Banded(*_roc(true, false), places, low_roc, high_roc),
        Banded(*_precision_recall(true, false), places, low_pr, high_pr),
    )


def _ends(scores: Float[np.ndarray, " n"], positive: np.ndarray) -> Int[np.ndarray, " k"]:
    """Last sample of each threshold, of falling scores; the last one is that of all samples."""
    ends = np.flatnonzero(np.r_[scores[1:] != scores[:-1], True])
    if len(ends) <= _THRESHOLDS:
        return ends
    true, false = positive.cumsum()[ends], (~positive).cumsum()[ends]
    along = true / true[-1] + false / false[-1]
    wanted = np.linspace(0.0, 2.0, _THRESHOLDS)
    return ends[np.unique(np.searchsorted(along, wanted).clip(max=len(ends) - 1))]


def _roc(true: Line, false: Line) -> tuple[Line, Line]:
    return np.r_[0.0, false / false[-1]], np.r_[0.0, true / true[-1]]


def _precision_recall(true: Line, false: Line) -> tuple[Line, Line]:
    """Recall, rising, and precision; both begin at the first threshold that has any weight."""
    reached = true + false
    precision = np.divide(true, reached, out=np.zeros_like(true), where=reached > 0)
    first = int(np.argmax(reached > 0))
    return np.r_[0.0, true / true[-1]], np.r_[precision[first], precision]
