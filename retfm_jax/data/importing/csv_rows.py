"""The rows of a CSV, also where its quotes are wrong: no row is swallowed by another.

A quote that is opened and not closed makes one cell out of all that follows, up to the next quote.
The standard reader takes that for a long cell. Here a cell of several lines is looked at: where a
line in it is a row of its own, or the table ends inside it, its first line is faulty and reading
continues with the next line.
"""

import dataclasses
import re
from collections.abc import Iterator, Sequence

from retfm_jax.data.cells import is_empty, strip

#: A report may be long, a hostile cell must not be endless.
LONGEST_CELL = 1 << 20
#: Lines that show how a row of a table looks.
_SAMPLE = 2000
#: How far a quote may reach where all others were wrong.
_SHORTEST_REACH = 1 << 9

_BREAK = re.compile(r"\r\n|\n|\r")
_LINE = re.compile(r"([^\r\n]*)(\r\n|\n|\r|\Z)")
_OPENING = re.compile(r' *"')
_FILE = re.compile(r"[^.]\.[A-Za-z][A-Za-z0-9]{1,4}$")


@dataclasses.dataclass(frozen=True, slots=True)
class Record:
    """Row as it stands in the text.

    Attributes:
      line: where it begins, from 1.
      cells: as written, quotes taken off.
      fault: what is wrong with its quotes, "" where nothing is.
      usable: whether `cells` can be believed all the same.
    """

    line: int
    cells: list[str]
    fault: str = ""
    usable: bool = True


def delimiter_of(text: str, preferred: str = ",") -> tuple[str, int]:
    """Finds the delimiter of a table, and where its header begins (behind Excel's line `sep=;`).

    The delimiter is the one under which most of the first lines have as many cells as the header;
    of equal ones the one that makes more cells, of these the preferred one.

    Args:
      text: of the whole table.
      preferred: the delimiter that wins where others fit as well.

    Returns:
      the delimiter, and the offset of the header in `text`, characters.
    """
    said = re.match(r"sep=(.)(\r\n|\n|\r)", text, re.IGNORECASE)
    if said:
        return said[1], said.end()
    header, *rows = _lines(text, 50)

    def share(delimiter: str) -> tuple[float, int, bool]:
        width = len(_alone(header, delimiter))
        fitting = [len(_alone(row, delimiter)) == width for row in rows if strip(row)]
        fits = sum(fitting) / len(fitting) if fitting else 1.0
        return (fits if width > 1 else -1.0, width, delimiter == preferred)

    return max((preferred, ",", ";", "\t", "|"), key=share), 0


