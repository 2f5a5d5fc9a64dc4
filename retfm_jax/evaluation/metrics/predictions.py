"""Results that every classification protocol returns, and the metrics that follow from them."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from retfm_jax.errors import UserError
from retfm_jax.evaluation.metrics.bootstrap import Estimate
from retfm_jax.evaluation.metrics.classification import (
    MultiLabelMetrics,
    SingleLabelMetrics,
    multi_label,
    single_label,
)
from retfm_jax.evaluation.metrics.grades import Order


@dataclasses.dataclass(frozen=True)
class Predictions:
    """Scores of samples for classes beside the truth.

    Attributes:
      names: of the classes.
      labels: multi-hot (n, classes), -1 where unknown; with `exclusive` exactly one 1 a sample.
      scores: (n, classes) floats; with `exclusive` probabilities that sum to 1, else any scale,
        higher means more likely.
      patients: of every sample, the unit of the intervals.
      samples: each sample's position in its split and the eye (None: the record as a whole).
      exclusive: whether every sample has exactly one class.
    """

    names: tuple[str, ...]
    labels: Int[np.ndarray, "n classes"]
    scores: Float[np.ndarray, "n classes"]
    patients: tuple[str, ...]
    samples: tuple[tuple[int, str | None], ...]
    exclusive: bool

    def measured(self, draws: int = 1000, seed: int = 0, order: Order | None = None) -> "Measured":
        """Computes all metrics of the task's kind with intervals by patient.

        Args:
          draws: number of resamples of the bootstrap.
          seed: of the resamples.
          order: of the classes, where they are grades; None: no quadratic kappa.

        Raises:
          UserError: a score is no finite number.
        """
        broken = np.flatnonzero(~np.isfinite(self.scores).all(1))
        if len(broken):
            raise UserError(
                f"the scores of {len(broken)} of {len(self.scores)} samples are no finite numbers: "
                "the network's weights hold NaN or infinity, or what was trained on them diverged"
            )
        if self.exclusive:
            truth = self.labels.argmax(1)
            positions = None if order is None else order.of(self.names)
            arguments = (self.names, self.patients, draws, seed, positions)
            found = single_label(truth, self.scores, *arguments)
        else:
            found = multi_label(self.labels, self.scores, self.names, self.patients, draws, seed)
        return Measured(self, found)

    def counts(self) -> dict[str, Any]:
        """Counts samples, patients and positives of each class."""
        return {
            "samples": len(self.samples),
            "patients": len(set(self.patients)),
            "positives": {
                name: int((self.labels[:, index] == 1).sum())
                for index, name in enumerate(self.names)
            },
        }


@dataclasses.dataclass(frozen=True)
class Measured:
    """Predictions with their metrics, computed once for the numbers and for the pictures.

    Attributes:
      predictions: scores and truth.
      metrics: of the task's kind.
    """

    predictions: Predictions
    metrics: MultiLabelMetrics | SingleLabelMetrics

    @property
    def overall(self) -> Mapping[str, Estimate]:
        """Metrics of the task as a whole."""
        if isinstance(self.metrics, SingleLabelMetrics):
            return self.metrics.overall
        return self.metrics.macro

    def to_json(self) -> dict[str, Any]:
        """Converts kind, counts and metrics to JSON values."""
        return {
            "kind": "single-label" if self.predictions.exclusive else "multi-label",
            "counts": self.predictions.counts(),
            **self.metrics.to_json(),
        }


def is_exclusive(labels: Int[np.ndarray, "n classes"]) -> bool:
    """Tells whether every labeled sample has exactly one class.

    Args:
      labels: 1 present, 0 absent, -1 unknown; (n, classes) integers.

    Returns:
      also False where there is only one class, or no labeled sample.
    """
    known = labels[(labels >= 0).any(1)]
    return labels.shape[1] > 1 and len(known) > 0 and bool((known.clip(0).sum(1) == 1).all())
