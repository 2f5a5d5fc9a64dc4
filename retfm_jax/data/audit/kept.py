"""Work whose results are kept on disk item by item, so that a killed audit goes on where it was."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar

import numpy as np

from retfm_jax import files
from retfm_jax.array_files import read_arrays, write_arrays
from retfm_jax.progress import progress_bar
from retfm_jax.runtime.threads import cores, in_threads

Item = TypeVar("Item")
Arrays = Mapping[str, np.ndarray]


def identity(*parts: object) -> str:
    """Names a folder by what its results depend on.

    Args:
      parts: arrays, and what has a text.
    """
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.tobytes() if isinstance(part, np.ndarray) else f"{part}\n".encode())
    return digest.hexdigest()[:24]


def kept(
    make: Callable[[Item], Arrays],
    items: Sequence[Item],
    folder: files.Path,
    name: Callable[[Item], str],
    what: str,
    threads: int | None = None,
) -> Iterator[Arrays]:
    """Computes `map(make, items)` in threads, in order; what is there already is read.

    Args:
      make: computes arrays by their names.
      items: its arguments.
      folder: of the results; its name says what they depend on, see `identity`.
      name: names the file of an item.
      what: is being done, for the progress bar.
      threads: at a time; None: one for each core.

    Raises:
      UserError: a file cannot be read or written.
    """

    threads = threads or cores()

    def result(item: Item) -> Arrays:
        path = folder / f"{name(item)}.npz"
        if path.is_file():
            return read_arrays(path)
        arrays = make(item)
        write_arrays(path, arrays)
        return arrays

    with (
        progress_bar(desc=what, total=len(items), unit="parts") as bar,
        in_threads(result, items, threads=threads, ahead=2 * threads) as done,
    ):
        for arrays in done:
            bar.update()
            yield arrays
