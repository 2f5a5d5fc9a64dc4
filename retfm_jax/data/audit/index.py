"""Index of hashes: near neighbors of a hash among a million, without comparing it with all.

Locality-sensitive hashing (Indyk and Motwani, STOC 1998): each of some tables sorts all hashes by a
few of their bits. Two hashes that differ in a share p of their bits agree in b chosen ones with
probability (1 - p)^b, and in those of one of t tables with 1 - (1 - (1 - p)^b)^t; only hashes that
agree somewhere are compared.
"""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Int32, Int64, UInt32, UInt64

from retfm_jax.data.audit.fingerprints import BITS

#: Tables, and the bits of a key: 2 more than a set of that size needs to tell its members apart.
_TABLES = 24
_FEWEST, _MOST, _MORE = 10, 24, 2
#: Of the hashes that share a key with another one, so many are compared with it.
_BUCKET = 512
#: Pairs that are compared at a time, and hashes whose keys are made at a time.
_AT_ONCE, _KEYED = 1 << 20, 1 << 16


class Neighbors(NamedTuple):
    """Pairs of a query and an item that are near each other.

    Attributes:
      query, item: positions.
      distance: bits that differ.
    """

    query: Int64[np.ndarray, " n"]
    item: Int64[np.ndarray, " n"]
    distance: Int32[np.ndarray, " n"]


class Index:
    """Index of hashes.

    Attributes:
      cut_off: comparisons that were left out, as more hashes share a key than are compared.

    Args:
      hashes: (n, words) uint64; kept as they are.
      seed: of the choice of bits.
    """

    def __init__(self, hashes: UInt64[np.ndarray, "n words"], seed: int = 0):
        self._hashes, self.cut_off = hashes, 0
        bits = math.ceil(math.log2(max(2, len(hashes)))) + _MORE
        self._key_bits = min(max(bits, _FEWEST), _MOST)
        rng = np.random.default_rng(seed)
        self._chosen = [rng.permutation(BITS)[: self._key_bits] for _ in range(_TABLES)]
        self._tables: list[tuple[np.ndarray, np.ndarray]] = []
        for chosen in self._chosen:
            keys = self._keys(hashes, chosen)
            order = np.argsort(keys, kind="stable").astype(np.int32)
            self._tables.append((keys[order], order))

    @property
    def nbytes(self) -> int:
        """Memory of the tables, the hashes themselves not counted."""
        return sum(keys.nbytes + order.nbytes for keys, order in self._tables)

    def _keys(
        self, hashes: UInt64[np.ndarray, "n words"], chosen: Int64[np.ndarray, " b"]
    ) -> UInt32[np.ndarray, " n"]:
        found = np.zeros(len(hashes), np.uint32)
        for start in range(0, len(hashes), _KEYED):
            part = hashes[start : start + _KEYED]
            keys = found[start : start + _KEYED]
            for place, bit in enumerate(chosen):
                word, shift = divmod(int(bit), 64)
                keys |= ((part[:, word] >> np.uint64(shift)) & np.uint64(1)).astype(
                    np.uint32
                ) << np.uint32(place)
        return found

    def near(self, queries: UInt64[np.ndarray, "m words"], most: int) -> Neighbors:
        """Finds items near queries; a pair may come several times.

        Args:
          queries: (m, words) uint64.
          most: bits that may differ.
        """
        found: list[Neighbors] = []
        for chosen, (keys, order) in zip(self._chosen, self._tables, strict=True):
            wanted = self._keys(queries, chosen)
            by_key = np.argsort(wanted)  # neighboring look-ups share cache lines
            low = np.searchsorted(keys, wanted[by_key], "left")
            count = np.searchsorted(keys, wanted[by_key], "right") - low
            self.cut_off += int(np.maximum(count - _BUCKET, 0).sum())
            count = np.minimum(count, _BUCKET)
            ends = np.cumsum(count)
            start = 0
            while start < len(by_key):
                done = ends[start - 1] if start else 0
                stop = max(start + 1, int(np.searchsorted(ends, done + _AT_ONCE, "right")))
                many = count[start:stop]
                query = np.repeat(by_key[start:stop], many)
                first = np.repeat(low[start:stop] - (ends[start:stop] - many - done), many)
                item = order[first + np.arange(len(query))]
                apart = np.bitwise_count(queries[query] ^ self._hashes[item]).sum(
                    axis=1, dtype=np.int32
                )
                near = apart <= most
                if near.any():
                    found.append(Neighbors(query[near], item[near].astype(np.int64), apart[near]))
                start = stop
        if not found:
            empty = np.zeros(0, np.int64)
            return Neighbors(empty, empty, empty.astype(np.int32))
        return Neighbors(*(np.concatenate(parts) for parts in zip(*found, strict=True)))
