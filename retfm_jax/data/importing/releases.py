"""Releases that are a folder of tables over one image root: the FLAIR collection, MM-Retinal."""

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from retfm_jax.data.building.rows import ImageRow
from retfm_jax.data.building.validation import ProblemLog
from retfm_jax.data.importing import manifest, tables
from retfm_jax.data.importing.columns import meant
from retfm_jax.errors import UserError
from retfm_jax.knowledge.prompts import MODALITIES

#: Where the published projects keep their tables, below the folder that a user gives.
_TABLES = (
    "*.csv",
    "dataframes/*.csv",
    "dataframes/pretraining/*.csv",
    "local_data/dataframes/pretraining/*.csv",
)
#: How deep below the given folder the image root may be.
_DEPTHS = ("", "*/", "*/*/")


def read(source: Path, columns: Sequence[str], problems: ProblemLog) -> list[ImageRow]:
    """Reads all tables of a release that have the wanted columns.

    The image root is the folder, `source` or one below it, that holds the first path that a table
    names.

    Args:
      source: the folder of the release.
      columns: what a table must have to belong to it, see `tables.require_columns`.
      problems: takes the rows that cannot be used.

    Raises:
      UserError: no table with these columns, or no folder in which its images are.
    """
    paths = sorted(path for pattern in _TABLES for path in source.glob(pattern))
    rows: list[ImageRow] = []
    for path in paths:
        if _belongs(path, columns, problems):
            found, _ = manifest.read_manifest(path, source, problems)
            rows += [row for row in found if isinstance(row, ImageRow)]
    if not rows:
        wanted = " and ".join(column.split("|")[0] for column in columns)
        raise UserError(
            f"no CSV file with the columns {wanted} in {source} or its folder dataframes "
            f"({len(paths)} CSV files looked at)"
        )
    root = _image_root(source, rows)
    return [manifest.under(root, row) for row in rows]


def _belongs(path: Path, columns: Sequence[str], problems: ProblemLog) -> bool:
    """Whether a table is one of a release, and not of something else such as a test set.

    Raises:
      UserError: it is one but for the spelling of its columns.
    """
    try:
        table = tables.read_csv(path, ProblemLog())
    except UserError as error:
        problems.note("unreadable_table", path, 1, str(error), "table left out")
        return False
    missing = [name for name in columns if not set(name.split("|")) & set(table.columns)]
    strange = [name for name in table.columns if name]
    if missing and all(any(meant(s, name.split("|")) for s in strange) for name in missing):
        tables.require_columns(table, columns)
    if missing:
        problems.notes.append(f"{path} is passed over: it has no column {' nor '.join(missing)}")
    return not missing


def modality(row: ImageRow) -> str | None:
    """Finds an image's modality by a folder of its path that is named so: FFA, OCT, CFP.

    Args:
      row: whose record id is the image's path below the release.

    Returns:
      the modality; None where no folder names one.
    """
    folders = (part.lower() for part in PurePosixPath(row.record_id).parts[:-1])
    return next((name for name in folders if name in MODALITIES), None)


def _image_root(source: Path, rows: Sequence[ImageRow]) -> Path:
    # Not every file must be there, but one of the first of each table will be.
    tried = {row.file: row.record_id for row in reversed(rows)}.values()
    for relative in tried:
        for depth in _DEPTHS:
            for folder in sorted(source.glob(depth) if depth else [source]):
                if (folder / relative).is_file():
                    return folder
    example = next(iter(tried))
    raise UserError(f"{source} and its folders hold no {example}, which the tables name")
