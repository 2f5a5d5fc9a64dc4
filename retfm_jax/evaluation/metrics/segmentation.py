"""Metrics of segmentation within the field of view, one image after the other.

A `Tally` takes images of any size and keeps counts alone: of pixels by score for areas under
curves, and of every image at fixed thresholds for all else. Memory depends on the number of images
(24 KiB for each and class), not on their pixels. Intervals resample patients, not pixels.
"""

import dataclasses
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Integer, Shaped

from retfm_jax.errors import UserError
from retfm_jax.evaluation.metrics.bootstrap import (
    Estimate,
    Weights,
    bootstrap,
    estimates,
    ratio,
    to_json,
    weighted_mean,
)
from retfm_jax.evaluation.metrics.shapes import centerline_dice

#: Bins of scores, of equal width in log-odds.
BINS = 1 << 16
#: Of one image, for intervals.
_COARSE = 1 << 11
#: Log-odds of the first and last bin; of the largest float32 below 1 they are 16.6.
_LIMIT = 17.0
#: Pixels that are looked at together: bounds memory at some ten times 8 MiB.
_BLOCK = 1 << 20
#: The grid on which a threshold is chosen, as in lwnet.
GRID = np.linspace(0, 1, 256)
#: The eleven thresholds of M2MRF's area under the precision-recall curve.
_ELEVEN = np.linspace(0, 1, 11)
#: All thresholds at which images are counted.
_EDGES = np.unique(np.concatenate([GRID, _ELEVEN, [0.5]]))
#: How many edges are below what lies between two multiples of 1/510, of which every edge is one.
_BETWEEN = np.searchsorted(_EDGES, np.linspace(0, 1, 511) + 1e-9)

Histogram = Shaped[np.ndarray, "*any bins"]


class Counts(NamedTuple):
    """Pixels of a class at a threshold, of one image or of many.

    Attributes:
      hits: predicted and there.
      false: predicted and not there.
      missed: there and not predicted.
      rest: neither.
    """

    hits: Shaped[np.ndarray, "..."]
    false: Shaped[np.ndarray, "..."]
    missed: Shaped[np.ndarray, "..."]
    rest: Shaped[np.ndarray, "..."]

    @property
    def dice(self) -> Float[np.ndarray, "..."]:
        """2 TP / (2 TP + FP + FN); NaN where the class is neither there nor predicted."""
        return ratio(2 * self.hits, 2 * self.hits + self.false + self.missed)

    @property
    def iou(self) -> Float[np.ndarray, "..."]:
        """TP / (TP + FP + FN), the Jaccard index; NaN as of `dice`."""
        return ratio(self.hits, self.hits + self.false + self.missed)

    @property
    def sensitivity(self) -> Float[np.ndarray, "..."]:
        """TP / (TP + FN); NaN where the class is not there."""
        return ratio(self.hits, self.hits + self.missed)

    @property
    def specificity(self) -> Float[np.ndarray, "..."]:
        """TN / (TN + FP); NaN where the class is everywhere."""
        return ratio(self.rest, self.rest + self.false)

    @property
    def precision(self) -> Float[np.ndarray, "..."]:
        """TP / (TP + FP); NaN where the class is not predicted."""
        return ratio(self.hits, self.hits + self.false)

    @property
    def accuracy(self) -> Float[np.ndarray, "..."]:
        """(TP + TN) / all."""
        return ratio(self.hits + self.rest, self.hits + self.false + self.missed + self.rest)

    @property
    def mcc(self) -> Float[np.ndarray, "..."]:
        """Matthews' correlation coefficient; NaN where truth or prediction is the same everywhere.

        (TP TN - FP FN) / sqrt((TP + FP) (TP + FN) (TN + FP) (TN + FN)).
        """
        hits, false, missed, rest = (np.asarray(part, np.float64) for part in self)
        scale = np.sqrt(hits + false) * np.sqrt(hits + missed)
        scale = scale * np.sqrt(rest + false) * np.sqrt(rest + missed)
        return ratio(hits * rest - false * missed, scale)

    def pooled(self, weights: Weights | None = None) -> "Counts":
        """Adds up images.

        Args:
          weights: of the images, one column a resample, (images, draws); None: all alike, once.

        Returns:
          pixels of counts (images), of all images together or of each resample (draws).
        """
        if weights is None:
            return Counts(*(part.sum() for part in self))
        return Counts(*(part.astype(np.float64) @ weights for part in self))

    def each(self, metric: str) -> Float[np.ndarray, "..."]:
        """A metric of each image.

        Args:
          metric: one of `POOLED`.

        Returns:
          its values; 1 where nothing is there and predicted, NaN where nothing is known.
        """
        known = np.sum(self, axis=0) > 0
        empty = known & (self.hits + self.false + self.missed == 0)
        return np.where(empty, 1.0, getattr(self, metric))


