"""A group's own patients, or the published containers, as a dataset."""

import re
from collections.abc import Sequence
from pathlib import Path

from retfm_jax import files
from retfm_jax.data.building.beam import BeamSettings
from retfm_jax.data.building.builder import BuildOptions, write_dataset
from retfm_jax.data.building.registry import IMPORTER, builder_class
from retfm_jax.data.building.rows import Row
from retfm_jax.data.building.validation import ProblemLog
from retfm_jax.errors import UserError

_NAME = re.compile(r"[a-z][a-z0-9_]*")


def check_name(name: str) -> None:
    """Raises a `UserError` for a dataset's name that TFDS does not take."""
    if not _NAME.fullmatch(name):
        raise UserError(
            f"name {name!r}: a dataset's name is small letters, digits and underscores, and "
            "begins with a letter"
        )


def import_rows(
    rows: Sequence[Row],
    problems: ProblemLog,
    name: str,
    data_dir: str | Path,
    options: BuildOptions | None = None,
    overwrite: bool = False,
    beam: BeamSettings | None = None,
) -> files.Path:
    """Writes rows as the dataset `name` and returns its folder.

    Raises:
      UserError: see `rows_builder.write_dataset`; or the name is none that TFDS takes.
    """
    check_name(name)
    builder = builder_class(IMPORTER)(
        name=name, rows=rows, problems=problems, options=options, data_dir=data_dir
    )
    return write_dataset(builder, source=None, overwrite=overwrite, beam=beam)
