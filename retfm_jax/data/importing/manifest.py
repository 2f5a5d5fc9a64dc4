"""Tables of a group's own: a CSV, spreadsheet or JSON Lines manifest.

A row a patient:

- `patient_id`: unique; required.
- `left`, `right`: paths of the photographs under the image root. At least one of the two columns is
  required; an empty cell is a missing eye.
- `report`, or `report_en`, `report_zh`: the report; without a stated language it is Chinese where
  it holds a Chinese character.
- `left_report`, `right_report` (also `_en`, `_zh`): the text on one eye; without a whole report
  they are joined into one.
- `labels`, `left_labels`, `right_labels`: names separated by `;` or `|`, or a list of JSON or
  Python; commas and slashes separate names that the vocabulary or other cells know. Empty: nobody
  looked. `none` (or an empty list): looked, nothing found. Without `labels` of its own a patient
  whose eyes are both labeled has the labels of both.
- `split`: train, validation or test; empty: decided by a hash of the patient.
- `group`: rows of one group stay in one split, such as the visits of one person; default: the
  patient id.

A row a photograph, as the FLAIR collection and MM-Retinal are written:

- `image`: path under the image root; or `images`: those of a case, a list or separated by `;` or
  `|`. One of the two is required.
- `caption` (also `_en`, `_zh`): its text.
- `categories`, `attributes` (`atributes` in FLAIR's files): names, written as labels are; the
  attribute `ffa` or `oct` marks it as no color photograph.
- `labels`, `split`: as above.
- `patient_id`: the photographs of one patient stay in one split.
- `case_id`: which photographs of a patient are of one case, such as those of a visit. They share a
  report, which may stand in one of their rows only. Another column whose name says that it numbers
  examinations is taken for it, which is said, where no value of it has two reports. Photographs of
  one row are a case, whatever they are called.

`cells.is_empty` defines an empty cell (`nan`, `N/A`, `无`, `-` and so on). Other columns are
left alone, but one that is close to a column above that is missing (`right_eye`, `Label`, 右眼) is
refused with the name that it should have.
"""

import collections
import dataclasses
import functools
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from retfm_jax.data import cells
from retfm_jax.data.building import splits
from retfm_jax.data.building.rows import (
    FilePicture,
    ImageRow,
    PatientRow,
    Row,
    by_language,
    compose_report,
)
from retfm_jax.data.building.validation import ProblemLog
from retfm_jax.data.importing import tables
from retfm_jax.data.importing.columns import meant
from retfm_jax.errors import UserError, did_you_mean
from retfm_jax.knowledge.laterality import SIDES
from retfm_jax.knowledge.vocabulary import LANGUAGES, load_vocabulary

_REPORTS = ("report", "left_report", "right_report")
_LABELS = ("labels", "left_labels", "right_labels")
_REPORT_COLUMNS = tuple(
    name + ending for name in _REPORTS for ending in ("", *(f"_{code}" for code in LANGUAGES))
)
_PATIENT_COLUMNS = ("patient_id", "left", "right", *_REPORT_COLUMNS, *_LABELS, "split", "group")
_CAPTION_COLUMNS = ("caption", *(f"caption_{code}" for code in LANGUAGES))
_ATTRIBUTES = ("attributes", "atributes")
#: Columns whose cells hold several names.
_LISTS = (*_LABELS, "categories", *_ATTRIBUTES)
#: Of these a table has one or the other.
_ONE_IS_ENOUGH = (
    ("report", *(f"report_{code}" for code in LANGUAGES)),
    ("caption", *(f"caption_{code}" for code in LANGUAGES)),
    _ATTRIBUTES,
    ("labels", "categories"),
    ("image", "images"),
)
#: So many spellings of nothing are named; longer cells are none.
_NAMED, _LONGEST_EMPTY = 5, 24
#: Reads the names in a cell of a column, see `cells.names`.
NamesIn = Callable[[Any, str], tuple[str, ...] | None]
_IMAGE_COLUMNS = (
    "image", "images", *_CAPTION_COLUMNS, "categories", *_ATTRIBUTES, "labels", "split",
    "patient_id", "case_id",
)  # fmt: skip
#: Languages in which groups write reports, and that nothing here reads.
_UNKNOWN = "ar|bn|cs|da|de|el|es|fa|fi|fr|he|hi|hu|it|ja|jp|ko|kr|nb|nl|pl|pt|ro|ru|sv|th|tr|uk|vi"
#: Separates the paths of a cell.
_PATHS = re.compile(r"\s*[;|\n]\s*")


