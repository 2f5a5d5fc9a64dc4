"""Fits of what turns logits into statements: temperature, thresholds, conformal quantiles."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from scipy import optimize

#: The temperature is looked for from 1 / this to this.
_LARGEST_TEMPERATURE = 50.0

Groups = Sequence[Any] | np.ndarray


def log_losses(
    logits: Float[np.ndarray, "n c"], labels: Int[np.ndarray, "n c"], findings: bool
) -> Float[np.ndarray, "n c"]:
    """Negative log-likelihood of each label under softmax or sigmoids, 0 where it is unknown.

    Of classes that exclude each other -log softmax(z)_k in the column of the true class k, 0 in all
    others; of findings log(1 + exp(z)) - y z.

    Args:
      logits: of each class.
      labels: multi-hot, -1 where unknown; with classes that exclude each other exactly one 1.
      findings: whether classes hold independently of each other.

    Returns:
      (n, c) float64.
    """
    logits = np.asarray(logits, np.float64)
    if findings:
        return np.where(labels >= 0, np.logaddexp(0, logits) - (labels == 1) * logits, 0)
    shifted = logits - logits.max(1, keepdims=True)
    log_sum = np.log(np.exp(shifted).sum(1, keepdims=True))
    return np.where(labels == 1, log_sum - shifted, 0)


def temperature(
    logits: Float[np.ndarray, "n c"], labels: Int[np.ndarray, "n c"], findings: bool
) -> float:
    """Fits the temperature T that logits are divided by (Guo et al., ICML 2017).

    It minimizes `sum_i NLL_i(z_i / T) + (log T)^2 / 2`. The last term is a prior that many images
    overrule; a split that the network tells apart without an error would make T zero otherwise.

    Args:
      logits: of each class, n > 0.
      labels: multi-hot, -1 where unknown; with classes that exclude each other exactly one 1.
      findings: whether classes hold independently of each other.

    Returns:
      T, from 1/50 to 50.
    """

    def loss(log_temperature: float) -> float:
        scaled = logits / np.exp(log_temperature)
        return float(log_losses(scaled, labels, findings).sum() + log_temperature**2 / 2)

    end = float(np.log(_LARGEST_TEMPERATURE))
    # The sum is convex in 1 / T, but not with the prior: first a coarse look, then a fine one.
    grid = np.linspace(-end, end, 65)
    best = int(np.argmin([loss(each) for each in grid]))
    low, high = grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)]
    found: Any = optimize.minimize_scalar(
        loss, bounds=(low, high), method="bounded", options={"xatol": 1e-6}
    )
    return float(np.exp(found.x))


def youden_threshold(
    probabilities: Float[np.ndarray, " n"], labels: Int[np.ndarray, " n"]
) -> tuple[float, float, float]:
    """Finds the threshold with the largest sensitivity + specificity - 1 (Youden 1950).

    It lies in the middle between two probabilities that occur, where a rounding error decides
    nothing; of equally good ones it is the one nearest to one half.

    Args:
      probabilities: of the finding.
      labels: 1 present, 0 absent, -1 unknown.

    Returns:
      the threshold, and sensitivity and specificity there; one half and NaN where one of both kinds
      is missing.
    """
    known = labels >= 0
    scores, positive = np.asarray(probabilities, np.float64)[known], labels[known] == 1
    if not 0 < positive.sum() < len(positive):
        return 0.5, np.nan, np.nan
    values, position = np.unique(scores, return_inverse=True)
    positives = np.bincount(position, positive, len(values))
    negatives = np.bincount(position, ~positive, len(values))
    # With a threshold below value k, values k, k + 1, ... count as present.
    sensitivity = positives[::-1].cumsum()[::-1] / positives.sum()
    specificity = (negatives.cumsum() - negatives) / negatives.sum()
    below = np.concatenate([[0.0], values[:-1]])
    thresholds = (below + values) / 2
    index = sensitivity + specificity
    best = np.flatnonzero(index >= index.max() - 1e-12)
    best = best[np.abs(thresholds[best] - 0.5).argmin()]
    return float(thresholds[best]), float(sensitivity[best]), float(specificity[best])


def conformal_quantile(
    scores: Float[np.ndarray, " n"], groups: Groups, coverage: float
) -> tuple[float, int]:
    """Finds the score up to which a label belongs to a prediction set, with one vote a patient.

    A patient's images are alike, so that n images are fewer than n observations. With the m_k
    scores s_kj of patient k of K, the quantile is the smallest q with
    `sum_k sum_{j: s_kj <= q} 1 / m_k >= coverage (K + 1)`: a patient counts once, however many
    images it has. Where patients are exchangeable, an image drawn from a new patient has a score up
    to q with probability `coverage` or more, whatever the network (Lee, Barber and Willett,
    Distribution-free inference with hierarchical data, 2023; with m_k = 1 split conformal
    prediction, Papadopoulos et al. 2002).

    Args:
      scores: 1 - p of the true class, from 0 to 1.
      groups: each image's patient (n).
      coverage: between 0 and 1.

    Returns:
      q, 1 where there are too few patients for any other; and their number.
    """
    _, patient = np.unique(np.asarray(groups), return_inverse=True)
    votes = 1 / np.bincount(patient)[patient] if len(patient) else np.zeros(0)
    patients = int(patient.max()) + 1 if len(patient) else 0
    order = np.argsort(scores, kind="stable")
    # Sums of thirds fall short of whole numbers by rounding.
    reached = votes[order].cumsum() >= coverage * (patients + 1) - 1e-9
    return (float(scores[order][reached.argmax()]) if reached.any() else 1.0), patients
