"""Index of hashes: near neighbors of a hash among a million, without comparing it with all.

Locality-sensitive hashing (Indyk and Motwani, STOC 1998): each of some tables sorts all hashes by a
few of their bits. Two hashes that differ in a share p of their bits agree in b chosen ones with
probability (1 - p)^b, and in those of one of t tables with 1 - (1 - (1 - p)^b)^t; only hashes that
agree somewhere are compared.
"""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Int32, Int64, UInt64

#: Tables, and the fewest and the most bits of a key: as many as tell the members of a set apart.
_TABLES, _FEWEST, _MOST = 24, 10, 24
#: Bits that keys are made of, those of the lowest frequencies: copies agree in them more often.
_KEYED = 192
#: Of the hashes that share a key with another one, so many are compared with it.
_BUCKET = 512
#: Pairs that are compared at a time, and hashes whose keys are made at a time.
_AT_ONCE, _KEYS_AT_ONCE = 1 << 18, 1 << 16


class Neighbors(NamedTuple):
    """Pairs of a query and an item that are near each other.

    Attributes:
      query, item: positions.
      distance: bits that differ.
      cut_off: comparisons that were left out, as more hashes share a key than are compared.
    """

    query: Int64[np.ndarray, " n"]
    item: Int64[np.ndarray, " n"]
    distance: Int32[np.ndarray, " n"]
    cut_off: int


class Index:
    """Index of hashes.

    Args:
      hashes: (n, words) uint64; kept as they are.
      seed: of the choice of bits.
    """

    def __init__(self, hashes: UInt64[np.ndarray, "n words"], seed: int = 0):
        self._hashes = hashes
        bits = min(max(math.ceil(math.log2(max(2, len(hashes)))), _FEWEST), _MOST)
        rng = np.random.default_rng(seed)
        self._chosen = [rng.permutation(_KEYED)[:bits] for _ in range(_TABLES)]
        #: Of every table, where the hashes of a key begin, and the hashes by their keys.
        self._tables: list[tuple[np.ndarray, np.ndarray]] = []
        for chosen in self._chosen:
            keys = _keys(hashes, chosen)
            starts = np.zeros((1 << bits) + 1, np.int32)
            np.cumsum(np.bincount(keys, minlength=1 << bits), out=starts[1:])
            self._tables.append((starts, np.argsort(keys, kind="stable").astype(np.int32)))

    @property
    def nbytes(self) -> int:
        """Memory of the tables, the hashes themselves not counted."""
        return sum(starts.nbytes + order.nbytes for starts, order in self._tables)

    def near(self, queries: UInt64[np.ndarray, "m words"], most: int) -> Neighbors:
        """Finds items near queries; a pair may come several times.

        Args:
          queries: (m, words) uint64.
          most: bits that may differ.
        """
        none = np.zeros(0, np.int64)
        found, cut_off = [(none, none, np.zeros(0, np.int32))], 0
        for chosen, (starts, order) in zip(self._chosen, self._tables, strict=True):
            wanted = _keys(queries, chosen)
            low = starts[wanted]
            count = starts[wanted + 1] - low
            cut_off += int(np.maximum(count - _BUCKET, 0).sum())
            count = np.minimum(count, _BUCKET)
            ends = np.cumsum(count)
            start = 0
            while start < len(queries):
                done = ends[start - 1] if start else 0
                stop = max(start + 1, int(np.searchsorted(ends, done + _AT_ONCE, "right")))
                many = count[start:stop]
                query = np.repeat(np.arange(start, min(stop, len(queries))), many)
                first = np.repeat(low[start:stop] - (ends[start:stop] - many - done), many)
                item = order[first + np.arange(len(query))]
                differ = queries[query] ^ self._hashes[item]
                distance = np.bitwise_count(differ).sum(axis=1, dtype=np.int32)
                near = distance <= most
                found.append((query[near], item[near].astype(np.int64), distance[near]))
                start = stop
        query, item, distance = (np.concatenate(parts) for parts in zip(*found, strict=True))
        return Neighbors(query, item, distance, cut_off)


def _keys(
    hashes: UInt64[np.ndarray, "n words"], chosen: Int64[np.ndarray, " b"]
) -> Int32[np.ndarray, " n"]:
    """Numbers that the chosen bits make."""
    found = np.zeros(len(hashes), np.int32)
    for start in range(0, len(hashes), _KEYS_AT_ONCE):
        part = hashes[start : start + _KEYS_AT_ONCE]
        keys = found[start : start + _KEYS_AT_ONCE]
        for place, bit in enumerate(chosen.tolist()):
            word, shift = divmod(bit, 64)
            keys |= ((part[:, word] >> np.uint64(shift)) & np.uint64(1)).astype(np.int32) << place
    return found
