"""ROC and PR curves, calibration, confusion matrix and galleries as matplotlib figures."""

import functools
import io
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from sklearn import metrics as sk

from retfm_jax.data import images
from retfm_jax.data.records import ImageRecord, PatientRecord
from retfm_jax.evaluation.embeddings import EmbeddedSplit
from retfm_jax.evaluation.metrics import CALIBRATION_BINS, calibration_bins
from retfm_jax.evaluation.predictions import Measured
from retfm_jax.evaluation.retrieval import DIRECTIONS, RECALL_AT, Retrieval, best_answers
from retfm_jax.files import atomic_write

_INK, _GRID, _ACCENT, _RIGHT, _WRONG = "#22262b", "#d9dde2", "#1f5fa8", "#1e7d46", "#b3382c"
# Distinct in hue and lightness, so that neighbours in a legend are told apart in greyscale too.
_COLOURS = (
    "#1f5fa8", "#d1701c", "#1e7d46", "#a83279", "#6b4ea0", "#0f8c9c", "#b3382c", "#8a6d1b",
    "#4a5568", "#7aa6d9", "#e7a765", "#77b78f", "#d68bbb", "#a995cf", "#7cc4ce", "#dc8c83",
)  # fmt: skip
_ACRONYMS = frozenset(
    "aca amd auroc brao brvo cnv crao crvo f1 irma npdr pdr rnfl rpe vkh".split()  # noqa: SIM905
)
#: Families that hold Chinese characters, as common systems name them.
_CJK_FAMILIES = (
    "Noto Sans CJK SC", "Noto Sans SC", "Source Han Sans SC", "Source Han Sans CN",
    "PingFang SC", "Hiragino Sans GB", "Heiti SC", "Microsoft YaHei", "SimHei",
    "WenQuanYi Micro Hei", "WenQuanYi Zen Hei", "Arial Unicode MS", "Noto Sans CJK JP",
)  # fmt: skip


class Answer(NamedTuple):
    """One answer to a query; `right`: it is the own report or one that reads alike."""

    text: str
    similarity: float
    right: bool


@functools.cache
def cjk_family() -> str | None:
    """An installed font family with Chinese characters, None where there is none."""
    installed = {font.name for font in font_manager.fontManager.ttflist}
    return next((family for family in _CJK_FAMILIES if family in installed), None)


def save(figure: Figure, path: str | Path) -> None:
    """Writes a figure as PNG, atomically."""
    with atomic_write(path, "wb") as file:
        file.write(png(figure))


