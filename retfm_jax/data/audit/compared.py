"""Comparisons of all candidates, kept in parts on disk as fingerprints are."""

import functools
import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32

from retfm_jax import files
from retfm_jax.data import images
from retfm_jax.data.audit.candidates import Candidates, Photographs
from retfm_jax.data.audit.comparison import NOTHING, Comparison, Plane, compare, planes
from retfm_jax.data.audit.fingerprints import WINDOWS
from retfm_jax.data.audit.parts import Parts
from retfm_jax.errors import UserError
from retfm_jax.progress import progress_bar
from retfm_jax.runtime.threads import cores, in_threads

#: Pairs of a part; parts of another version are made anew.
PAIRS, VERSION = 128, 2
#: Long side of the decoded photographs, pixels, and how many are kept for the next pair.
_DECODED, _KEPT = 256, 512


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
      folder: of the comparisons' parts.
    """
    keys = "\n".join(parts.split.key for parts in every)
    digest = hashlib.sha256(f"{keys}\nv{VERSION}".encode())
    for array in found[:4]:
        digest.update(np.ascontiguousarray(array).tobytes())
    folder = folder / digest.hexdigest()[:24]
    read = _reader(every, photographs)
    starts = range(0, len(found.first), PAIRS)

    def make(start: int) -> Float32[np.ndarray, "n 4"]:
        path = folder / f"{start:09d}.npy"
        stop = min(start + PAIRS, len(found.first))
        if path.is_file():
            try:
                values = np.load(path, allow_pickle=False)
            except (OSError, ValueError, EOFError) as error:
                raise UserError(
                    f"{path} cannot be read ({files.reason(error)}): remove it, and the same "
                    "command makes it anew"
                ) from error
            if values.shape == (stop - start, len(Comparison._fields)):
                return values
        values = np.array([_pair(read, found, row) for row in range(start, stop)], np.float32)
        with files.atomic_write(path, "wb") as file:
            np.save(file, values)
        return values

    values = [np.zeros((0, len(Comparison._fields)), np.float32)]
    with (
        progress_bar(desc="comparing", total=len(found.first), unit="pairs") as bar,
        in_threads(make, starts, threads=cores(), ahead=2 * cores()) as done,
    ):
        for part in done:
            values.append(part)
            bar.update(len(part))
    return Compared(*np.concatenate(values).T)


def _reader(every: Sequence[Parts], photographs: Photographs):
    """Reads a photograph by its number, None where that is no longer possible."""

    @functools.lru_cache(maxsize=_KEPT)
    def read(number: int) -> Plane | None:
        split = int(photographs.split[number])
        try:
            photo = every[split].split.photograph(number - int(photographs.start[split]))
            return planes(images.thumbnail(photo.image, photo.name, _DECODED))
        except UserError:
            return None

    return read


def _pair(read, found: Candidates, row: int) -> Comparison:
    first, second = read(int(found.first[row])), read(int(found.second[row]))
    if first is None or second is None:
        return NOTHING
    return compare(first, second, WINDOWS[found.window[row]], bool(found.mirror[row]))
