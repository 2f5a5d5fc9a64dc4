"""How far probabilities are frequencies, and how often prediction sets hold the truth."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from retfm_jax.evaluation.metrics import intervals
from retfm_jax.evaluation.metrics.bootstrap import Estimate, Weights, bootstrap, estimates
from retfm_jax.evaluation.metrics.classification import CALIBRATION_BINS, calibration_bins

#: Probabilities below it count as this in logarithms: float32 has zeros where the truth is not.
_LEAST = 1e-7

Groups = Sequence[Any] | np.ndarray


def calibration(
    probabilities: Float[np.ndarray, "n c"],
    labels: Int[np.ndarray, "n c"],
    findings: bool,
    groups: Groups,
    draws: int = 1000,
    seed: int = 0,
) -> dict[str, Estimate]:
    """Measures calibration, with intervals by patient.

    Args:
      probabilities: of each class, 0 to 1.
      labels: multi-hot, -1 where unknown; with classes that exclude each other exactly one 1.
      findings: whether classes hold independently of each other.
      groups: each sample's patient (n).
      draws: number of resamples of the bootstrap.
      seed: of the resamples.

    Returns:
      `expected_calibration_error`: of the predicted class's probability; of findings over all of
      their probabilities (Naeini 2015, bins of equal width); `negative_log_likelihood`, the mean of
      `-log p` of what is true, in nats; `brier`, the mean over samples of `sum_k (p_k - y_k)^2`,
      of findings over those that are known of `(p_k - y_k)^2`.
    """
    probabilities = np.asarray(probabilities, np.float64)
    known, present = labels >= 0, labels == 1
    squares = np.where(known, (probabilities - present) ** 2, 0).sum(1)
    truth = np.clip(np.where(present, probabilities, 1 - probabilities), _LEAST, 1)
    if findings:
        logs, counts = np.where(known, -np.log(truth), 0).sum(1), known.sum(1)
        gaps = _gaps(probabilities, present, known)
    else:
        logs, counts = np.where(present, -np.log(truth), 0).sum(1), np.ones(len(labels))
        best = probabilities.argmax(1)[:, None]
        confidence = np.take_along_axis(probabilities, best, 1)
        right = np.take_along_axis(present, best, 1)
        gaps = _gaps(confidence, right, np.ones_like(right))

    def statistic(weights: Weights) -> Float[np.ndarray, "draws 3"]:
        total = counts @ weights
        with np.errstate(invalid="ignore", divide="ignore"):
            error = np.abs(gaps.T @ weights).sum(0) / total
            return np.stack([error, logs @ weights / total, squares @ weights / total], 1)

    values = statistic(np.ones((len(labels), 1), np.float32))[0]
    found = estimates(values, bootstrap(groups, statistic, draws, seed))
    names = ("expected_calibration_error", "negative_log_likelihood", "brier")
    return dict(zip(names, found, strict=True))


def _gaps(
    confidence: Float[np.ndarray, "n k"], right: Bool[np.ndarray, "n k"], known: np.ndarray
) -> Float[np.ndarray, "n bins"]:
    """Sum of right - confidence of each sample in each bin."""
    gaps = np.zeros((len(confidence), CALIBRATION_BINS))
    for column in range(confidence.shape[1]):
        rows = np.flatnonzero(known[:, column])
        of_class = confidence[rows, column]
        gaps[rows, calibration_bins(of_class)] += right[rows, column] - of_class
    return gaps


def set_coverage(
    sets: Bool[np.ndarray, "n c"],
    labels: Int[np.ndarray, "n c"],
    findings: bool,
    groups: Groups,
    names: Sequence[str],
    draws: int = 1000,
    seed: int = 0,
) -> tuple[Mapping[str, Estimate], Mapping[str, Estimate]]:
    """Measures prediction sets with one vote a patient, as they were fitted, with intervals.

    Args:
      sets: the classes of each sample that cannot be ruled out.
      labels: multi-hot, -1 where unknown; with classes that exclude each other exactly one 1.
      findings: whether classes hold independently of each other.
      groups: each sample's patient (n).
      names: of the classes.
      draws: number of resamples of the bootstrap.
      seed: of the resamples.

    Returns:
      overall `coverage`, the share of patients' images whose set holds their class (of findings the
      mean over them of the share among images that have it), `set_size`, the mean number of classes
      in a set, `empty`, the share of sets without any, and `single`, of those with one. And the
      coverage among the images of each class, of those that have any.
    """
    _, patient = np.unique(np.asarray(groups), return_inverse=True)
    patients = int(patient.max()) + 1
    truth, size = labels == 1, sets.sum(1)
    there = np.flatnonzero(truth.any(0)).tolist()
    all_votes = _votes(np.ones(len(labels), bool), patient)
    columns = {names[column]: (sets[:, column], truth[:, column]) for column in there}
    shares = {} if findings else {"coverage": (sets & truth).any(1)}
    shares |= {"empty": size == 0, "single": size == 1, "set_size": size}
    values = np.stack([hit for hit, _ in columns.values()] + [*shares.values()], 1).astype(float)
    votes = np.stack(
        [_votes(has, patient) for _, has in columns.values()] + [all_votes] * len(shares), 1
    )

    def statistic(weights: Weights) -> Float[np.ndarray, "draws values"]:
        with np.errstate(invalid="ignore", divide="ignore"):
            means = weights.T @ (votes * values) / (weights.T @ votes)
        # A resample without a class goes without it.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            macro = np.nanmean(means[:, : len(columns)], 1, keepdims=True)
        return np.concatenate([means, macro], 1)

    means = statistic(np.ones((len(labels), 1), np.float32))[0]
    found = estimates(means, bootstrap(groups, statistic, draws, seed))
    counts = [len(np.unique(patient[has])) for _, has in columns.values()]
    counts += [patients] * (len(shares) - 1)
    exact = [_exact(each, count) for each, count in zip(found, counts, strict=False)]
    found = exact + found[len(exact) :]
    by_class = dict(zip(columns, found, strict=False))
    overall = dict(zip(shares, found[len(columns) :], strict=False))
    if findings:
        overall["coverage"] = found[-1]
    order = ("coverage", "set_size", "empty", "single")
    return {name: overall[name] for name in order}, by_class


def _votes(counted: Bool[np.ndarray, " n"], patient: np.ndarray) -> Float[np.ndarray, " n"]:
    """One vote of each patient, shared by its samples that count; 0 for all others."""
    of_patient = np.bincount(patient, counted)[patient]
    return np.divide(counted, of_patient, out=np.zeros(len(counted)), where=of_patient > 0)


def _exact(found: Estimate, patients: int) -> Estimate:
    """A share of all or none of the patients, which no resample varies, with an exact interval."""
    if found.has_interval or found.value not in (0.0, 1.0):
        return found
    limits = intervals.clopper_pearson(found.value * patients, patients)
    return Estimate(found.value, *limits, intervals.EXACT)
