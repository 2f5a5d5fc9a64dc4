"""The field's metrics with intervals by patient, for multi-label and for single-label tasks.

Values come from scikit-learn. Intervals need each metric on a thousand resamples, so each has a
weighted form here as well; tests hold it equal to scikit-learn with `sample_weight`. It is imported
where it is called: with what it takes in, such as pandas, that takes more than a second, and most
runs that could call it do not.
"""

import dataclasses
import functools
import itertools
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import scipy.sparse
from jaxtyping import Float, Int, Num

from retfm_jax import extras
from retfm_jax.evaluation.metrics import intervals
from retfm_jax.evaluation.metrics.bootstrap import (
    Estimate,
    Weights,
    bootstrap,
    estimates,
    to_json,
)

Labels = Int[np.ndarray, " samples"]
Scores = Float[np.ndarray, " samples"]
MultiHot = Int[np.ndarray, "samples classes"]
Confusion = Float[np.ndarray, "*draws classes classes"]
#: Of one confusion matrix a number.
_Kappa = Float[np.ndarray, "*draws"] | np.float64

#: With fewer patients that have a class, or that do not, percentiles of the bootstrap of ranking
#: metrics are too narrow.
FEW = 10
#: Bins of the expected calibration error.
CALIBRATION_BINS = 15


def auroc(labels: Labels, scores: Scores) -> float:
    """Area under the ROC curve; NaN where only one value of the label occurs.

    Args:
      labels: 1 positive, 0 negative; (n) integers.
      scores: higher means more likely positive; (n) floats of any scale.
    """
    if not 0 < labels.sum() < len(labels):
        return math.nan
    with extras.needed("eval"):
        from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(labels, scores))


def average_precision(labels: Labels, scores: Scores) -> float:
    """Average precision (AUPR by steps); NaN where only one value of the label occurs.

    Args:
      labels: 1 positive, 0 negative; (n) integers.
      scores: higher means more likely positive; (n) floats of any scale.
    """
    if not 0 < labels.sum() < len(labels):
        return math.nan
    with extras.needed("eval"):
        from sklearn.metrics import average_precision_score

    return float(average_precision_score(labels, scores))


def weighted_ranking(
    labels: Labels, scores: Scores, weights: Weights
) -> tuple[Float[np.ndarray, " draws"], Float[np.ndarray, " draws"]]:
    """AUROC and average precision of one class under many sample weightings at once.

    With samples sorted by falling score, and t_k, f_k the weight of positives and negatives down to
    the k-th distinct score:
    AUROC = sum_k dt_k (F - f_k + df_k / 2) / (T F);  AP = sum_k dt_k / T * t_k / (t_k + f_k).

    Args:
      labels: 1 positive, 0 negative; (n) integers.
      scores: higher means more likely positive; (n) floats of any scale.
      weights: of the samples, one column a weighting; (n, draws) float32, at least 0.

    Returns:
      AUROC and average precision (draws), NaN for weightings without a positive or without a
      negative.
    """
    order = np.argsort(-scores, kind="stable")
    scores, positive = scores[order], labels[order].astype(bool)
    starts = np.flatnonzero(np.r_[True, scores[1:] != scores[:-1]])
    weights = weights[order]
    true = np.add.reduceat(weights * positive[:, None], starts, axis=0)
    false = np.add.reduceat(weights * ~positive[:, None], starts, axis=0)
    above_true, above_false = np.cumsum(true, axis=0), np.cumsum(false, axis=0)
    # Only scores at which a positive stands contribute to either sum.
    steps = np.add.reduceat(positive, starts).astype(bool)
    true, false = true[steps].astype(np.float64), false[steps]
    all_true, all_false = above_true[-1], above_false[-1]
    above_true, above_false = above_true[steps], above_false[steps]
    with np.errstate(invalid="ignore", divide="ignore"):
        beaten = all_false - above_false + false / 2
        area = (true * beaten).sum(0) / (all_true.astype(np.float64) * all_false)
        reached = above_true + above_false
        precision = np.divide(above_true, reached, out=np.zeros_like(reached), where=reached > 0)
        ap = (true * precision).sum(0) / all_true
    undefined = (all_true == 0) | (all_false == 0)
    return np.where(undefined, np.nan, area), np.where(undefined, np.nan, ap)


