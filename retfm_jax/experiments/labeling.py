"""Labels a file of reports, and plots what the labels are."""

import collections
import contextlib
import itertools
import json
import os
from collections.abc import Mapping
from typing import IO, Any

import numpy as np

from retfm_jax import extras
from retfm_jax.data import cells
from retfm_jax.data.importing import columns
from retfm_jax.errors import UserError
from retfm_jax.files import (
    Path,
    PathLike,
    as_path,
    atomic_write,
    check_writable,
    is_stream,
    local_file,
    reason,
)
from retfm_jax.knowledge.labeler import Labeler, ReportLabels
from retfm_jax.knowledge.laterality import SIDES
from retfm_jax.knowledge.vocabulary import Vocabulary, load_vocabulary
from retfm_jax.parsing import parse_json
from retfm_jax.progress import progress_bar
from retfm_jax.rendering import colors
from retfm_jax.rendering.figures import new_figure, plain_style, save, words

with extras.needed("eval"):
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: A hostile line must not be endless.
_LONGEST_LINE = 1 << 24

#: Texts that a row may hold.
TEXT_KEYS = ("report", *SIDES)

#: Rows of the bar chart and of the co-occurrence matrix: more cannot be read.
_BARS, _CELLS = 40, 20
_CERTAIN, _UNCERTAIN = colors.CURVES[0], colors.CURVES[5]


class LabelCounts:
    """Counts of how often each condition is named, and how often two of them together.

    Attributes:
      vocabulary: the conditions.
      reports, unknown, empty: numbers of all reports, of those without any known label, and of
        those without text.
      present, uncertain: by condition, reports that affirm or suspect it, and those that only
        suspect.
      pairs: by two conditions, reports that name both.
    """

    def __init__(self, vocabulary: Vocabulary):
        self.vocabulary = vocabulary
        self.reports = 0
        self.unknown = 0
        self.empty = 0
        self.present: collections.Counter[str] = collections.Counter()
        self.uncertain: collections.Counter[str] = collections.Counter()
        self.pairs: collections.Counter[tuple[str, str]] = collections.Counter()

    def add(self, labels: ReportLabels) -> None:
        """Counts the labels of one patient.

        Args:
          labels: what the labeler read in a report.
        """
        found = labels.patient
        self.reports += 1
        self.unknown += not found
        self.present.update(found)
        self.uncertain.update(labels.uncertain)
        self.pairs.update(itertools.product(found, found))

    def most_common(self, number: int) -> list[str]:
        """The most frequent conditions, equal ones in the order of the vocabulary.

        Args:
          number: how many at most.
        """
        order = {
            condition_id: position for position, condition_id in enumerate(self.vocabulary.ids)
        }
        ranked = sorted(self.present, key=lambda c: (-self.present[c], order[c]))
        return ranked[:number]


def label(
    source: PathLike,
    out: PathLike,
    vocabulary: str | None = None,
    extend: str | None = None,
) -> LabelCounts:
    """Labels every row of a JSONL file.

    Args:
      source: objects with `report`, or `left` and `right`.
      out: JSONL, one object a row; a PNG of label frequencies and co-occurrence is written beside
        it, unless it is a stream.
      vocabulary: YAML that replaces the conditions; None: those that come with this package.
      extend: YAML that adds to the conditions.

    Returns:
      how often each condition was named.

    Raises:
      UserError: a file cannot be read or written, or a row cannot be used; the message names the
        file and the line, and nothing is written.
    """
    source, out = as_path(source), as_path(out)
    picture = picture_of(out)
    if out in (source, picture):
        raise UserError(f"out {out} would replace the reports, or be replaced by its picture")
    check_writable(out)
    labeler = Labeler(load_vocabulary(vocabulary, extend=extend))
    counts = LabelCounts(labeler.vocabulary)
    with contextlib.ExitStack() as stack:
        local = stack.enter_context(local_file(source))
        try:
            file = stack.enter_context(local.open("rb"))
        except OSError as error:
            raise UserError(f"cannot read {source}: {reason(error)}") from error
        _label(file, source, stack.enter_context(atomic_write(out)), labeler, counts)
    if picture is not None:
        save(draw(counts), picture)
    return counts


def picture_of(out: PathLike) -> Path | None:
    """Path of the picture beside a file of labels; None where there is no room for one.

    Args:
      out: the file of labels; a device, such as standard output, has no picture.
    """
    return None if is_stream(out) else as_path(out).with_suffix(".png")


