"""Pairs of photographs that may be copies, by their fingerprints alone."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int16, Int32, Int64, UInt64

from retfm_jax import files
from retfm_jax.data.audit import fingerprints
from retfm_jax.data.audit.fingerprints import WINDOWS, WORDS
from retfm_jax.data.audit.index import Index
from retfm_jax.data.audit.kept import identity, kept
from retfm_jax.data.audit.parts import BROKEN, HASHED, MISSING, PLAIN, Parts

#: Bits that may differ, of 448; see docs/audit.md for how it was chosen.
NEAR = 120
#: Pairs that are compared in all, at most, and of one photograph: of more the nearest.
_COMPARED, _LEAST, _MOST = 4_000_000, 4, 64
#: Photographs looked up at a time.
_AT_ONCE = 256
#: What was looked up by another version is looked up anew.
VERSION = 1


class Photographs(NamedTuple):
    """All photographs of all splits, some numbers of each.

    Attributes:
      split: position of its split (n).
      start: number of the first photograph of every split, and of all photographs (splits + 1).
      state: see `parts.Part` (n).
      digests, patients: as there.
      hashes: of the whole square, (n, words).
    """

    split: Int16[np.ndarray, " n"]
    start: Int64[np.ndarray, " splits+1"]
    state: np.ndarray
    digests: UInt64[np.ndarray, "n 2"]
    patients: UInt64[np.ndarray, " n"]
    hashes: UInt64[np.ndarray, "n words"]

    @property
    def nbytes(self) -> int:
        """Memory of all of it."""
        return sum(array.nbytes for array in self)


class Candidates(NamedTuple):
    """Pairs that may be copies.

    Attributes:
      first, second: numbers of the photographs; the second shows a window of the first.
      window: position in `fingerprints.WINDOWS`.
      mirror: whether the second is a mirror image.
      distance: bits that differ.
      cut_off: see `Index`.
    """

    first: Int64[np.ndarray, " n"]
    second: Int64[np.ndarray, " n"]
    window: Int32[np.ndarray, " n"]
    mirror: Bool[np.ndarray, " n"]
    distance: Int32[np.ndarray, " n"]
    cut_off: Int64[np.ndarray, ""] = np.array(0)


def gather(every: Sequence[Parts]) -> Photographs:
    """Reads what is kept in memory of all parts.

    Args:
      every: parts of all splits, all made.
    """
    sizes = [len(parts) for parts in every]
    start = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    total = int(start[-1])
    found = Photographs(
        np.repeat(np.arange(len(every), dtype=np.int16), sizes),
        start,
        np.zeros(total, np.uint8),
        np.zeros((total, 2), np.uint64),
        np.zeros(total, np.uint64),
        np.zeros((total, WORDS), np.uint64),
    )
    for begin, parts in zip(start, every, strict=False):
        row = int(begin)
        for part in parts:
            rows = slice(row, row + len(part.state))
            found.state[rows], found.digests[rows] = part.state, part.digests
            found.patients[rows], found.hashes[rows] = part.patients, part.hashes
            row = rows.stop
    return found


def same_bytes(photographs: Photographs) -> list[np.ndarray]:
    """Groups photographs that are equal byte for byte.

    Args:
      photographs: of all splits.

    Returns:
      numbers of the photographs of every group, sorted; groups by their first one.
    """
    rows = np.flatnonzero(photographs.state != MISSING)
    rows = rows[photographs.digests[rows].any(axis=1)]
    order = np.lexsort((rows, photographs.digests[rows, 1], photographs.digests[rows, 0]))
    rows = rows[order]
    if not len(rows):
        return []
    changes = (photographs.digests[rows[1:]] != photographs.digests[rows[:-1]]).any(axis=1)
    groups = np.split(rows, np.flatnonzero(changes) + 1)
    return sorted((group for group in groups if len(group) > 1), key=lambda group: int(group[0]))


def stand_for_themselves(photographs: Photographs) -> Bool[np.ndarray, " n"]:
    """Tells which photographs are compared: of equal bytes the first one.

    Args:
      photographs: of all splits.
    """
    stands = photographs.state == HASHED
    for group in same_bytes(photographs):
        stands[group[1:]] = False
    return stands


def find_candidates(
    every: Sequence[Parts], photographs: Photographs, folder: files.Path
) -> Candidates:
    """Finds pairs whose hashes are near; of photographs with equal bytes the first stands for all.

    Args:
      every: parts of all splits.
      photographs: what was gathered of them.
      folder: of what was looked up, part by part.
    """
    stands = stand_for_themselves(photographs)
    rows = np.flatnonzero(stands)
    index = Index(photographs.hashes[rows])
    each = int(np.clip(_COMPARED // max(1, len(rows)), _LEAST, _MOST))
    work = [(position, start) for position, parts in enumerate(every) for start in parts.starts]

    def make(item: tuple[int, int]) -> Mapping[str, np.ndarray]:
        parts = every[item[0]]
        begin = int(photographs.start[item[0]]) + item[1] * parts.split.of_each
        planes = parts.planes(item[1])
        members = np.flatnonzero(stands[begin : begin + len(planes)])
        found = [
            _look_up(
                index,
                rows,
                np.stack([fingerprints.hashes(planes[member]) for member in chosen]),
                begin + chosen,
                each,
            )
            for chosen in np.split(members, range(_AT_ONCE, len(members), _AT_ONCE))
            if len(chosen)
        ]
        return joined(found)._asdict()

    folder = folder / identity(*(parts.split.key for parts in every), VERSION)
    parts = kept(make, work, folder, lambda item: f"{item[0]}-{item[1]:09d}", "looking up")
    return _unordered(joined([Candidates(**arrays) for arrays in parts]))


def joined(parts: Sequence[Candidates]) -> Candidates:
    """Joins candidates in order.

    Args:
      parts: some of them.
    """
    none = np.zeros(0, np.int64)
    empty = Candidates(none, none, none.astype(np.int32), none.astype(bool), none.astype(np.int32))
    first, second, window, mirror, distance = (
        np.concatenate(columns)
        for columns in zip(*(part[:5] for part in (empty, *parts)), strict=True)
    )
    total = np.array(sum(int(part.cut_off) for part in parts))
    return Candidates(first, second, window, mirror, distance, total)


def _look_up(
    index: Index,
    rows: Int64[np.ndarray, " items"],
    hashes: UInt64[np.ndarray, "n windows words"],
    numbers: Int64[np.ndarray, " n"],
    each: int,
) -> Candidates:
    """The items that are near a window of some photographs, at most `each` of every photograph."""
    straight = hashes.reshape(-1, WORDS)
    queries = np.concatenate([straight, fingerprints.mirrored(straight)])
    query, item, distance, cut_off = index.near(queries, NEAR)
    mirror, of = np.divmod(query, len(straight))
    photo, window = np.divmod(of, len(WINDOWS))
    other = rows[item] != numbers[photo]
    photo, item, distance = photo[other], item[other], distance[other]
    window, mirror = window[other], mirror[other]
    # Of every pair the nearest window, of every photograph the nearest pairs.
    order = np.lexsort((distance, item, photo))
    photo, item, distance = photo[order], item[order], distance[order]
    window, mirror = window[order], mirror[order]
    first = np.ones(len(photo), bool)
    first[1:] = (photo[1:] != photo[:-1]) | (item[1:] != item[:-1])
    photo, item, distance = photo[first], item[first], distance[first]
    window, mirror = window[first], mirror[first]
    order = np.lexsort((distance, photo))
    rank = np.arange(len(photo)) - np.searchsorted(photo[order], photo[order], "left")
    order = order[rank < each]
    return Candidates(
        numbers[photo[order]],
        rows[item[order]],
        window[order].astype(np.int32),
        mirror[order] > 0,
        distance[order],
        np.array(cut_off),
    )


def _unordered(found: Candidates) -> Candidates:
    """Every pair once, whichever of the two shows a part of the other, by the nearer one."""
    low, high = np.minimum(found.first, found.second), np.maximum(found.first, found.second)
    order = np.lexsort((found.distance, high, low))
    low, high = low[order], high[order]
    first = np.ones(len(order), bool)
    first[1:] = (low[1:] != low[:-1]) | (high[1:] != high[:-1])
    chosen = order[first]
    first, second, window, mirror, distance = (column[chosen] for column in found[:5])
    return Candidates(first, second, window, mirror, distance, found.cut_off)


def states(photographs: Photographs, split: int) -> dict[str, int]:
    """Counts what became of the photographs of a split.

    Args:
      photographs: of all splits.
      split: its position.
    """
    of = photographs.state[photographs.start[split] : photographs.start[split + 1]]
    names = {"hashed": HASHED, "plain": PLAIN, "broken": BROKEN, "missing": MISSING}
    return {name: int((of == state).sum()) for name, state in names.items()}
