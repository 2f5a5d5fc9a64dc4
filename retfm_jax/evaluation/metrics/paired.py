"""Differences of models on the same samples, tested by patient.

All models are measured on the same resampled patients, so what makes a resample easy is easy for
all of them and cancels in a difference. Several networks of one model (seeds) are averaged inside
each resample: intervals speak of other patients, not of other seeds.

The test. With d the difference, s the larger of its standard deviations over the bootstrap and by
the jackknife over patients, d / s has Student's t distribution, with Satterthwaite's degrees of
freedom of the jackknife's u_g (what leaving patient g out does to d, centered): 2 V^2 / (sum u_g^4
- V^2 / G) with V = sum u_g^2, at most G - 1. Where few patients carry a difference, as the ten that
have a rare disease do, these are few. Percentiles of the bootstrap know nothing of this: of two
equal models they found a "difference" at the 5 % level twice as often as they should. Nor do they
reach the small p that a correction for many pairs wants: of 2,000 draws the least is 0.001.
"""

import dataclasses
import itertools
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import scipy.sparse
from jaxtyping import Bool, Float
from scipy import special

from retfm_jax.errors import UserError
from retfm_jax.evaluation.metrics.bootstrap import Estimate, Weights, bootstrap, estimates
from retfm_jax.evaluation.metrics.classification import (
    Confusion,
    Labels,
    Scores,
    cohen_kappa,
    f1_scores,
    quadratic_kappa,
    recalls,
    weighted_auroc,
    weighted_ranking,
)
from retfm_jax.evaluation.metrics.grades import Order
from retfm_jax.evaluation.metrics.predictions import Predictions

#: What an interval of a difference is called.
STUDENT = "Student's t, by patient: bootstrap and jackknife, Satterthwaite's degrees of freedom"
#: Parts of the patients that the jackknife leaves out in turn; single patients up to as many.
_PARTS = 400
_TAIL = 0.025
#: Numbers that differ by less differ by rounding alone, as of two models that say the same.
_ALIKE = 1e-7

#: Metrics of a task as a whole, by the names that `classification` gives them.
METRICS = ("auroc", "average_precision", "aca", "accuracy", "f1", "kappa", "quadratic_kappa")

#: Greatest difference between two models by those metrics whose values are not from 0 to 1.
WIDEST = {"kappa": 2.0, "quadratic_kappa": 2.0}

#: From weights of samples (n, draws) to the metric under each weighting (draws), NaN where it is
#: not defined.
Statistic = Callable[[Weights], Float[np.ndarray, " draws"]]


