"""Logistic regression on frozen features, its penalty chosen on validation photographs alone.

Features are standardized by the mean and the standard deviation of what is learned from. Those of
masked autoencoders have a few directions of large variance and many of small variance that tell the
classes apart: scaled to unit norm and with one fixed penalty they seem to know less than they do.
"""

import dataclasses
import math
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from retfm_jax import extras
from retfm_jax.evaluation.class_metrics import nll
from retfm_jax.evaluation.metrics.grades import Order
from retfm_jax.evaluation.metrics.predictions import Predictions
from retfm_jax.evaluation.protocols.few_shot import Predictor

with extras.needed("eval"):
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from threadpoolctl import threadpool_limits

#: Most iterations of L-BFGS, and the largest entry of the gradient at which it ends.
ITERATIONS, TOLERANCE = 2000, 1e-5
#: A variance is taken for the mean one of all features as far as so many photographs would tell.
PRIOR = 10
#: Photographs whose statistics are summed at once, and numbers beyond which single precision is
#: taken.
_CHUNK, _LARGE = 65536, 1 << 28

Features = Float[np.ndarray, "n d"]
Labels = Int[np.ndarray, "n classes"]


@dataclasses.dataclass(frozen=True)
class Examples:
    """Photographs with labels.

    Attributes:
      features: of frozen networks, of any norm.
      labels: multi-hot, -1 where unknown; of classes that exclude each other exactly one 1 a row.
    """

    features: Features
    labels: Labels


class Judged(NamedTuple):
    """How good predictions of validation photographs are.

    Attributes:
      score: the deciding metric, larger is better; NaN where it is undefined.
      nll: negative log-likelihood; NaN where there is none.
    """

    score: float
    nll: float


@dataclasses.dataclass(frozen=True)
class Chosen:
    """A head with the penalty that was best on validation.

    Attributes:
      predict: from features to probabilities.
      strength: the penalty.
      points: of every penalty "strength", "score" and "nll", as JSON values.
      unfinished: number of regressions that did not converge.
    """

    predict: Predictor
    strength: float
    points: tuple[dict[str, Any], ...]
    unfinished: int


@dataclasses.dataclass(frozen=True)
class Judge:
    """Judge of predictions for validation photographs: what a grid is chosen by.

    Attributes:
      metric: that decides, one of `suite.METRICS`.
      names: of the classes.
      exclusive: whether every photograph has exactly one of them.
      order: of the classes, where they are grades.
    """

    metric: str
    names: tuple[str, ...]
    exclusive: bool
    order: Order | None = None

    def __call__(self, scores: Float[np.ndarray, "n classes"], labels: Labels) -> Judged:
        """Judges probabilities.

        Args:
          scores: probabilities (n, classes).
          labels: as of `Examples`.
        """
        count = len(scores)
        predictions = Predictions(
            names=self.names,
            labels=labels,
            scores=scores,
            patients=tuple(map(str, range(count))),
            samples=tuple((row, None) for row in range(count)),
            exclusive=self.exclusive,
        )
        overall = predictions.measured(draws=1, order=self.order).overall
        score = float(overall[self.metric].value) if self.metric in overall else math.nan
        return Judged(score, nll(scores, labels, self.exclusive))


def choose_head(
    support: Examples, validation: Examples, strengths: Sequence[float], judge: Judge
) -> Chosen:
    """Fits a head with every penalty and takes the one that is best on validation.

    Args:
      support: what is learned from; where classes exclude each other it shows two or more.
      validation: by which the penalty is chosen, and nothing is learned.
      strengths: penalties lambda of mean loss + lambda / 2 times the squared weights; the bias is
        free.
      judge: of the validation photographs.
    """
    points, heads = [], []
    with threadpool_limits(1):  # sums in one order, on machines with any number of cores
        center, scale = statistics(support.features)
        standard = _standardized(support.features, center, scale)
        theirs = _standardized(validation.features, center, scale)
        unfinished = 0
        path = _path(standard, support.labels, strengths, judge.exclusive)
        for strength, head, failures in path:
            points.append((strength, judge(head(theirs), validation.labels)))
            heads.append(head)
            unfinished += failures
    best = better([(judged, -strength) for strength, judged in points])

    def predict(features: Features) -> Float[np.ndarray, "n classes"]:
        with threadpool_limits(1):
            return heads[best](_standardized(features, center, scale))

    said = tuple({"strength": s, "score": j.score, "nll": j.nll} for s, j in sorted(points))
    return Chosen(predict, points[best][0], said, unfinished)


