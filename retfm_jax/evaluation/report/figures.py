"""ROC and PR curves, calibration and galleries: charts of pages, and figures as pictures."""

import functools
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

from retfm_jax import extras
from retfm_jax.data import images
from retfm_jax.data.images import ImageError
from retfm_jax.data.records import ImageRecord, PatientRecord
from retfm_jax.data.tasks import described_tasks
from retfm_jax.evaluation.embeddings import EmbeddedSplit
from retfm_jax.evaluation.metrics.bootstrap import Weights, bootstrap, ratio
from retfm_jax.evaluation.metrics.classification import CALIBRATION_BINS, FEW, calibration_bins
from retfm_jax.evaluation.metrics.curves import Banded, ranking_curves
from retfm_jax.evaluation.metrics.predictions import Measured
from retfm_jax.evaluation.metrics.retrieval import DIRECTIONS, RECALL_AT, Retrieval, best_answers
from retfm_jax.evaluation.results import MaskSection
from retfm_jax.knowledge.vocabulary import load_vocabulary
from retfm_jax.rendering import charts, colors, fonts
from retfm_jax.rendering.figures import new_figure, panels, plain_style, words, wrapped
from retfm_jax.rendering.glossary import readable

with extras.needed("eval"):
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Classes whose curves a page shows, and those of a picture.
READABLE, _PICTURED = 30, 12
#: Resamples of a band; of more than a hundred thousand samples fewer, down to a quarter.
_DRAWS = 400
_DRAWN_SAMPLES = 100_000 * _DRAWS


class Answer(NamedTuple):
    """One answer to a query.

    Attributes:
      text: of the report.
      similarity: cosine of its embedding with that of the image.
      right: whether it is the own report or one that reads alike.
    """

    text: str
    similarity: float
    right: bool


def class_name(name: str) -> str:
    """Writes a class or structure in words; what is no id of ours stays as it was given.

    Args:
      name: a condition's id, that of a structure of a public set, or any other name.
    """
    return readable(name) if name in load_vocabulary() or name in _structures() else name


@functools.cache
def _structures() -> frozenset[str]:
    """Structures of which some public set has masks."""
    return frozenset(name for task in described_tasks().values() for name in task.get("masks", ()))


def class_labels(names: Sequence[str]) -> list[str]:
    """Labels of classes in a plot, numbered where no font has their characters or two look alike.

    Args:
      names: of the classes.
    """
    labels = [words(class_name(name), 40) for name in names]
    return [
        f"class {position} {label}" if fonts.UNDRAWN in label or labels.count(label) > 1 else label
        for position, label in enumerate(labels, 1)
    ]


class ClassCharts(NamedTuple):
    """Curves of a class.

    Attributes:
      name: of the class, in words.
      roc, precision_recall: charts, each with its area.
    """

    name: str
    roc: charts.Panel
    precision_recall: charts.Panel


def ranked(levels: Mapping[str, Measured]) -> list[str]:
    """Classes that some level has with both sides, so that they have curves.

    Args:
      levels: measurements by the name of their level or protocol.
    """
    every = dict.fromkeys(name for each in levels.values() for name in each.predictions.names)
    return [
        name
        for name in every
        if any("auroc" in each.metrics.classes.get(name, {}) for each in levels.values())
    ]


def class_charts(levels: Mapping[str, Measured], names: Sequence[str]) -> list[ClassCharts]:
    """ROC and precision-recall charts of classes; the first level's have bands.

    Args:
      levels: measurements by the name of their level or protocol, each a curve of every chart.
      names: of classes, as `ranked` returns them.
    """
    found = []
    for name in names:
        rocs, precisions, areas = [], [], []
        for number, measured in enumerate(levels.values()):
            row = measured.metrics.classes.get(name, {})
            if "auroc" not in row:
                continue
            known = _known(measured, name)
            roc, precision = _curves_of(*known, banded=number == 0)
            rocs.append(charts.Curve(roc.x, roc.y, "", roc.band, number))
            x, y = _steps(precision)
            precisions.append(charts.Curve(x, y, "", precision.band, number))
            areas.append((row["auroc"], row["average_precision"], float(known[0].mean())))
        area, precision, share = areas[0]
        notes = f"AUROC {area}", f"AP {precision}, chance {share:.2f}"
        several = len(levels) > 1
        values = [
            [(f"{each.value:.2f}", curve.color) for each, curve in zip(of, rocs, strict=True)]
            for of in ([area for area, *_ in areas], [ap for _, ap, _ in areas])
        ]
        said = class_name(name)
        found.append(
            ClassCharts(
                said,
                charts.Panel(
                    said,
                    "1 − specificity",
                    "sensitivity",
                    rocs[::-1],
                    notes[0],
                    diagonal=True,
                    values=values[0] * several,
                ),
                charts.Panel(
                    said,
                    "recall",
                    "precision",
                    precisions[::-1],
                    notes[1],
                    values=values[1] * several,
                ),
            )
        )
    return found


