"""Tables that cut nothing."""

import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import TextIO

from retfm_jax.console import fitting, printable, say


class Table:
    """A table as wide as its cells: a terminal may wrap its lines, nothing is cut.

    Args:
      title: the line above.
      columns: their heads, of one line or several. Numbers stand at the right of a column.
      words: columns that stand at the left; the first one always does.
    """

    def __init__(self, title: str, columns: Sequence[str], words: Iterable[str] = ()):
        self.title, self.columns = title, tuple(columns)
        self._left = [name in {*words, *self.columns[:1]} for name in self.columns]
        self._rows: list[tuple[tuple[str, ...], str] | None] = []

    def row(self, *cells: object, style: str = "") -> None:
        """Adds a row, in a style of rich such as "bold"."""
        if len(cells) != len(self.columns):
            raise ValueError(f"{len(cells)} cells for {len(self.columns)} columns")
        self._rows.append((tuple(printable(str(cell)) for cell in cells), style))

    def section(self) -> None:
        """Adds a line under the last row."""
        self._rows.append(None)

    def show(self) -> None:
        """Prints the table."""
        say("", *filter(None, [self.title]))
        for line, style in self._lines(sys.stdout):
            say(line, style=style)

    def __str__(self) -> str:
        return "\n".join(filter(None, [self.title, *(line for line, _ in self._lines(None))]))

    def _lines(self, stream: TextIO | None) -> Iterator[tuple[str, str]]:
        from rich.cells import cell_len

        def fit(cells: Iterable[str]) -> list[str]:
            return [cell if stream is None else fitting(cell, stream) for cell in cells]

        heads = [name.split("\n") for name in self.columns]
        height = max(map(len, heads))
        above = [[""] * (height - len(head)) + head for head in heads]
        table = [(fit(cells), "bold") for cells in zip(*above, strict=True) if any(cells)]
        table += [None] if table else []
        table += [row and (fit(row[0]), row[1]) for row in self._rows]
        widths = [
            max(map(cell_len, column), default=0)
            for column in zip(*(row[0] for row in table if row), strict=True)
        ]
        for row in table:
            if row is None:
                yield "─" * (sum(widths) + 2 * len(widths) - 2), ""
                continue
            cells, style = row
            padded = (
                cell + " " * (width - cell_len(cell))
                if left
                else " " * (width - cell_len(cell)) + cell
                for cell, width, left in zip(cells, widths, self._left, strict=True)
            )
            yield "  ".join(padded).rstrip(), style