def read_manifest(
    path: str | Path,
    root: str | Path,
    problems: ProblemLog,
    encoding: str = "utf-8",
    columns: Mapping[str, str] | None = None,
) -> tuple[list[Row], list[str]]:
    """Reads a manifest; pictures are only pointed at, not opened.

    Args:
      path: a .csv, .tsv, .xlsx, .jsonl or .ndjson file.
      root: the folder under which all its paths lie.
      problems: takes the rows that cannot be used.
      encoding: of the file.
      columns: name of a column above -> what the table calls it; None where it has these names.

    Returns:
      The rows, and the columns that mean nothing here.

    Raises:
      UserError: the file as a whole cannot be read, or lacks a wanted column.
    """
    table = read_table(path, problems, encoding)
    return rows_of(_renamed(table, columns or {}), root, problems)


def _renamed(table: tables.Table, columns: Mapping[str, str]) -> tables.Table:
    """A table whose columns have the names that they have here."""
    known = (*_PATIENT_COLUMNS, *_IMAGE_COLUMNS)
    for name, theirs in columns.items():
        if name not in known:
            raise UserError(
                f"columns: {name!r} is no column of a manifest{did_you_mean(name, known)}"
            )
        if theirs not in table.columns:
            raise UserError(
                f"columns: {table.path} has no column {theirs!r}"
                f"{did_you_mean(theirs, table.columns)}"
            )
        if name in table.columns and name != theirs:
            raise UserError(f"columns: {table.path} has a column {name!r} beside {theirs!r}")
    names = {theirs: name for name, theirs in columns.items()}
    if len(names) < len(columns):
        raise UserError(f"columns: one column of {table.path} is given for two")
    rows = [
        dataclasses.replace(
            row, cells={names.get(name, name): cell for name, cell in row.cells.items()}
        )
        for row in table.rows
    ]
    return tables.Table(table.path, tuple(names.get(name, name) for name in table.columns), rows)


