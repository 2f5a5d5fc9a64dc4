"""Arrays of a row for each image or text whose columns have names."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from retfm_jax import extras
from retfm_jax.errors import UserError, did_you_mean
from retfm_jax.rendering import fonts, markup

if TYPE_CHECKING:
    import pandas as pd

#: Rows that are shown; of more the first and the last ones.
_SHOWN = 20


class Table(np.ndarray):
    """Array (rows, columns) that knows what its rows and columns are.

    It is a NumPy array in everything: what is computed from it is a plain array. Slices of rows
    stay tables, and the name of a column takes the column. Printed, and as HTML in notebooks, it is
    a table.

    Args:
      values: (rows, columns), numbers of any dtype.
      rows: names of the rows; numbers where they have none.
      columns: names of the columns.

    Attributes:
      rows, columns: names, as many as there are; () of what NumPy made of a table.

    Raises:
      ValueError: the names are not as many as the rows and columns.

    Example:
      >>> found = Table([[0.9, 0.1], [0.2, 0.8]], ["left.jpg", "right.jpg"], ["normal", "drusen"])
      >>> found
                 normal  drusen
      left.jpg    0.900   0.100
      right.jpg   0.200   0.800
      >>> found["drusen"]
      array([0.1, 0.8])
      >>> found.argmax(1)
      array([0, 1])
      >>> found.columns
      ('normal', 'drusen')
    """

    rows: tuple[str, ...]
    columns: tuple[str, ...]

    def __new__(cls, values: Any, rows: Sequence[str], columns: Sequence[str]) -> "Table":
        """Makes a table; see the class."""
        table = np.asarray(values).view(cls)
        if table.shape != (len(rows), len(columns)):
            raise ValueError(f"{len(rows)} x {len(columns)} names for an array {table.shape}")
        table.rows, table.columns = tuple(map(str, rows)), tuple(map(str, columns))
        return table

    def __array_finalize__(self, base: Any) -> None:
        """Leaves a view without names: NumPy does not say what became of rows and columns."""
        self.rows, self.columns = (), ()

    def __array_wrap__(self, array: np.ndarray, *more: Any) -> Any:
        """Makes results of computations plain arrays and numbers."""
        return np.asarray(array)[()]

    def __getitem__(self, key: Any) -> Any:
        """Takes a column by its name, rows by a slice as a table, all else as a plain array.

        Raises:
          UserError: there is no such column.
        """
        plain = np.asarray(self)
        if isinstance(key, str):
            if key not in self.columns:
                raise UserError(
                    f"there is no column {key!r}: the columns are {', '.join(self.columns)}"
                    + did_you_mean(key, self.columns)
                )
            return plain[:, self.columns.index(key)]
        if isinstance(key, slice) and self.columns:
            return Table(plain[key], self.rows[key], self.columns)
        return plain[key]

    def __reduce__(self) -> Any:
        """Keeps the names in pickles and deep copies."""
        if not self.columns:
            return np.asarray(self).__reduce__()
        return Table, (np.asarray(self), self.rows, self.columns)

    def to_pandas(self) -> "pd.DataFrame":
        """Makes a pandas table of the same rows and columns.

        Raises:
          MissingExtra: pandas is not installed.
        """
        with extras.needed("data"):
            import pandas as pd

        rows, columns = list(self.rows) or None, list(self.columns) or None
        return pd.DataFrame(np.array(self), index=rows, columns=columns)

    def __repr__(self) -> str:
        """Prints the rows with their names, as wide as they need."""
        if not self.columns:
            return repr(np.asarray(self))
        lines = [("", *map(fonts.visible, self.columns)), *self._shown()]
        widths = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
        return "\n".join(
            "  ".join(
                [line[0].ljust(widths[0])]
                + [cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)]
            ).rstrip()
            for line in lines
        )

    __str__ = __repr__

    def _repr_html_(self) -> str | None:
        """What a notebook shows; every name is escaped."""
        if not self.columns:
            return None
        rows = [[markup.own(cell) for cell in line] for line in self._shown()]
        return markup.table(("", *self.columns), rows)

    def _shown(self) -> list[tuple[str, ...]]:
        """The rows with their names, as text."""
        whole = len(self) <= _SHOWN
        numbers = list(range(len(self)))
        if not whole:
            numbers = numbers[: _SHOWN // 2] + numbers[-_SHOWN // 2 :]
        plain = np.asarray(self)
        lines = [
            (fonts.visible(self.rows[number]), *map(_said, plain[number])) for number in numbers
        ]
        if not whole:
            lines.insert(_SHOWN // 2, (f"... {len(self)} rows", *("..." for _ in self.columns)))
        return lines


def _said(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, np.floating) else str(value)
