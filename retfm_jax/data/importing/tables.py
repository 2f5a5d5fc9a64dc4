"""Tables as people have them: CSV and JSON Lines, read with the row number of everything."""

import codecs
import dataclasses
import os
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from retfm_jax.data import cells
from retfm_jax.data.building.validation import ProblemLog
from retfm_jax.data.importing import columns, csv_rows, encodings, spreadsheets
from retfm_jax.errors import UserError
from retfm_jax.files import Path, PathLike, as_path, errors, is_remote, reason, refuse_special
from retfm_jax.parsing import parse_json

#: An object of JSON Lines may hold several reports, a hostile line must not be endless.
_LONGEST_LINE = 1 << 24


@dataclasses.dataclass(frozen=True, slots=True)
class TableRow:
    """Row of a table.

    Attributes:
      row: its line number from 1 (a CSV's header is line 1).
      cells: by column; text of a CSV or spreadsheet, any JSON value of JSON Lines.
    """

    row: int
    cells: Mapping[str, Any]


@dataclasses.dataclass(frozen=True, slots=True)
class Table:
    """Table with the row number of everything.

    Attributes:
      path: of its file.
      columns: those of a CSV's header, or of all rows of JSON Lines together.
      rows: without the header and empty ones.
    """

    path: Path
    columns: tuple[str, ...]
    rows: list[TableRow]


#: A table is read as a whole.
_LARGEST_FILE = 1 << 31

#: How files begin that are no text, whatever they are called.
_NO_TEXT = (
    (b"PK\x03\x04", "a spreadsheet or an archive"),
    (b"\xd0\xcf\x11\xe0", "an Excel workbook of old"),
    (b"\x1f\x8b", "compressed by gzip"),
    (b"PAR1", "a Parquet file"),
)


def read_text(path: PathLike, encoding: str | None = None) -> str:
    """Reads a text file, a byte order mark dropped.

    A byte order mark decides the encoding, whatever `encoding` names.

    Args:
      path: of a file, local or in a store.
      encoding: of the file; None: UTF-8, where the caller has no way to name another one.

    Raises:
      UserError: it is missing, no text, not in that encoding, or what was read is no language; the
        message names the row, and another encoding only where the file looks like text in it.
    """
    path = as_path(path)
    data = _read_bytes(path)
    named = encoding or "utf-8"
    try:
        given = codecs.lookup(named).name.removesuffix("-sig")
        used = encodings.of_mark(data) or ("utf-8-sig" if given == "utf-8" else named)
        text = data.decode(used)
    except (LookupError, ValueError) as error:
        if isinstance(error, UnicodeDecodeError):
            row = data.count(b"\n", 0, error.start) + 1
            what = f"row {row} is not {named.removesuffix('-sig')}"
            raise _unreadable(path, what, data, encoding) from error
        raise UserError(f"encoding {encoding}: no such text encoding") from error
    if text.count("\0") > len(text) // 10:
        raise _unreadable(path, f"holds more than text when read as {used}", data, encoding)
    if encodings.is_debris(text):
        what = "holds characters that nobody writes, for the most part"
        if given != "utf-8" or encodings.offered(data) not in (None, "utf-8"):
            raise _unreadable(path, f"{what}, when it is read as {used}", data, encoding)
        raise UserError(
            f"{path} {what}: its text was damaged when it was saved in another encoding; export it "
            "anew from where it comes from, as UTF-8"
        )
    if encodings.of_mark(data) is None and given != "utf-8":
        wrong = encodings.misread(data, text, given)
        if wrong:
            raise UserError(f"{path.name} is misread as encoding {encoding}: {wrong}")
    return text


def _read_bytes(path: Path) -> bytes:
    refuse_special(path)
    try:
        if not is_remote(path) and os.stat(path).st_size > _LARGEST_FILE:
            raise UserError(f"{path} is larger than {_LARGEST_FILE >> 30} GiB: divide it")
        data = path.read_bytes()
    except errors() as error:
        raise UserError(f"cannot read {path}: {reason(error)}") from error
    for beginning, what in _NO_TEXT:
        if data.startswith(beginning):
            raise UserError(f"{path} is {what}, not text: save it as CSV in UTF-8")
    return data


