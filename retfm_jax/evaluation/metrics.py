"""The field's metrics with intervals by patient, for multi-label and for single-label tasks.

Values come from scikit-learn. Intervals need each metric on a thousand resamples, so each has a
weighted form here as well; tests hold it equal to scikit-learn with `sample_weight`.
"""

import dataclasses
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import scipy.sparse
from jaxtyping import Float, Int
from sklearn import metrics as sk

from retfm_jax.evaluation.bootstrap import Estimate, Weights, bootstrap, estimates

Labels = Int[np.ndarray, " samples"]
Scores = Float[np.ndarray, " samples"]
MultiHot = Int[np.ndarray, "samples classes"]
Confusion = Float[np.ndarray, "*draws classes classes"]

#: Bins of the expected calibration error.
CALIBRATION_BINS = 15


def auroc(labels: Labels, scores: Scores) -> float:
    """Area under the ROC curve; NaN where only one value of the label occurs."""
    if not 0 < labels.sum() < len(labels):
        return math.nan
    return float(sk.roc_auc_score(labels, scores))


def average_precision(labels: Labels, scores: Scores) -> float:
    """Average precision (AUPR by steps); NaN where only one value of the label occurs."""
    if not 0 < labels.sum() < len(labels):
        return math.nan
    return float(sk.average_precision_score(labels, scores))


def weighted_ranking(
    labels: Labels, scores: Scores, weights: Weights
) -> tuple[Float[np.ndarray, " draws"], Float[np.ndarray, " draws"]]:
    """AUROC and average precision of one class under many sample weightings at once.

    With samples sorted by falling score, and t_k, f_k the weight of positives and negatives down to
    the k-th distinct score:
    AUROC = sum_k dt_k (F - f_k + df_k / 2) / (T F);  AP = sum_k dt_k / T * t_k / (t_k + f_k).

    Returns:
      AUROC and average precision, NaN for draws without a positive or without a negative.
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


@dataclasses.dataclass(frozen=True)
class MultiLabelMetrics:
    """How well scores rank samples, class by class.

    Attributes:
      classes: of every class that has both values: AUROC, average precision, counts.
      macro: unweighted means over these classes.
      left_out: the other classes with the reason.
    """

    classes: Mapping[str, Mapping[str, Any]]
    macro: Mapping[str, Estimate]
    left_out: Mapping[str, str]

    def to_json(self) -> dict[str, Any]:
        """The same as JSON values."""
        return {
            "macro": {name: value.to_json() for name, value in self.macro.items()},
            "classes": {
                name: {
                    key: value.to_json() if isinstance(value, Estimate) else value
                    for key, value in row.items()
                }
                for name, row in self.classes.items()
            },
            "left_out": dict(self.left_out),
        }


def multi_label(
    labels: MultiHot,
    scores: Float[np.ndarray, "samples classes"],
    names: Sequence[str],
    groups: Sequence[Any],
    draws: int = 1000,
    seed: int = 0,
) -> MultiLabelMetrics:
    """AUROC and average precision per class and macro, with intervals by patient.

    Args:
      labels: 1 present, 0 absent, -1 unknown; unknown ones are left out of their class.
      scores: higher means more likely present; any scale.
      names: of the classes.
      groups: each sample's patient.
    """
    used, left_out, counts = [], {}, {}
    for index, name in enumerate(names):
        positives = int((labels[:, index] == 1).sum())
        negatives = int((labels[:, index] == 0).sum())
        counts[name] = {"positives": positives, "negatives": negatives}
        if positives and negatives:
            used.append(index)
        else:
            missing = "positive" if not positives else "negative"
            left_out[name] = f"no {missing} among {positives + negatives} labelled samples"
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
    classes = {
        names[index]: {
            "auroc": result[2 + 2 * place],
            "average_precision": result[3 + 2 * place],
            **counts[names[index]],
        }
        for place, index in enumerate(used)
    }
    return MultiLabelMetrics(
        classes, {"auroc": result[0], "average_precision": result[1]}, left_out
    )


def recalls(confusion: Confusion) -> Float[np.ndarray, "*draws classes"]:
    """Share of each class's samples that were recognised; NaN for a class without samples."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.diagonal(confusion, axis1=-2, axis2=-1) / confusion.sum(-1)


