"""Comparisons of all candidates, kept on disk as fingerprints are."""

import functools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Int8

from retfm_jax import files
from retfm_jax.data.audit.candidates import Candidates, Photographs
from retfm_jax.data.audit.comparison import compare
from retfm_jax.data.audit.fingerprints import WINDOWS
from retfm_jax.data.audit.kept import identity, kept
from retfm_jax.data.audit.parts import Parts

#: Pairs that are compared and kept together; those of another version are compared anew.
PAIRS, VERSION = 1024, 3
#: Planes that are kept for the next pairs, of 9 kB.
_KEPT = 4096


class Compared(NamedTuple):
    """Comparisons of candidates, in their order; see `comparison.Comparison`.

    Attributes:
      score, scale, rotation, overlap: (n) float32.
    """

    score: Float32[np.ndarray, " n"]
    scale: Float32[np.ndarray, " n"]
    rotation: Float32[np.ndarray, " n"]
    overlap: Float32[np.ndarray, " n"]


def compare_all(
    every: Sequence[Parts], photographs: Photographs, found: Candidates, folder: files.Path
) -> Compared:
    """Registers and correlates the photographs of every pair.

    Args:
      every: parts of all splits.
      photographs: what was gathered of them.
      found: the pairs.
      folder: of the comparisons.
    """

    @functools.lru_cache(maxsize=_KEPT)
    def plane(number: int) -> Int8[np.ndarray, "side side"]:
        split = int(photographs.split[number])
        return every[split].plane(number - int(photographs.start[split]))

    def make(start: int) -> Mapping[str, np.ndarray]:
        values = [
            compare(plane(int(first)), plane(int(second)), WINDOWS[window], bool(mirror))
            for first, second, window, mirror in zip(
                *(column[start : start + PAIRS] for column in found[:4]), strict=True
            )
        ]
        return Compared(*np.array(values, np.float32).T)._asdict()

    folder = folder / identity(*(parts.split.key for parts in every), VERSION, *found[:4])
    starts = range(0, len(found.first), PAIRS)
    parts = kept(make, starts, folder, lambda start: f"{start:09d}", "comparing")
    every_part = [Compared(*np.zeros((4, 0), np.float32)), *(Compared(**each) for each in parts)]
    return Compared(*map(np.concatenate, zip(*every_part, strict=True)))