def weighted_auroc(labels: Labels, scores: Scores, weights: Weights) -> Float[np.ndarray, " draws"]:
    """AUROC of one class under many sample weightings at once, for large tables of weightings.

    It is `weighted_ranking`'s, from the places of the more frequent side among the distinct scores
    of the rarer one: memory and time go with the number of the rarer.

    Args:
      labels: 1 positive, 0 negative; (n) integers.
      scores: higher means more likely positive; (n) floats of any scale.
      weights: of the samples, one column a weighting; (n, draws) float32, whole numbers.

    Returns:
      AUROC (draws), NaN for weightings without a positive or without a negative.
    """
    positive = labels == 1
    swapped = positive.sum() > len(labels) / 2
    few, many = (~positive, positive) if swapped else (positive, ~positive)
    levels, level = np.unique(scores[few], return_inverse=True)
    # An even place lies between two levels, an odd one on a level.
    place = np.searchsorted(levels, scores[many], "left")
    place = place + np.searchsorted(levels, scores[many], "right")
    shape = (2 * len(levels) + 1, len(labels))
    placed = _indicator(place, np.flatnonzero(many), shape) @ weights
    at_level = _indicator(level, np.flatnonzero(few), (len(levels), len(labels))) @ weights
    reached = np.cumsum(placed, axis=0)
    below = reached[:-1:2] + placed[1::2] / 2
    beaten = np.einsum("kd,kd->d", at_level, below, dtype=np.float64)
    pairs = at_level.sum(0, dtype=np.float64) * reached[-1]
    with np.errstate(invalid="ignore", divide="ignore"):
        area = np.where(pairs > 0, beaten / pairs, np.nan)
    return 1 - area if swapped else area


def _indicator(
    rows: Int[np.ndarray, " k"], columns: Int[np.ndarray, " k"], shape: tuple[int, int]
) -> scipy.sparse.csr_matrix:
    """Sparse matrix with a 1 at each of the places."""
    return scipy.sparse.csr_matrix((np.ones(len(rows), np.float32), (rows, columns)), shape)