def read_table(
    path: str | Path, problems: ProblemLog, encoding: str | None = "utf-8"
) -> tables.Table:
    """Reads the table of a manifest as it is written, by the ending of its name.

    Args:
      path, problems, encoding: as of `read_manifest`.

    Raises:
      UserError: the file as a whole cannot be read.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix in (".jsonl", ".ndjson"):
        return tables.read_jsonl(path, problems, encoding)
    if suffix in (".csv", ".tsv"):
        return tables.read_csv(path, problems, encoding)
    if suffix == ".xlsx":
        return tables.read_xlsx(path, problems)
    raise UserError(f"{path}: a manifest is a .csv, .tsv, .xlsx or .jsonl file")


def rows_of(
    table: tables.Table, root: str | Path, problems: ProblemLog
) -> tuple[list[Row], list[str]]:
    """Reads the rows of a table; see `read_manifest`.

    Args:
      table: with the columns of a manifest.
      root, problems: as of `read_manifest`.

    Raises:
      UserError: the table lacks a wanted column.
    """
    path = Path(table.path)
    if not Path(root).is_dir():
        raise UserError(f"images {root} is not a folder")
    if _is_of_images(table.columns):
        table = _with_cases(table, problems)
        columns, read = _IMAGE_COLUMNS, _image_rows
        wanted = ["images" if "images" in table.columns else "image"]
        texts = _CAPTION_COLUMNS
    else:
        columns, wanted, read = _PATIENT_COLUMNS, ["patient_id", "left|right"], _patient_rows
        texts = _REPORT_COLUMNS
    wants_report = any(name in table.columns for name in texts)
    if not wants_report:
        _refuse_languages(table, texts)
    tables.require_columns(table, wanted, known=columns)
    # A column that is close to this one was taken for it, or has no cases.
    near = [name for name in columns if name != "case_id" or name in table.columns]
    tables.refuse_unread(table, near, same=_ONE_IS_ENOUGH)
    names_in = _reader_of_names(table)
    read_columns = [name for name in columns if name in table.columns]
    problems.notes += _notes(table, read_columns, names_in)
    rows: list[Row] = []
    for line in table.rows:
        try:
            rows += read(line, path, str(root), wants_report, names_in)
        except ValueError as error:
            record = str(next(filter(None, map(line.cells.get, columns[:2])), ""))
            problems.unreadable(path, line.row, str(error), record)
    return rows, [name for name in table.columns if name and name not in columns]


def _reader_of_names(table: tables.Table) -> NamesIn:
    """Reads the lists of names of a table, equal cells once."""
    one_name = cells.knows_names(
        {cell for line in table.rows for name in _LISTS
         if isinstance(cell := _hashable(line.cells.get(name)), str | tuple)},
        known=functools.cache(_in_vocabulary),
    )  # fmt: skip

    @functools.cache
    def read(cell: Any, column: str) -> tuple[str, ...] | None:
        return cells.names(cell, column, one_name)

    def names_in(cell: Any, column: str) -> tuple[str, ...] | None:
        key = _hashable(cell)
        return cells.names(cell, column, one_name) if key is _ODD else read(key, column)

    return names_in


_ODD = object()


def _hashable(cell: Any) -> Any:
    if isinstance(cell, list) and all(isinstance(entry, str | None) for entry in cell):
        return tuple(cell)
    return cell if isinstance(cell, str | None) else _ODD


def _notes(table: tables.Table, read: Sequence[str], names_in: NamesIn) -> list[str]:
    """What was made of cells that a reader of the table might take for something else."""
    said = collections.Counter(
        (column, cell)
        for line in table.rows
        for column in read
        if isinstance(cell := line.cells.get(column), str)
        and (column in _LISTS or len(cell) < _LONGEST_EMPTY)
        and cells.strip(cell)
    )
    empty: collections.Counter[str] = collections.Counter()
    divided: dict[str, list[Any]] = {}
    spelled: dict[str, dict[str, None]] = {}
    for (column, cell), count in said.items():
        names = _names(cell, column, names_in) if column in _LISTS else None
        if names is None and cells.is_empty(cell):
            empty[f"{cells.strip(cell)!r} in {column}"] += count
        for name in names or ():
            spelled.setdefault(cells.alike(name), {})[name] = None
        if names and len(names) > 1 and not cells.is_plainly_divided(cell):
            divided.setdefault(column, [cell, 0])[1] += count
    notes = []
    if empty:
        most = ", ".join(f"{count} x {what}" for what, count in empty.most_common(_NAMED))
        more = f" and {len(empty) - _NAMED} more" if len(empty) > _NAMED else ""
        notes.append(f"read as empty cells: {most}{more}")
    notes += [
        f"{column}: {count} cells such as {example!r} are read as several names, because each of "
        "them stands elsewhere, too; a list keeps a name whole"
        for column, (example, count) in divided.items()
    ]
    notes += [
        f"taken for different names: {', '.join(map(repr, names))}"
        for names in spelled.values()
        if len(names) > 1
    ]
    return notes


def _names(cell: str, column: str, names_in: NamesIn) -> tuple[str, ...] | None:
    try:
        return names_in(cell, column)
    except ValueError:
        return ()  # a problem of its row


def _is_of_images(columns: Sequence[str]) -> bool:
    """Whether rows are photographs, by the columns or by what is close to them."""
    eyes = any(name in ("left", "right") or meant(name, ["left", "right"]) for name in columns)
    return not eyes and any(name == "image" or meant(name, ["image"]) for name in columns)


def _with_cases(table: tables.Table, problems: ProblemLog) -> tables.Table:
    """The table, a column that names cases under another name called so."""
    if "case_id" in table.columns:
        return table
    numbers_visits = ["case_id"] if "patient_id" not in table.columns else ["case_id", "visit"]
    named = [
        name for name in table.columns if name not in _IMAGE_COLUMNS and meant(name, numbers_visits)
    ]
    if len(named) != 1:
        return table
    reports: dict[tuple[str, ...], str] = {}
    for line in table.rows:
        said = [str(line.cells.get(name) or "") for name in ("patient_id", named[0])]
        for column in _CAPTION_COLUMNS:
            report = str(line.cells.get(column) or "")
            if report and said[1] and reports.setdefault((*said, column), report) != report:
                problems.notes.append(
                    f"{named[0]} names no cases, for {said[1]!r} has several reports (unless it is "
                    "called case_id)"
                )
                return table
    problems.notes.append(f"cases are those that the column {named[0]} names")
    return _renamed(table, {"case_id": named[0]})


def _refuse_languages(table: tables.Table, texts: Sequence[str]) -> None:
    """Refuses a table without a report that has some in a language that is not read."""
    pattern = re.compile(rf"({'|'.join(texts)})_({_UNKNOWN})")
    strange = [name for name in table.columns if pattern.fullmatch(name)]
    if strange:
        raise UserError(
            f"{table.path}: the column {strange[0]!r} holds texts in a language that is not known "
            f"here ({', '.join(LANGUAGES)} are): rename it to {texts[0]!r} if it is one of them"
        )


def under(root: str | Path, row: ImageRow) -> ImageRow:
    """Copies a row with its image under another root.

    Args:
      root: the other root.
      row: whose record id is the image's path below the root.
    """
    return dataclasses.replace(row, image=FilePicture(str(root), row.record_id))


def _in_vocabulary(name: str) -> bool:
    return load_vocabulary().find(name) is not None


def _patient_rows(
    line: tables.TableRow, path: Path, root: str, wants_report: bool, names_in: NamesIn
) -> list[Row]:
    said = line.cells
    patient = _wanted(said, "patient_id")
    pictures = {}
    for eye in SIDES:
        relative = cells.text(said.get(eye))
        pictures[eye] = FilePicture(root, relative) if relative else None
    report, left_report, right_report = (_report(said, name) for name in _REPORTS)
    labels, left_labels, right_labels = (names_in(said.get(name), name) for name in _LABELS)
    if labels is None and left_labels is not None and right_labels is not None:
        labels = tuple(dict.fromkeys(left_labels + right_labels))
    row = PatientRow(
        record_id=patient,
        file=str(path),
        row=line.row,
        **pictures,
        report={**compose_report(left_report, right_report), **report},
        left_report=left_report,
        right_report=right_report,
        labels=labels,
        left_labels=left_labels,
        right_labels=right_labels,
        split=_split(said),
        group=cells.identifier(said.get("group")),
        wants_report=wants_report,
    )
    return [row]


def _image_rows(
    line: tables.TableRow, path: Path, root: str, wants_report: bool, names_in: NamesIn
) -> list[Row]:
    said = line.cells
    images = images_of(said)
    attributes = next((said[name] for name in _ATTRIBUTES if said.get(name)), None)
    case = cells.identifier(said.get("case_id")) if "case_id" in said or "images" in said else None
    if len(images) > 1:
        case = case or images[0]
    first = ImageRow(
        record_id=images[0],
        file=str(path),
        row=line.row,
        image=FilePicture(root, images[0]),
        caption=_report(said, "caption"),
        categories=names_in(said.get("categories"), "categories") or (),
        attributes=names_in(attributes, "attributes") or (),
        labels=names_in(said.get("labels"), "labels"),
        split=_split(said),
        group=cells.identifier(said.get("patient_id")),
        wants_report=wants_report,
        case=case,
    )
    return [
        dataclasses.replace(first, record_id=image, image=FilePicture(root, image))
        for image in images
    ]


def images_of(said: Mapping[str, Any]) -> list[str]:
    """Lists the paths of the images of a row, as they are written, each once.

    Args:
      said: the row by column: `image`, or `images`, a list or paths with `;` or `|` between.

    Raises:
      ValueError: there is none, both columns have some, or the list is none.
    """
    several = said.get("images")
    if several is None:
        return [_wanted(said, "image")]
    if cells.text(said.get("image")):
        raise ValueError("both image and images hold paths")
    if isinstance(several, str) and not several.lstrip().startswith("["):
        several = _PATHS.split(several)
    paths = cells.names(several, "images", known=lambda name: True) or ()
    if not paths:
        raise ValueError("no image: a case needs one")
    return list(paths)


def _wanted(said: Mapping[str, Any], column: str) -> str:
    """The id of a row: a patient's, or the path of an image as it is written."""
    of = cells.identifier if column == "patient_id" else cells.text
    found = of(said.get(column))
    if not found:
        written = said.get(column)
        raise ValueError(f"no {column}" + (f": {written!r} is an empty cell" if written else ""))
    return found


def _split(said: Mapping[str, Any]) -> str | None:
    given = cells.text(said.get("split"))
    if not given:
        return None
    split = splits.split_name(given)
    if split is None:
        raise ValueError(f"split {given!r} is none of {', '.join(splits.SPLITS)}")
    return split


def _report(said: Mapping[str, Any], name: str) -> dict[str, str]:
    report = by_language(cells.text(said.get(name)))
    for code in LANGUAGES:
        if text := cells.text(said.get(f"{name}_{code}")):
            report[code] = text
    return report