def _label(
    file: IO[bytes], source: Path, written: IO[str], labeler: Labeler, counts: LabelCounts
) -> None:
    size = os.fstat(file.fileno()).st_size
    with progress_bar(total=size, desc="labeling", unit="B", unit_scale=True) as progress:
        for number, line in enumerate(iter(lambda: file.readline(_LONGEST_LINE), b""), 1):
            progress.update(len(line))
            if not line.strip():
                continue
            if len(line) == _LONGEST_LINE:
                raise UserError(f"{source}, line {number}: more than {_LONGEST_LINE >> 20} MiB")
            texts = _texts(line, f"{source}, line {number}")
            counts.empty += not any(texts.values())
            labels = labeler.label_sides(**texts)
            counts.add(labels)
            written.write(json.dumps(labels.to_dict(), ensure_ascii=False) + "\n")
    if not counts.reports:
        raise UserError(f"{source} holds no reports; write one JSON object a line")


def _texts(line: bytes, where: str) -> dict[str, str]:
    """The texts of one row, empty where it says so; absent ones left out."""
    try:
        row: Any = parse_json(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: not UTF-8 text; save the file as UTF-8") from error
    except ValueError as error:
        raise UserError(f"{where}: not valid JSON ({error}); write one object a line") from error
    if not isinstance(row, Mapping):
        raise UserError(f"{where}: expected an object with 'report', or 'left' and 'right'")
    absent = [key for key in TEXT_KEYS if key not in row]
    nothing = len(absent) == len(TEXT_KEYS)
    # Beside one eye the other is meant; beside both, another text is no matter.
    wanted = absent if nothing else [key for key in absent if key != "report"]
    near = {key: columns.meant(key, wanted) for key in row if key not in TEXT_KEYS}
    found = [f"{key!r} (did you mean {meant!r}?)" for key, meant in near.items() if meant]
    if nothing or (found and "report" in absent):
        raise UserError(
            f"{where}: none of {', '.join(map(repr, wanted))} is there; "
            f"found {', '.join(found or map(repr, row)) or 'an empty object'}"
        )
    for key in TEXT_KEYS:
        if not isinstance(row.get(key), str | None):
            raise UserError(f"{where}: {key!r} must be text, not {row[key]!r}")
    return {key: cells.text(row[key]) for key in TEXT_KEYS if key in row}


@plain_style()
def draw(counts: LabelCounts) -> Figure:
    """Plots label frequencies as bars, and how often a label comes with another as a matrix.

    Args:
      counts: of all reports.
    """
    bars, pairs = counts.most_common(_BARS), counts.most_common(_CELLS)
    names = {c: words(counts.vocabulary[c].name["en"]) for c in bars}
    height = 1.6 + 0.24 * max(len(bars), len(pairs), 4)
    figure = new_figure(15, max(height, 6))
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.25))
    figure.suptitle(
        f"{counts.reports} reports, {counts.unknown} without any known label", fontsize=11
    )
    _draw_bars(left, counts, bars, names)
    _draw_matrix(right, counts, pairs, names)
    return figure


def _draw_bars(axes: Axes, counts: LabelCounts, shown: list[str], names: Mapping[str, str]) -> None:
    positions = np.arange(len(shown))
    uncertain = np.array([counts.uncertain[c] for c in shown], float)
    total = np.array([counts.present[c] for c in shown], float)
    axes.barh(positions, total - uncertain, color=_CERTAIN, label="present")
    axes.barh(positions, uncertain, left=total - uncertain, color=_UNCERTAIN, label="uncertain")
    for position, count in zip(positions, total, strict=True):
        share = count / max(counts.reports, 1)
        axes.annotate(
            f" {count:.0f} ({share:.1%})",
            (count, position),
            va="center",
            fontsize=7,
            color="#444444",
        )
    axes.set_yticks(positions, [names[c] for c in shown], fontsize=8)
    axes.set_ylim(max(len(shown), 1) - 0.4, -0.6)
    axes.margins(x=0.18)
    axes.set_xlabel("reports")
    hidden = len(counts.present) - len(shown)
    axes.set_title("Label frequency" + (f" ({hidden} rarer ones not shown)" if hidden else ""))
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="lower right", frameon=False, fontsize=8)


def _draw_matrix(
    axes: Axes, counts: LabelCounts, shown: list[str], names: Mapping[str, str]
) -> None:
    axes.set_title("Co-occurrence: % of the reports with the row's label that have the column's")
    if not shown:
        axes.set_axis_off()
        return
    share = np.array(
        [[counts.pairs[row, col] / counts.present[row] for col in shown] for row in shown]
    )
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=1, aspect="equal")
    for row, col in np.argwhere(share >= 0.005):
        axes.annotate(
            f"{share[row, col]:.0%}".rstrip("%"), (col, row), ha="center", va="center", fontsize=6,
            color="white" if share[row, col] > 0.55 else "#333333",
        )  # fmt: skip
    labels = [names[c] for c in shown]
    axes.set_xticks(range(len(shown)), labels, rotation=60, ha="right", fontsize=8)
    axes.set_yticks(range(len(shown)), labels, fontsize=8)
    axes.figure.colorbar(image, ax=axes, shrink=0.6)
