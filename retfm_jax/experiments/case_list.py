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

from retfm_jax.console import say
from retfm_jax.data import cells, photographs
from retfm_jax.data.building.validation import ProblemLog
from retfm_jax.data.importing import columns, tables
from retfm_jax.data.importing.manifest import images_of
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
_COLUMNS = ("image", *SIDES, "case_id", "patient_id")
#: Suffixes of tables with an object a line.
_LINES = (".jsonl", ".ndjson")


@dataclasses.dataclass(frozen=True, slots=True)
class ListedCase:
    """Case that a user named.

    Attributes:
      name: as its source has it: a cell of its column, or the name of its one photograph.
      photographs: in order; None is a missing eye.
      position: in a `CaseList`, from 0.
    """

    name: str
    photographs: tuple[Listed | None, ...]
    position: int = 0


class CaseList(StoredList[ListedCase]):
    """Cases that a user named, in a temporary file; see `case_list`."""

    unit = "case"

    def values(self, item: ListedCase) -> list[Any]:
        """See `StoredList.values`."""
        return [item.name, [_values(photograph) for photograph in item.photographs]]

    def item(self, values: list[Any], position: int) -> ListedCase:
        """See `StoredList.item`."""
        name, found = values
        return ListedCase(name, tuple(map(_listed, found)), position)


def _values(photograph: Listed | None) -> list[str] | None:
    return None if photograph is None else [photograph.name, photograph.path, photograph.problem]


def _listed(values: tuple[str, str, str] | None) -> Listed | None:
    return None if values is None else Listed(*values)


@contextlib.contextmanager
def case_list(images: PathLike, part_size: int) -> Iterator[CaseList]:
    """Lists the cases that a user names into a temporary file, which ends with the block.

    Args:
      images: a CSV, or JSON Lines, with paths relative to it, in a column `image`, or `images`,
        several of them, or `left` and `right`. Rows of one patient with the same `case_id` are a
        case; without this column those with the same `patient_id`, which is said; without both each
        row. Or as for `each_photograph`, whose photographs are a case each.
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
    if "patient_id" in known and "case_id" not in known and not known.keys() & {*SIDES}:
        say(f"{source}: photographs with the same {known['patient_id']} are taken for one case")

    def unreadable() -> Iterator[tuple[str, ListedCase]]:
        for each in unreadable_rows(problems, told):
            yield f"row {each.name}", ListedCase(each.name, (each,))

    for row in rows:
        yield from unreadable()
        told = len(problems.problems)
        said = {name: row.cells.get(column) for name, column in known.items()}
        try:
            found = _photographs(paths, said, row.row)
            ids = (cells.identifier(said.get(name)) for name in ("patient_id", "case_id"))
            names = [*dict.fromkeys(name for name in ids if name)]
        except ValueError as error:
            where = f"{source} row {row.row}"
            names, found = [], (Listed(where, "", f"{where}: {error}"),)
        if names:
            yield json.dumps(names), ListedCase("/".join(names), found)
        elif any(found):
            first = next(each.name for each in found if each is not None)
            yield f"row {row.row}", ListedCase(first, found)
    yield from unreadable()
    paths.finish(problems)


def _photographs(paths: TablePaths, said: Mapping[str, Any], row: int) -> tuple[Listed | None, ...]:
    """The photographs of a row; of patients left and right eye, None where one is missing.

    Raises:
      ValueError: a cell is no path.
    """
    if said.keys() & {"image", "images"}:
        if all(cells.is_empty(said.get(name)) or not said[name] for name in ("image", "images")):
            return ()
        return tuple(paths.listed(name, row) for name in images_of(said))
    eyes = [cells.text(said.get(side)) for side in SIDES]
    return tuple(paths.listed(name, row) if name else None for name in eyes)


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
