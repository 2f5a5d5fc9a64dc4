"""Check of an LMDB file: whether it can be read without harm, by every page that its tree names.

LMDB maps its file into memory and believes what stands there. A file that was copied by half ends
the process with SIGBUS, one with wrong page numbers or sizes with SIGSEGV. So the tree is walked
once before LMDB opens the file, with ordinary reads. Values of a page and more lie in pages of
their own, which are not read: the walk takes the time of the keys.
"""

import dataclasses
import os
import struct
from pathlib import Path

from retfm_jax.errors import UserError

_MAGIC, _VERSION = 0xBEEFC0DE, 1
#: pgno, pad, flags, lower and upper (of overflow pages together the number of pages).
_PAGE = struct.Struct("<QHHHH")
#: magic, version, address, size of the map; then two databases, the last page, the transaction.
_META = struct.Struct("<IIQQ")
#: pad (of the first database the page size), flags, depth, four counts, entries, root.
_DATABASE = struct.Struct("<IHHQQQQQ")
_END = struct.Struct("<QQ")
#: Low and high half of the size (of a branch: of the page number), flags, size of the key.
_NODE = struct.Struct("<HHHH")
_BRANCH, _LEAF, _OVERFLOW = 0x01, 0x02, 0x04
_BIG_DATA, _NONE = 0x01, (1 << 64) - 1
#: Deeper trees than any machine has room for.
_DEEPEST = 32


class _Damaged(Exception):
    """What is wrong with a file."""


def check(folder: str | Path) -> None:
    """Walks the tree of the LMDB in a folder.

    Args:
      folder: of the LMDB, with its `data.mdb`.

    Raises:
      UserError: it is missing, no LMDB, cut short, or its tree leads out of the file.
    """
    path = Path(folder) / "data.mdb"
    if not path.is_file():
        raise UserError(f"{folder} is no LMDB: it has no file data.mdb")
    try:
        with path.open("rb") as file:
            _Tree(file.fileno()).walk()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    except (_Damaged, struct.error) as error:
        what = str(error) if isinstance(error, _Damaged) else "a page is cut short"
        raise UserError(
            f"{path} is a damaged LMDB ({what}): it may have been copied by half; copy it anew"
        ) from error


@dataclasses.dataclass(frozen=True, slots=True)
class _Meta:
    page_size: int
    root: int
    last_page: int
    transaction: int


class _Tree:
    def __init__(self, file: int):
        self._file, self._size = file, os.fstat(file).st_size
        self._visited: set[int] = set()

    def walk(self) -> None:
        first = self._meta(0)
        self._newest = max(first, self._meta(first.page_size), key=lambda meta: meta.transaction)
        self._pages = self._size // self._newest.page_size
        if self._newest.root != _NONE:
            self._visit(self._newest.root, 0)

    def _meta(self, offset: int) -> _Meta:
        data = os.pread(self._file, 16 + _META.size + 2 * _DATABASE.size + _END.size, offset)
        magic, version, _, _ = _META.unpack_from(data, 16)
        if magic != _MAGIC or version != _VERSION:
            raise _Damaged("it does not begin as an LMDB does")
        free = 16 + _META.size
        page_size, main = _DATABASE.unpack_from(data, free)[0], free + _DATABASE.size
        root = _DATABASE.unpack_from(data, main)[-1]
        last_page, transaction = _END.unpack_from(data, main + _DATABASE.size)
        if page_size not in (1 << bits for bits in range(9, 17)):
            raise _Damaged(f"pages of {page_size} bytes")
        return _Meta(page_size, root, last_page, transaction)

    def _visit(self, number: int, depth: int) -> None:
        if depth > _DEEPEST or number in self._visited:
            raise _Damaged("its tree has no end")
        self._visited.add(number)
        page = self._page(number)
        named, _, flags, lower, upper = _PAGE.unpack_from(page)
        if named != number or not 16 <= lower <= upper <= len(page) or lower % 2:
            raise _Damaged(f"page {number} is none of its tree")
        offsets = struct.unpack_from(f"<{(lower - 16) // 2}H", page, 16)
        for offset in offsets:
            low, high, node_flags, key_size = _NODE.unpack_from(page, offset)
            data = offset + _NODE.size + key_size
            if offset < upper or data > len(page):
                raise _Damaged(f"page {number} holds a key that leads out of it")
            if flags & _BRANCH:
                self._visit(low | high << 16 | node_flags << 32, depth + 1)
            elif not flags & _LEAF:
                raise _Damaged(f"page {number} is none of its tree")
            elif node_flags & _BIG_DATA:
                self._values(struct.unpack_from("<Q", page, data)[0], low | high << 16)
            elif node_flags:
                raise _Damaged("it holds databases within databases")
            elif data + (low | high << 16) > len(page):
                raise _Damaged(f"page {number} holds a value that leads out of it")

    def _page(self, number: int) -> bytes:
        if not 1 < number < self._pages:
            raise _Damaged(f"page {number} of {self._newest.last_page + 1} is not there")
        return os.pread(self._file, self._newest.page_size, number * self._newest.page_size)

    def _values(self, number: int, size: int) -> None:
        """Checks the pages of one large value: their head, and that their end is there."""
        self._page(number)
        head = os.pread(self._file, 16, number * self._newest.page_size)
        named, _, flags, *halves = _PAGE.unpack(head)
        pages = halves[0] | halves[1] << 16
        if named != number or not flags & _OVERFLOW:
            raise _Damaged(f"page {number} holds no value")
        if size + 16 > pages * self._newest.page_size or number + pages > self._pages:
            raise _Damaged(f"the value in page {number} is not there to its end")
