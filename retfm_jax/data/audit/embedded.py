"""Pairs of photographs that may be copies, by the embeddings of a network."""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Int64, UInt64

from retfm_jax import files
from retfm_jax.array_files import read_arrays
from retfm_jax.data.audit import fingerprints
from retfm_jax.data.audit.candidates import Candidates, Photographs, joined, stand_for_themselves
from retfm_jax.data.audit.kept import Arrays, identity, kept
from retfm_jax.data.audit.parts import RECORDS, Parts

#: Nearest photographs that are compared with each.
NEIGHBORS = 4
#: Photographs that a network gets at a time, parts whose neighbors are found at a time, and pairs
#: whose windows are.
_AT_ONCE, _PARTS, _PAIRS = 64, 16, 4096
#: Hashes of all windows of a photograph that are kept for the next pairs, of 3 kB.
_KEPT = 4096
#: What was embedded or looked up by another version is made anew.
VERSION = 1


class Embedder(NamedTuple):
    """Network by which photographs are embedded.

    Attributes:
      embed: from encoded photographs to (n, d) unit-norm rows, zeros where one cannot be used.
      name: of the network, for pages.
      key: text that changes with its weights and its preprocessing.
    """

    embed: Callable[[Sequence[bytes]], Float32[np.ndarray, "n d"]]
    name: str
    key: str


def find_embedded(
    every: Sequence[Parts],
    photographs: Photographs,
    known: Candidates,
    embedder: Embedder,
    folder: files.Path,
) -> Candidates:
    """Finds the nearest neighbors of every photograph that are not candidates already.

    Of photographs with equal bytes the first stands for all. All cosines are computed, block by
    block; memory holds the embeddings of two blocks.

    Args:
      every: parts of all splits.
      photographs: what was gathered of them.
      known: candidates of the hashes.
      embedder: the network.
      folder: of the embeddings and of the neighbors.

    Returns:
      candidates, each pair twice: straight and mirrored, by the window whose hash is nearest.

    Raises:
      UserError: a photograph cannot be read any more, or a file cannot be read or written.
    """
    blocks = _Blocks(every, photographs, embedder, folder)
    blocks.make()
    first, second = blocks.neighbors()
    taken = np.unique(_pair(known.first, known.second, len(photographs.state)))
    pairs = np.setdiff1d(_pair(first, second, len(photographs.state)), taken)
    return _windows(every, photographs, *np.divmod(pairs, len(photographs.state)), blocks.folder)


def _pair(first: np.ndarray, second: np.ndarray, total: int) -> Int64[np.ndarray, " n"]:
    return np.minimum(first, second) * total + np.maximum(first, second)


