"""A group's own patients: a CSV or JSON Lines manifest, a row a patient.

| column | what |
|---|---|
| `patient_id` | unique; wanted |
| `left`, `right` | paths of the photographs under the image root; at least one column is wanted, an empty cell is a missing eye |
| `report`, or `report_en`, `report_zh` | the report; without a stated language it is Chinese where it holds a Chinese character |
| `left_report`, `right_report` (also `_en`, `_zh`) | what is said of one eye; without a whole report they are joined into one |
| `labels`, `left_labels`, `right_labels` | names separated by `;` (a list in JSON). Empty: nobody looked. `none` (or an empty list): looked, nothing found. Without `labels` of its own a patient whose eyes are both labelled has the labels of both |
| `split` | train, validation or test; empty: decided by a hash of the patient |
| `group` | rows of one group stay in one split, such as the visits of one person; default: the patient id |

Other columns are left alone.
"""  # noqa: E501

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from retfm_jax.data import splits, tables
from retfm_jax.data.records import LANGUAGES
from retfm_jax.data.rows import FilePicture, PatientRow, by_language, compose_report
from retfm_jax.data.validation import ProblemLog
from retfm_jax.errors import UserError

_REPORTS = ("report", "left_report", "right_report")
_LABELS = ("labels", "left_labels", "right_labels")
_REPORT_COLUMNS = tuple(
    name + ending for name in _REPORTS for ending in ("", *(f"_{code}" for code in LANGUAGES))
)
COLUMNS = ("patient_id", "left", "right", *_REPORT_COLUMNS, *_LABELS, "split", "group")


def read_manifest(
    path: str | Path, root: str | Path, problems: ProblemLog, encoding: str = "utf-8"
) -> tuple[list[PatientRow], list[str]]:
    """Reads a manifest; pictures are only pointed at, not opened.

    Args:
      path: a .csv, .tsv, .jsonl or .ndjson file.
      root: the folder under which all its paths lie.
      problems: takes the rows that cannot be used.
      encoding: of the file.

    Returns:
      The rows, and the columns that mean nothing here.

    Raises:
      UserError: the file as a whole cannot be read, or lacks a wanted column.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix in (".jsonl", ".ndjson"):
        table = tables.read_jsonl(path, problems, encoding)
    elif suffix in (".csv", ".tsv"):
        table = tables.read_csv(path, problems, encoding)
    else:
        raise UserError(f"{path}: a manifest is a .csv, .tsv or .jsonl file")
    if not Path(root).is_dir():
        raise UserError(f"--images {root} is not a folder")
    tables.require_columns(table, ["patient_id", "left|right"], known=COLUMNS)
    wants_report = any(name in table.columns for name in _REPORT_COLUMNS)
    rows = []
    for line in table.rows:
        try:
            rows.append(_row(line.cells, path, line.row, str(root), wants_report))
        except ValueError as error:
            record = _text(line.cells.get("patient_id"))
            problems.unreadable(path, line.row, str(error), record)
    return rows, [name for name in table.columns if name not in COLUMNS]


def _row(
    cells: Mapping[str, Any], path: Path, number: int, root: str, wants_report: bool
) -> PatientRow:
    patient = _text(cells.get("patient_id"))
    if not patient:
        raise ValueError("no patient_id")
    split = None
    if given := _text(cells.get("split")):
        split = splits.split_name(given)
        if split is None:
            raise ValueError(f"split {given!r} is none of {', '.join(splits.SPLITS)}")
    pictures = {}
    for eye in ("left", "right"):
        relative = _text(cells.get(eye))
        pictures[eye] = FilePicture(root, relative) if relative else None
    report, left_report, right_report = (_report(cells, name) for name in _REPORTS)
    labels, left_labels, right_labels = (_label_list(cells.get(name), name) for name in _LABELS)
    if labels is None and left_labels is not None and right_labels is not None:
        labels = tuple(dict.fromkeys(left_labels + right_labels))
    return PatientRow(
        record_id=patient,
        file=str(path),
        row=number,
        **pictures,
        report={**compose_report(left_report, right_report), **report},
        left_report=left_report,
        right_report=right_report,
        labels=labels,
        left_labels=left_labels,
        right_labels=right_labels,
        split=split,
        group=_text(cells.get("group")),
        wants_report=wants_report,
    )


def _text(value: Any) -> str:
    """A cell as text: JSON writes ids as numbers and absent values as null."""
    if value is None:
        return ""
    if isinstance(value, str | int) and not isinstance(value, bool):
        return str(value).strip()
    raise ValueError(f"{value!r} where text is wanted")


def _report(cells: Mapping[str, Any], name: str) -> dict[str, str]:
    report = by_language(_text(cells.get(name)))
    for code in LANGUAGES:
        if text := _text(cells.get(f"{name}_{code}")):
            report[code] = text
    return report


def _label_list(value: Any, column: str) -> tuple[str, ...] | None:
    if isinstance(value, list):
        names: Iterable[str] = (_text(name) for name in value)
    else:
        text = _text(value)
        if not text:
            return None
        names = () if text.lower() == "none" else text.split(";")
    names = tuple(dict.fromkeys(name.strip() for name in names if name.strip()))
    # TFDS stores a label list in lines of text.
    if any("\n" in name for name in names):
        raise ValueError(f"a line break in {column}")
    return names
