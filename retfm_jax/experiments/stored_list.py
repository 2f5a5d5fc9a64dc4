"""What a user named, one item after another, in a temporary file: it is never held all at once."""

import abc
import array
import contextlib
import hashlib
import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import IO, Any, ClassVar, Generic, TypeVar

from retfm_jax.errors import UserError
from retfm_jax.files import PathLike

Item = TypeVar("Item")
AnyList = TypeVar("AnyList", bound="StoredList[Any]")


class StoredList(abc.ABC, Generic[Item]):
    """Items in a file.

    Args:
      file: to write and read.
      found: the items.
      part_size: see there.

    Attributes:
      unit: what an item is called.
      count: their number.
      parts: number of parts of `part_size` items, of which the last one may be shorter.
      part_size: number of items in a part.
      digest: SHA-256 of the items and their order, in hexadecimal.
    """

    unit: ClassVar[str]

    def __init__(self, file: IO[bytes], found: Iterator[Item], part_size: int):
        self._file, self.part_size, self.count = file, part_size, 0
        self._starts = array.array("Q")
        digest = hashlib.sha256()
        for each in found:
            if self.count % part_size == 0:
                self._starts.append(file.tell())
            # Escapes stand for line breaks, and for bytes that are no UTF-8.
            line = json.dumps(self.values(each)).encode() + b"\n"
            digest.update(line)
            file.write(line)
            self.count += 1
        self.digest, self.parts = digest.hexdigest(), len(self._starts)

    @abc.abstractmethod
    def values(self, item: Item) -> list[Any]:
        """Converts an item to JSON values.

        Args:
          item: to convert.
        """

    @abc.abstractmethod
    def item(self, values: list[Any], position: int) -> Item:
        """Makes an item of its JSON values.

        Args:
          values: as `values` returned them.
          position: in the list, from 0.
        """

    def length(self, part: int) -> int:
        """Number of items in a part.

        Args:
          part: its number, from 0.
        """
        return min(self.part_size, self.count - part * self.part_size)

    def part(self, part: int) -> Iterator[Item]:
        """Yields the items of a part, in order.

        Args:
          part: its number, from 0.
        """
        place, first = self._starts[part], part * self.part_size
        for position in range(first, first + self.length(part)):
            self._file.seek(place)  # others may have read meanwhile
            line = self._file.readline()
            place += len(line)
            yield self.item(json.loads(line), position)


@contextlib.contextmanager
def stored(
    kind: Callable[[IO[bytes], Iterator[Any], int], AnyList],
    images: PathLike,
    found: AbstractContextManager[Iterator[Any]],
    part_size: int,
) -> Iterator[AnyList]:
    """Stores what is listed in a temporary file, which ends with the block.

    Args:
      kind: of the list.
      images: what the user named, for messages.
      found: yields an iterator of the items.
      part_size: number of items in a part.

    Raises:
      UserError: as `found`; or the temporary folder is full.
    """
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(tempfile.TemporaryFile(prefix="retfm_photographs_"))
            made = kind(file, stack.enter_context(found), part_size)
        except OSError as error:
            raise UserError(
                f"cannot list images {images}: {error.strerror or error} (the list is kept in "
                f"{tempfile.gettempdir()})"
            ) from error
        yield made