def _known(measured: Measured, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Truth, scores and patients of the samples of which a class is known."""
    predictions = measured.predictions
    column = predictions.names.index(name)
    known = predictions.labels[:, column] >= 0
    return (
        predictions.labels[known, column],
        predictions.scores[known, column],
        np.asarray(predictions.patients)[known],
    )


def _curves_of(
    labels: np.ndarray, scores: np.ndarray, patients: np.ndarray, banded: bool
) -> tuple[Banded, Banded]:
    draws = max(_DRAWS // 4, min(_DRAWS, _DRAWN_SAMPLES // len(labels))) if banded else 0
    return ranking_curves(labels, scores, patients, draws=draws)


def _steps(curve: Banded) -> tuple[np.ndarray, np.ndarray]:
    """Points of a curve whose steps stand before them: flat up to the next recall."""
    return np.repeat(curve.x, 2)[:-1], np.repeat(curve.y, 2)[1:]


def curves(levels: Mapping[str, Measured], title: str) -> Figure:
    """Plots ROC and precision-recall curves of classes as small multiples.

    Args:
      levels: at least one measurement by the name of its level or protocol.
      title: of the figure.
    """
    names = ranked(levels)
    found, hidden = class_charts(levels, names[:_PICTURED]), len(names) - _PICTURED
    labels = class_labels([each.name for each in found])
    plotted = [
        panel._replace(title=label)
        for each, label in zip(found, labels, strict=True)
        for panel in (each.roc, each.precision_recall)
    ]
    first = next(iter(levels))
    several = len(levels) > 1
    notes = [
        "Of each class the ROC and the precision-recall curve, with AUROC and average "
        f"precision{', in the colors of the curves' if several else ''}.",
        f"Bands: 95 %, pointwise, by bootstrap of patients{f', of {first}' if several else ''}.",
    ]
    if hidden > 0:
        notes.append(f"{hidden} more classes are in the table of the page.")
    if not plotted:
        plotted = [charts.Panel("no class with both sides", "1 − specificity", "sensitivity", [])]
    overall = ", ".join(
        f"{name}: macro AUROC {measured.overall['auroc']}" for name, measured in levels.items()
    )
    return panels(
        plotted, f"{title}  {'' if several else overall}", notes, key=list(levels) * several
    )


def mask_charts(masks: MaskSection) -> list[charts.Panel]:
    """Charts of structures: precision and recall of pixels, and Dice of photographs, sorted.

    Args:
      masks: of a split.
    """
    found = []
    for name, row in masks.metrics.classes.items():
        title = class_name(name)
        absent, present = masks.scores[name][:, ::-1].astype(np.float64).cumsum(1)
        some = present + absent > 0
        absent, present = absent[some], present[some]
        recall, precision = present / present[-1], present / (present + absent)
        prefix = "best_" if masks.fitted_on else ""
        dot = (row[f"{prefix}sensitivity"].value, row[f"{prefix}precision"].value, 0)
        line = charts.Curve(np.r_[0.0, recall], np.r_[precision[0], precision])
        found.append(
            charts.Panel(
                title,
                "recall of pixels",
                "precision",
                [line],
                f"AP {row['average_precision']}; dot: at the threshold",
                dots=[dot] * (not math.isnan(dot[0] + dot[1])),
            )
        )
        values = np.sort(masks.dices[name])
        if len(values):
            found.append(
                charts.Panel(
                    title,
                    "photographs, sorted",
                    "Dice",
                    [charts.Curve(np.arange(1.0, len(values) + 1), values, color=1)],
                    f"median {np.median(values):.3f} of {len(values)} photographs that show it",
                    x_limits=(0.0, float(len(values) + 1)),
                    dots=[(at, value, 1) for at, value in enumerate(values, 1)][:200],
                    integers=True,
                )
            )
    return found


def mask_curves(masks: MaskSection, title: str) -> Figure:
    """Plots the charts of structures as one picture.

    Args:
      masks: of a split, with at least one structure.
      title: of the figure.
    """
    found = mask_charts(masks)
    labels = class_labels(list(masks.metrics.classes))
    by_name = dict(zip(map(class_name, masks.metrics.classes), labels, strict=True))
    shown = [panel._replace(title=by_name[panel.title]) for panel in found]
    return panels(shown[: 2 * _PICTURED], title, ["Dice is that of each photograph."])


def calibration(measured: Measured) -> list[charts.Panel]:
    """Charts of accuracy against confidence in bins of equal width, and of the samples in them.

    Args:
      measured: of a task with one class a sample.
    """
    predictions = measured.predictions
    truth, predicted = predictions.labels.argmax(1), predictions.scores.argmax(1)
    right = (truth == predicted).astype(np.float32)
    confidence = predictions.scores.max(1)
    bins = calibration_bins(confidence)
    filled, member = np.unique(bins, return_inverse=True)
    of_bin = np.eye(len(filled), dtype=np.float32)[member]  # (samples, bins)

    def accuracies(weights: Weights) -> Float[np.ndarray, "draws values"]:
        return ratio((weights * right[:, None]).T @ of_bin, weights.T @ of_bin)

    whole = np.ones((len(right), 1), np.float32)
    accuracy = accuracies(whole)[0]
    places = np.array([confidence[member == at].mean() for at in range(len(filled))])
    low, high = np.full((2, len(filled)), np.nan)
    if len(set(predictions.patients)) >= FEW:
        resampled = bootstrap(predictions.patients, accuracies, _DRAWS)
        known = ~np.isnan(resampled).all(0)
        low[known], high[known] = np.nanpercentile(resampled[:, known], (2.5, 97.5), axis=0)
    edges = np.arange(CALIBRATION_BINS + 1) / CALIBRATION_BINS
    counts = np.bincount(bins, minlength=CALIBRATION_BINS).astype(np.float64)
    outline = np.repeat(edges, 2), np.r_[0.0, np.repeat(counts, 2), 0.0]
    return [
        charts.Panel(
            "Calibration",
            "confidence",
            "accuracy",
            [charts.Curve(places, accuracy, band=(places, low, high))],
            f"expected error {measured.overall['expected_calibration_error']}",
            dots=[(x, y, 0) for x, y in zip(places, accuracy, strict=True)],
            diagonal=True,
        ),
        charts.Panel(
            "Confidence",
            "confidence",
            "samples",
            [charts.Curve(*outline)],
            "probability of the predicted class",
            y_limits=(0.0, 1.05 * float(counts.max())),
        ),
    ]


def shown(data: bytes, name: str, side: int = 320) -> UInt8[np.ndarray, "h w 3"] | str:
    """Makes a thumbnail of a photograph, or a text to put in its place.

    Args:
      data: the encoded image, empty where there is none.
      name: of the image, for errors.
      side: long side of the thumbnail, pixels.

    Returns:
      RGB pixels (h, w, 3) uint8, or "no image" or "cannot be decoded".
    """
    if not data:
        return "no image"
    try:
        return images.thumbnail(data, name, side)
    except ImageError:
        return "cannot be decoded"


def photographs(record: PatientRecord | ImageRecord) -> list[tuple[str, bytes]]:
    """Photographs of a record by what they show; the right eye first, as clinicians see it.

    Args:
      record: of a patient or of a single image.

    Returns:
      pairs of "right", "left" or "" (a single image) and the encoded image, empty where missing.
    """
    if isinstance(record, ImageRecord):
        return [("", record.image)]
    return [("right", record.right), ("left", record.left)]


class Query(NamedTuple):
    """A record of the gallery with the reports that the model finds for it.

    Attributes:
      row: position of the record in its split.
      rank: of its own report among all, from 1 on.
      answers: the reports, the most similar first.
    """

    row: int
    rank: int
    answers: tuple[Answer, ...]


def queries(
    split: EmbeddedSplit, retrieval: Retrieval, count: int = 6, answers: int = 3, seed: int = 0
) -> list[Query]:
    """Samples records and finds the reports that are nearest to their images.

    Args:
      split: whose records are sampled.
      retrieval: of this split; its language is that of the reports.
      count: of records at most.
      answers: reports for each.
      seed: of the sampling.
    """
    view = split.views[split.main_view]
    gallery = view.texts[retrieval.language][retrieval.rows]
    reports = split.reports[retrieval.language]
    count = min(count, len(retrieval.rows))
    drawn = np.random.default_rng(seed).choice(len(retrieval.rows), count, replace=False)
    found = []
    for query in sorted(map(int, drawn)):
        row = int(retrieval.rows[query])
        image = view.images[row]
        best = best_answers(image, gallery, retrieval.groups, answers)
        read = tuple(
            Answer(
                reports[int(retrieval.rows[answer])],
                float(gallery[answer] @ image),
                bool(retrieval.groups[answer] == retrieval.groups[query]),
            )
            for answer in best
        )
        found.append(Query(row, int(retrieval.ranks[DIRECTIONS[0]][query]), read))
    return found


def recall_in_words(retrieval: Retrieval) -> str:
    """Heading of a gallery, with the recall of reports by images.

    Args:
      retrieval: of the gallery's split.
    """
    recall = retrieval.recalls[DIRECTIONS[0]]
    found = ", ".join(f"{recall[f'recall_at_{k}'].value:.2f} at {k}" for k in RECALL_AT)
    return (
        f"Reports found by image ({retrieval.language}): recall {found} among "
        f"{len(retrieval.rows)} records"
    )


@plain_style()
def retrieval_gallery(
    split: EmbeddedSplit, retrieval: Retrieval, chosen: Sequence[Query]
) -> Figure:
    """Plots photographs of records with the reports that the model finds for them.

    Args:
      split: that holds the records.
      retrieval: of this split.
      chosen: at least one record, see `queries`.
    """
    pictures = len(photographs(split.records[chosen[0].row]))
    figure = new_figure(3.2 * pictures / 1.6 + 8.2, 2.05 * len(chosen) + 0.7)
    figure.suptitle(recall_in_words(retrieval), fontsize=12, x=0.01, ha="left", color=colors.INK)
    widths = [1] * pictures + [4.4]
    grid = figure.subplots(len(chosen), pictures + 1, squeeze=False, width_ratios=widths)
    for query, line in zip(chosen, grid, strict=True):
        record = split.records[query.row]
        for axes, (eye, data) in zip(line, photographs(record), strict=False):
            axes.axis("off")
            picture = shown(data, record.record_id)
            if isinstance(picture, str):
                axes.text(0.5, 0.5, f"{eye} {picture}", ha="center", va="center", fontsize=9)
            else:
                axes.imshow(picture)
            label = f"{words(record.record_id, 30)}  {eye}" if eye != "left" else eye
            axes.set_title(label, fontsize=8, color=colors.INK, pad=2)
        _write_answers(line[-1], query)
    return figure


def _write_answers(axes: Axes, query: Query) -> None:
    axes.axis("off")
    axes.set(xlim=(0, 1), ylim=(0, 1))
    axes.set_title(
        f"own report at rank {query.rank}",
        fontsize=8,
        loc="left",
        color=colors.INK,
        pad=2,
        fontstyle="italic",
    )
    height = 1 / len(query.answers)
    for position, answer in enumerate(query.answers):
        top = 1 - position * height
        color = colors.RIGHT if answer.right else colors.WRONG
        axes.plot([0.004, 0.004], [top - 0.04, top - height + 0.05], color=color, linewidth=3)
        axes.text(
            0.02,
            top - 0.03,
            f"{position + 1}. {'own' if answer.right else 'another'}  {answer.similarity:.2f}",
            fontsize=7.5,
            color=color,
            va="top",
        )
        axes.text(
            0.16,
            top - 0.03,
            "\n".join(wrapped(answer.text, 100, 3)),
            fontsize=8,
            color=colors.INK,
            va="top",
            linespacing=1.25,
        )
