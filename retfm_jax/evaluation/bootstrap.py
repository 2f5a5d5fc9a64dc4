"""Confidence intervals: patients are drawn anew, with all their eyes and reports.

Two eyes of a patient are not independent, so an interval that draws images is too narrow. A draw of
patients is an integer weight for every sample (how often its patient was drawn), so every statistic
is a function of weights, computed for many draws at once.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

#: Elements of one block of weights: bounds memory at 64 MiB whatever the number of draws.
_BLOCK = 1 << 24

Weights = Float[np.ndarray, "samples draws"]


class Estimate(NamedTuple):
    """A value with its 95% bootstrap interval; NaN where it is not defined."""

    value: float
    low: float
    high: float

    def to_json(self) -> dict[str, float | None]:
        """JSON has no NaN: an undefined number becomes null."""
        return {
            name: None if math.isnan(number) else round(float(number), 6)
            for name, number in self._asdict().items()
        }

    def __str__(self) -> str:
        if math.isnan(self.value):
            return "–"
        return f"{self.value:.3f} ({self.low:.3f}–{self.high:.3f})"


def bootstrap(
    groups: Sequence[Any],
    statistic: Callable[[Weights], Float[np.ndarray, "draws values"]],
    draws: int = 1000,
    seed: int = 0,
) -> Float[np.ndarray, "draws values"]:
    """Evaluates a statistic on resampled patients.

    Args:
      groups: each sample's patient; a draw takes as many patients as there are, with replacement.
      statistic: from weights (samples, draws), whole numbers as float32, to values (draws, values).
      draws: how many resamples.
      seed: equal seeds draw equal patients, so that intervals of two protocols are comparable.

    Returns:
      The statistic of every draw, NaN where a draw leaves it undefined.
    """
    _, patient = np.unique(np.asarray(groups), return_inverse=True)
    patients = int(patient.max()) + 1
    generator = np.random.default_rng(seed)
    block = max(1, min(draws, _BLOCK // max(len(patient), patients)))
    results = []
    for start in range(0, draws, block):
        size = min(block, draws - start)
        drawn = generator.integers(patients, size=(size, patients))
        cells = (drawn + np.arange(size)[:, None] * patients).ravel()
        counts = np.bincount(cells, minlength=size * patients).reshape(size, patients)
        weights = np.ascontiguousarray(counts.T.astype(np.float32))[patient]
        results.append(statistic(weights))
    return np.concatenate(results)


def estimates(
    values: Sequence[float], resampled: Float[np.ndarray, "draws values"], level: float = 0.95
) -> list[Estimate]:
    """Percentile intervals for `values` from their resampled counterparts.

    Draws in which a value is undefined (no positive was drawn) do not count for it.
    """
    result = []
    tails = (100 * (1 - level) / 2, 100 * (1 + level) / 2)
    for value, column in zip(values, resampled.T, strict=True):
        column = column[~np.isnan(column)]
        if math.isnan(value) or not len(column):
            result.append(Estimate(float(value), math.nan, math.nan))
        else:
            low, high = np.percentile(column, tails)
            result.append(Estimate(float(value), float(low), float(high)))
    return result