@dataclasses.dataclass(frozen=True)
class MultiLabelMetrics:
    """Metrics of how well scores rank samples, class by class.

    Attributes:
      classes: of every class that has both values: AUROC, average precision, counts.
      macro: unweighted means over these classes.
      left_out: the other classes with the reason.
      caveats: what the intervals cannot say, in sentences.
    """

    classes: Mapping[str, Mapping[str, Any]]
    macro: Mapping[str, Estimate]
    left_out: Mapping[str, str]
    caveats: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Converts the metrics to JSON values."""
        return {
            "macro": to_json(self.macro),
            "classes": to_json(self.classes),
            "left_out": dict(self.left_out),
            "caveats": list(self.caveats),
        }


def multi_label(
    labels: MultiHot,
    scores: Float[np.ndarray, "samples classes"],
    names: Sequence[str],
    groups: Sequence[Any] | np.ndarray,
    draws: int = 1000,
    seed: int = 0,
) -> MultiLabelMetrics:
    """AUROC and average precision per class and macro, with intervals by patient.

    Args:
      labels: 1 present, 0 absent, -1 unknown, which is left out of its class; (n, classes)
        integers.
      scores: higher means more likely present; (n, classes) floats of any scale.
      names: of the classes.
      groups: each sample's patient (n).
      draws: number of resamples of the bootstrap.
      seed: of the resamples.
    """
    used: list[int] = []
    left_out, counts = {}, {}
    for index, name in enumerate(names):
        positives = int((labels[:, index] == 1).sum())
        negatives = int((labels[:, index] == 0).sum())
        counts[name] = {"positives": positives, "negatives": negatives}
        if positives and negatives:
            used.append(index)
        else:
            missing = "positive" if not positives else "negative"
            left_out[name] = f"no {missing} among {positives + negatives} labeled samples"
    if not used:
        undefined = Estimate(math.nan, math.nan, math.nan)
        return MultiLabelMetrics({}, {"auroc": undefined, "average_precision": undefined}, left_out)
    rows = [np.flatnonzero(labels[:, index] >= 0) for index in used]
    columns = [
        (labels[known, index], scores[known, index])
        for index, known in zip(used, rows, strict=True)
    ]

    def statistic(weights: Weights) -> Float[np.ndarray, "draws values"]:
        pairs = [
            weighted_ranking(*column, weights[known])
            for column, known in zip(columns, rows, strict=True)
        ]
        # A rare class can lack positives in a draw; the macro mean of that draw goes without it.
        per_class = np.stack([np.stack(pair) for pair in pairs])  # (classes, 2, draws)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            macro = np.nanmean(per_class, axis=0)
        return np.concatenate([macro, per_class.reshape(-1, weights.shape[1])]).T

    values = np.array([(auroc(*column), average_precision(*column)) for column in columns])
    values = np.concatenate([values.mean(0), values.ravel()])
    result = estimates(values, bootstrap(groups, statistic, draws, seed))
    patients = np.asarray(groups)
    sides = [
        _sides(truth, patients[known]) for (truth, _), known in zip(columns, rows, strict=True)
    ]
    areas = [_area(result[2 + 2 * position], *side) for position, side in enumerate(sides)]
    classes = {
        names[index]: {
            "auroc": areas[position],
            "average_precision": result[3 + 2 * position],
            **counts[names[index]],
        }
        for position, index in enumerate(used)
    }
    macro = {"auroc": _mean(result[0], areas), "average_precision": result[1]}
    ranked = [names[index] for index in used]
    caveats = _caveats(ranked, sides, areas, macro, draws, patients)
    return MultiLabelMetrics(classes, macro, left_out, caveats)


def _sides(positive: Labels, groups: np.ndarray) -> tuple[int, int]:
    """Patients with and patients without a class; one with both kinds of samples is in both."""
    return len(np.unique(groups[positive == 1])), len(np.unique(groups[positive == 0]))


def _area(found: Estimate, with_it: int, without: int) -> Estimate:
    """An AUROC with the interval that needs no resampling where the resamples do not vary."""
    if found.has_interval or math.isnan(found.value):
        return found
    return intervals.area(found.value, with_it, without)._replace(left_out=found.left_out)


def _mean(found: Estimate, parts: Sequence[Estimate]) -> Estimate:
    """A mean over classes likewise."""
    if found.has_interval or math.isnan(found.value) or not all(p.has_interval for p in parts):
        return found
    return intervals.mean(parts)


def _caveats(
    names: Sequence[str],
    sides: Sequence[tuple[int, int]],
    areas: Sequence[Estimate],
    overall: Mapping[str, Estimate],
    draws: int,
    groups: np.ndarray,
) -> tuple[str, ...]:
    """What the intervals cannot say: of ranking metrics class by class, of the whole by metric."""
    found = []
    silent = [n for n, of in overall.items() if not (of.has_interval or math.isnan(of.value))]
    if silent and draws > 1:
        found.append(f"no interval of {', '.join(silent)}: all resamples gave the same value")
    if len(np.unique(groups)) < 2:
        found.append("all samples are of one patient: nothing can be said of other patients")
    for name, (with_it, without), area in zip(names, sides, areas, strict=True):
        if min(with_it, without) >= FEW and not area.left_out:
            continue
        lacked = f"; {area.left_out} of {draws} resamples lacked one side and do not count"
        found.append(
            f"{name}: {with_it} with it and {without} without (patients), at least {FEW} of each "
            "are wanted: intervals of AUROC and average precision are rough"
            + (lacked if area.left_out else "")
        )
    return tuple(found)


def recalls(confusion: Confusion) -> Float[np.ndarray, "*draws classes"]:
    """Recall of each class: the share of its samples that were recognized.

    Args:
      confusion: counts by true (row) and predicted (column) class, (..., classes, classes) floats.

    Returns:
      shares from 0 to 1 (..., classes), NaN for a class without samples.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.diagonal(confusion, axis1=-2, axis2=-1) / confusion.sum(-1)