#: Metrics of pixels at one threshold, pooled over images.
POOLED = ("dice", "iou", "sensitivity", "specificity", "precision", "accuracy", "mcc")
#: Metrics of which the mean over images is taken, too.
BY_IMAGE = ("dice", "iou")
#: Metrics of scores.
RANKED = ("average_precision", "auroc")


def ranking_of(
    positives: Histogram, negatives: Histogram
) -> tuple[Float[np.ndarray, "..."], Float[np.ndarray, "*any"]]:
    """Average precision and AUROC of scores that are counted in bins.

    With t_k, f_k the positives and negatives of the k-th bin from the highest score, T and F all of
    them, and capitals their sums down to it: AP = sum_k t_k / T * T_k / (T_k + F_k);
    AUROC = sum_k t_k (F - F_k + f_k / 2) / (T F). Pixels of one bin are tied.

    Args:
      positives, negatives: counts by score, the lowest first, (..., bins).

    Returns:
      both (...), NaN where there is no positive, or no negative.
    """
    true, false = (np.asarray(x, np.float64)[..., ::-1] for x in (positives, negatives))
    above_true, above_false = true.cumsum(-1), false.cumsum(-1)
    all_true, all_false = above_true[..., -1], above_false[..., -1]
    precision = above_true / np.maximum(above_true + above_false, 1)
    ap = ratio((true * precision).sum(-1), all_true)
    beaten = all_false[..., None] - above_false + false / 2
    area = ratio((true * beaten).sum(-1), all_true * all_false)
    defined = (all_true > 0) & (all_false > 0)
    return np.where(defined, ap, np.nan), np.where(defined, area, np.nan)


