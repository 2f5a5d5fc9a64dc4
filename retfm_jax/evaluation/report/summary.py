"""What an evaluation found, as tables on the console and as pictures."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from retfm_jax.console import Table
from retfm_jax.data.sources import RecordSource
from retfm_jax.evaluation.embeddings import EmbeddedSplit
from retfm_jax.evaluation.metrics.bootstrap import Estimate
from retfm_jax.evaluation.metrics.grades import Order
from retfm_jax.evaluation.metrics.predictions import Measured, Predictions
from retfm_jax.evaluation.protocols.retrieval import RECALL_AT, Retrieval
from retfm_jax.evaluation.report import figures as pictures
from retfm_jax.evaluation.report.figures import class_name, readable
from retfm_jax.files import Path
from retfm_jax.rendering.figures import save

LANGUAGE_NAMES = {"en": "English", "zh": "Chinese"}
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
#: Sections whose curves stand in the picture, and that fit beside each other on a console; the
#: page has all.
_CURVES, _CLASS_COLUMNS = 4, 5


@dataclasses.dataclass(frozen=True)
class Section:
    """One protocol in one setting.

    Attributes:
      title: the protocol and its setting, in words.
      measured: predictions and metrics (of the first fold, where there are several).
      records: where the samples of the predictions are.
      folds: mean, spread and values of every overall metric over the folds; None without folds.
    """

    title: str
    measured: Measured
    records: Sequence[Any] | RecordSource
    folds: Mapping[str, Mapping[str, Any]] | None = None

    def overall(self, name: str, interval: bool = True) -> str:
        """One metric in words: with its interval, or mean ± spread over folds."""
        if name not in self.measured.overall:
            return "–"
        if self.folds is not None:
            mean, spread = self.folds[name]["mean"], self.folds[name]["spread"]
            return "–" if mean is None else f"{mean:.3f} ± {spread or 0:.3f}"
        value = self.measured.overall[name]
        return str(value) if interval or math.isnan(value.value) else f"{value.value:.3f}"


@dataclasses.dataclass(eq=False)
class Results:
    """Everything that one evaluation found.

    Attributes:
      data: dataset and split, in words.
      sections: classification.
      retrievals: by language, over `split`.
      order: of the classes, where they are grades.
      by: what intervals draw anew, "patient" or "image".
    """

    data: str
    sections: list[Section] = dataclasses.field(default_factory=list)
    retrievals: dict[str, Retrieval] = dataclasses.field(default_factory=dict)
    split: EmbeddedSplit | None = None
    order: Order | None = None
    by: str = "patient"


def measured_columns(sections: Sequence[Section]) -> list[tuple[str, str]]:
    """The overall metrics that any section has."""
    return [
        (name, title)
        for name, title in OVERALL
        if any(name in section.measured.overall for section in sections)
    ]


def console_tables(results: Results) -> list[Table]:
    """A table over protocols, one over classes, one of the retrieval."""
    tables = []
    if results.sections:
        columns = measured_columns(results.sections)
        # A console is narrow: intervals of many metrics stand on the page and in the JSON file.
        interval = len(columns) <= 2
        columns = columns[:5]
        shown = f", 95% intervals by {results.by}" if interval else ""
        heads = [title.replace(" ", "\n") for _, title in columns]
        table = Table(f"{results.data}: overall{shown}", ["protocol", *heads])
        for section in results.sections:
            table.row(section.title, *(section.overall(name, interval) for name, _ in columns))
        tables.append(table)
        if len(results.sections) <= _CLASS_COLUMNS:
            tables.append(_class_table(results))
    if results.retrievals:
        heads = [f"recall at {k}" for k in RECALL_AT]
        title = f"{results.data}: retrieval, 95% intervals by {results.by}"
        table = Table(title, ["query", *heads])
        for language, retrieval in results.retrievals.items():
            for direction, recalls in retrieval.recalls.items():
                name = f"{readable(direction)}, {LANGUAGE_NAMES[language]}"
                table.row(name, *recalls.values())
        tables.append(table)
    return tables


def _class_table(results: Results) -> Table:
    titles = [section.title.replace(", ", ",\n") for section in results.sections]
    table = Table("AUROC per class", ["class", *titles])
    for name in results.sections[0].measured.predictions.names:
        cells = []
        for section in results.sections:
            row = section.measured.metrics.classes.get(name, {})
            value: Estimate | None = row.get("auroc")
            cells.append("–" if value is None else f"{value.value:.3f}")
        table.row(class_name(name), *cells)
    return table


def draw(results: Results, out: Path) -> list[Path]:
    """Writes the curves under the name of the JSON file and the galleries beside it."""
    written = []
    if results.sections:
        shown = {section.title: section.measured for section in results.sections[:_CURVES]}
        written.append(out.with_suffix(".png"))
        save(pictures.curves(shown, results.data), written[-1])
    for language, retrieval in results.retrievals.items():
        written.append(out.with_name(f"{out.stem}_gallery_{language}.png"))
        shown = pictures.queries(results.split, retrieval)
        save(pictures.retrieval_gallery(results.split, retrieval, shown), written[-1])
    return written


class Mistake(NamedTuple):
    """A sample that was scored wrongly with confidence.

    Attributes:
      row, eye: where the sample is.
      text: what was said and what is true.
    """

    row: int
    eye: str | None
    text: str


def mistakes(predictions: Predictions, count: int = 12) -> list[Mistake]:
    """The most confident mistakes, the worst first.

    With classes that exclude each other: wrong predictions by their probability. Else false alarms
    and misses by how extreme the score is among the class's scores, the first of each class.
    """
    if predictions.exclusive:
        truth, predicted = predictions.labels.argmax(1), predictions.scores.argmax(1)
        wrong = np.flatnonzero(truth != predicted)
        confidence = predictions.scores.max(1)
        return [
            Mistake(
                *predictions.samples[place],
                f"{class_name(predictions.names[predicted[place]])} {confidence[place]:.2f}, "
                f"is {class_name(predictions.names[truth[place]])}",
            )
            for place in wrong[np.argsort(-confidence[wrong], kind="stable")][:count]
        ]
    found: list[tuple[float, Mistake]] = []
    for column, name in enumerate(predictions.names):
        labels, scores = predictions.labels[:, column], predictions.scores[:, column]
        known = np.flatnonzero(labels >= 0)
        order = known[np.argsort(scores[known], kind="stable")]
        rank = {int(place): len(order) - position for position, place in enumerate(order)}
        alarms = [int(place) for place in order[::-1] if labels[place] == 0][:1]
        misses = [int(place) for place in order if labels[place] == 1][:1]
        if not misses or not alarms:
            continue
        for place, verb, depth in (
            (alarms[0], "false alarm", rank[alarms[0]]),
            (misses[0], "missed", len(order) + 1 - rank[misses[0]]),
        ):
            if 2 * depth <= len(order):
                score = f"score {rank[place]} of {len(order)} from the top"
                text = f"{verb}: {class_name(name)}, {score}"
                found.append((depth / len(order), Mistake(*predictions.samples[place], text)))
    found.sort(key=lambda pair: pair[0])
    return [mistake for _, mistake in found[:count]]