def f1_scores(confusion: Confusion) -> Float[np.ndarray, "*draws classes"]:
    """F1 score of each class: 2 TP / (2 TP + FP + FN).

    Args:
      confusion: counts by true (row) and predicted (column) class, (..., classes, classes) floats.

    Returns:
      scores from 0 to 1 (..., classes), NaN for a class that is neither true nor predicted
      anywhere.
    """
    right = np.diagonal(confusion, axis1=-2, axis2=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return 2 * right / (confusion.sum(-1) + confusion.sum(-2))


def cohen_kappa(confusion: Confusion) -> _Kappa:
    """Cohen's kappa, every disagreement as bad as any other.

    Args:
      confusion: counts by true (row) and predicted (column) class, (..., classes, classes) floats.

    Returns:
      kappa (...), at most 1; NaN where chance agrees fully.
    """
    return _kappa(confusion, 1 - np.eye(confusion.shape[-1]))


def quadratic_kappa(confusion: Confusion, positions: Sequence[int] | None = None) -> _Kappa:
    """Cohen's kappa with quadratic weights, of classes that are grades: w_ij = (g_i - g_j)^2.

    Args:
      confusion: counts by true (row) and predicted (column) class, (..., classes, classes) floats.
      positions: the grade g of every class; None: the classes are in the order of their grades.

    Returns:
      kappa (...), at most 1; NaN where chance agrees fully.
    """
    steps = np.arange(confusion.shape[-1]) if positions is None else np.asarray(positions)
    return _kappa(confusion, (steps[:, None] - steps[None, :]) ** 2)


def _kappa(confusion: Confusion, weight: Num[np.ndarray, "classes classes"]) -> _Kappa:
    """1 - sum(w O) / sum(w E), E what the margins would give by chance."""
    total = confusion.sum((-2, -1))
    expected = confusion.sum(-1)[..., :, None] * confusion.sum(-2)[..., None, :]
    with np.errstate(invalid="ignore", divide="ignore"):
        return 1 - (weight * confusion).sum((-2, -1)) * total / (weight * expected).sum((-2, -1))


def calibration_bins(
    confidence: Scores, bins: int = CALIBRATION_BINS
) -> Int[np.ndarray, " samples"]:
    """Index of the bin of equal width into which each confidence falls, from 0 on.

    Args:
      confidence: probabilities in [0, 1], (n) floats.
      bins: number of bins.
    """
    return np.minimum((confidence * bins).astype(np.int64), bins - 1)


def expected_calibration_error(
    right: Labels, confidence: Scores, weights: Weights | None = None, bins: int = CALIBRATION_BINS
) -> Float[np.ndarray, " draws"]:
    """Mean over bins of `|accuracy - confidence|`, weighted by the bins' samples (Naeini 2015).

    Args:
      right: 1 where the predicted class was right, else 0 (multi-label: where the finding is
        present); (n) integers.
      confidence: the probability given to it, (n) floats in [0, 1].
      weights: of the samples, one column a resample, (n, draws) float32; None weighs all alike, as
        one resample.
      bins: number of bins of equal width.
    """
    if weights is None:
        weights = np.ones((len(right), 1), np.float32)
    bin_of = calibration_bins(confidence, bins)
    shape = (bins, len(right))
    gaps = scipy.sparse.csr_matrix((right - confidence, (bin_of, np.arange(len(right)))), shape)
    return np.abs(gaps @ weights).sum(0) / weights.sum(0)


@dataclasses.dataclass(frozen=True)
class SingleLabelMetrics:
    """Metrics of how well probabilities name the one class of each sample.

    Attributes:
      overall: aca (mean recall over classes), accuracy, macro f1, kappa (unweighted), where the
        classes are grades quadratic_kappa, macro auroc and average_precision (one class against
        the rest), expected_calibration_error.
      classes: per class sensitivity, specificity, f1, auroc, average_precision and count.
      confusion: samples by true (row) and predicted (column) class.
      left_out: classes without a sample, which no mean includes.
      caveats: what the intervals cannot say, in sentences.
    """

    overall: Mapping[str, Estimate]
    classes: Mapping[str, Mapping[str, Any]]
    confusion: Int[np.ndarray, "classes classes"]
    left_out: Mapping[str, str]
    caveats: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Converts the metrics to JSON values."""
        return {
            "overall": to_json(self.overall),
            "classes": to_json(self.classes),
            "confusion": self.confusion.tolist(),
            "left_out": dict(self.left_out),
            "caveats": list(self.caveats),
        }


def single_label(
    labels: Labels,
    probabilities: Float[np.ndarray, "samples classes"],
    names: Sequence[str],
    groups: Sequence[Any] | np.ndarray,
    draws: int = 1000,
    seed: int = 0,
    positions: Sequence[int] | None = None,
) -> SingleLabelMetrics:
    """All metrics of a task with one class a sample, with intervals by patient.

    Args:
      labels: index of the true class, (n) integers.
      probabilities: each sample's sum to 1, (n, classes) floats; the predicted class is the
        largest.
      names: of the classes.
      groups: each sample's patient (n).
      draws: number of resamples of the bootstrap.
      seed: of the resamples.
      positions: the grade of every class; None where the classes have no order: then there is no
        quadratic kappa.
    """
    classes = len(names)
    predicted = probabilities.argmax(1)
    confidence = probabilities.max(1)
    right = (predicted == labels).astype(np.int64)
    present = np.flatnonzero(np.bincount(labels, minlength=classes))
    left_out = {
        name: "no sample" for index, name in enumerate(names) if index not in set(present.tolist())
    }
    cells = scipy.sparse.csr_matrix(
        (np.ones(len(labels), np.float32), (labels * classes + predicted, np.arange(len(labels)))),
        (classes * classes, len(labels)),
    )
    ranked = present if len(present) > 1 else present[:0]
    truths = [(labels == c).astype(np.int64) for c in ranked]
    kappas = {"kappa": cohen_kappa}
    if positions is not None:
        kappas["quadratic_kappa"] = functools.partial(quadratic_kappa, positions=positions)
    names_of = ("aca", "f1", *kappas, "expected_calibration_error")

    def of_confusion(confusion: Confusion) -> list[np.ndarray | np.float64]:
        """ACA, F1 and the kappas, then F1 of every class that is there."""
        recall, f1 = recalls(confusion)[..., present], f1_scores(confusion)[..., present]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            means = [np.nanmean(values, -1) for values in (recall, f1)]
        return [*means, *(kappa(confusion) for kappa in kappas.values()), *np.moveaxis(f1, -1, 0)]

    def statistic(weights: Weights) -> Float[np.ndarray, "draws values"]:
        confusion = (cells @ weights).T.reshape(-1, classes, classes)
        columns = of_confusion(confusion)
        columns.insert(len(names_of) - 1, expected_calibration_error(right, confidence, weights))
        pairs = [
            weighted_ranking(truth, probabilities[:, c], weights)
            for truth, c in zip(truths, ranked, strict=True)
        ]
        ranking = np.reshape(pairs, (len(ranked), 2, weights.shape[1])).transpose(1, 0, 2)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            macro = [np.nanmean(of, axis=0) for of in ranking] if len(ranked) else []
        return np.stack([*columns, *ranking[0], *ranking[1], *macro], axis=1)

    with extras.needed("eval"):
        from sklearn.metrics import confusion_matrix

    confusion = confusion_matrix(labels, predicted, labels=np.arange(classes))
    values = [float(value) for value in of_confusion(confusion.astype(np.float64))]
    error = expected_calibration_error(right, confidence)
    values.insert(len(names_of) - 1, float(error[0]))
    by_class = [
        [metric(truth, probabilities[:, c]) for truth, c in zip(truths, ranked, strict=True)]
        for metric in (auroc, average_precision)
    ]
    values += [*by_class[0], *by_class[1], *(float(np.mean(of)) for of in by_class if of)]
    result = iter(estimates(values, bootstrap(groups, statistic, draws, seed)))

    def take(count: int) -> list[Estimate]:
        return list(itertools.islice(result, count))

    overall = dict(zip(names_of, take(len(names_of)), strict=True))
    f1, areas, precisions = take(len(present)), take(len(ranked)), take(len(ranked))
    undefined = Estimate(math.nan, math.nan, math.nan)
    overall["auroc"], overall["average_precision"] = take(2) if len(ranked) else [undefined] * 2
    patients = np.asarray(groups)
    sides = [_sides(truth, patients) for truth in truths]
    areas = [_area(area, *side) for area, side in zip(areas, sides, strict=True)]
    rows = {}
    for position, c in enumerate(present):
        of_class = labels == c
        row = {
            "samples": int(of_class.sum()),
            "sensitivity": intervals.proportion(predicted[of_class] == c, patients[of_class]),
            "specificity": intervals.proportion(predicted[~of_class] != c, patients[~of_class]),
            "f1": f1[position],
        }
        if len(ranked):
            row |= {"auroc": areas[position], "average_precision": precisions[position]}
        rows[names[int(c)]] = row
    overall["accuracy"] = intervals.proportion(right == 1, patients)
    overall["aca"] = _mean(overall["aca"], [row["sensitivity"] for row in rows.values()])
    overall["auroc"] = _mean(overall["auroc"], areas)
    order = ("aca", "accuracy", "f1", *kappas, "auroc", "average_precision")
    overall = {name: overall[name] for name in (*order, "expected_calibration_error")}
    caveats = _caveats([names[int(c)] for c in ranked], sides, areas, overall, draws, patients)
    return SingleLabelMetrics(overall, rows, confusion, left_out, caveats)


def over_folds(folds: Sequence[Mapping[str, Estimate]]) -> dict[str, dict[str, float | None]]:
    """Mean and standard deviation (n - 1) over folds of every metric, and each fold's value.

    Args:
      folds: metrics of each fold by name, at least one fold, all with the names of the first.

    Returns:
      by name "mean", "spread" and "folds"; None for what is undefined.
    """
    summary = {}
    for name in folds[0]:
        values = np.array([fold[name].value for fold in folds])
        defined = values[~np.isnan(values)]
        summary[name] = {
            "mean": float(defined.mean()) if len(defined) else None,
            "spread": float(defined.std(ddof=1)) if len(defined) > 1 else None,
            "folds": [None if math.isnan(value) else float(value) for value in values],
        }
    return summary
