"""Selection of what reports show of an evaluation: metrics and mistakes."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from retfm_jax.evaluation.metrics.predictions import Predictions
from retfm_jax.evaluation.report.figures import class_name
from retfm_jax.evaluation.results import Section

#: Columns of the table over protocols, as far as they are measured.
OVERALL = (
    ("aca", "ACA"),
    ("auroc", "macro AUROC"),
    ("average_precision", "macro AP"),
    ("quadratic_kappa", "quadratic kappa"),
    ("kappa", "kappa"),
    ("f1", "macro F1"),
    ("accuracy", "accuracy"),
    ("expected_calibration_error", "calibration error"),
)


def measured_columns(sections: Sequence[Section]) -> list[tuple[str, str]]:
    """Overall metrics that any section has, as pairs of their name and their heading.

    Args:
      sections: the rows of the table.
    """
    return [
        (name, title)
        for name, title in OVERALL
        if any(name in section.measured.overall for section in sections)
    ]


class MistakeMap(NamedTuple):
    """A heat map of a mistake.

    Attributes:
      name: the class that it explains.
      picture: the map over the photograph, RGB (h, w, 3) uint8.
    """

    name: str
    picture: UInt8[np.ndarray, "h w 3"]


class Mistake(NamedTuple):
    """A sample that was scored wrongly with confidence.

    Attributes:
      row, eye: position of the record in its split, and its eye (None: the record as a whole).
      text: what was predicted and what is true.
      classes: what the mistake is about: the predicted and the true one, or the finding.
      maps: of these classes; () where nobody asked for them.
    """

    row: int
    eye: str | None
    text: str
    classes: tuple[str, ...]
    maps: tuple[MistakeMap, ...] = ()


def mistakes(predictions: Predictions, count: int = 12) -> list[Mistake]:
    """The most confident mistakes, the worst first.

    With classes that exclude each other: wrong predictions by their probability. Else false alarms
    and misses by how extreme the score is among the class's scores, the first of each class.

    Args:
      predictions: of a split.
      count: how many mistakes at most.
    """
    if predictions.exclusive:
        truth, predicted = predictions.labels.argmax(1), predictions.scores.argmax(1)
        wrong = np.flatnonzero(truth != predicted)
        confidence = predictions.scores.max(1)
        return [
            Mistake(
                *predictions.samples[index],
                f"{class_name(predictions.names[predicted[index]])} {confidence[index]:.2f}, "
                f"is {class_name(predictions.names[truth[index]])}",
                (predictions.names[predicted[index]], predictions.names[truth[index]]),
            )
            for index in map(int, wrong[np.argsort(-confidence[wrong], kind="stable")][:count])
        ]
    found: list[tuple[float, Mistake]] = []
    for column, name in enumerate(predictions.names):
        labels, scores = predictions.labels[:, column], predictions.scores[:, column]
        known = np.flatnonzero(labels >= 0)
        order = known[np.argsort(scores[known], kind="stable")]
        rank = {int(index): len(order) - position for position, index in enumerate(order)}
        alarms = [int(index) for index in order[::-1] if labels[index] == 0][:1]
        misses = [int(index) for index in order if labels[index] == 1][:1]
        if not misses or not alarms:
            continue
        for index, verb, depth in (
            (alarms[0], "false alarm", rank[alarms[0]]),
            (misses[0], "missed", len(order) + 1 - rank[misses[0]]),
        ):
            if 2 * depth <= len(order):
                score = f"score {rank[index]} of {len(order)} from the top"
                text = f"{verb}: {class_name(name)}, {score}"
                sample = predictions.samples[index]
                found.append((depth / len(order), Mistake(*sample, text, (name,))))
    found.sort(key=lambda pair: pair[0])
    return [mistake for _, mistake in found[:count]]
