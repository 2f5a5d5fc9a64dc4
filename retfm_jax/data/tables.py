"""Tables as people have them: CSV and JSON Lines, read with the row number of everything."""

import csv
import dataclasses
import difflib
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from retfm_jax.data.validation import ProblemLog
from retfm_jax.errors import UserError

#: A report may be long, a hostile cell must not be endless.
_LONGEST_CELL = 1 << 20


@dataclasses.dataclass(frozen=True, slots=True)
class TableRow:
    """A row: its line number from 1 (a CSV's header is line 1) and its cells by column."""

    row: int
    cells: Mapping[str, Any]


@dataclasses.dataclass(frozen=True, slots=True)
class Table:
    """A table; `columns` are those of a CSV's header, or of all rows together of JSON Lines."""

    path: Path
    columns: tuple[str, ...]
    rows: list[TableRow]


def read_text(path: str | Path, encoding: str = "utf-8") -> str:
    """Reads a text file, a byte order mark dropped.

    Raises:
      UserError: it is missing or not in that encoding; the message names the row.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    if encoding.lower() in ("utf-8", "utf8"):
        encoding = "utf-8-sig"
    try:
        return data.decode(encoding)
    except LookupError as error:
        raise UserError(f"--encoding {encoding}: no such text encoding") from error
    except UnicodeDecodeError as error:
        row = data.count(b"\n", 0, error.start) + 1
        remedy = "save it as UTF-8 or name its encoding with --encoding"
        try:
            data.decode("gb18030")
            remedy += " (it reads as gb18030, the usual one of Chinese spreadsheets)"
        except UnicodeDecodeError:
            pass
        name = encoding.removesuffix("-sig")
        raise UserError(f"{path} row {row} is not {name}: {remedy}") from error


def read_csv(path: str | Path, problems: ProblemLog, encoding: str = "utf-8") -> Table:
    """Reads a CSV with a header; blanks around column names and cells are dropped.

    A row with too few or too many cells, or with text in a column without a name, is a problem.

    Raises:
      UserError: no such file, another encoding, no header, a column twice.
    """
    path = Path(path)
    text = read_text(path, encoding)
    csv.field_size_limit(_LONGEST_CELL)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=_delimiter(path, text))
    rows: list[TableRow] = []
    try:
        columns = [name.strip() for name in next(reader, [])]
        while columns and not columns[-1]:
            columns.pop()  # spreadsheets leave trailing commas
        if not columns:
            raise UserError(f"{path} is empty; its first row must name the columns")
        twice = {name for name in columns if columns.count(name) > 1}
        if twice:
            raise UserError(f"{path}: column {sorted(twice)[0]!r} stands twice in the header")
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            while len(cells) > len(columns) and not cells[-1].strip():
                cells.pop()
            if len(cells) != len(columns):
                problems.unreadable(
                    path, reader.line_num,
                    f"{len(cells)} cells where the header names {len(columns)} columns",
                )  # fmt: skip
                continue
            stripped = (cell.strip() for cell in cells)
            rows.append(TableRow(reader.line_num, dict(zip(columns, stripped, strict=True))))
    except csv.Error as error:
        raise UserError(f"{path} row {reader.line_num} is not valid CSV: {error}") from error
    return Table(path, tuple(columns), rows)


def _delimiter(path: Path, text: str) -> str:
    if path.suffix.lower() == ".tsv":
        return "\t"
    header = text.partition("\n")[0]
    # Spreadsheets write semicolons where the comma is the decimal sign.
    return ";" if "," not in header and ";" in header else ","


def read_xlsx(path: str | Path) -> Table:
    """Reads the first sheet of a spreadsheet, every cell as text.

    Raises:
      UserError: it cannot be read, or the reader of spreadsheets is not installed.
    """
    import pandas as pd

    path = Path(path)
    try:
        frame = pd.read_excel(path, engine="openpyxl", dtype=str, keep_default_na=False)
    except ImportError as error:
        raise UserError(
            f"{path}: to read a spreadsheet `pip install openpyxl`, or save it as CSV"
        ) from error
    except Exception as error:  # pandas passes on whatever the reader meets in a damaged file
        raise UserError(f"{path} cannot be read as a spreadsheet: {error}") from error
    columns = tuple(str(name).strip() for name in frame.columns)
    rows = [
        TableRow(number, dict(zip(columns, (cell.strip() for cell in cells), strict=True)))
        for number, cells in enumerate(frame.itertuples(index=False, name=None), start=2)
    ]
    return Table(path, columns, rows)


def read_jsonl(path: str | Path, problems: ProblemLog, encoding: str = "utf-8") -> Table:
    """Reads JSON Lines, an object a line; a line that is no object is a problem.

    Raises:
      UserError: no such file, or another encoding.
    """
    path = Path(path)
    columns: dict[str, None] = {}
    rows: list[TableRow] = []
    for number, line in enumerate(read_text(path, encoding).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            cells = json.loads(line)
        except (ValueError, RecursionError) as error:
            problems.unreadable(path, number, f"not valid JSON: {error}")
            continue
        if not isinstance(cells, dict):
            problems.unreadable(path, number, f"a JSON {type(cells).__name__}, not an object")
            continue
        columns.update(dict.fromkeys(cells))
        rows.append(TableRow(number, cells))
    return Table(path, tuple(columns), rows)


def require_columns(table: Table, required: Sequence[str], known: Iterable[str] = ()) -> None:
    """Refuses a table without a required column.

    Args:
      required: columns that must be there; "a|b" is met by either.
      known: all columns that mean something, not to be suggested as a misspelling.

    Raises:
      UserError: names every missing column and the column that may have been meant.
    """
    missing = [
        names for names in required if not any(name in table.columns for name in names.split("|"))
    ]
    if not missing:
        return
    strangers = [name for name in table.columns if name not in set(known)]
    hints = []
    for names in missing:
        close = difflib.get_close_matches(names.split("|")[0], strangers, n=1)
        meant = f" (did you mean it by {close[0]!r}?)" if close else ""
        hints.append(" or ".join(repr(name) for name in names.split("|")) + meant)
    raise UserError(
        f"{table.path} has no column {', nor '.join(hints)}; "
        f"its columns are: {', '.join(table.columns) or 'none'}"
    )