def _unreadable(path: Path, what: str, data: bytes, encoding: str | None) -> UserError:
    better = encodings.offered(data)
    if encoding is None:
        remedy = "save it as UTF-8" + (f" (it reads as {better})" if better else "")
    elif better == "utf-8":
        remedy = "it is UTF-8"
    elif better:
        remedy = f"it reads as {better}: save it as UTF-8, or name the encoding {better}"
    else:
        remedy = "save it as UTF-8, or name its encoding"
    return UserError(f"{path.name} {what}: {remedy}")  # a folder's name may speak of encodings


def read_csv(path: PathLike, problems: ProblemLog, encoding: str | None = None) -> Table:
    """Reads a CSV with a header; blanks around column names and cells are dropped.

    The delimiter is inferred from the rows. A row with too few or too many cells, with text in a
    column without a name, or with quotes that would swallow other rows, is a problem.

    Args:
      path: of a .csv or .tsv file; its suffix decides where the rows leave the delimiter open.
      problems: takes the rows that cannot be used.
      encoding: of the file; None: UTF-8. A byte order mark wins over it.

    Raises:
      UserError: no such file, another encoding, no header, a column twice.
    """
    names, found = stream_csv(path, problems, encoding)
    rows = list(found)
    _refuse_lost_text(as_path(path), names, rows)
    return Table(as_path(path), names, rows)


def stream_csv(
    path: PathLike, problems: ProblemLog, encoding: str | None = None
) -> tuple[tuple[str, ...], Iterator[TableRow]]:
    """Reads a CSV as `read_csv` does, row after row: only its text is kept.

    Args:
      path, problems, encoding: as for `read_csv`; `problems` grows as rows are taken.

    Returns:
      the columns, and an iterator of the rows.

    Raises:
      UserError: as for `read_csv`.
    """
    path = as_path(path)
    text = read_text(path, encoding)
    preferred = "\t" if path.suffix.lower() == ".tsv" else ","
    delimiter, start = csv_rows.delimiter_of(text, preferred)
    found = csv_rows.records(text, delimiter, start)
    header = next(found, csv_rows.Record(1, []))
    if not header.usable:
        raise UserError(f"{path} row {header.line}, the header: {header.fault}")
    names = _header(path, header.cells)
    return names, _rows(path, names, found, problems)


def _rows(
    path: Path, names: tuple[str, ...], found: Iterator[csv_rows.Record], problems: ProblemLog
) -> Iterator[TableRow]:
    for record in found:
        said = [cells.strip(cell) for cell in record.cells]
        while len(said) > len(names) and not said[-1]:
            said.pop()
        if not record.usable:
            problems.unreadable(path, record.line, record.fault, said[0])
        elif not any(said):
            continue
        elif len(said) != len(names):
            what = f"{len(said)} cells where the header names {len(names)} columns"
            problems.unreadable(path, record.line, what, said[0])
        elif tuple(said) == names:
            problems.unreadable(path, record.line, "the header again", said[0])
        else:
            if record.fault:
                problems.note(
                    "stray_quote", path, record.line, record.fault, "kept as it stands", said[0]
                )
            if any("\ufffd" in cell for cell in said):
                what = "characters that could not be read when the table was saved (U+FFFD)"
                problems.note("damaged_text", path, record.line, what, "kept as it is", said[0])
            yield TableRow(record.line, dict(zip(names, said, strict=True)))


def _refuse_lost_text(path: Path, names: Sequence[str], rows: Sequence[TableRow]) -> None:
    """Refuses a column of question marks: what a table becomes in an encoding without its letters.

    Raises:
      UserError: most cells of a column have more of them than letters.
    """
    for name in names:
        said = [cell for row in rows if (cell := row.cells[name])]
        lost = sum(
            cell.count("?") > max(2, sum(map(str.isalpha, cell))) for cell in said if "???" in cell
        )
        if lost > 1 and lost > len(said) / 2:
            raise UserError(
                f"{path}: column {name!r} holds question marks in place of its letters: it was "
                "saved in an encoding that lacks them; export it anew as UTF-8"
            )


