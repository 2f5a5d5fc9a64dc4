"""Import of a group's own patients, or of the published containers, as a dataset."""

import re
from collections.abc import Sequence
from pathlib import Path

from retfm_jax import files
from retfm_jax.data.building.beam import BeamSettings
from retfm_jax.data.building.builder import BuildOptions, write_dataset
from retfm_jax.data.building.public_sets import PublicSetBuilder
from retfm_jax.data.building.registry import IMPORTER, builder_class
from retfm_jax.data.building.rows import Row
from retfm_jax.data.building.validation import ProblemLog
from retfm_jax.data.mask_folders import describe_folder
from retfm_jax.errors import UserError

_NAME = re.compile(r"[a-z][a-z0-9_]*")


def check_name(name: str) -> None:
    """Refuses a dataset's name that TFDS does not take.

    Args:
      name: of a dataset.

    Raises:
      UserError: it is not of small letters, digits and underscores, or begins with none of the
        first.
    """
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
    """Writes rows as a dataset.

    Args:
      rows: of patients or images, of all splits.
      problems: what was found while they were read; takes what is found now.
      name: of the dataset: small letters, digits and underscores.
      data_dir: folder below which the dataset is put.
      options: of sizes, splits and problems; None: the defaults.
      overwrite: replaces a dataset of that name and version.
      beam: the cluster that does the work; None for this machine's threads.

    Returns:
      the dataset's folder.

    Raises:
      UserError: see `builder.write_dataset`; or the name is none that TFDS takes.
    """
    check_name(name)
    builder = builder_class(IMPORTER)(
        name=name, rows=rows, problems=problems, options=options, data_dir=data_dir
    )
    return write_dataset(builder, source=None, overwrite=overwrite, beam=beam)


def import_masks(
    folder: str | Path,
    name: str,
    data_dir: str | Path,
    options: BuildOptions | None = None,
    overwrite: bool = False,
    beam: BeamSettings | None = None,
) -> files.Path:
    """Writes a folder of photographs and masks as a dataset.

    Args:
      folder: in a layout of `mask_folders`.
      name, data_dir, options, overwrite, beam: as of `import_rows`; photographs keep their size
        where the options name none.

    Returns:
      the dataset's folder.

    Raises:
      UserError: see `builder.write_dataset` and `mask_folders.describe_folder`; or the name is none
        that TFDS takes.
    """
    check_name(name)
    if not Path(folder).is_dir():
        raise UserError(f"{folder} is not a folder")
    described = describe_folder(Path(folder), name)
    builder = PublicSetBuilder(described=described, options=options, data_dir=data_dir)
    return write_dataset(builder, source=folder, overwrite=overwrite, beam=beam)