def specificities(confusion: Confusion) -> Float[np.ndarray, "*draws classes"]:
    """Share of the other classes' samples that were not taken for this class."""
    total = confusion.sum((-2, -1))[..., None]
    others = total - confusion.sum(-1)
    wrongly = confusion.sum(-2) - np.diagonal(confusion, axis1=-2, axis2=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return 1 - wrongly / others


def f1_scores(confusion: Confusion) -> Float[np.ndarray, "*draws classes"]:
    """2 TP / (2 TP + FP + FN) per class."""
    right = np.diagonal(confusion, axis1=-2, axis2=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return 2 * right / (confusion.sum(-1) + confusion.sum(-2))


def quadratic_kappa(confusion: Confusion) -> Float[np.ndarray, "*draws"]:
    """Cohen's kappa with quadratic weights: 1 - sum(w O) / sum(w E), w_ij = (i - j)^2."""
    steps = np.arange(confusion.shape[-1])
    weight = (steps[:, None] - steps[None, :]) ** 2
    total = confusion.sum((-2, -1))
    expected = confusion.sum(-1)[..., :, None] * confusion.sum(-2)[..., None, :]
    with np.errstate(invalid="ignore", divide="ignore"):
        return 1 - (weight * confusion).sum((-2, -1)) * total / (weight * expected).sum((-2, -1))


def calibration_bins(
    confidence: Scores, bins: int = CALIBRATION_BINS
) -> Int[np.ndarray, " samples"]:
    """The bin of equal width into which each confidence in [0, 1] falls."""
    return np.minimum((confidence * bins).astype(np.int64), bins - 1)


def expected_calibration_error(
    right: Labels, confidence: Scores, weights: Weights | None = None, bins: int = CALIBRATION_BINS
) -> Float[np.ndarray, " draws"]:
    """Mean over bins of |accuracy - confidence|, weighted by the bins' samples (Naeini 2015).

    Args:
      right: 1 where the predicted class was right (multi-label: where the finding is present).
      confidence: the probability given to it.
      weights: of the samples, one column a draw; None weighs all alike.
    """
    if weights is None:
        weights = np.ones((len(right), 1), np.float32)
    bin_of = calibration_bins(confidence, bins)
    shape = (bins, len(right))
    gaps = scipy.sparse.csr_matrix((right - confidence, (bin_of, np.arange(len(right)))), shape)
    return np.abs(gaps @ weights).sum(0) / weights.sum(0)


@dataclasses.dataclass(frozen=True)
class SingleLabelMetrics:
    """How well probabilities name the one class of each sample.

    Attributes:
      overall: aca (mean recall over classes), accuracy, macro f1, quadratic_kappa (the order of the
        classes is that of the task), macro auroc and average_precision (one class against the
        rest), expected_calibration_error.
      classes: per class sensitivity, specificity, f1, auroc, average_precision and count.
      confusion: samples by true (row) and predicted (column) class.
      left_out: classes without a sample, which no mean includes.
    """

    overall: Mapping[str, Estimate]
    classes: Mapping[str, Mapping[str, Any]]
    confusion: Int[np.ndarray, "classes classes"]
    left_out: Mapping[str, str]

    def to_json(self) -> dict[str, Any]:
        """The same as JSON values."""
        return {
            "overall": {name: value.to_json() for name, value in self.overall.items()},
            "classes": {
                name: {
                    key: value.to_json() if isinstance(value, Estimate) else value
                    for key, value in row.items()
                }
                for name, row in self.classes.items()
            },
            "confusion": self.confusion.tolist(),
            "left_out": dict(self.left_out),
        }


def single_label(
    labels: Labels,
    probabilities: Float[np.ndarray, "samples classes"],
    names: Sequence[str],
    groups: Sequence[Any],
    draws: int = 1000,
    seed: int = 0,
) -> SingleLabelMetrics:
    """All metrics of a task with one class a sample, with intervals by patient.

    Args:
      labels: index of the true class.
      probabilities: rows sum to 1; the predicted class is the largest.
      names: of the classes, in their order where they have one (grades).
      groups: each sample's patient.
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

    def of_confusion(confusion: Confusion) -> list[np.ndarray]:
        per_class = [recalls(confusion), specificities(confusion), f1_scores(confusion)]
        accuracy = np.diagonal(confusion, axis1=-2, axis2=-1).sum(-1) / confusion.sum((-2, -1))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            aca, _, f1 = (np.nanmean(values[..., present], -1) for values in per_class)
        kappa = quadratic_kappa(confusion)
        return [aca, accuracy, f1, kappa, *(v[..., c] for v in per_class for c in present)]

    def statistic(weights: Weights) -> Float[np.ndarray, "draws values"]:
        confusion = (cells @ weights).T.reshape(-1, classes, classes)
        ece = expected_calibration_error(right, confidence, weights)
        pairs = [
            weighted_ranking((labels == c).astype(np.int64), probabilities[:, c], weights)
            for c in ranked
        ]
        ranking = np.reshape(pairs, (len(ranked), 2, weights.shape[1])).transpose(1, 0, 2)
        return np.stack([*of_confusion(confusion), ece, *ranking[0], *ranking[1]], axis=1)

    confusion = sk.confusion_matrix(labels, predicted, labels=np.arange(classes))
    values = [float(value) for value in of_confusion(confusion.astype(np.float64))]
    values.append(float(expected_calibration_error(right, confidence)[0]))
    for metric in (auroc, average_precision):
        values += [metric((labels == c).astype(np.int64), probabilities[:, c]) for c in ranked]
    resampled = bootstrap(groups, statistic, draws, seed)
    # The macro means of the ranking metrics follow from their columns.
    areas = slice(len(values) - 2 * len(ranked), len(values) - len(ranked))
    precisions = slice(len(values) - len(ranked), len(values))
    for columns in (areas, precisions):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            mean = np.nanmean(resampled[:, columns], axis=1, keepdims=True)
            values.append(float(np.mean(values[columns])) if len(ranked) else math.nan)
        resampled = np.concatenate([resampled, mean], axis=1)
    result = estimates(values, resampled)
    count = len(present)
    per_class = np.reshape(np.array(result[4 : 4 + 3 * count], dtype=object), (3, count, 3))
    rows = {}
    for place, c in enumerate(present):
        row: dict[str, Any] = {"samples": int((labels == c).sum())}
        for kind, name in enumerate(("sensitivity", "specificity", "f1")):
            row[name] = Estimate(*per_class[kind, place])
        if len(ranked):
            row["auroc"] = result[areas][place]
            row["average_precision"] = result[precisions][place]
        rows[names[c]] = row
    overall = dict(zip(("aca", "accuracy", "f1", "quadratic_kappa"), result[:4], strict=True))
    overall["auroc"], overall["average_precision"] = result[-2:]
    overall["expected_calibration_error"] = result[4 + 3 * count]
    return SingleLabelMetrics(overall, rows, confusion, left_out)


def over_folds(folds: Sequence[Mapping[str, Estimate]]) -> dict[str, dict[str, float | None]]:
    """Mean and standard deviation (n - 1) over folds of every metric, and each fold's value."""
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
