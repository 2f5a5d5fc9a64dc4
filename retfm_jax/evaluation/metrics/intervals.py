"""95% intervals that need no resampling: of proportions, of areas under the ROC curve, of means.

Resamples of 10 right answers of 10 are all 10 of 10, and an interval from 1.000 to 1.000 would say
that the truth is known. These intervals come from the sampling distribution itself.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
from jaxtyping import Bool, Float
from scipy import optimize, special

from retfm_jax.evaluation.metrics.bootstrap import Estimate

#: What an interval is called in JSON files and on pages.
EXACT = "Clopper-Pearson"
EXACT_BY_PATIENT = "Clopper-Pearson with the effective sample size of Korn and Graubard"
SCORE = "score interval of Newcombe (2006), method 5"
COMBINED = "combined from the classes' intervals (MOVER, Zou and Donner 2008)"

_TAIL = 0.025
_Z = float(special.ndtri(1 - _TAIL))


def clopper_pearson(successes: float, trials: float) -> tuple[float, float]:
    """Computes the exact 95% interval of a binomial proportion.

    Args:
      successes: from 0 to `trials`; may be an effective number, which need not be whole.
      trials: their number, above 0; effective likewise.

    Returns:
      the lower and the upper limit, from 0 to 1.
    """
    low = special.betaincinv(successes, trials - successes + 1, _TAIL) if successes > 0 else 0.0
    high = special.betaincinv(successes + 1, trials - successes, 1 - _TAIL)
    return float(low), float(high) if successes < trials else 1.0


def proportion(hits: Bool[np.ndarray, " n"], groups: Sequence[Any] | np.ndarray) -> Estimate:
    """The share of samples that are hits, with an exact interval.

    Samples of one patient are not independent. With y_c hits among the m_c samples of patient c of
    C, the variance of p = sum(y) / n is C / (C - 1) sum (y_c - p m_c)^2 / n^2. The effective sample
    size, p (1 - p) / variance (at most n) times (t_{n-1} / t_{C-1})^2, replaces n in Clopper and
    Pearson's interval (Korn and Graubard 1998). Where all or none are hits, the variance is 0 and
    the patients are counted instead.

    Args:
      hits: of every sample that counts, (n) bool.
      groups: each sample's patient (n).

    Returns:
      the estimate; NaN without any sample.
    """
    count = len(hits)
    if not count:
        return Estimate(math.nan, math.nan, math.nan)
    share = float(np.mean(hits))
    _, patient = np.unique(np.asarray(groups), return_inverse=True)
    patients = int(patient.max()) + 1
    if patients == count:
        return Estimate(share, *clopper_pearson(int(np.sum(hits)), count), EXACT)
    size = float(patients)
    if patients > 1 and 0 < share < 1:
        excess = np.bincount(patient, np.asarray(hits) - share)
        variance = patients / (patients - 1) * float((excess**2).sum()) / count**2
        size = min(count, share * (1 - share) / variance) if variance else count
        size *= (_t(count - 1) / _t(patients - 1)) ** 2
    return Estimate(share, *clopper_pearson(share * size, size), EXACT_BY_PATIENT)


def _t(freedom: int) -> float:
    return float(special.stdtrit(freedom, 1 - _TAIL))


def area(value: float, positives: int, negatives: int) -> Estimate:
    """Adds to an AUROC the score interval of Newcombe (2006), his method 5.

    The limits are the areas a for which `|a - value| = z sqrt(V(a))`, with Hanley and McNeil's
    `V(a) = a (1 - a) (1 + (N - 1) ((1 - a) / (2 - a) + a / (1 + a))) / (m n)`, N = (m + n) / 2.

    Args:
      value: the AUROC, from 0 to 1.
      positives, negatives: m and n, at least 1; patients where several samples are of one.
    """

    def variance(a: float) -> float:
        middle = (positives + negatives) / 2
        spread = 1 + (middle - 1) * ((1 - a) / (2 - a) + a / (1 + a))
        return a * (1 - a) * spread / (positives * negatives)

    def apart(a: float) -> float:
        return abs(a - value) - _Z * math.sqrt(max(variance(a), 0.0))

    # At the value itself the distance is 0, at 0 and 1 the spread; between them lies the limit.
    edge = 1e-12
    low = _root(apart, 0.0, min(value, 1 - edge)) if value > 0 else 0.0
    high = _root(apart, max(value, edge), 1.0) if value < 1 else 1.0
    return Estimate(value, low, high, SCORE)


def _root(function: Callable[[float], float], low: float, high: float) -> float:
    return cast(float, optimize.brentq(function, low, high))


def mean(parts: Sequence[Estimate]) -> Estimate:
    """Mean of independent estimates, with an interval combined from theirs (MOVER).

    With p_k in [l_k, u_k], k = 1 ... K: low = mean(p) - sqrt(sum (p_k - l_k)^2) / K, high likewise;
    both limits are clipped to [0, 1].

    Args:
      parts: at least one estimate, each with an interval.
    """
    values: Float[np.ndarray, "3 k"] = np.array([part[:3] for part in parts], np.float64).T
    middle, low, high = values
    center = float(middle.mean())
    below = math.sqrt(float(((middle - low) ** 2).sum())) / len(parts)
    above = math.sqrt(float(((high - middle) ** 2).sum())) / len(parts)
    return Estimate(center, max(0.0, center - below), min(1.0, center + above), COMBINED)
