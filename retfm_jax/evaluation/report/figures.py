"""ROC and PR curves, calibration, confusion matrix and galleries as matplotlib figures."""

import functools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from retfm_jax import extras
from retfm_jax.data import images
from retfm_jax.data.images import ImageError
from retfm_jax.data.records import ImageRecord, PatientRecord
from retfm_jax.data.tasks import described_tasks
from retfm_jax.evaluation.embeddings import EmbeddedSplit
from retfm_jax.evaluation.metrics.classification import (
    CALIBRATION_BINS,
    SingleLabelMetrics,
    calibration_bins,
)
from retfm_jax.evaluation.metrics.predictions import Measured
from retfm_jax.evaluation.metrics.retrieval import DIRECTIONS, RECALL_AT, Retrieval, best_answers
from retfm_jax.evaluation.results import MaskSection
from retfm_jax.knowledge.vocabulary import load_vocabulary
from retfm_jax.rendering import fonts
from retfm_jax.rendering.figures import new_figure, plain_style, words, wrapped

with extras.needed("eval"):
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.ticker import PercentFormatter

_INK, _GRID, _ACCENT, _RIGHT, _WRONG = "#22262b", "#d9dde2", "#1f5fa8", "#1e7d46", "#b3382c"
# Distinct in hue and lightness, so that neighbors in a legend are told apart in grayscale too.
_COLORS = (
    "#1f5fa8", "#d1701c", "#1e7d46", "#a83279", "#6b4ea0", "#0f8c9c", "#b3382c", "#8a6d1b",
    "#4a5568", "#7aa6d9", "#e7a765", "#77b78f", "#d68bbb", "#a995cf", "#7cc4ce", "#dc8c83",
)  # fmt: skip
_ACRONYMS = frozenset(
    "aca amd auroc brao brvo cnv crao crvo f1 irma npdr pdr rnfl rpe vkh".split()  # noqa: SIM905
)


#: Classes whose names and numbers can be read in one figure.
_READABLE = 30


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


def _clean(axes: Axes, title: str, x: str, y: str) -> None:
    axes.set_title(title, fontsize=11, loc="left", color=_INK)
    axes.set_xlabel(x, fontsize=9, color=_INK)
    axes.set_ylabel(y, fontsize=9, color=_INK)
    axes.tick_params(labelsize=8, colors=_INK, length=3)
    axes.grid(color=_GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(_INK)


def readable(name: str) -> str:
    """Writes the id of a condition or of a metric as words.

    Args:
      name: parts joined by underscores, such as "macro_f1".
    """
    return " ".join(part.upper() if part in _ACRONYMS else part for part in name.split("_"))


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


@plain_style()
def curves(levels: Mapping[str, Measured], title: str) -> Figure:
    """Plots ROC and precision-recall curves of every class, a row of panels for each level.

    Args:
      levels: at least one measurement by the name of its level or protocol.
      title: of the figure.
    """
    with extras.needed("eval"):
        from sklearn.metrics import precision_recall_curve, roc_curve

    figure = new_figure(13, 0.5 + 4.2 * len(levels))
    figure.suptitle(words(title, 120), fontsize=13, x=0.01, ha="left", color=_INK)
    grid = figure.subplots(len(levels), 2, squeeze=False)
    for (level, measured), (roc, pr) in zip(levels.items(), grid, strict=True):
        predictions, classes = measured.predictions, measured.metrics.classes
        overall = measured.overall
        _clean(
            roc,
            f"{words(level, 70)}\nmacro AUROC {overall['auroc']}",
            "1 − specificity",
            "sensitivity",
        )
        _clean(
            pr,
            f"\nmacro average precision {overall['average_precision']}",
            "recall (sensitivity)",
            "precision",
        )
        roc.plot([0, 1], [0, 1], color=_INK, linewidth=0.8, linestyle=(0, (2, 3)))
        ranked = [name for name in predictions.names if "auroc" in classes.get(name, {})]
        ranked.sort(key=lambda name: -classes[name]["auroc"].value)
        labels = class_labels(predictions.names)
        legends: dict[Axes, list[tuple[Line2D, str]]] = {roc: [], pr: []}
        for name in ranked:
            column = predictions.names.index(name)
            known = predictions.labels[:, column] >= 0
            truth = predictions.labels[known, column]
            scores = predictions.scores[known, column]
            row = classes[name]
            style = {
                "color": _COLORS[column % len(_COLORS)],
                "linewidth": 1.4,
                "linestyle": "-" if column < len(_COLORS) else "--",
            }
            false, true, _ = roc_curve(truth, scores, drop_intermediate=True)
            (line,) = roc.plot(false, true, **style)
            legends[roc].append((line, f"{labels[column]}  {row['auroc']}"))
            precision, recall, _ = precision_recall_curve(truth, scores)
            (line,) = pr.step(recall, precision, where="post", **style)
            share = f"{row['average_precision']} of {truth.mean():.2f}"
            legends[pr].append((line, f"{labels[column]}  {share}"))
        for axes in (roc, pr):
            axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.02))
            _legend(axes, legends[axes])
    return figure