def resampled_ranking(
    scores: Shaped[np.ndarray, "n 2 bins"], weights: Weights
) -> Float[np.ndarray, "2 draws"]:
    """Average precision and AUROC of resamples of images, as `ranking_of` has them.

    Args:
      scores: absent and present pixels of each image by score, the lowest first, (n, 2, bins).
      weights: of the images, one column a resample, (n, draws).
    """
    found = np.empty((2, weights.shape[1]))
    negatives, positives = (scores[:, side].astype(np.float64) for side in (0, 1))
    block = max(1, _BLOCK // scores.shape[2])
    for start in range(0, weights.shape[1], block):
        part = weights[:, start : start + block].T.astype(np.float64)
        found[:, start : start + block] = ranking_of(part @ positives, part @ negatives)
    return found


def trapezoid_of(positives: Histogram, negatives: Histogram) -> float:
    """Area under the precision-recall curve by trapezoids, as FLAIR's metric.

    It is optimistic, as precision between two points is no line (Davis and Goadrich, ICML 2006).

    Args:
      positives, negatives: counts by score, the lowest first, (bins).

    Returns:
      NaN where there is no positive.
    """
    true, false = (np.asarray(x, np.float64)[::-1].cumsum() for x in (positives, negatives))
    if not true[-1]:
        return math.nan
    predicted = true + false
    precision = np.divide(true, predicted, out=np.ones_like(true), where=predicted > 0)
    return float(np.trapezoid(np.r_[1.0, precision], np.r_[0.0, true / true[-1]]))


def is_counted_at(threshold: float) -> bool:
    """Tells whether a `Tally` counts masks at a threshold: 0.5, k / 255 or k / 10.

    Args:
      threshold: of probabilities.
    """
    return bool(_near(threshold).any())


def _near(threshold: float) -> Bool[np.ndarray, " edges"]:
    return np.isclose(_EDGES, threshold, rtol=0, atol=1e-12)


class Tally:
    """Counts of images, from which all metrics follow.

    Args:
      classes: names of the classes, in the order of the arrays' last axis.
      centerlines: thresholds of the classes whose clDice is computed, by name, as of vessels; it
        takes seconds for a large image.
    """

    def __init__(self, classes: Sequence[str], centerlines: Mapping[str, float] | None = None):
        self.classes = tuple(classes)
        self._centerlines = dict(centerlines or {})
        self._scores = np.zeros((len(self.classes), 2, BINS), np.int64)
        self._images: list[_Image] = []
        self.groups: list[str] = []

    def add(
        self,
        name: str,
        probabilities: Float[np.ndarray, "h w c"],
        truth: Integer[np.ndarray, "h w c"],
        fov: Shaped[np.ndarray, "h w"] | None = None,
        group: str | None = None,
    ) -> None:
        """Counts an image.

        Args:
          name: of the image, for messages.
          probabilities: of every pixel and class, (h, w, c) floats from 0 to 1.
          truth: 1 present, 0 absent, 255 or -1 unknown, (h, w, c) integers.
          fov: field of view (h, w), what is greater than 0 counts; None: every pixel.
          group: the patient or eye, the unit of the intervals; None: the image itself.

        Raises:
          UserError: the arrays do not fit together, a value is out of its range, or the field of
            view is empty.
        """
        self._check(name, probabilities, truth, fov)
        scores = np.zeros_like(self._scores)
        counts = np.zeros((len(self.classes), 2, len(_EDGES) + 1), np.int64)
        rows = max(1, _BLOCK // max(1, truth.shape[1]))
        for start in range(0, len(truth), rows):
            part = slice(start, start + rows)
            inside = np.ones(truth[part].shape[:2], bool) if fov is None else fov[part] > 0
            for index in range(len(self.classes)):
                known = inside & _is_known(truth[part, :, index])
                positive = truth[part, :, index][known] == 1
                p = probabilities[part, :, index][known].astype(np.float64)
                self._range(name, p)
                for where, into in ((_bins(p), scores[index]), (_passed(p), counts[index])):
                    places = 2 * where + positive
                    into += np.bincount(places, minlength=into.size).reshape(-1, 2).T
        self._scores += scores
        coarse = scores.reshape(len(self.classes), 2, _COARSE, -1).sum(-1)
        lines = self._lines(probabilities, truth, fov)
        self._images.append(_Image(counts, coarse.astype(np.uint32), lines))
        self.groups.append(name if group is None else group)

    def _check(
        self,
        name: str,
        probabilities: np.ndarray,
        truth: np.ndarray,
        fov: np.ndarray | None,
    ) -> None:
        shapes = {"prediction": probabilities.shape, "mask": truth.shape}
        wanted = (*truth.shape[:2], len(self.classes))
        for what, shape in shapes.items():
            if shape != wanted:
                raise UserError(
                    f"{name}: its {what} has the shape {shape}, and {wanted} is that of the mask's "
                    f"pixels and the {len(self.classes)} classes"
                )
        if fov is not None and fov.shape != truth.shape[:2]:
            raise UserError(
                f"{name}: its field of view has the shape {fov.shape}, its masks {truth.shape[:2]}"
            )
        if fov is not None and not (fov > 0).any():
            raise UserError(f"{name}: its field of view is empty")
        whole = truth.dtype.kind in "iu"
        if not whole or not (_is_known(truth) | (truth == 255) | (truth == -1)).all():
            raise UserError(f"{name}: its masks hold other values than 0, 1 and 255 (unknown)")

    def _range(self, name: str, p: np.ndarray) -> None:
        if p.size and not (p.min() >= 0 and p.max() <= 1):  # NaN is neither
            raise UserError(f"{name}: its probabilities are not all numbers from 0 to 1")

    def _lines(
        self, probabilities: np.ndarray, truth: np.ndarray, fov: np.ndarray | None
    ) -> dict[str, float]:
        found = {}
        for name, threshold in self._centerlines.items():
            index = self.classes.index(name)
            inside = _is_known(truth[..., index])
            if fov is not None:
                inside = inside & (fov > 0)
            if inside.any():
                predicted = (probabilities[..., index] > threshold) & inside
                found[name] = centerline_dice(predicted, (truth[..., index] == 1) & inside)
        return found

    def best_thresholds(self) -> dict[str, float]:
        """Chooses the threshold of each class: the first of `GRID` with the highest pooled Dice.

        It is to be called on validation or training images. Classes of which no pixel is there keep
        0.5.
        """
        chosen = {}
        for index, name in enumerate(self.classes):
            dices = [float(self._at(index, threshold).pooled().dice) for threshold in GRID]
            there = self._scores[index, 1].sum() > 0
            chosen[name] = float(GRID[int(np.nanargmax(dices))]) if there else 0.5
        return chosen

    def _at(self, index: int, threshold: float) -> Counts:
        """Counts of every image at a threshold: what is above it is predicted.

        Raises:
          ValueError: images are not counted there.
        """
        (edge,) = np.nonzero(_near(threshold))
        if not len(edge):
            raise ValueError(f"threshold {threshold} is neither 0.5 nor k / 255 or k / 10")
        counts = np.stack([image.counts[index] for image in self._images])  # (n, 2, edges + 1)
        above = counts[..., int(edge[0]) + 1 :].sum(-1)
        below = counts.sum(-1) - above
        return Counts(above[:, 1], above[:, 0], below[:, 1], below[:, 0])

    def measured(
        self,
        thresholds: Mapping[str, float] | None = None,
        draws: int = 1000,
        seed: int = 0,
    ) -> "SegmentationMetrics":
        """Computes all metrics with intervals by patient.

        Args:
          thresholds: of every class, as `best_thresholds` chose them on other images; None: metrics
            at 0.5 alone.
          draws: number of resamples of the bootstrap; an area under a curve is resampled with
            scores in 2,048 bins.
          seed: of the resamples.

        Raises:
          UserError: no image was counted.
          ValueError: a threshold is neither 0.5 nor k / 255 or k / 10.
        """
        if not self._images:
            raise UserError("no image was segmented, so that nothing can be measured")
        rows = {name: self._row(index, thresholds) for index, name in enumerate(self.classes)}
        left_out = {name: row.reason for name, row in rows.items() if row.reason}
        used = {name: row for name, row in rows.items() if not row.reason}
        if not used:
            return SegmentationMetrics({}, {}, left_out, len(self._images))
        values = np.stack([row.values() for row in used.values()])  # (classes, values)

        def statistic(weights: Weights) -> Float[np.ndarray, "draws values"]:
            each = np.stack([row.resampled(weights) for row in used.values()])
            return (
                np.concatenate([each, _mean(each)[None]])
                .transpose(1, 0, 2)
                .reshape(weights.shape[1], -1)
            )

        whole = np.concatenate([values, _mean(values)[None]]).ravel()
        found = estimates(whole, bootstrap(self.groups, statistic, draws, seed))
        names = next(iter(used.values())).names
        found = [found[k : k + len(names)] for k in range(0, len(found), len(names))]
        classes = {
            name: dict(zip(names, of, strict=True)) | row.facts
            for (name, row), of in zip(used.items(), found, strict=False)
        }
        macro = dict(zip(names, found[-1], strict=True))
        macro = {name: value for name, value in macro.items() if not math.isnan(value.value)}
        return SegmentationMetrics(classes, macro, left_out, len(self._images))

    def by_image(self, threshold: float = 0.5) -> dict[str, Float[np.ndarray, " images"]]:
        """Dice of every image and class, in the order in which images were added.

        Args:
          threshold: 0.5, or one of `GRID`.

        Returns:
          by class (images); 1 where the class is neither there nor predicted, NaN where it is
          unknown.
        """
        return {
            name: self._at(index, threshold).each("dice") for index, name in enumerate(self.classes)
        }

    def pixels_by_image(self, thresholds: Mapping[str, float]) -> Counts:
        """Pixels of every image and class, in the order in which images were added.

        Args:
          thresholds: of every class, 0.5 or one of `GRID`.

        Returns:
          (images, classes) each.
        """
        each = [self._at(i, thresholds[name]) for i, name in enumerate(self.classes)]
        return Counts(*(np.stack(parts, axis=1) for parts in zip(*each, strict=True)))

    def scores_by_image(self) -> Shaped[np.ndarray, "images classes 2 bins"]:
        """Absent and present pixels of every image and class by score, the lowest first.

        Returns:
          (images, classes, 2, 2048) uint32, in bins of equal width in log-odds.
        """
        return np.stack([image.coarse for image in self._images])

    def _row(self, index: int, thresholds: Mapping[str, float] | None) -> "_Row":
        name = self.classes[index]
        at = {"": self._at(index, 0.5)}
        chosen = None if thresholds is None else thresholds[name]
        if chosen is not None:
            at["best_"] = self._at(index, chosen)
        coarse = np.stack([image.coarse[index] for image in self._images])
        lines = [image.lines.get(name, math.nan) for image in self._images]
        eleven = [self._at(index, threshold).pooled() for threshold in _ELEVEN]
        return _Row(
            at, self._scores[index], coarse, np.array(lines), eleven, chosen, len(self._images)
        )


@dataclasses.dataclass(frozen=True)
class SegmentationMetrics:
    """Metrics of masks.

    Attributes:
      classes: of every class that is somewhere: average_precision and auroc of pixels; at threshold
        0.5 dice, iou, sensitivity, specificity, precision, accuracy and mcc of the pixels of all
        images together, and image_dice and image_iou, means over images; the same as best_dice and
        so on at the chosen threshold; centerline_dice; as numbers, trapezoid_aupr (FLAIR) and
        eleven_aupr (M2MRF), threshold, and counts of images and pixels.
      macro: unweighted means over these classes.
      left_out: the other classes with the reason.
      images: number of images.
    """

    classes: Mapping[str, Mapping[str, Any]]
    macro: Mapping[str, Estimate]
    left_out: Mapping[str, str]
    images: int

    def to_json(self) -> dict[str, Any]:
        """Converts the metrics to JSON values."""
        return {
            "images": self.images,
            "macro": to_json(self.macro),
            "classes": to_json(self.classes),
            "left_out": dict(self.left_out),
        }


def mean_absolute_error(
    predicted: Float[np.ndarray, " images"],
    truth: Float[np.ndarray, " images"],
    groups: Sequence[Any] | np.ndarray,
    draws: int = 1000,
    seed: int = 0,
) -> Estimate:
    """Mean absolute error of a number of each image, as the vertical cup-disc ratio.

    Args:
      predicted, truth: (images) floats; an image with NaN in one of them does not count.
      groups: each image's patient.
      draws: number of resamples of the bootstrap.
      seed: of the resamples.

    Returns:
      the error with its interval; NaN where no image counts.
    """
    errors = np.abs(predicted - truth)
    known = ~np.isnan(errors)
    if not known.any():
        return Estimate(math.nan, math.nan, math.nan)
    errors = errors[known]

    def statistic(weights: Weights) -> Float[np.ndarray, "draws values"]:
        return ratio(errors @ weights, weights.sum(0))[:, None]

    resampled = bootstrap(np.asarray(groups)[known], statistic, draws, seed)
    return estimates([float(errors.mean())], resampled)[0]


class _Image(NamedTuple):
    """Counts of an image by class, absent and present pixels, and threshold or score."""

    counts: Int[np.ndarray, "c 2 edges"]
    coarse: Shaped[np.ndarray, "c 2 bins"]
    lines: Mapping[str, float]


@dataclasses.dataclass(frozen=True)
class _Row:
    """A class: what its metrics are computed of."""

    at: Mapping[str, Counts]
    scores: Int[np.ndarray, "2 bins"]
    coarse: Shaped[np.ndarray, "n 2 coarse"]
    lines: Float[np.ndarray, " n"]
    eleven: Sequence[Counts]
    threshold: float | None
    images: int

    @property
    def reason(self) -> str:
        """Why the class is left out; empty where it is not."""
        if not self.scores.sum():
            return f"unknown in all {self.images} images"
        if not self.scores[1].sum():
            return f"not a pixel in {self.images} images"
        return "" if self.scores[0].sum() else f"every pixel of {self.images} images"

    @property
    def names(self) -> tuple[str, ...]:
        """Names of `values`."""
        return (
            *RANKED,
            *(f"{prefix}{name}" for prefix in self.at for name in POOLED),
            *(f"{prefix}image_{name}" for prefix in self.at for name in BY_IMAGE),
            "centerline_dice",
        )

    @property
    def facts(self) -> dict[str, float | int]:
        """Numbers without intervals."""
        counts = self.at[""]
        there = counts.hits + counts.missed
        known = np.sum(counts, axis=0) > 0
        both_empty = known & (counts.hits + counts.false + counts.missed == 0)
        precision = np.array([1.0 if np.isnan(c.precision) else c.precision for c in self.eleven])
        recall = np.array([c.sensitivity for c in self.eleven])
        facts = {
            "trapezoid_aupr": trapezoid_of(self.scores[1], self.scores[0]),
            "eleven_aupr": float(np.trapezoid(precision[::-1], recall[::-1])),
            "images": int(known.sum()),
            "images_with_it": int((there > 0).sum()),
            "images_empty_and_so_predicted": int(both_empty.sum()),
            "pixels": int(self.scores.sum()),
            "pixels_of_it": int(self.scores[1].sum()),
        }
        return facts if self.threshold is None else {"threshold": self.threshold} | facts

    def values(self) -> Float[np.ndarray, " values"]:
        """Metrics of all images, in the order of `names`."""
        pooled = [float(getattr(at.pooled(), name)) for at in self.at.values() for name in POOLED]
        each = [_mean(at.each(name)) for at in self.at.values() for name in BY_IMAGE]
        ranked = (float(value) for value in ranking_of(self.scores[1], self.scores[0]))
        return np.array([*ranked, *pooled, *each, _mean(self.lines)], np.float64)

    def resampled(self, weights: Weights) -> Float[np.ndarray, "draws values"]:
        """The same of resamples of the images."""
        columns = [*resampled_ranking(self.coarse, weights)]
        for at in self.at.values():
            pooled = at.pooled(weights)
            columns += [getattr(pooled, name) for name in POOLED]
        for at in self.at.values():
            columns += [weighted_mean(at.each(name), weights) for name in BY_IMAGE]
        columns.append(weighted_mean(self.lines, weights))
        return np.stack(columns, axis=1)


def _is_known(truth: Integer[np.ndarray, "..."]) -> Bool[np.ndarray, "..."]:
    return (truth == 0) | (truth == 1)


def _bins(p: Float[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
    """Bin of each score by its log-odds."""
    with np.errstate(divide="ignore"):
        odds = np.log(p)
        odds -= np.log1p(-p)
    np.clip(odds, -_LIMIT, _LIMIT, out=odds)
    odds += _LIMIT
    odds *= BINS / (2 * _LIMIT)
    return np.minimum(odds.astype(int), BINS - 1)


def _passed(p: Float[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
    """How many of `_EDGES` are below each score: `np.searchsorted` in a third of the time.

    All edges lie on a grid. Between its points a look-up tells; at them rounding decides.
    """
    places = p * (len(_BETWEEN) - 1)
    found = _BETWEEN.take(places.astype(int))
    (near,) = np.nonzero(np.abs(places - np.rint(places)) < 1e-6)
    found[near] = np.searchsorted(_EDGES, p[near])
    return found


def _mean(values: Float[np.ndarray, "n ..."]) -> Any:
    """Mean along the first axis of what is defined; NaN where nothing is."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return np.nanmean(values, axis=0)
