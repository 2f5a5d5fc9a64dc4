"""Decisions of a network, fitted on a split that it was not trained on."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from retfm_jax.data.segmented import SegmentedSource
from retfm_jax.data.sources import RecordSource
from retfm_jax.data.tasks import counts_by
from retfm_jax.decisions import WEIGHTS, Conformal, Decisions
from retfm_jax.evaluation.class_predictions import ClassPredictions, predict_classes
from retfm_jax.evaluation.metrics import decision_fits
from retfm_jax.evaluation.metrics.calibration import calibration
from retfm_jax.evaluation.segmentation import tally
from retfm_jax.mask_decisions import MaskDecisions
from retfm_jax.runtime.checkpoints import checksum

#: Share of new patients' photographs whose prediction set holds their class.
COVERAGE = 0.9


def fit_decisions(
    model: Any, source: RecordSource, *, coverage: float = COVERAGE, progress: bool = True
) -> Decisions:
    """Fits temperature, thresholds and prediction sets.

    Args:
      model: a `RetinalModel` with classes.
      source: the validation split: photographs of patients that the network was not trained on.
      coverage: of the prediction sets.
      progress: whether a progress bar is shown.

    Returns:
      the decisions, of which `fitted_on` says what they were fitted on and for which weights.

    Raises:
      UserError: see `class_predictions.predict_classes`.
    """
    found = predict_classes(model, source, progress=progress)
    known = getattr(source, "patients_known", counts_by(source) == "patient")
    return fitted(model.decisions, found, coverage, _whereon(model, source, known))


def fit_mask_decisions(
    model: Any, source: SegmentedSource, *, progress: bool = True
) -> MaskDecisions:
    """Chooses the threshold of each structure: that of the highest Dice of all pixels together.

    Args:
      model: a `RetinalModel` with structures.
      source: the validation split: photographs of patients that the network was not trained on. A
        structure that none of them shows keeps one half.
      progress: whether a progress bar is shown.

    Returns:
      the decisions, of which `fitted_on` says what they were chosen on, for which weights, and the
      Dice there at one half and at the thresholds.

    Raises:
      UserError: see `segmentation.tally`.
    """
    found = tally(model, source, progress=progress)
    thresholds = found.best_thresholds()
    metrics = found.measured(thresholds, draws=1)
    dice = {
        when: {name: round(row[metric].value, 6) for name, row in metrics.classes.items()}
        for when, metric in (("before", "dice"), ("after", "best_dice"))
    }
    said = {
        **_whereon(model, source, source.patients_known),
        "images": metrics.images,
        "patients": len(set(found.groups)),
        "dice": dice,
        "left_out": dict(metrics.left_out),
    }
    return MaskDecisions(
        model.structures, tuple(thresholds[name] for name in model.structures), said
    )


def _whereon(model: Any, source: RecordSource, patients_known: bool) -> dict[str, Any]:
    """What decisions are fitted on, and for which weights."""
    network = {"params": model.params, "batch_stats": model.state.batch_stats}
    return {
        "dataset": source.name,
        "split": source.split,
        "patients_known": patients_known,
        WEIGHTS: checksum(network),
    }


def fitted(
    decisions: Decisions,
    found: ClassPredictions,
    coverage: float = COVERAGE,
    said: Mapping[str, Any] | None = None,
) -> Decisions:
    """Fits decisions to logits whose truth is known.

    The temperature comes first; thresholds and sets are of the probabilities that it gives.

    Args:
      decisions: tell the classes and what they are to each other.
      found: logits and labels.
      coverage: of the prediction sets.
      said: what `fitted_on` says beside numbers.
    """
    findings, labels = decisions.outcome == "findings", found.labels
    warmth = decision_fits.temperature(found.logits, labels, findings)
    plain = dataclasses.replace(decisions, temperature=1.0)
    warm = dataclasses.replace(decisions, temperature=warmth)
    probabilities = warm.probabilities(found.logits)
    patients = np.asarray(found.patients)
    numbers: dict[str, Any] = {
        "images": len(found.rows),
        "patients": len(set(found.patients)),
        "metrics": {
            name: {key: round(each.value, 6) for key, each in measured.items()}
            for name, measured in (
                ("before", _calibration(plain.probabilities(found.logits), found, findings)),
                ("after", _calibration(probabilities, found, findings)),
            )
        },
    }
    scores = 1 - probabilities.astype(np.float64)
    thresholds: tuple[float, ...] = ()
    if findings:
        best = [
            decision_fits.youden_threshold(probabilities[:, column], labels[:, column])
            for column in range(labels.shape[1])
        ]
        thresholds = tuple(threshold for threshold, _, _ in best)
        numbers["thresholds"] = {
            name: {"sensitivity": _plain(sensitivity), "specificity": _plain(specificity)}
            for name, (_, sensitivity, specificity) in zip(decisions.classes, best, strict=True)
        }
        of_classes = [
            (scores[rows, column], patients[rows])
            for column in range(labels.shape[1])
            for rows in [np.flatnonzero(labels[:, column] == 1)]
        ]
    else:
        of_classes = [(scores[labels == 1], patients)]
    quantiles = [decision_fits.conformal_quantile(*each, coverage) for each in of_classes]
    numbers["conformal_patients"] = [count for _, count in quantiles]
    return dataclasses.replace(
        warm,
        thresholds=thresholds,
        conformal=Conformal(coverage, tuple(quantile for quantile, _ in quantiles)),
        fitted_on={**(said or {}), **numbers},
    )


def _calibration(probabilities: np.ndarray, found: ClassPredictions, findings: bool) -> Any:
    return calibration(probabilities, found.labels, findings, found.patients, draws=1)


def _plain(value: float) -> float | None:
    return None if np.isnan(value) else round(value, 6)
