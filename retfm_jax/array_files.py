"""Files of arrays by name (.npz), none of them pickled, wherever paths lead."""

import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from retfm_jax.errors import UserError
from retfm_jax.files import Path, PathLike, atomic_write, errors, reason

#: What helps where a file holds what is computed again when it is gone.
MADE_ANEW = "remove it, and the same command makes it anew"


def write_arrays(path: PathLike, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes arrays to a temporary name, which is then renamed.

    Args:
      path: of the file; one that is there is replaced.
      arrays: by name, none of objects.

    Raises:
      UserError: it cannot be written.
    """
    stored: dict[str, Any] = dict(arrays)
    with atomic_write(path, "wb") as file:
        np.savez(file, **stored)


def read_arrays(path: Path, remedy: str = MADE_ANEW) -> dict[str, np.ndarray]:
    """Reads all arrays of a file.

    Args:
      path: of the file.
      remedy: what helps where it is damaged; "" for a caller that says so itself.

    Raises:
      UserError: it cannot be read; the message ends with the remedy.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except (*errors(), ValueError, EOFError, zipfile.BadZipFile) as error:
        raise unreadable(path, error, remedy) from error


def unreadable(path: PathLike, error: BaseException, remedy: str = MADE_ANEW) -> UserError:
    """Makes the error of a file that cannot be read.

    Args:
      path: of the file.
      error: what reading it raised.
      remedy: what helps; "" for none.
    """
    advice = f": {remedy}" if remedy else ""
    return UserError(f"{path} cannot be read ({reason(error)}){advice}")
