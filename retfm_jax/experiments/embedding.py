"""Embeds the photographs of a folder or a CSV into a file."""

import dataclasses
import os

import numpy as np

from retfm_jax import extras
from retfm_jax.console import say
from retfm_jax.errors import UserError
from retfm_jax.evaluation.embeddings import refuse_unusable
from retfm_jax.experiments.photograph_list import photographs_of
from retfm_jax.files import PathLike, as_path, atomic_write, check_writable
from retfm_jax.model import load


@dataclasses.dataclass(frozen=True)
class Embedded:
    """Summary of a file of embeddings.

    Attributes:
      count, width: number of embeddings, and numbers in each.
      left_out: a sentence for every image that is not among them.
    """

    count: int
    width: int
    left_out: tuple[str, ...]


def embed(workdir: PathLike, images: PathLike, out: PathLike, on_error: str = "skip") -> Embedded:
    """Writes paths and unit-norm embeddings of photographs.

    Args:
      workdir: of the network, or its checkpoint folder.
      images: a folder, a CSV with a column `image`, one photograph, or "-", a list of paths on
        standard input.
      out: `.npz` with arrays `image` (paths) and `embedding` (n, d) float32, or `.parquet`.
      on_error: "skip" leaves out what cannot be used, "refuse" ends at it.

    Raises:
      UserError: no image can be used, or the file cannot be written.
    """
    out = as_path(out)
    if out.suffix not in (".npz", ".parquet"):
        raise UserError(f"out {out}: embeddings are written as .npz or .parquet")
    if out.suffix == ".parquet":
        with extras.needed("data"):
            import pandas  # noqa: F401
            import pyarrow.parquet  # noqa: F401
    check_writable(out)
    paths, unusable = photographs_of(images)
    refuse_unusable(unusable, on_error)
    damaged: list[tuple[int, str]] = []
    embeddings = load(workdir).encode_images(
        paths, progress=True, unusable=None if on_error == "refuse" else damaged
    )
    unusable += [said for _, said in damaged]
    kept = np.setdiff1d(np.arange(len(paths)), [index for index, _ in damaged])
    if not len(kept):
        first = f": {unusable[0]}" if unusable else ""
        raise UserError(f"images {images}: none of its images can be used{first}")
    names, embeddings = as_written([str(paths[index]) for index in kept]), embeddings[kept]
    with atomic_write(out, "wb") as file:
        if out.suffix == ".npz":
            np.savez(file, image=np.array(names), embedding=embeddings)
        else:
            import pandas as pd

            pd.DataFrame({"image": names, "embedding": list(embeddings)}).to_parquet(file)
    return Embedded(len(names), embeddings.shape[1], tuple(unusable))


def as_written(names: list[str]) -> list[str]:
    """Makes names fit for files of tables: bytes that are no UTF-8 become escapes, with a notice.

    Args:
      names: paths as the system gives them.
    """
    written = [os.fsencode(name).decode("utf-8", "backslashreplace") for name in names]
    odd = sum(map(str.__ne__, names, written))
    if odd:
        say(f"{odd} names hold bytes that are no UTF-8; they are written as escapes, such as \\xff")
    return written
