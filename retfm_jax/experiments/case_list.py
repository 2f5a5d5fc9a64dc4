"""The cases that a user names: photographs that one report is written of."""

import array
import contextlib
import dataclasses
import itertools
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from retfm_jax.data import photographs
from retfm_jax.data.building.validation import ProblemLog
from retfm_jax.data.cells import is_empty
from retfm_jax.data.importing import columns, tables
from retfm_jax.errors import UserError, first_of
from retfm_jax.experiments.photograph_list import (
    STREAM,
    Listed,
    TablePaths,
    each_photograph,
    unreadable_rows,
)
from retfm_jax.experiments.stored_list import StoredList, stored
from retfm_jax.files import Path, PathLike, as_path
from retfm_jax.knowledge.laterality import SIDES

#: Columns that are read, in order of preference where one might be two of them.
_COLUMNS = ("image", *SIDES, "case", "patient_id")
#: Suffixes of tables with an object a line.
_LINES = (".jsonl", ".ndjson")


@dataclasses.dataclass(frozen=True, slots=True)
class ListedCase:
    """Case that a user named.

    Attributes:
      name: as its source has it: a cell of its column, or the name of its one photograph.
      photographs: in order, at least one; None is a missing eye.
      position: in a `CaseList`, from 0.
    """

    name: str
    photographs: tuple[Listed | None, ...]
    position: int = 0


class CaseList(StoredList[ListedCase]):
    """Cases that a user named, in a temporary file; see `case_list`."""

    def values(self, item: ListedCase) -> list[Any]:
        """See `StoredList.values`."""
        return [item.name, [_values(photograph) for photograph in item.photographs]]

    def item(self, values: list[Any], position: int) -> ListedCase:
        """See `StoredList.item`."""
        name, found = values
        return ListedCase(name, tuple(map(_listed, found)), position)


def _values(photograph: Listed | None) -> list[str] | None:
    return None if photograph is None else [photograph.name, photograph.path, photograph.problem]


def _listed(values: Sequence[str] | None) -> Listed | None:
    return None if values is None else Listed(*values)


@contextlib.contextmanager
def case_list(images: PathLike, part_size: int) -> Iterator[CaseList]:
    """Lists the cases that a user names into a temporary file, which ends with the block.

    Args:
      images: a CSV, or JSON Lines, with a column `image` (JSON: or `images`, a list) or `left` and
        `right`, of paths relative to it; rows with the same `case` are one, without this column
        those with the same `patient_id`, without both each row. Or as for `each_photograph`,
        whose photographs are a case each.
      part_size: number of cases in a part.

    Raises:
      UserError: as `each_photograph`; or the temporary folder is full.
    """
    with stored(CaseList, images, _each_case(images), part_size) as made:
        yield made


@contextlib.contextmanager
def _each_case(images: PathLike) -> Iterator[Iterator[ListedCase]]:
    if str(images) != STREAM:
        source = as_path(images)
        if source.is_file() and not photographs.is_image(source):
            yield _of_table(source)
            return
    with each_photograph(images) as found:
        yield (ListedCase(each.name, (each,)) for each in found)


def _of_table(source: Path) -> Iterator[ListedCase]:
    """The cases of a table, in the order of the first row of each.

    Rows go through a file of their own: of each, a number and a place in it are in memory.
    """
    problems = ProblemLog()
    if source.suffix.lower() in _LINES:
        table = tables.read_jsonl(source, problems)
        names, rows = table.columns, iter(table.rows)
    else:
        names, rows = tables.stream_csv(source, problems)
    found = _rows(source, _known(source, names), rows, problems)
    numbers: dict[str, int] = {}
    of, places = array.array("Q"), array.array("Q")
    with tempfile.TemporaryFile(prefix="retfm_cases_") as file:
        for key, case in found:
            of.append(numbers.setdefault(key, len(numbers)))
            places.append(file.tell())
            file.write(json.dumps([case.name, [*map(_values, case.photographs)]]).encode() + b"\n")

        def read(position: int) -> ListedCase:
            file.seek(places[position])
            name, said = json.loads(file.readline())
            return ListedCase(name, tuple(map(_listed, said)))

        order = np.argsort(np.frombuffer(of, np.uint64), kind="stable").tolist()
        for _, same in itertools.groupby(order, key=of.__getitem__):
            rows_of_it = [read(position) for position in same]
            joined = tuple(each for case in rows_of_it for each in case.photographs)
            yield ListedCase(rows_of_it[0].name, joined)


def _rows(
    source: Path,
    known: Mapping[str, str],
    rows: Iterator[tables.TableRow],
    problems: ProblemLog,
) -> Iterator[tuple[str, ListedCase]]:
    """What each row says of a case, with a key that rows of the same case share."""
    paths, told = TablePaths(source), 0
    by = next((known[name] for name in ("case", "patient_id") if name in known), None)

    def unreadable() -> Iterator[tuple[str, ListedCase]]:
        for each in unreadable_rows(problems, told):
            yield f"row {each.name}", ListedCase(each.name, (each,))

    for row in rows:
        yield from unreadable()
        told = len(problems.problems)
        found = _photographs(paths, known, row)
        said = "" if by is None else row.cells.get(by)
        case = str(said).strip() if isinstance(said, str | int) and not is_empty(str(said)) else ""
        if not case and not any(found):
            continue
        first = next((each.name for each in found if each is not None), "")
        key = f"case {case}" if case else f"row {row.row}"
        yield key, ListedCase(case or first, found)
    yield from unreadable()
    paths.finish(problems)


def _photographs(
    paths: TablePaths, known: Mapping[str, str], row: tables.TableRow
) -> tuple[Listed | None, ...]:
    """The photographs of a row; of patients left and right eye, None where one is missing."""
    of_eyes = not known.keys() & {"image", "images"}
    cells: list[Any] = []
    for name in SIDES if of_eyes else ("image", "images"):
        said = row.cells.get(known[name]) if name in known else None
        cells += said if isinstance(said, list) else [said]

    def listed(cell: Any) -> Listed | None:
        if cell is None or (isinstance(cell, str) and is_empty(cell)):
            return None
        if not isinstance(cell, str):
            name = f"{cell!r:.60}"
            return Listed(name, "", f"row {row.row}: an image is named by its path, not by {name}")
        return paths.listed(cell, row.row)

    found = tuple(map(listed, cells))
    return found if of_eyes else tuple(each for each in found if each is not None)


def _known(source: Path, names: Sequence[str]) -> dict[str, str]:
    """The columns of a table that are read, by what they are.

    Raises:
      UserError: there is none with photographs.
    """
    found = {name: name for name in (*_COLUMNS, "images") if name in names}
    for name in names:
        meant = columns.meant(name, [each for each in _COLUMNS if each not in found])
        if name not in found.values() and meant is not None:
            found[meant] = name
    if not found.keys() & {"image", "images", *SIDES}:
        raise UserError(
            f"images {source}: none of the columns image, left and right is there, only "
            f"{first_of([*map(repr, names)], 20) or 'none'}"
        )
    return found
