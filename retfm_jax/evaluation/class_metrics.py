"""How well a network tells its own classes apart, as plain numbers: for the metrics of a run."""

import math
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from retfm_jax.data.sources import RecordSource
from retfm_jax.decisions import default_decisions
from retfm_jax.evaluation.class_predictions import ClassPredictions, predict_classes
from retfm_jax.evaluation.metrics.grades import class_order
from retfm_jax.evaluation.metrics.predictions import Predictions


def class_metrics(model: Any, source: RecordSource) -> dict[str, float]:
    """Predicts a split and measures it, without decisions that were fitted.

    Args:
      model: a `RetinalModel` with classes.
      source: labeled photographs, see `class_predictions.predict_classes`.

    Returns:
      numbers by name, NaN where undefined: see `measured`.

    Raises:
      UserError: see `class_predictions.predict_classes`.
    """
    return measured(model, predict_classes(model, source, progress=False))


def measured(model: Any, found: ClassPredictions) -> dict[str, float]:
    """Measures predictions.

    Args:
      model: a `RetinalModel` with classes, which tells what they are to each other.
      found: its logits and the truth.

    Returns:
      `auroc` and `average_precision`, means over classes, and `nll`, the mean negative log
      likelihood of the labels that are known; of classes that exclude each other `accuracy`, `aca`
      (mean recall), `f1`, `kappa`, `quadratic_kappa` of grades, and RETFound's `score`, the mean of
      `f1`, `auroc` and `kappa`.
    """
    decisions = default_decisions(model.classes, model.method.outcome)
    probabilities = decisions.probabilities(found.logits).astype(np.float64)
    labels, exclusive = found.labels, decisions.outcome != "findings"
    predictions = Predictions(
        names=decisions.classes,
        labels=labels,
        scores=probabilities,
        patients=found.patients,
        samples=tuple((row, None) for row in found.rows),
        exclusive=exclusive,
    )
    order = class_order(decisions.classes, stated=decisions.outcome == "grades")
    overall = predictions.measured(draws=1, order=order).overall
    numbers = {name: float(each.value) for name, each in overall.items()}
    numbers["nll"] = nll(probabilities, labels, exclusive)
    if exclusive:
        numbers["accuracy"] = float((probabilities.argmax(1) == labels.argmax(1)).mean())
        numbers["score"] = float(np.mean([numbers[name] for name in ("f1", "auroc", "kappa")]))
    return numbers


def nll(
    probabilities: Float[np.ndarray, "n classes"],
    labels: Int[np.ndarray, "n classes"],
    exclusive: bool,
) -> float:
    """Mean negative log-likelihood of the labels that are known; NaN where none is.

    Args:
      probabilities: (n, classes); of classes that exclude each other rows sum to 1.
      labels: multi-hot (n, classes), -1 where unknown.
      exclusive: whether every sample has exactly one class.
    """
    tiny = np.finfo(np.float32).tiny
    if exclusive:
        right = probabilities[np.arange(len(labels)), labels.argmax(1)]
        return float(-np.log(np.maximum(right, tiny)).mean())
    known = labels >= 0
    right = np.where(labels == 1, probabilities, 1 - probabilities)
    return float(-np.log(np.maximum(right[known], tiny)).mean()) if known.any() else math.nan
