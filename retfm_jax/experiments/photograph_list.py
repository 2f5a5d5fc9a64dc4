"""The photographs that a user names, one after another: they are never held all at once."""

import array
import contextlib
import dataclasses
import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from typing import IO

from retfm_jax.console import say
from retfm_jax.data import image_files, photographs
from retfm_jax.data.building.validation import ProblemLog
from retfm_jax.data.cells import is_empty
from retfm_jax.data.importing import tables
from retfm_jax.errors import Unusable, UserError
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
    count, told, others, first = 0, 0, 0, ""
    respelled: list[tuple[str, str]] = []
    for row in rows:
        yield from _unreadable(problems, told)
        told = len(problems.problems)
        name = row.cells["image"]
        if is_empty(name):
            continue
        path = source.parent / name
        if not _is_there(path):
            try:
                found = image_files.locate(source.parent, name, follow_links=True)
            except Unusable as error:
                problem = f"{source} row {row.row}: {error}"
                first = first or problem
                yield Listed(name, "", problem)
                continue
            path = found.path
            respelled = respelled or [(name, found.spelled)]
            others += 1
        count += 1
        yield Listed(name, str(path))
    yield from _unreadable(problems, told)
    if not count:
        why = next((each.problem for each in _unreadable(problems, 0)), first)
        raise UserError(f"images {source}: no image in it" + f": {why}" * bool(why))
    if respelled:
        say(image_files.respelled(respelled, others))


def _unreadable(problems: ProblemLog, told: int) -> Iterator[Listed]:
    """Rows of a table that could not be read, from a number on."""
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


class PhotographList:
    """Photographs that a user named, in a temporary file; see `photograph_list`.

    Attributes:
      count: their number.
      parts: number of parts of `part_size` photographs, of which the last one may be shorter.
      part_size: number of photographs in a part.
      digest: SHA-256 of names, paths and their order, in hexadecimal.
    """

    def __init__(self, file: IO[bytes], found: Iterator[Listed], part_size: int):
        self._file, self.part_size, self.count = file, part_size, 0
        self._starts = array.array("Q")
        digest = hashlib.sha256()
        for each in found:
            if self.count % part_size == 0:
                self._starts.append(file.tell())
            # Escapes stand for line breaks, and for bytes that are no UTF-8.
            line = json.dumps([each.name, each.path, each.problem]).encode() + b"\n"
            digest.update(line)
            file.write(line)
            self.count += 1
        self.digest, self.parts = digest.hexdigest(), len(self._starts)

    def length(self, part: int) -> int:
        """Number of photographs in a part.

        Args:
          part: its number, from 0.
        """
        return min(self.part_size, self.count - part * self.part_size)

    def part(self, part: int) -> Iterator[Listed]:
        """Yields the photographs of a part, in order.

        Args:
          part: its number, from 0.
        """
        place, first = self._starts[part], part * self.part_size
        for position in range(first, first + self.length(part)):
            self._file.seek(place)  # others may have read meanwhile
            line = self._file.readline()
            place += len(line)
            yield Listed(*json.loads(line), position=position)


@contextlib.contextmanager
def photograph_list(images: PathLike, part_size: int) -> Iterator[PhotographList]:
    """Lists the photographs that a user names into a temporary file, which ends with the block.

    Args:
      images: see `each_photograph`.
      part_size: number of photographs in a part.

    Raises:
      UserError: as `each_photograph`; or the temporary folder is full.
    """
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(tempfile.TemporaryFile(prefix="retfm_photographs_"))
            found = stack.enter_context(each_photograph(images))
            made = PhotographList(file, found, part_size)
        except OSError as error:
            raise UserError(
                f"cannot list images {images}: {error.strerror or error} (the list is kept in "
                f"{tempfile.gettempdir()})"
            ) from error
        yield made