@plain_style()
def mask_curves(masks: MaskSection, title: str) -> Figure:
    """Plots precision-recall curves of pixels, and Dice of every photograph, by structure.

    Args:
      masks: of a split.
      title: of the figure.
    """
    names = list(masks.metrics.classes)
    figure = new_figure(13, 0.9 + 4.2)
    figure.suptitle(words(title, 120), fontsize=13, x=0.01, ha="left", color=_INK)
    pr, dice = figure.subplots(1, 2, width_ratios=(1.0, 1.0))
    _clean(
        pr,
        "Pixels of all photographs, and average precision; • at the threshold",
        "recall (sensitivity)",
        "precision",
    )
    _clean(dice, "Photographs that show it", "", "Dice of a photograph")
    labels, legend = class_labels(names), []
    for column, name in enumerate(names):
        row, color = masks.metrics.classes[name], _COLORS[column % len(_COLORS)]
        style = {"color": color, "linewidth": 1.4}
        absent, present = masks.scores[name][:, ::-1].astype(np.float64).cumsum(1)
        some = present + absent > 0
        absent, present = absent[some], present[some]
        recall, precision = present / present[-1], present / (present + absent)
        (line,) = pr.step(np.r_[0.0, recall], np.r_[precision[0], precision], where="pre", **style)
        prefix = "best_" if masks.fitted_on else ""
        at = row[f"{prefix}sensitivity"].value, row[f"{prefix}precision"].value
        pr.plot(*at, "o", color=color, markersize=6)
        legend.append((line, f"{labels[column]}  {row['average_precision']}"))
        values = np.sort(masks.dices[name])
        spread = 0.3 * np.sin(2.4 * np.arange(len(values)))  # apart, and the same in every run
        dice.plot(column + spread, values, "o", color=color, markersize=3.5, alpha=0.7)
        dice.hlines(np.median(values), column - 0.38, column + 0.38, color=_INK, linewidth=1.6)
    pr.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.02))
    dice.set(xlim=(-0.6, len(names) - 0.4), ylim=(-0.02, 1.02))
    dice.set_xticks(range(len(names)), labels, rotation=25, ha="right", fontsize=8)
    _legend(pr, legend)
    return figure


def _legend(axes: Axes, entries: Sequence[tuple[Line2D, str]]) -> None:
    if not entries:
        return
    hidden = len(entries) - _READABLE
    if hidden > 0:
        nothing = Line2D([], [], linestyle="")
        entries = [*entries[:_READABLE], (nothing, f"and {hidden} more, in the table of the page")]
    # Matplotlib leaves out labels that begin with an underscore: each is written afterwards.
    legend = axes.legend(
        [line for line, _ in entries],
        ["."] * len(entries),
        fontsize=7.5,
        frameon=False,
        loc="upper left",
        bbox_to_anchor=(1.01, 1.0),
        labelspacing=0.6,
        handlelength=1.6,
    )
    for text, (_, label) in zip(legend.get_texts(), entries, strict=True):
        text.set_text(label)