def read_xlsx(path: PathLike, problems: ProblemLog) -> Table:
    """Reads the first visible sheet of a spreadsheet, every cell as the text that it shows.

    Args:
      path: of an .xlsx file.
      problems: takes the rows that cannot be used, and notes.

    Raises:
      UserError: it cannot be read, its reader is not installed, no header, a column twice.
    """
    path = as_path(path)
    try:
        header, found = spreadsheets.read(path, problems)
    except ImportError as error:
        raise UserError(
            f"{path}: to read a spreadsheet `pip install openpyxl`, or save it as CSV"
        ) from error
    names = _header(path, header)
    rows = []
    for number, said in found:
        if any(said[len(names) :]):
            what = f"{len(said)} cells where the header names {len(names)} columns"
            problems.unreadable(path, number, what, said[0])
            continue
        rows.append(TableRow(number, dict(zip(names, said, strict=False))))
    return Table(path, names, rows)


def _header(path: Path, cells_of_it: Sequence[str]) -> tuple[str, ...]:
    """The names of columns, those behind the last one left out.

    Raises:
      UserError: there is none, or one occurs twice.
    """
    names = [unicodedata.normalize("NFC", cells.strip(name)) for name in cells_of_it]
    while names and not names[-1]:
        names.pop()  # spreadsheets leave trailing commas
    if not names:
        raise UserError(f"{path} is empty; its first row must name the columns")
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise UserError(f"{path}: column {sorted(twice)[0]!r} occurs twice in the header")
    return tuple(names)


def read_jsonl(path: PathLike, problems: ProblemLog, encoding: str | None = None) -> Table:
    """Reads JSON Lines, an object a line; a line that is no object is a problem.

    Args:
      path: of a .jsonl or .ndjson file.
      problems: takes the lines that cannot be used.
      encoding: of the file; None: UTF-8. A byte order mark wins over it.

    Raises:
      UserError: no such file, another encoding, or one list of objects.
    """
    path = as_path(path)
    keys: dict[str, None] = {}
    rows: list[TableRow] = []
    text = read_text(path, encoding)
    if text.lstrip().startswith("["):
        raise UserError(f"{path} is a JSON list; write JSON Lines, one object a line")
    for number, line in enumerate(re.split(r"\r\n|\n|\r", text), start=1):
        if not cells.strip(line):
            continue
        if len(line) > _LONGEST_LINE:
            problems.unreadable(path, number, f"a line of more than {_LONGEST_LINE:,} characters")
            continue
        try:
            said = parse_json(line)
        except ValueError as error:
            problems.unreadable(path, number, f"not valid JSON: {error}")
            continue
        if not isinstance(said, dict):
            problems.unreadable(path, number, f"a JSON {type(said).__name__}, not an object")
            continue
        keys.update(dict.fromkeys(said))
        rows.append(TableRow(number, said))
    return Table(path, tuple(keys), rows)


def require_columns(table: Table, required: Sequence[str], known: Iterable[str] = ()) -> None:
    """Refuses a table without a required column.

    Args:
      table: the table.
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
        close = [columns.closest(name, strangers) for name in names.split("|")]
        meant = " and ".join(repr(name) for name in dict.fromkeys(filter(None, close)))
        meant = f" (did you mean it by {meant}?)" if meant else ""
        hints.append(" or ".join(repr(name) for name in names.split("|")) + meant)
    raise UserError(
        f"{table.path} has no column {', nor '.join(hints)}; "
        f"its columns are: {', '.join(table.columns) or 'none'}"
    )


def refuse_unread(table: Table, known: Iterable[str], same: Sequence[Sequence[str]] = ()) -> None:
    """Refuses a table with a column that nobody reads, but that was meant to be.

    Args:
      table: the table.
      known: all columns that mean something.
      same: groups of known columns of which one is enough: another name of one is then no matter.

    Raises:
      UserError: names every such column and what it is close to.
    """
    there = set(table.columns)
    absent = [name for name in known if name not in there]
    for group in same:
        if there.intersection(group):
            absent = [name for name in absent if name not in group]
    unread = {name: columns.meant(name, absent) for name in table.columns if name not in set(known)}
    meant = [f"{name!r} (did you mean {near!r}?)" for name, near in unread.items() if near]
    if meant:
        raise UserError(
            f"{table.path}: nothing reads the column {', nor '.join(meant)}: rename it to what is "
            "meant, or say so in columns; if it is something else, to a name that is not so close"
        )