@dataclasses.dataclass(frozen=True)
class Difference:
    """What one model has over another on the same samples.

    Attributes:
      value: the first model's metric less the second's, with its interval.
      p: two-sided, that other patients give a difference at least as large where there is none; NaN
        where nothing can be said.
      error: standard error of the value; 0 where no resample differs, NaN like p.
      freedom: degrees of freedom of its t distribution.
    """

    value: Estimate
    p: float
    error: float
    freedom: float


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Models on the same samples.

    Attributes:
      values: of each model, with percentiles of the bootstrap.
      differences: of every pair of models, in the order of `values`.
      spread: by model, standard deviation over its seeds; NaN of a single one.
    """

    values: Mapping[str, Estimate]
    differences: Mapping[tuple[str, str], Difference]
    spread: Mapping[str, float]

    def difference(self, first: str, second: str) -> Difference:
        """What the first model has over the second.

        Args:
          first, second: names of two different models.

        Raises:
          KeyError: one is not compared.
        """
        if (first, second) in self.differences:
            return self.differences[first, second]
        found = self.differences[second, first]
        turned = found.value
        turned = turned._replace(value=-turned.value, low=-turned.high, high=-turned.low)
        return dataclasses.replace(found, value=turned)


def compare(
    models: Mapping[str, Sequence[Statistic]],
    groups: Sequence[Any] | np.ndarray,
    draws: int = 2000,
    seed: int = 0,
    widest: float = 1.0,
) -> Comparison:
    """Measures models and the difference of every two of them, by patient.

    Args:
      models: by name, the statistics of its seeds, at least one; all over the same samples.
      groups: each sample's patient (n).
      draws: number of resamples of the bootstrap, at least 2.
      seed: of the resamples.
      widest: the greatest difference that the metric allows, at which intervals of differences are
        cut; infinity for none.
    """
    names = list(models)
    _, patient = np.unique(np.asarray(groups), return_inverse=True)
    parts = min(int(patient.max()) + 1, _PARTS)

    def statistic(weights: Weights) -> Float[np.ndarray, "draws models"]:
        each = [np.mean([seed(weights) for seed in seeds], axis=0) for seeds in models.values()]
        return np.stack(each, axis=1)

    alone = [
        [float(seed(np.ones((len(patient), 1), np.float32))[0]) for seed in seeds]
        for seeds in models.values()
    ]
    values = [float(np.mean(each)) for each in alone]
    resampled = bootstrap(groups, statistic, draws, seed)
    left_out = _jackknife(statistic, patient % parts, parts)
    differences = {
        (names[i], names[j]): _difference(
            values[i] - values[j],
            resampled[:, i] - resampled[:, j],
            left_out[:, i] - left_out[:, j],
            int(patient.max()) + 1,
            widest,
        )
        for i, j in itertools.combinations(range(len(names)), 2)
    }
    spread = [float(np.std(each, ddof=1)) if len(each) > 1 else math.nan for each in alone]
    return Comparison(
        values=dict(zip(names, estimates(values, resampled), strict=True)),
        differences=differences,
        spread=dict(zip(names, spread, strict=True)),
    )


def _jackknife(
    statistic: Callable[[Weights], Float[np.ndarray, "draws models"]],
    part: np.ndarray,
    parts: int,
) -> Float[np.ndarray, "parts models"]:
    """Leaves out each part of the patients in turn; some at a time, as their weights take memory.

    Args:
      statistic: from weights (n, draws) to values (draws, models).
      part: of each sample (n).
      parts: their number.
    """
    block = max(1, (1 << 24) // len(part))
    found = []
    for start in range(0, parts, block):
        numbers = np.arange(start, min(start + block, parts))
        found.append(statistic((part[:, None] != numbers).astype(np.float32)))
    return np.concatenate(found)


def _difference(
    value: float,
    resampled: Float[np.ndarray, " draws"],
    left_out: Float[np.ndarray, " parts"],
    patients: int,
    widest: float,
) -> Difference:
    """Tests one difference; see the module."""
    undefined = int(np.isnan(resampled).sum())
    resampled, left_out = (each[~np.isnan(each)] for each in (resampled, left_out))
    if math.isnan(value) or len(resampled) < 2 or len(left_out) < 2:
        unknown = Estimate(value, math.nan, math.nan, left_out=undefined)
        return Difference(unknown, math.nan, math.nan, math.nan)
    parts = len(left_out)
    excess = left_out - left_out.mean()
    total = float((excess**2).sum())
    error = max(float(resampled.std(ddof=1)), math.sqrt((parts - 1) / parts * total))
    unlike = float((excess**4).sum()) - total**2 / parts
    freedom = min(parts - 1.0, 2 * total**2 / unlike) if unlike > 0 else parts - 1.0
    if error < _ALIKE:
        # Exchanging two models' answers patient by patient gives one of 2^patients outcomes.
        p = 1.0 if abs(value) < _ALIKE else min(1.0, 2.0 ** (1 - patients))
        unvaried = Estimate(value, math.nan, math.nan, left_out=undefined)
        return Difference(unvaried, p, 0.0, freedom)
    found = _tested(value, error, freedom)
    low, high = max(found.value.low, -widest), min(found.value.high, widest)
    within = found.value._replace(low=low, high=high, left_out=undefined)
    return dataclasses.replace(found, value=within)


def _tested(value: float, error: float, freedom: float) -> Difference:
    p = float(2 * special.stdtr(freedom, -abs(value) / error))
    half = float(special.stdtrit(freedom, 1 - _TAIL)) * error
    return Difference(Estimate(value, value - half, value + half, STUDENT), p, error, freedom)


def average(differences: Sequence[Difference], populations: Sequence[int]) -> Difference:
    """The mean of differences on several test sets.

    Of sets without common patients variances add: with standard errors s_k of K populations the
    mean of T differences has the error sqrt(sum s_k^2) / T, and Satterthwaite's degrees of freedom
    (sum s_k^2)^2 / sum (s_k^4 / f_k). Errors of sets of the same patients add up to s_k as if they
    moved together, the most that they can. It speaks of other patients of these sets, not of other
    sets.

    Args:
      differences: of the same two models, at least one.
      populations: of each set a number; sets of the same patients have the same one.
    """
    if len(differences) == 1:
        return differences[0]
    value = float(np.mean([each.value.value for each in differences]))
    of: dict[int, tuple[float, float]] = {}
    for each, population in zip(differences, populations, strict=True):
        error, freedom = of.get(population, (0.0, math.inf))
        of[population] = error + each.error, min(freedom, each.freedom)
    errors, freedoms = np.array(list(of.values())).T
    if math.isnan(value) or np.isnan(errors).any():
        return Difference(Estimate(value, math.nan, math.nan), math.nan, math.nan, math.nan)
    total = float((errors**2).sum())
    if not total:
        p = 1.0 if abs(value) < _ALIKE else min(each.p for each in differences)
        return Difference(Estimate(value, math.nan, math.nan), p, 0.0, float(freedoms.sum()))
    freedom = total**2 / float((errors**4 / freedoms).sum())
    return _tested(value, math.sqrt(total) / len(differences), freedom)


def macro_auroc(predictions: Predictions) -> Statistic:
    """Unweighted mean over classes of the area under the ROC curve, ties counting half.

    Args:
      predictions: scores and truth; a class without positives or without negatives is left out.
    """
    return _ranking(predictions, weighted_auroc)


def macro_average_precision(predictions: Predictions) -> Statistic:
    """Unweighted mean over classes of the average precision (AUPR by steps).

    Args:
      predictions: scores and truth; a class without positives or without negatives is left out.
    """
    return _ranking(predictions, lambda *of: weighted_ranking(*of)[1])


def _ranking(
    predictions: Predictions,
    of_class: Callable[[Labels, Scores, Weights], Float[np.ndarray, " draws"]],
) -> Statistic:
    """A ranking metric as its mean over the classes of which a resample has both values."""
    columns = []
    for truth, scores in zip(predictions.labels.T, predictions.scores.T, strict=True):
        known = np.flatnonzero(truth >= 0)
        if 0 < (truth[known] == 1).sum() < len(known):
            columns.append((known, truth[known], scores[known]))

    def of(known: np.ndarray, truth: Labels, scores: Scores) -> Statistic:
        return lambda weights: of_class(truth, scores, weights[known])

    return mean_of([of(*column) for column in columns])


_RANKING = {"auroc": macro_auroc, "average_precision": macro_average_precision}


def _of_confusion(
    predictions: Predictions,
    metric: Callable[[Confusion], Any],
) -> Statistic:
    """A metric of confusion matrices, the predicted class being the likeliest."""
    confusion = _confusion(predictions)
    return lambda weights: np.asarray(metric(confusion(weights)), np.float64)


def statistic(metric: str, predictions: Predictions, order: Order | None = None) -> Statistic:
    """A metric of a task as a whole, as `classification` defines it.

    Args:
      metric: one of `METRICS`.
      predictions: scores and truth.
      order: of the classes, for the quadratic kappa.

    Raises:
      UserError: the metric is not defined for these samples.
    """
    if metric in _RANKING:
        return _RANKING[metric](predictions)
    if metric == "quadratic_kappa" and order is None:
        raise UserError("a quadratic kappa wants classes that are grades; take kappa as the metric")
    positions = order.of(predictions.names) if order is not None else None
    present = predictions.labels.any(0)
    metrics: Mapping[str, Callable[[Confusion], Any]] = {
        "aca": lambda confusion: _defined_mean(recalls(confusion)[:, present]),
        "accuracy": lambda confusion: _diagonal(confusion) / confusion.sum((-2, -1)),
        "f1": lambda confusion: _defined_mean(f1_scores(confusion)[:, present]),
        "kappa": cohen_kappa,
        "quadratic_kappa": lambda confusion: quadratic_kappa(confusion, positions),
    }
    return _of_confusion(predictions, metrics[metric])


def _diagonal(confusion: Confusion) -> Float[np.ndarray, " draws"]:
    return np.trace(confusion, axis1=-2, axis2=-1)


def _confusion(predictions: Predictions) -> Callable[[Weights], Float[np.ndarray, "draws c c"]]:
    if not predictions.exclusive:
        raise UserError(
            "the samples have findings, of which none, one or several hold: nothing says which "
            "are predicted; take auroc or average_precision as the metric"
        )
    count, classes = predictions.labels.shape
    cell = predictions.labels.argmax(1) * classes + predictions.scores.argmax(1)
    cells = scipy.sparse.csr_matrix(
        (np.ones(count, np.float32), (cell, np.arange(count))), (classes**2, count)
    )
    return lambda weights: (cells @ weights).T.reshape(-1, classes, classes)


def mean(values: Bool[np.ndarray, " n"] | Float[np.ndarray, " n"]) -> Statistic:
    """The mean of a number of each sample: a hit of a retrieval, the Dice of an image.

    Args:
      values: (n) bool or floats; NaN where a sample has none.
    """
    known = np.flatnonzero(~np.isnan(np.asarray(values, np.float64)))
    numbers = np.asarray(values, np.float64)[known]

    def statistic(weights: Weights) -> Float[np.ndarray, " draws"]:
        with np.errstate(invalid="ignore", divide="ignore"):
            return numbers @ weights[known] / weights[known].sum(0)

    return statistic


def mean_of(statistics: Sequence[Statistic]) -> Statistic:
    """The unweighted mean of statistics, as of classes; a resample goes without those it lacks.

    Args:
      statistics: of the same samples; of none the mean is not defined.
    """

    def statistic(weights: Weights) -> Float[np.ndarray, " draws"]:
        if not statistics:
            return np.full(weights.shape[1], math.nan)
        return _defined_mean(np.stack([each(weights) for each in statistics], axis=-1))

    return statistic


def _defined_mean(values: Float[np.ndarray, "draws classes"]) -> Float[np.ndarray, " draws"]:
    """Mean over classes; a resample without one goes without it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return np.nanmean(values, axis=1)


def check_same(models: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuses models that were not measured on the same samples with the same labels.

    Args:
      models: by the model's name what must be alike, by a word for it: see `sample_facts`.

    Raises:
      UserError: two differ; the message names them and what differs.
    """
    (name, first), *others = models.items()
    for other, found in others:
        for what, value in first.items():
            if found.get(what) != value:
                raise UserError(
                    f"{name} and {other} were measured on different {what}: only models on the "
                    "same test samples can be compared; measure one of them again"
                )


def sample_facts(predictions: Predictions) -> dict[str, Any]:
    """What the predictions of all models of a comparison must have in common.

    Args:
      predictions: of one model.
    """
    return {
        "classes": predictions.names,
        "samples": tuple(predictions.samples),
        "patients": tuple(predictions.patients),
        "labels": np.asarray(predictions.labels, np.int64).tobytes(),
    }