def better(points: Sequence[tuple[Judged, Any]]) -> int:
    """Position of the best grid point.

    Of points that are equally good (few photographs know few ranks) the one with the smallest
    negative log-likelihood is taken, and of those the one with the smallest number.

    Args:
      points: of each what the judge says, and a number, or several that are compared in turn.
    """

    def key(position: int) -> tuple[float, float, Any]:
        (score, likelihood), last = points[position]
        return (
            -score if math.isfinite(score) else math.inf,
            likelihood if math.isfinite(likelihood) else math.inf,
            last,
        )

    return min(range(len(points)), key=key)


def statistics(features: Features) -> tuple[Float[np.ndarray, " d"], Float[np.ndarray, " d"]]:
    """Mean and standard deviation of each feature.

    Of few photographs a variance is uncertain: its logarithm is drawn towards the mean one of all
    features, as if that came of `PRIOR` photographs. Of many nothing is left of this.

    Args:
      features: (n, d) floats.

    Returns:
      means and standard deviations (d,), 1 where a feature never changes.
    """
    count = len(features)
    chunks = [features[start : start + _CHUNK] for start in range(0, count, _CHUNK)]
    center = np.sum([chunk.sum(0, dtype=np.float64) for chunk in chunks], axis=0) / count
    spread = np.sum([np.square(chunk - center).sum(0) for chunk in chunks], axis=0) / count
    changes = spread > 1e-12 * np.max(spread)
    if not changes.any():
        return center, np.ones_like(spread)
    logs = np.log(np.where(changes, spread, 1))
    logs = (count * logs + PRIOR * np.mean(logs[changes])) / (count + PRIOR)
    return center, np.where(changes, np.exp(logs / 2), 1)


def _standardized(
    features: Features, center: Float[np.ndarray, " d"], scale: Float[np.ndarray, " d"]
) -> Features:
    dtype = np.float64 if features.size <= _LARGE else np.float32
    found = np.empty(features.shape, dtype)
    for start in range(0, len(features), _CHUNK):
        found[start : start + _CHUNK] = (features[start : start + _CHUNK] - center) / scale
    return found


def _path(
    features: Features, labels: Labels, strengths: Sequence[float], exclusive: bool
) -> Iterator[tuple[float, Predictor, int]]:
    """Heads from the strongest penalty on, each begun with the one before.

    Yields:
      the penalty, the head, and how many of its regressions did not converge.
    """
    columns = [labels.argmax(1)] if exclusive else list(labels.T)
    before: list[LogisticRegression | None] = [None] * len(columns)
    for strength in sorted(strengths, reverse=True):
        fitted, failures = [], 0
        for position, column in enumerate(columns):
            known = column >= 0
            if len(np.unique(column[known])) < 2:
                fitted.append(None)
                continue
            rows = features if known.all() else features[known]
            one, failed = _fit(rows, column[known], strength, before[position])
            before[position] = one
            fitted.append(_frozen(one))
            failures += failed
        yield strength, _predictor(fitted, labels, exclusive), failures


@dataclasses.dataclass(frozen=True)
class _Linear:
    """Weights of one regression: (d, k), (k,), and its classes."""

    weights: np.ndarray
    bias: np.ndarray
    classes: np.ndarray


def _fit(
    features: Features, labels: np.ndarray, strength: float, before: LogisticRegression | None
) -> tuple[LogisticRegression, bool]:
    one = before or LogisticRegression(max_iter=ITERATIONS, tol=TOLERANCE, warm_start=True)
    one.set_params(C=1 / (strength * len(features)))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        one.fit(features, labels)
    return one, any(issubclass(each.category, ConvergenceWarning) for each in caught)


def _frozen(one: LogisticRegression) -> _Linear:
    """Copies, for the next penalty goes on from this one."""
    return _Linear(np.array(one.coef_).T, np.array(one.intercept_), np.array(one.classes_))


def _predictor(fitted: Sequence[_Linear | None], labels: Labels, exclusive: bool) -> Predictor:
    """Probabilities; a finding that all or none of the support has is constant."""
    classes = labels.shape[1]
    constant = (labels == 1).mean(0)

    def predict(features: Features) -> Float[np.ndarray, "n classes"]:
        if exclusive:
            (head,) = fitted
            assert head is not None, "two classes are needed, which the callers make sure of"
            logits = (features @ head.weights + head.bias).astype(np.float64)
            if logits.shape[1] == 1:
                logits = np.concatenate([np.zeros_like(logits), logits], axis=1)
            found = np.exp(logits - logits.max(1, keepdims=True))
            scores = np.zeros((len(features), classes))
            scores[:, head.classes] = found / found.sum(1, keepdims=True)
            return scores
        columns = [
            np.full(len(features), constant[position])
            if head is None
            else _sigmoid((features @ head.weights + head.bias)[:, 0].astype(np.float64))
            for position, head in enumerate(fitted)
        ]
        return np.stack(columns, axis=1)

    return predict


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    return 0.5 * (1 + np.tanh(0.5 * logits))
