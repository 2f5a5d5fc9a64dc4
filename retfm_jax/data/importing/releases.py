"""Releases that are a folder of tables over one image root: the FLAIR collection, MM-Retinal."""

import dataclasses
import re
import statistics
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path, PurePosixPath

from retfm_jax.data import cells
from retfm_jax.data.building.rows import FilePicture, ImageRow
from retfm_jax.data.building.validation import ProblemLog
from retfm_jax.data.importing import manifest, tables
from retfm_jax.data.importing.columns import meant
from retfm_jax.errors import UserError
from retfm_jax.knowledge.prompts import MODALITIES

#: Where the published projects keep their tables, below the folder that a user gives.
_TABLES = (
    "*.csv",
    "data/*.csv",
    "dataframes/*.csv",
    "dataframes/pretraining/*.csv",
    "local_data/dataframes/pretraining/*.csv",
)
#: How deep below the given folder the image root may be.
_DEPTHS = ("", "*/", "*/*/")
#: So many of a table's first images are looked for, to find the image root.
_TRIED = 32
#: Where MM-Retinal's paths start, of its versions and in the FLAIR collection.
_EXPERT = re.compile(r"(\d+_)?MM_Retinal_dataset\w*", re.IGNORECASE)
#: Columns of lists that rank their rows by difficulty.
_RANKED = ("stage", "img_norm_r")
#: Half of the texts in a column of captions have so many words; a category has fewer.
_CAPTION_WORDS = 8


def read(
    source: Path,
    columns: Sequence[str],
    problems: ProblemLog,
    *,
    captions: bool = False,
    places: Callable[[str], Iterable[str]] = lambda path: (path,),
    among: Callable[[Path], bool] = lambda path: True,
    levels: dict[str, int] | None = None,
) -> list[ImageRow]:
    """Reads all tables of a release that have the wanted columns.

    The image root is the folder, `source` or one below it, that holds one of the first paths that a
    table names.

    Args:
      source: the folder of the release.
      columns: what a table must have to belong to it, see `tables.require_columns`.
      problems: takes the rows that cannot be used.
      captions: whether tables are wanted that have captions in place of categories, as MM-Retinal's
        FFA has them in the column `categories`; else these are passed over.
      places: of the path of an image, the paths at which it may lie, the likeliest first.
      among: tells of a table's path whether it is opened at all.
      levels: takes the level of difficulty of each record, by its id, from the column `stage` of
        tables that rank their rows in `img_norm_r`, as MedKCO's lists do; None takes none.

    Raises:
      UserError: no table with these columns, or no folder in which its images are.
    """
    paths = sorted(path for pattern in _TABLES for path in source.glob(pattern))
    rows: list[ImageRow] = []
    for path in paths:
        if not among(path):
            problems.notes.append(f"{path} is passed over: by its name it lists another modality")
            continue
        table = _table(path, columns, problems, captions)
        if table is not None:
            found, _ = manifest.rows_of(table, source, problems)
            rows += [row for row in found if isinstance(row, ImageRow)]
            if levels is not None:
                levels |= _levels(table)
    if not rows:
        wanted = " and ".join(column.split("|")[0] for column in columns)
        raise UserError(
            f"no CSV file with the columns {wanted} in {source} or its folders data and dataframes "
            f"({len(paths)} CSV files looked at)"
        )
    root = image_root(source, rows, places or _as_written)
    rows = [manifest.under(root, row) for row in rows]
    return rows if places is None else [_placed(row, root, places) for row in rows]


def _table(
    path: Path, columns: Sequence[str], problems: ProblemLog, captions: bool
) -> tables.Table | None:
    """A table of the release; None of something else, such as a test set.

    Raises:
      UserError: it is one but for the spelling of its columns.
    """
    found = ProblemLog()
    try:
        table = tables.read_csv(path, found)
    except UserError as error:
        problems.note("unreadable_table", path, 1, str(error), "table left out")
        return None
    if _has_captions_for_categories(table):
        if not captions:
            problems.notes.append(f"{path} is passed over: its categories are captions")
            return None
        table = _with_captions(table, found)
    missing = [name for name in columns if not set(name.split("|")) & set(table.columns)]
    strange = [name for name in table.columns if name]
    if missing and all(any(meant(s, name.split("|")) for s in strange) for name in missing):
        tables.require_columns(table, columns)
    if missing:
        problems.notes.append(f"{path} is passed over: it has no column {' nor '.join(missing)}")
        return None
    problems.extend(found.problems)
    problems.notes += found.notes
    return table


