"""Arrays over many photographs, computed block by block: what is on the disk is not made again."""

from collections.abc import Callable, Mapping

import numpy as np

from retfm_jax.array_files import read_arrays, write_arrays
from retfm_jax.errors import UserError
from retfm_jax.files import PathLike, as_path
from retfm_jax.progress import progress_bar

#: Photographs of a block: some minutes of work that a kill may lose.
SIZE = 4096


def in_blocks(
    folder: PathLike,
    count: int,
    make: Callable[[range], Mapping[str, np.ndarray]],
    doing: str,
    size: int = SIZE,
) -> dict[str, np.ndarray]:
    """Computes arrays with a row for each photograph, and keeps them in files of a folder.

    Memory holds the result and one block beside it. The blocks are the same however often the work
    was stopped.

    Args:
      folder: gets a file for each block; those that are there are read.
      count: number of photographs, at least 1.
      make: from positions of photographs to arrays by name with as many rows.
      doing: what it does, for the progress bar.
      size: photographs of a block.

    Returns:
      arrays of `count` rows by name.

    Raises:
      UserError: a file cannot be read or written.
    """
    folder = as_path(folder)
    found: dict[str, np.ndarray] = {}
    starts = range(0, count, size)
    for start in progress_bar(starts, doing, unit="block", disable=len(starts) == 1):
        rows = range(start, min(start + size, count))
        path = folder / f"block_{start // size:06d}.npz"
        if path.is_file():
            block = read_arrays(path)
        else:
            block = {name: np.asarray(of) for name, of in make(rows).items()}
            write_arrays(path, block)
        for name, of in block.items():
            if len(of) != len(rows):
                raise UserError(
                    f"{path} holds {len(of)} rows where {len(rows)} belong: remove {folder}"
                )
            if name not in found:
                found[name] = np.empty((count, *of.shape[1:]), of.dtype)
            if found[name].dtype != of.dtype:  # of texts, whose longest decides
                found[name] = found[name].astype(np.promote_types(found[name].dtype, of.dtype))
            found[name][start : start + len(of)] = of
    return found
