"""Tables of a group's own: a CSV or JSON Lines manifest, a row a patient or a photograph.

A row a patient:

| column | what |
|---|---|
| `patient_id` | unique; wanted |
| `left`, `right` | paths of the photographs under the image root; at least one column is wanted, an empty cell is a missing eye |
| `report`, or `report_en`, `report_zh` | the report; without a stated language it is Chinese where it holds a Chinese character |
| `left_report`, `right_report` (also `_en`, `_zh`) | what is said of one eye; without a whole report they are joined into one |
| `labels`, `left_labels`, `right_labels` | names separated by `;` (a list in JSON). Empty: nobody looked. `none` (or an empty list): looked, nothing found. Without `labels` of its own a patient whose eyes are both labelled has the labels of both |
| `split` | train, validation or test; empty: decided by a hash of the patient |
| `group` | rows of one group stay in one split, such as the visits of one person; default: the patient id |

A row a photograph, as the FLAIR collection and MM-Retinal are written:

| column | what |
|---|---|
| `image` | path under the image root; wanted |
| `caption` (also `_en`, `_zh`) | what is said of it |
| `categories`, `attributes` (`atributes` in FLAIR's files) | names, as a Python list in a cell, separated by `;`, or as a list in JSON; the attribute `ffa` or `oct` says that it is no colour photograph |
| `labels`, `split` | as above |
| `patient_id` | the photographs of one patient stay in one split |

Other columns are left alone.
"""  # noqa: E501

import ast
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from retfm_jax.data import splits, tables
from retfm_jax.data.records import LANGUAGES
from retfm_jax.data.rows import (
    FilePicture,
    ImageRow,
    PatientRow,
    Row,
    by_language,
    compose_report,
)
from retfm_jax.data.validation import ProblemLog
from retfm_jax.errors import UserError

_REPORTS = ("report", "left_report", "right_report")
_LABELS = ("labels", "left_labels", "right_labels")
_REPORT_COLUMNS = tuple(
    name + ending for name in _REPORTS for ending in ("", *(f"_{code}" for code in LANGUAGES))
)
_PATIENT_COLUMNS = ("patient_id", "left", "right", *_REPORT_COLUMNS, *_LABELS, "split", "group")
_CAPTION_COLUMNS = ("caption", *(f"caption_{code}" for code in LANGUAGES))
_ATTRIBUTES = ("attributes", "atributes")
_IMAGE_COLUMNS = (
    "image", *_CAPTION_COLUMNS, "categories", *_ATTRIBUTES, "labels", "split", "patient_id"
)  # fmt: skip


def read_manifest(
    path: str | Path, root: str | Path, problems: ProblemLog, encoding: str = "utf-8"
) -> tuple[list[Row], list[str]]:
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
    if "image" in table.columns and not {"left", "right"} & set(table.columns):
        columns, wanted, read = _IMAGE_COLUMNS, ["image"], _image_row
        wants_report = any(name in table.columns for name in _CAPTION_COLUMNS)
    else:
        columns, wanted, read = _PATIENT_COLUMNS, ["patient_id", "left|right"], _patient_row
        wants_report = any(name in table.columns for name in _REPORT_COLUMNS)
    tables.require_columns(table, wanted, known=columns)
    rows: list[Row] = []
    for line in table.rows:
        try:
            rows.append(read(line.cells, path, line.row, str(root), wants_report))
        except ValueError as error:
            record = str(line.cells.get(columns[0]) or "")
            problems.unreadable(path, line.row, str(error), record)
    return rows, [name for name in table.columns if name and name not in columns]


def under(root: str | Path, row: ImageRow) -> ImageRow:
    """The same row with its image under another root."""
    return dataclasses.replace(row, image=FilePicture(str(root), row.record_id))


def _patient_row(
    cells: Mapping[str, Any], path: Path, number: int, root: str, wants_report: bool
) -> PatientRow:
    patient = _text(cells.get("patient_id"))
    if not patient:
        raise ValueError("no patient_id")
    pictures = {}
    for eye in ("left", "right"):
        relative = _text(cells.get(eye))
        pictures[eye] = FilePicture(root, relative) if relative else None
    report, left_report, right_report = (_report(cells, name) for name in _REPORTS)
    labels, left_labels, right_labels = (_names(cells.get(name), name) for name in _LABELS)
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
        split=_split(cells),
        group=_text(cells.get("group")),
        wants_report=wants_report,
    )


def _image_row(
    cells: Mapping[str, Any], path: Path, number: int, root: str, wants_report: bool
) -> ImageRow:
    image = _text(cells.get("image"))
    if not image:
        raise ValueError("no image")
    attributes = next((cells[name] for name in _ATTRIBUTES if cells.get(name)), None)
    return ImageRow(
        record_id=image,
        file=str(path),
        row=number,
        image=FilePicture(root, image),
        caption=_report(cells, "caption"),
        categories=_names(cells.get("categories"), "categories") or (),
        attributes=_names(attributes, "attributes") or (),
        labels=_names(cells.get("labels"), "labels"),
        split=_split(cells),
        group=_text(cells.get("patient_id")),
        wants_report=wants_report,
    )


def _split(cells: Mapping[str, Any]) -> str | None:
    given = _text(cells.get("split"))
    if not given:
        return None
    split = splits.split_name(given)
    if split is None:
        raise ValueError(f"split {given!r} is none of {', '.join(splits.SPLITS)}")
    return split


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


def _names(value: Any, column: str) -> tuple[str, ...] | None:
    """The names in a cell without blanks and repetitions; None where the cell is empty."""
    if isinstance(value, str) and value.startswith("["):
        try:
            value = ast.literal_eval(value)
        except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
            raise ValueError(f"{column}: not a list of names: {value[:80]!r}") from error
    if isinstance(value, list):
        names = [_text(name) for name in value]
    else:
        text = _text(value)
        if not text:
            return None
        names = [] if text.lower() == "none" else text.split(";")
    names = tuple(dict.fromkeys(name.strip() for name in names if name.strip()))
    # TFDS stores the names of labels in lines of text.
    if any("\n" in name for name in names):
        raise ValueError(f"a line break in {column}")
    return names