class _Blocks:
    """Embeddings of all photographs that stand for themselves, a file for each part."""

    def __init__(
        self,
        every: Sequence[Parts],
        photographs: Photographs,
        embedder: Embedder,
        folder: files.Path,
    ):
        self._every, self._photographs, self._embedder = every, photographs, embedder
        self._folder = folder / identity(embedder.key, VERSION)
        self._stands = stand_for_themselves(photographs)
        self._work = [(at, start) for at, parts in enumerate(every) for start in parts.starts]
        keys = (parts.split.key for parts in every)
        #: Of what depends on all sets.
        self.folder = folder / identity(*keys, embedder.key, NEIGHBORS, VERSION)

    def members(self, item: tuple[int, int]) -> Int64[np.ndarray, " n"]:
        """Numbers of the photographs of a part that are embedded."""
        parts = self._every[item[0]]
        first, stop = (int(each) for each in self._photographs.start[item[0] : item[0] + 2])
        begin = first + item[1] * parts.split.of_each
        end = min(begin + RECORDS * parts.split.of_each, stop)
        return begin + np.flatnonzero(self._stands[begin:end])

    def _make(self, item: tuple[int, int]) -> Arrays:
        split, first = self._every[item[0]].split, int(self._photographs.start[item[0]])
        numbers = self.members(item)
        found = [
            np.asarray(
                self._embedder.embed([split.photograph(int(n) - first).image for n in chosen]),
                np.float32,
            )
            for chosen in np.split(numbers, range(_AT_ONCE, len(numbers), _AT_ONCE))
            if len(chosen)
        ]
        return {"rows": np.concatenate(found or [np.zeros((0, 0), np.float32)])}

    def _path(self, item: tuple[int, int]) -> files.Path:
        return self._folder / f"{self._name(item)}.npz"

    def _name(self, item: tuple[int, int]) -> str:
        # The photographs are named, so that sets that are added leave the others' embeddings.
        parts, first = self._every[item[0]], int(self._photographs.start[item[0]])
        which = identity(parts.split.key, self.members(item) - first)
        return f"{item[1]:09d}-{which}"

    def make(self) -> None:
        """Computes the embeddings that are not there."""
        for _ in kept(self._make, self._work, self._folder, self._name, "embedding", threads=1):
            pass

    def neighbors(self) -> Int64[np.ndarray, "2 n"]:
        """Pairs of a photograph and one of its nearest."""
        groups, folder = range(0, len(self._work), _PARTS), self.folder / "neighbors"
        found = kept(self._nearest, groups, folder, "{:06d}".format, "finding neighbors", threads=1)
        return np.concatenate([np.zeros((2, 0), np.int64), *(p["pairs"] for p in found)], axis=1)

    def _nearest(self, at: int) -> Arrays:
        items = self._work[at : at + _PARTS]
        numbers = np.concatenate([self.members(item) for item in items])
        held = [read_arrays(self._path(item))["rows"] for item in items]
        rows = np.concatenate([part for part in held if len(part)] or [np.zeros((0, 1))])
        best = np.full((len(numbers), NEIGHBORS), -np.inf, np.float32)
        which = np.full((len(numbers), NEIGHBORS), -1, np.int64)
        for item in self._work:
            others, vectors = self.members(item), read_arrays(self._path(item))["rows"]
            if not len(others) or not len(numbers):
                continue
            cosine = rows @ vectors.T
            cosine[np.equal(numbers[:, None], others)] = -np.inf
            cosine[:, ~vectors.any(axis=1)] = -np.inf
            cosine = np.concatenate([best, cosine], axis=1)
            ids = np.concatenate([which, np.broadcast_to(others, (len(numbers), len(others)))], 1)
            chosen = np.argpartition(-cosine, NEIGHBORS - 1, axis=1)[:, :NEIGHBORS]
            best, which = (np.take_along_axis(each, chosen, 1) for each in (cosine, ids))
        usable = np.linalg.norm(rows, axis=1) > 0
        there = np.isfinite(best) & usable[:, None]
        return {"pairs": np.stack([np.repeat(numbers, there.sum(axis=1)), which[there]])}


def _windows(
    every: Sequence[Parts],
    photographs: Photographs,
    low: Int64[np.ndarray, " n"],
    high: Int64[np.ndarray, " n"],
    folder: files.Path,
) -> Candidates:
    """Of every pair the window whose hash is nearest, straight and mirrored."""

    @functools.lru_cache(maxsize=_KEPT)
    def hashes(number: int) -> UInt64[np.ndarray, "windows words"]:
        split = int(photographs.split[number])
        return fingerprints.hashes(every[split].plane(number - int(photographs.start[split])))

    def nearest(first: int, second: int, mirror: bool) -> tuple[int, int, int, int]:
        found = []
        for one, other in ((first, second), (second, first)):
            straight = hashes(one)
            shown = fingerprints.mirrored(straight) if mirror else straight
            bits = np.bitwise_count(shown ^ photographs.hashes[other]).sum(axis=1, dtype=np.int32)
            window = int(bits.argmin())
            found.append((int(bits[window]), one, other, window))
        return min(found)

    def make(start: int) -> Arrays:
        rows = [
            (*nearest(int(one), int(other), mirror), mirror)
            for one, other in zip(
                low[start : start + _PAIRS], high[start : start + _PAIRS], strict=True
            )
            for mirror in (False, True)
        ]
        distance, first, second, window, mirror = np.array(rows).T
        found = Candidates(first, second, window.astype(np.int32), mirror > 0, distance)
        return found._asdict()

    folder = folder / identity("windows", low, high)
    starts = range(0, len(low), _PAIRS)
    parts = kept(make, starts, folder, "{:09d}".format, "choosing windows")
    return joined([Candidates(**arrays) for arrays in parts])