def png(figure: Figure) -> bytes:
    """A figure as the bytes of a PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130, facecolor="white")
    return buffer.getvalue()


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.1, h_pad=0.1)
    FigureCanvasAgg(figure)
    return figure


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
    """The id of a class or a metric as words."""
    words = name.split("_")
    return " ".join(word.upper() if word in _ACRONYMS else word for word in words)


def curves(levels: Mapping[str, Measured], title: str) -> Figure:
    """ROC and precision-recall curves of every class, a row of panels for each level.

    Args:
      levels: what was measured by the name of its level or protocol.
    """
    figure = _figure(13, 0.5 + 4.2 * len(levels))
    figure.suptitle(title, fontsize=13, x=0.01, ha="left", color=_INK)
    grid = figure.subplots(len(levels), 2, squeeze=False)
    for (level, measured), (roc, pr) in zip(levels.items(), grid, strict=True):
        predictions, classes = measured.predictions, measured.metrics.classes
        overall = measured.overall
        _clean(
            roc,
            f"{level}\nmacro AUROC {overall['auroc']}",
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
        for name in ranked:
            column = predictions.names.index(name)
            known = predictions.labels[:, column] >= 0
            truth = predictions.labels[known, column]
            scores = predictions.scores[known, column]
            row = classes[name]
            style = {
                "color": _COLOURS[column % len(_COLOURS)],
                "linewidth": 1.4,
                "linestyle": "-" if column < len(_COLOURS) else "--",
            }
            false, true, _ = sk.roc_curve(truth, scores, drop_intermediate=True)
            roc.plot(false, true, label=f"{readable(name)}  {row['auroc']}", **style)
            precision, recall, _ = sk.precision_recall_curve(truth, scores)
            pr.step(
                recall,
                precision,
                where="post",
                label=f"{readable(name)}  {row['average_precision']} of {truth.mean():.2f}",
                **style,
            )
        for axes in (roc, pr):
            axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.02))
            if ranked:
                axes.legend(
                    fontsize=7.5,
                    frameon=False,
                    loc="upper left",
                    bbox_to_anchor=(1.01, 1.0),
                    labelspacing=0.6,
                    handlelength=1.6,
                )
    return figure


def calibration(measured: Measured, title: str) -> Figure:
    """Accuracy against confidence in bins of equal width, with the number of samples below."""
    predictions = measured.predictions
    error = measured.overall["expected_calibration_error"]
    truth, predicted = predictions.labels.argmax(1), predictions.scores.argmax(1)
    right = (truth == predicted).astype(np.float64)
    confidence = predictions.scores.max(1)
    bins = calibration_bins(confidence)
    figure = _figure(5.2, 5.6)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    _clean(upper, f"{title}, expected error {error}", "", "accuracy")
    _clean(lower, "", "confidence (probability of the predicted class)", "samples")
    upper.plot([0, 1], [0, 1], color=_INK, linewidth=0.8, linestyle=(0, (2, 3)))
    filled = np.unique(bins)
    points = [(confidence[bins == b].mean(), right[bins == b].mean()) for b in filled]
    upper.plot(*zip(*points, strict=True), "o-", color=_ACCENT, linewidth=1.4, markersize=5)
    counts = np.bincount(bins, minlength=CALIBRATION_BINS)
    centres = (np.arange(CALIBRATION_BINS) + 0.5) / CALIBRATION_BINS
    lower.bar(centres, counts, width=0.9 / CALIBRATION_BINS, color=_ACCENT)
    upper.set(xlim=(0, 1), ylim=(-0.02, 1.02))
    return figure


def confusion_matrix(measured: Measured, title: str) -> Figure:
    """Counts by true (row) and predicted class, shaded by the share of the row."""
    confusion, names = measured.metrics.confusion, measured.predictions.names
    side = 2.4 + 0.62 * len(names)
    figure = _figure(side + 0.8, side)
    axes = figure.subplots()
    totals = confusion.sum(1, keepdims=True)
    shares = np.divide(confusion, totals, out=np.zeros(confusion.shape), where=totals > 0)
    shown = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row, column in np.ndindex(confusion.shape):
        axes.text(
            column,
            row,
            str(confusion[row, column]),
            ha="center",
            va="center",
            fontsize=9,
            color="white" if shares[row, column] > 0.55 else _INK,
        )
    labels = [readable(name) for name in names]
    axes.set_xticks(range(len(names)), labels, rotation=40, ha="right", fontsize=8)
    axes.set_yticks(range(len(names)), labels, fontsize=8)
    axes.set_xlabel("predicted", fontsize=9, color=_INK)
    axes.set_ylabel("true", fontsize=9, color=_INK)
    axes.set_title(title, fontsize=11, loc="left", color=_INK)
    bar = figure.colorbar(shown, ax=axes, fraction=0.046, pad=0.03, format=PercentFormatter(1.0))
    bar.ax.tick_params(labelsize=8)
    bar.set_label("share of the true class", fontsize=8)
    return figure


def thumbnail(data: bytes, name: str, size: int = 224) -> UInt8[np.ndarray, "h w 3"]:
    """A photograph with its long side scaled to at most `size`."""
    from PIL import Image

    picture = Image.fromarray(images.decode(data, name, min_side=size))
    picture.thumbnail((size, size), Image.Resampling.LANCZOS)
    return np.asarray(picture)


def photographs(record: PatientRecord | ImageRecord) -> list[tuple[str, bytes]]:
    """The photographs of a record by what they show; the right eye first, as clinicians see it."""
    if isinstance(record, ImageRecord):
        return [("", record.image)]
    return [("right", record.right), ("left", record.left)]


def retrieval_gallery(
    split: EmbeddedSplit,
    retrieval: Retrieval,
    shown_reports: Sequence[str] | None = None,
    rows: int = 6,
    answers: int = 3,
    seed: int = 0,
) -> Figure:
    """Random patients with the reports that the model finds for them.

    Args:
      shown_reports: texts to print in place of the retrieved reports, e.g. the same reports in a
        language for which there is a font; None prints the retrieved ones.
      rows: patients.
      answers: reports for each.
      seed: of the choice of patients.
    """
    view = split.views[split.main_view]
    gallery = view.texts[retrieval.language][retrieval.rows]
    reports = split.reports[retrieval.language]
    shown_reports = reports if shown_reports is None else shown_reports
    rows = min(rows, len(retrieval.rows))
    chosen = np.random.default_rng(seed).choice(len(retrieval.rows), rows, replace=False)
    pictures = len(photographs(split.records[int(retrieval.rows[0])]))
    family = cjk_family() or "DejaVu Sans"
    figure = _figure(3.2 * pictures / 1.6 + 8.2, 2.05 * rows + 0.7)
    recall = retrieval.recalls[DIRECTIONS[0]]
    found = ", ".join(f"{recall[f'recall_at_{k}'].value:.2f} at {k}" for k in RECALL_AT)
    figure.suptitle(
        f"Reports found by image ({retrieval.language}): recall {found} among "
        f"{len(retrieval.rows)} records",
        fontsize=12,
        x=0.01,
        ha="left",
        color=_INK,
    )
    grid = figure.subplots(rows, pictures + 1, squeeze=False, width_ratios=[1] * pictures + [4.4])
    for query, line in zip(sorted(chosen), grid, strict=True):
        row = int(retrieval.rows[query])
        record = split.records[row]
        for axes, (eye, data) in zip(line, photographs(record), strict=False):
            axes.axis("off")
            if data:
                axes.imshow(thumbnail(data, record.record_id))
            else:
                axes.text(0.5, 0.5, f"no {eye} image", ha="center", va="center", fontsize=9)
            label = f"{record.record_id}  {eye}" if eye != "left" else eye
            axes.set_title(label, fontsize=8, color=_INK, pad=2)
        image = view.images[row]
        best = best_answers(image, gallery, retrieval.groups, answers)
        _write_answers(
            line[-1],
            [
                Answer(
                    shown_reports[int(retrieval.rows[answer])],
                    float(gallery[answer] @ image),
                    bool(retrieval.groups[answer] == retrieval.groups[query]),
                )
                for answer in best
            ],
            int(retrieval.ranks[DIRECTIONS[0]][query]),
            family,
        )
    return figure


def _write_answers(axes: Axes, answers: Sequence[Answer], rank: int, family: str) -> None:
    axes.axis("off")
    axes.set(xlim=(0, 1), ylim=(0, 1))
    axes.set_title(
        f"own report at rank {rank}", fontsize=8, loc="left", color=_INK, pad=2, fontstyle="italic"
    )
    height = 1 / len(answers)
    for place, answer in enumerate(answers):
        top = 1 - place * height
        colour = _RIGHT if answer.right else _WRONG
        axes.plot([0.004, 0.004], [top - 0.04, top - height + 0.05], color=colour, linewidth=3)
        axes.text(
            0.02,
            top - 0.03,
            f"{place + 1}. {'own' if answer.right else 'another'}  {answer.similarity:.2f}",
            fontsize=7.5,
            color=colour,
            va="top",
        )
        wide = any(ord(character) > 0x2E80 for character in answer.text)
        text = textwrap.shorten(answer.text, 140 if wide else 270, placeholder=" …")
        wrapped = textwrap.wrap(text, 50 if wide else 100, break_long_words=wide)
        axes.text(
            0.16,
            top - 0.03,
            "\n".join(wrapped[:3]),
            fontsize=8,
            color=_INK,
            va="top",
            family=[family, "DejaVu Sans"],
            linespacing=1.25,
        )