@plain_style()
def calibration(measured: Measured, title: str) -> Figure:
    """Plots accuracy against confidence in bins of equal width, above the number of samples.

    Args:
      measured: of a task with one class a sample.
      title: of the figure.
    """
    predictions = measured.predictions
    error = measured.overall["expected_calibration_error"]
    truth, predicted = predictions.labels.argmax(1), predictions.scores.argmax(1)
    right = (truth == predicted).astype(np.float64)
    confidence = predictions.scores.max(1)
    bins = calibration_bins(confidence)
    figure = new_figure(5.2, 5.6)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    _clean(upper, f"{title}, expected error {error}", "", "accuracy")
    _clean(lower, "", "confidence (probability of the predicted class)", "samples")
    upper.plot([0, 1], [0, 1], color=_INK, linewidth=0.8, linestyle=(0, (2, 3)))
    filled = np.unique(bins)
    points = [(confidence[bins == b].mean(), right[bins == b].mean()) for b in filled]
    upper.plot(*zip(*points, strict=True), "o-", color=_ACCENT, linewidth=1.4, markersize=5)
    counts = np.bincount(bins, minlength=CALIBRATION_BINS)
    centers = (np.arange(CALIBRATION_BINS) + 0.5) / CALIBRATION_BINS
    lower.bar(centers, counts, width=0.9 / CALIBRATION_BINS, color=_ACCENT)
    upper.set(xlim=(0, 1), ylim=(-0.02, 1.02))
    return figure


@plain_style()
def confusion_matrix(measured: Measured, title: str) -> Figure:
    """Plots counts by true (row) and predicted class, shaded by the share of the row.

    Args:
      measured: of a task with one class a sample.
      title: of the figure.
    """
    assert isinstance(measured.metrics, SingleLabelMetrics)
    confusion, names = measured.metrics.confusion, measured.predictions.names
    many = len(names) > _READABLE
    side = 2.4 + 0.62 * min(len(names), _READABLE)
    figure = new_figure(side + 0.8, side)
    axes = figure.subplots()
    totals = confusion.sum(1, keepdims=True)
    shares = np.divide(confusion, totals, out=np.zeros(confusion.shape), where=totals > 0)
    shown = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row, column in () if many else np.ndindex(confusion.shape):
        axes.text(
            column,
            row,
            str(confusion[row, column]),
            ha="center",
            va="center",
            fontsize=9,
            color="white" if shares[row, column] > 0.55 else _INK,
        )
    if not many:  # else matplotlib's own ticks count the classes, as the page's table lists them
        labels = class_labels(names)
        axes.set_xticks(range(len(names)), labels, rotation=40, ha="right", fontsize=8)
        axes.set_yticks(range(len(names)), labels, fontsize=8)
    axes.set_xlabel("predicted", fontsize=9, color=_INK)
    axes.set_ylabel("true", fontsize=9, color=_INK)
    axes.set_title(title, fontsize=11, loc="left", color=_INK)
    bar = figure.colorbar(shown, ax=axes, fraction=0.046, pad=0.03, format=PercentFormatter(1.0))
    bar.ax.tick_params(labelsize=8)
    bar.set_label("share of the true class", fontsize=8)
    return figure


def shown(data: bytes, name: str) -> UInt8[np.ndarray, "h w 3"] | str:
    """Makes a thumbnail of a photograph, or a text to put in its place.

    Args:
      data: the encoded image, empty where there is none.
      name: of the image, for errors.

    Returns:
      RGB pixels (h, w, 3) uint8, or "no image" or "cannot be decoded".
    """
    if not data:
        return "no image"
    try:
        return images.thumbnail(data, name)
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
    figure.suptitle(recall_in_words(retrieval), fontsize=12, x=0.01, ha="left", color=_INK)
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
            axes.set_title(label, fontsize=8, color=_INK, pad=2)
        _write_answers(line[-1], query)
    return figure


def _write_answers(axes: Axes, query: Query) -> None:
    axes.axis("off")
    axes.set(xlim=(0, 1), ylim=(0, 1))
    axes.set_title(
        f"own report at rank {query.rank}",
        fontsize=8,
        loc="left",
        color=_INK,
        pad=2,
        fontstyle="italic",
    )
    height = 1 / len(query.answers)
    for position, answer in enumerate(query.answers):
        top = 1 - position * height
        color = _RIGHT if answer.right else _WRONG
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
            color=_INK,
            va="top",
            linespacing=1.25,
        )