def records(text: str, delimiter: str, start: int = 0) -> Iterator[Record]:
    """Reads the rows of a table, the header first.

    A faulty header ends the reading: it comes with `usable` false and nothing comes after it.

    Args:
      text: of the whole table.
      delimiter: one character.
      start: offset of the header in `text`, characters.
    """
    position, line = start, 1 + len(_BREAK.findall(text, 0, start))
    width, rows, faults = 0, None, 0
    while position < len(text):
        ending = _line(text, position)
        if '"' not in ending[1]:
            cells, stray, after = ending[1].split(delimiter), False, ending.end()
        else:
            # The more quotes were wrong, the less far the next one may reach.
            reach = max(LONGEST_CELL // (1 + faults), _SHORTEST_REACH)
            cells, stray, after = _scan(text, position, delimiter, reach)
        fault = ""
        if after is None:
            fault = _NEVER_CLOSED
        elif width and after > ending.end():
            rows = rows or _Rows(text, delimiter, width)
            fault = rows.swallowed(text[position:after], cells, delimiter)
        if fault or after is None:
            faults += 1
            # Where quotes are closed on the line, only not at the ends of cells, it is believed.
            cells, after = _literal(ending[1], delimiter), ending.end()
            believed = len(cells) == width and all(cell.count('"') % 2 == 0 for cell in cells)
            yield Record(line, cells, _WITHIN if believed else fault, usable=believed)
            if not width:
                return
        elif any(len(cell) > LONGEST_CELL for cell in cells):
            yield Record(line, cells, f"a cell of more than {LONGEST_CELL:,} characters", False)
        else:
            yield Record(line, cells, _WITHIN if stray else "")
        width = width or len(_trimmed(cells, 0))
        line += 1 if after == ending.end() else max(1, len(_BREAK.findall(text, position, after)))
        position = after


def _line(text: str, position: int) -> re.Match[str]:
    line = _LINE.match(text, position)
    assert line is not None, "an empty line, too, is one"
    return line


_NEVER_CLOSED = "a quote is opened and never closed"
_WITHIN = "a quote stands within a cell and is not doubled"


def _trimmed(cells: list[str], width: int) -> list[str]:
    """Cells without empty ones behind the last column: spreadsheets leave trailing commas."""
    end = len(cells)
    while end > width and not strip(cells[end - 1]):
        end -= 1
    return cells[:end]


def _scan(
    text: str, position: int, delimiter: str, reach: int = LONGEST_CELL
) -> tuple[list[str], bool, int | None]:
    """Reads the cells of one row.

    A quote ends its cell only in front of a delimiter or the end of a line.

    Returns:
      The cells; whether other quotes stand in a quoted cell that are not doubled; and where the
      next row begins, None where a quote is not closed.
    """
    plain, following = _patterns(delimiter)
    cells: list[str] = []
    stray = False
    while True:
        opening = _OPENING.match(text, position)
        if opening is None:
            found = plain.match(text, position)
            assert found is not None, "an empty cell, too, is one"
            cells.append(found[1])
        else:
            parts, position = [], opening.end()
            last = position + reach
            while True:
                quote = text.find('"', position, last)
                if quote < 0:
                    return [*cells, "".join(parts)], stray, None
                if text.startswith('"', quote + 1):
                    parts.append(text[position : quote + 1])
                    position = quote + 2
                    continue
                parts.append(text[position:quote])
                found = following.match(text, quote + 1)
                if found:
                    break
                stray = True
                parts.append('"')
                position = quote + 1
            cells.append("".join(parts))
        position = found.end()
        if found["end"] != delimiter:
            return cells, stray, position


def _patterns(delimiter: str) -> tuple[re.Pattern[str], re.Pattern[str]]:
    one = re.escape(delimiter)
    end = rf"(?P<end>{one}|\r\n|\n|\r|\Z)"
    return re.compile(rf"([^{one}\r\n]*){end}"), re.compile(rf" *{end}")


def _alone(line: str, delimiter: str) -> list[str]:
    """The cells of a line that stands alone; a quote that stays open ends with it."""
    return _scan(line, 0, delimiter)[0] if '"' in line else line.split(delimiter)


def _literal(line: str, delimiter: str) -> list[str]:
    """The cells of a line whose quotes divide it, but are left standing as they are."""
    cells, inside, start = [], False, 0
    for position, character in enumerate(line):
        if character == '"':
            inside = not inside
        elif character == delimiter and not inside:
            cells.append(line[start:position])
            start = position + 1
    return [*cells, line[start:]]


def _lines(text: str, number: int) -> list[str]:
    found, position = [], 0
    while position < len(text) and len(found) < number:
        line = _line(text, position)
        found.append(line[1])
        position = line.end()
    return found or [""]


class _Rows:
    """How the rows of a table look, told from those that stand on one line."""

    def __init__(self, text: str, delimiter: str, width: int):
        self._width = width
        lines = (_alone(line, delimiter) for line in _lines(text, _SAMPLE)[1:] if strip(line))
        trimmed = (_trimmed(cells, width) for cells in lines)
        sample = [[strip(cell) for cell in cells] for cells in trimmed if len(cells) == width]
        self._first = {_shape(cells[0]) for cells in sample}
        self._files = [
            column
            for column in range(width)
            if (there := [cells[column] for cells in sample if not is_empty(cells[column])])
            and sum(bool(_FILE.search(cell)) for cell in there) > len(there) / 2
        ]

    def swallowed(self, segment: str, cells: list[str], delimiter: str) -> str:
        """What is wrong with a row of several lines, "" where they are all its own."""
        for number, line in enumerate(_BREAK.split(segment)[1:], start=1):
            if self._looks_like_one(_alone(line, delimiter)):
                what = "the next line" if number == 1 else f"line {number} behind it"
                return f"a quote is not closed: {what} looks like a row of its own, not like text"
        if len(_trimmed(cells, self._width)) != self._width:
            return (
                f"a quote is not closed on this line: with the lines behind it, it makes "
                f"{len(cells)} cells where the header names {self._width} columns"
            )
        return ""

    def _looks_like_one(self, cells: Sequence[str]) -> bool:
        cells = [strip(cell) for cell in _trimmed(list(cells), self._width)]
        if len(cells) != self._width:
            return False
        if self._files:
            named = [cells[column] for column in self._files if not is_empty(cells[column])]
            return bool(named) and all(_FILE.search(name) for name in named)
        shape = _shape(cells[0])
        return shape in self._first and " " not in shape and bool(shape)


def _shape(cell: str) -> str:
    """A cell with every word an a and every number a 0."""
    return re.sub(r"\d+", "0", re.sub(r"[^\W\d_]+", "a", cell))
