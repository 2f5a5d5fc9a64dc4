"""Spreadsheets as tables of text: cells as people see them, and what people do not see in them.

A spreadsheet holds more than its cells show: formulas, merged cells, hidden rows, dates that were
ids. The notes report what is made of them.
"""

import collections
import datetime
import re
import zipfile
from collections.abc import Mapping
from typing import Any

from retfm_jax import extras
from retfm_jax.data.building.validation import ProblemLog
from retfm_jax.data.cells import strip
from retfm_jax.errors import UserError
from retfm_jax.files import Path, local_file

#: Unpacked; larger ones are no tables that people keep by hand.
_LARGEST = 1 << 30
_NAMED = 5
#: A header stands among the first rows.
_LOOKED_AT = 50
#: What XML cannot hold, as Excel writes it: "_x000D_" is a carriage return.
_ESCAPED = re.compile("_x([0-9A-Fa-f]{4})_")


def read(path: Path, problems: ProblemLog) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Reads the first visible sheet with a row of columns; titles above that row are passed over.

    Args:
      path: an .xlsx file.
      problems: takes rows with a formula whose value was not saved, and notes.

    Returns:
      The header, and the rows with their numbers from 1, empty ones left out; merged cells all
      have the value that they show, numbers are written as a person would write them.

    Raises:
      UserError: it cannot be read as a spreadsheet.
    """
    with extras.needed("data"):
        import openpyxl

    try:
        with local_file(path) as local:
            with zipfile.ZipFile(local) as archive:
                if sum(entry.file_size for entry in archive.infolist()) > _LARGEST:
                    raise UserError(f"{path} is larger than {_LARGEST >> 30} GiB when unpacked")
            book = openpyxl.load_workbook(local)
            sheets = [sheet for sheet in book.worksheets if sheet.sheet_state == "visible"]
            if not sheets:
                raise UserError(f"{path} has no sheet that is not hidden")
            # A cover sheet has no row of columns.
            sheet = next(filter(_has_columns, sheets), sheets[0])
            grid: list[list[Any]] = [list(row) for row in sheet.iter_rows()]
            values = None
            if any(cell.data_type == "f" for row in grid for cell in row):
                values = openpyxl.load_workbook(local, data_only=True)[sheet.title]
    except UserError:
        raise
    except Exception as error:  # openpyxl passes on whatever it meets in a damaged file
        raise UserError(f"{path} cannot be read as a spreadsheet: {error}") from error
    notes = collections.Counter()
    merged = _merged(sheet)
    header: list[str] = []
    rows: list[tuple[int, list[str]]] = []
    for number, row in enumerate(grid, start=1):
        texts, missing = [], []
        for cell in row:
            shown = merged.get((cell.row, cell.column), cell)
            value = values.cell(shown.row, shown.column).value if values else shown.value
            if shown.data_type == "f" and value is None:
                missing.append(shown.coordinate)
            if isinstance(value, datetime.date) and header:
                notes[f"dates in column {_named(header, cell.column)!r}"] += 1
            texts.append(strip(_shown(value, shown.number_format)))
        if missing:
            what = f"the value of the formula in {missing[0]} was not saved: save values instead"
            problems.unreadable(path, number, what)
        elif not any(texts):
            continue
        elif not header:
            if len({text for text in texts if text}) > 1 or not _has_columns(sheet):
                header = texts
            else:
                notes["rows above its header (passed over)"] += 1
        else:
            rows.append((number, texts))
            notes["hidden rows"] += bool(sheet.row_dimensions[number].hidden)
    notes["merged cells"] = len(merged)
    notes["other sheets (passed over)"] = len(book.worksheets) - 1
    said = [f"{count} {what}" for what, count in notes.items() if count]
    if said:
        problems.notes.append(f"sheet {sheet.title!r} of {path} has {', '.join(said)}")
    return header, rows


def _has_columns(sheet: Any) -> bool:
    """Whether a row names at least two columns."""
    rows = sheet.iter_rows(max_row=min(_LOOKED_AT, sheet.max_row), values_only=True)
    return any(len({value for value in row if value is not None}) > 1 for row in rows)


def _named(header: list[str], column: int) -> str:
    return header[column - 1] if column <= len(header) else str(column)


def _merged(sheet: Any) -> Mapping[tuple[int, int], Any]:
    """Row and column of every merged cell -> the cell whose value it shows."""
    return {
        (row, column): sheet.cell(area.min_row, area.min_col)
        for area in sheet.merged_cells.ranges
        for row in range(area.min_row, area.max_row + 1)
        for column in range(area.min_col, area.max_col + 1)
        if (row, column) != (area.min_row, area.min_col)
    }


def _shown(value: Any, number_format: str) -> str:
    """A value as the sheet shows it; a number with more digits than it keeps as such a number."""
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, int | float):
        if isinstance(value, datetime.datetime) and value.time() == datetime.time():
            value = value.date()
        return _ESCAPED.sub(lambda found: chr(int(found[1], 16)), str(value))
    if abs(value) >= 10**15:
        return f"{value:.14E}"
    if value == int(value):
        zeros = re.fullmatch(r"0+", number_format or "")
        return str(int(value)).zfill(len(zeros[0]) if zeros else 0)
    return repr(value)
