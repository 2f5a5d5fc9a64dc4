"""Ranks of models: which tests hold among many, and who cannot be told apart."""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import stats

#: Level of significance of ranks and groups, after the correction for many pairs.
LEVEL = 0.05


def holm(p: Sequence[float]) -> list[float]:
    """Corrects p-values of a family by Holm's step-down procedure (1979).

    With p sorted, p_(1) <= ... <= p_(m): the corrected p_(i) is the largest of min(1, (m - j + 1)
    p_(j)) over j <= i. Rejecting where it is at most a keeps the chance of any false rejection in
    the family at most a, however the tests depend on each other.

    Args:
      p: of each test; NaN where one could not be made: it stays NaN and does not count.

    Returns:
      corrected values in the order of the tests.
    """
    corrected = [math.nan] * len(p)
    order = sorted((i for i in range(len(p)) if not math.isnan(p[i])), key=lambda i: p[i])
    least = 0.0
    for done, i in enumerate(order):
        least = max(least, min(1.0, (len(order) - done) * p[i]))
        corrected[i] = least
    return corrected


def ranks(values: Mapping[str, float], apart: Collection[tuple[str, str]]) -> dict[str, int]:
    """Ranks within a comparison: one more than the number of models that are proven better.

    Models that share the first place cannot be told from any better one.

    Args:
      values: of each model, higher is better.
      apart: pairs of models whose difference is significant, in any order.
    """
    both = {frozenset(pair) for pair in apart}
    return {
        name: 1 + sum(values[o] > value and frozenset((name, o)) in both for o in values)
        for name, value in values.items()
    }


def average_ranks(values: Float[np.ndarray, "blocks models"]) -> Float[np.ndarray, " models"]:
    """Mean over blocks of the models' places, 1 the best; models with one value share their places.

    Args:
      values: of each model in each comparison, higher is better.
    """
    return stats.rankdata(-np.asarray(values), axis=1).mean(0)


class Friedman(NamedTuple):
    """Friedman's test that all models rank alike.

    Attributes:
      statistic: chi-squared with as many degrees of freedom as models less one, with the correction
        for ties; NaN with fewer than two blocks or models.
      p: by its approximate distribution, which wants some ten blocks.
    """

    statistic: float
    p: float


def friedman(values: Float[np.ndarray, "blocks models"]) -> Friedman:
    """Tests whether models rank alike over blocks, test sets without common patients.

    With b blocks, k models and rank sums R_j: 12 sum (R_j - b (k + 1) / 2)^2 / (b k (k + 1) - sum
    (t^3 - t) / (k - 1)), the last sum over groups of t tied models in a block.

    Args:
      values: of each model in each block, higher is better.
    """
    values = np.asarray(values, np.float64)
    blocks, models = values.shape
    if blocks < 2 or models < 2:
        return Friedman(math.nan, math.nan)
    sums = stats.rankdata(values, axis=1).sum(0)
    tied = sum(
        float((counts**3 - counts).sum())
        for counts in (np.unique(row, return_counts=True)[1] for row in values)
    )
    spread = 12 * float(((sums - blocks * (models + 1) / 2) ** 2).sum())
    scale = blocks * models * (models + 1) - tied / (models - 1)
    if scale <= 0:  # all models tie everywhere
        return Friedman(0.0, 1.0)
    return Friedman(spread / scale, float(stats.chi2.sf(spread / scale, models - 1)))


def cliques(order: Sequence[str], apart: Collection[tuple[str, str]]) -> list[tuple[str, ...]]:
    """Groups of neighbors in an order, of whom no two are told apart; none within another.

    These are the bars of a critical-difference picture (Demsar, JMLR 2006).

    Args:
      order: names, the best first.
      apart: pairs of them whose difference is significant, in any order.

    Returns:
      groups of at least two, from the best on.
    """
    both = {frozenset(pair) for pair in apart}
    found, last = [], 0
    for start in range(len(order)):
        end = start + 1
        while end < len(order) and not any(
            frozenset((order[end], other)) in both for other in order[start:end]
        ):
            end += 1
        if end - start > 1 and end > last:
            found.append(tuple(order[start:end]))
            last = end
    return found


def significant(
    p: Mapping[tuple[str, str], float], level: float = LEVEL
) -> dict[tuple[str, str], float]:
    """Corrects the p-values of pairs and keeps those that are significant.

    Args:
      p: of every pair of a comparison.
      level: of the whole family of pairs.

    Returns:
      corrected p-values of the pairs told apart.
    """
    corrected = holm(list(p.values()))
    return {pair: each for pair, each in zip(p, corrected, strict=True) if each <= level}