def _levels(table: tables.Table) -> dict[str, int]:
    if not {"image", *_RANKED} <= set(table.columns):
        return {}
    said = {cells.text(line.cells["image"]): line.cells["stage"] for line in table.rows}
    found = {}
    for record, cell in said.items():
        written = str(cell).strip().removesuffix(".0")
        if written.isascii() and written.isdecimal() and int(written) > 0:
            found[record] = int(written)
    return found


def _has_captions_for_categories(table: tables.Table) -> bool:
    """Whether the cells of `categories` hold a caption each, by their paths or by their length."""
    if not {"image", "categories"} <= set(table.columns) or "caption" in table.columns:
        return False
    texts = []
    expert = bool(table.rows)
    for line in table.rows:
        parts = PurePosixPath(str(line.cells["image"])).parts
        expert = expert and len(parts) > 2 and _EXPERT.fullmatch(parts[0]) is not None
        try:
            texts.append(_caption(line))
        except ValueError:
            texts.append("")
    return expert or (
        bool(texts)
        and all(texts)
        and statistics.median(len(text.split()) for text in texts) >= _CAPTION_WORDS
    )


def _caption(line: tables.TableRow) -> str:
    """The text in the cell of a row's categories, "" where there is none or several are."""
    found = cells.names(line.cells["categories"], "categories", known=lambda name: True) or ()
    return found[0] if len(found) == 1 else ""


def _with_captions(table: tables.Table, problems: ProblemLog) -> tables.Table:
    """The same table with a column of captions and none of categories."""
    rows = []
    for line in table.rows:
        said = {name: cell for name, cell in line.cells.items() if name != "categories"}
        try:
            said["caption"] = _caption(line)
        except ValueError as error:
            problems.unreadable(table.path, line.row, str(error), str(line.cells["image"]))
            continue
        rows.append(dataclasses.replace(line, cells=said))
    columns = [name for name in table.columns if name != "categories"]
    return dataclasses.replace(table, columns=(*columns, "caption"), rows=rows)


def modality(row: ImageRow) -> str | None:
    """Finds an image's modality by a folder of its path that is named so: FFA, OCT, CFP.

    Args:
      row: whose record id is the image's path below the release.

    Returns:
      the modality; None where no folder names one.
    """
    folders = (part.lower() for part in PurePosixPath(row.record_id).parts[:-1])
    return next((name for name in folders if name in MODALITIES), None)


def _as_written(path: str) -> Iterable[str]:
    return (path,)


def image_root(
    source: Path,
    rows: Sequence[ImageRow],
    places: Callable[[str], Iterable[str]] = _as_written,
) -> Path:
    """Finds the folder, `source` or one below it, that holds one of the first images of each table.

    Args:
      source: the folder of the release.
      rows: of its tables, at least one.
      places: see `read`.

    Raises:
      UserError: none does.
    """
    # Not every file must be there, but one of the first of each table will be.
    tried: dict[str, list[str]] = {}
    for row in rows:
        of_table = tried.setdefault(row.file, [])
        if len(of_table) < _TRIED:
            of_table.append(row.record_id)
    folders = [
        folder
        for depth in _DEPTHS
        for folder in (sorted(source.glob(depth)) if depth else [source])
    ]
    for names in tried.values():
        for relative in names:
            for place in places(relative):
                for folder in folders:
                    if (folder / place).is_file():
                        return folder
    example = next(iter(tried.values()))[0]
    raise UserError(f"{source} and its folders hold no {example}, which the tables name")


def _placed(row: ImageRow, root: Path, places: Callable[[str], Iterable[str]]) -> ImageRow:
    """The same row with its picture at the first of its places where a file is."""
    for place in places(row.record_id):
        if (root / place).is_file():
            return dataclasses.replace(row, image=FilePicture(str(root), place))
    return row
