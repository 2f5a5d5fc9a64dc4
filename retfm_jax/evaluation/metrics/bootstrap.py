"""Confidence intervals: patients are resampled, with all their eyes and reports.

Two eyes of a patient are not independent, so an interval that resamples images is too narrow. A
resample of patients is an integer weight for every sample (how often its patient was sampled), so
every statistic is a function of weights, computed for many resamples at once.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

#: Elements of one block of weights: bounds memory at 64 MiB whatever the number of draws.
_BLOCK = 1 << 24

#: Resampled values that differ by less differ by rounding alone.
_ALIKE = 1e-6

Weights = Float[np.ndarray, "samples draws"]


#: What an interval of `estimates` is called.
BOOTSTRAP = "percentiles of the bootstrap"


class Estimate(NamedTuple):
    """A value with its 95% interval.

    Attributes:
      value: NaN where it is not defined.
      low, high: limits of the interval; NaN where there is none.
      interval: the method that gave the interval, in words.
      left_out: resamples in which the value is not defined; they do not count.
    """

    value: float
    low: float
    high: float
    interval: str = ""
    left_out: int = 0

    @property
    def has_interval(self) -> bool:
        """Whether the limits of the interval are defined."""
        return not math.isnan(self.low)

    def to_json(self) -> dict[str, float | str | None]:
        """Converts the estimate to JSON values; undefined numbers become null."""
        numbers = {
            name: None if math.isnan(number) else round(float(number), 6)
            for name, number in zip(self._fields[:3], self[:3], strict=True)
        }
        named = {"interval": self.interval} if self.has_interval and self.interval else {}
        missing = {"resamples_left_out": self.left_out} if self.left_out else {}
        return numbers | named | missing

    def __str__(self) -> str:
        if math.isnan(self.value):
            return "–"
        if not self.has_interval:
            return f"{self.value:.3f}"
        return f"{self.value:.3f} ({self.low:.3f}–{self.high:.3f})"


def to_json(values: Mapping[str, Any]) -> dict[str, Any]:
    """Converts estimates, and what stands beside them, to JSON values.

    Args:
      values: by name; mappings among them are converted as well, and what is neither an estimate
        nor a mapping stays.
    """

    def converted(value: Any) -> Any:
        if isinstance(value, Estimate):
            return value.to_json()
        return to_json(value) if isinstance(value, Mapping) else value

    return {name: converted(value) for name, value in values.items()}


def bootstrap(
    groups: Sequence[Any] | np.ndarray,
    statistic: Callable[[Weights], Float[np.ndarray, "draws values"]],
    draws: int = 1000,
    seed: int = 0,
) -> Float[np.ndarray, "draws values"]:
    """Evaluates a statistic on resampled patients.

    Args:
      groups: each sample's patient (n); a resample has as many patients as there are, with
        replacement.
      statistic: from weights (n, draws), whole numbers as float32, to values (draws, values).
      draws: number of resamples.
      seed: equal seeds sample equal patients, so that intervals of two protocols are comparable.

    Returns:
      the statistic of every resample (draws, values), NaN where a resample leaves it undefined.
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
    values: Sequence[float] | Float[np.ndarray, " values"],
    resampled: Float[np.ndarray, "draws values"],
    level: float = 0.95,
) -> list[Estimate]:
    """Computes percentile intervals of values from their resampled counterparts.

    A resample in which a value is undefined (no positive was sampled) does not count for that
    value. There is no interval where all resamples agree: they do not show what other patients
    would give.

    Args:
      values: the statistics of the whole sample (values), NaN where undefined.
      resampled: the same of every resample (draws, values), NaN where undefined.
      level: coverage of the intervals, 0 < level < 1.

    Returns:
      an estimate for each value, in their order.
    """
    result = []
    tails = (100 * (1 - level) / 2, 100 * (1 + level) / 2)
    for value, column in zip(values, resampled.T, strict=True):
        defined = column[~np.isnan(column)]
        left_out = len(column) - len(defined)
        if math.isnan(value) or not len(defined) or np.ptp(defined) < _ALIKE:
            result.append(Estimate(float(value), math.nan, math.nan, left_out=left_out))
        else:
            low, high = np.percentile(defined, tails)
            result.append(Estimate(float(value), float(low), float(high), BOOTSTRAP, left_out))
    return result


def ratio(part: Any, whole: Any) -> Float[np.ndarray, "..."]:
    """Divides counts; NaN where there is no whole.

    Args:
      part, whole: numbers or arrays that broadcast.
    """
    part, whole = np.broadcast_arrays(np.asarray(part, np.float64), np.asarray(whole, np.float64))
    return np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole != 0)


def weighted_mean(
    values: Float[np.ndarray, " samples"], weights: Weights
) -> Float[np.ndarray, " draws"]:
    """Mean over the samples in which a value is defined; NaN where a resample has none of them.

    Args:
      values: of every sample, NaN where undefined.
      weights: as `bootstrap` hands them to a statistic.
    """
    known = ~np.isnan(values)
    return ratio(values[known] @ weights[known], weights[known].sum(0))
