"""The photographs that a user names, one after another: they are never held all at once."""

import contextlib
import dataclasses
import os
import sys
from collections.abc import Iterator
from typing import IO, Any

from retfm_jax.console import say
from retfm_jax.data import image_files, photographs
from retfm_jax.data.building.validation import ProblemLog
from retfm_jax.data.cells import is_empty
from retfm_jax.data.importing import tables
from retfm_jax.errors import Unusable, UserError
from retfm_jax.experiments.stored_list import StoredList, stored
from retfm_jax.files import Path, PathLike, as_path

#: What stands for standard input, in place of a file's name.
STREAM = "-"
#: Longer lines of standard input are no paths, bytes.
_LONGEST_PATH = 1 << 16


@dataclasses.dataclass(frozen=True, slots=True)
class Listed:
    """Photograph that a user named.

    Attributes:
      name: as its source has it: a cell of a table, a line, or its path.
      path: of the file, "" where none is known.
      problem: a sentence where it is known already that there is no photograph, "" elsewhere.
      position: in a `PhotographList`, from 0.
    """

    name: str
    path: str
    problem: str = ""
    position: int = 0


@contextlib.contextmanager
def each_photograph(images: PathLike) -> Iterator[Iterator[Listed]]:
    """Lists photographs, in an order that does not change.

    Args:
      images: a folder; a CSV with a column `image` of paths relative to it; one photograph; or "-"
        for standard input, with a path in every line.

    Yields:
      an iterator. At its end it says what was passed over, and raises UserError where there was no
      photograph at all.

    Raises:
      UserError: there is no such folder or file, or its table has no such column.
    """
    if os.fspath(images) == STREAM:
        yield _lines(sys.stdin.buffer)
        return
    source = as_path(images)
    if source.is_dir():
        with photographs.looked_through(source) as found:
            yield _of_folder(source, found)
        return
    if not source.is_file():
        raise UserError(f"images {source}: no such folder or CSV")
    if photographs.is_image(source):
        yield iter([Listed(str(source), str(source))])
        return
    problems = ProblemLog()
    columns, rows = tables.stream_csv(source, problems)
    tables.require_columns(tables.Table(source, columns, []), ["image"])
    yield _of_table(source, rows, problems)


def _lines(stream: IO[bytes]) -> Iterator[Listed]:
    found = 0
    for number, line in enumerate(iter(lambda: stream.readline(_LONGEST_PATH), b""), 1):
        if len(line) == _LONGEST_PATH:
            raise UserError(f"standard input, line {number}: too long for a path")
        name = os.fsdecode(line.rstrip(b"\r\n"))
        if name.strip():
            found += 1
            yield Listed(name, name)
    if not found:
        raise UserError("standard input holds no path: give one in every line")


def _of_folder(source: Path, found: Iterator[tuple[str, str]]) -> Iterator[Listed]:
    passed_over: dict[str, photographs.Tally] = {}
    count = 0
    for relative, reason in found:
        path = str(source / relative)
        if not reason:
            count += 1
            yield Listed(path, path)
            continue
        passed_over.setdefault(reason, photographs.Tally()).add(relative)
        if reason == "broken":
            yield Listed(path, "", f"{path} holds no image")
    said = photographs.sentence(passed_over)
    if not count:
        raise UserError(f"images {source}: no image in it" + f" ({said})" * bool(said))
    if said:
        say(said)


def _of_table(
    source: Path, rows: Iterator[tables.TableRow], problems: ProblemLog
) -> Iterator[Listed]:
    paths, told = TablePaths(source), 0
    for row in rows:
        yield from unreadable_rows(problems, told)
        told = len(problems.problems)
        name = row.cells["image"]
        if not is_empty(name):
            yield paths.listed(name, row.row)
    yield from unreadable_rows(problems, told)
    paths.finish(problems)


class TablePaths:
    """Photographs that a table names, by paths relative to it.

    Args:
      source: the table.
    """

    def __init__(self, source: Path):
        self._source, self._count, self._others, self._problem = source, 0, 0, ""
        self._respelled: list[tuple[str, str]] = []

    def listed(self, name: str, row: int) -> Listed:
        """Finds a photograph.

        Args:
          name: a cell that is not empty.
          row: where it stands, for messages.
        """
        path = self._source.parent / name
        if not _is_there(path):
            try:
                found = image_files.locate(self._source.parent, name, follow_links=True)
            except Unusable as error:
                problem = f"{self._source} row {row}: {error}"
                self._problem = self._problem or problem
                return Listed(name, "", problem)
            path = found.path
            self._respelled = self._respelled or [(name, found.spelled)]
            self._others += 1
        self._count += 1
        return Listed(name, str(path))

    def finish(self, problems: ProblemLog) -> None:
        """Says what was found under another spelling.

        Args:
          problems: of the table's rows.

        Raises:
          UserError: no photograph was found.
        """
        if not self._count:
            first = next((each.problem for each in unreadable_rows(problems, 0)), self._problem)
            raise UserError(f"images {self._source}: no image in it" + f": {first}" * bool(first))
        if self._respelled:
            say(image_files.respelled(self._respelled, self._others))


def unreadable_rows(problems: ProblemLog, told: int) -> Iterator[Listed]:
    """Lists rows of a table that could not be read.

    Args:
      problems: of the table's rows.
      told: from which of them on.
    """
    for problem in problems.problems[told:]:
        if problem.kind == "unreadable_row":
            where = f"{problem.file} row {problem.row}"
            yield Listed(where, "", f"{where}: {problem.what}")


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a name that no file can have
        return False


def photographs_of(images: PathLike) -> tuple[list[Path], list[str]]:
    """Finds the photographs that a user names, as a list.

    Args:
      images: see `each_photograph`.

    Returns:
      paths of the photographs, and a sentence for each that cannot be used.

    Raises:
      UserError: there is no such folder or file, or no image in it.
    """
    paths, unusable = [], []
    with each_photograph(images) as found:
        for each in found:
            if each.problem:
                unusable.append(each.problem)
            else:
                paths.append(as_path(each.path))
    return paths, unusable


class PhotographList(StoredList[Listed]):
    """Photographs that a user named, in a temporary file; see `photograph_list`."""

    unit = "photograph"

    def values(self, item: Listed) -> list[Any]:
        """See `StoredList.values`."""
        return [item.name, item.path, item.problem]

    def item(self, values: list[Any], position: int) -> Listed:
        """See `StoredList.item`."""
        return Listed(*values, position=position)


@contextlib.contextmanager
def photograph_list(images: PathLike, part_size: int) -> Iterator[PhotographList]:
    """Lists the photographs that a user names into a temporary file, which ends with the block.

    Args:
      images: see `each_photograph`.
      part_size: number of photographs in a part.

    Raises:
      UserError: as `each_photograph`; or the temporary folder is full.
    """
    with stored(PhotographList, images, each_photograph(images), part_size) as made:
        yield made
