"""Folders of one's own with photographs and masks, described as public sets are.

Either of two layouts::

    images/NAME.jpg                    or images/train/NAME.jpg, images/test/NAME.jpg
    masks/STRUCTURE/NAME.png           of every photograph, or masks/STRUCTURE/train/NAME.png
    fov/NAME.png                       the field of view, where it is known

or a table `masks.csv` with a row for each photograph and the columns `image`, `mask_STRUCTURE` (one
for each structure), and, where wanted, `fov`, `split` and `patient`: paths start from the table's
folder. An empty cell of a mask means that nobody looked for the structure, "absent" that it is
known to be absent.

Masks hold 0 and one other value, and are as large as their photograph. In the folders a mask is
called as its photograph is, with whatever ending.
"""

import dataclasses
import re

from retfm_jax.data import photographs
from retfm_jax.data.building.validation import ProblemLog
from retfm_jax.data.image_files import folded
from retfm_jax.data.importing import tables
from retfm_jax.data.public_sets.cells import fold
from retfm_jax.data.public_sets.description import Layout, MaskFiles, Part, PublicSet
from retfm_jax.errors import UserError
from retfm_jax.files import Path

#: Names of the parts.
TABLE, IMAGES, MASKS, FIELDS = "masks.csv", "images", "masks", "fov"
_PREFIX = "mask_"
_SUFFIXES = ("png", "tif", "tiff", "gif", "bmp", "pgm", "pbm", "ppm")
_STRUCTURE = re.compile(r"[^\W\d][\w-]*")
#: What an optional cell or file looks like where there is something in it.
_FILLED, _ABSENT = re.compile(r"\S"), re.compile(r"^\s*absent\s*$", re.IGNORECASE)


def is_mask_folder(folder: Path) -> bool:
    """Tells whether a folder holds photographs and masks in one of the layouts.

    Args:
      folder: that may.
    """
    return (folder / TABLE).is_file() or all((folder / name).is_dir() for name in (IMAGES, MASKS))


def describe_folder(folder: Path, name: str = "") -> PublicSet:
    """Describes a folder of one's own by what is in it.

    Args:
      folder: in one of the layouts.
      name: of the set; by default the folder's.

    Raises:
      UserError: it is in none of the layouts, or names no structure.
    """
    if (folder / TABLE).is_file():
        masks, field, part = _of_table(folder / TABLE)
    elif is_mask_folder(folder):
        masks, field, part = _of_folders(folder)
    else:
        raise UserError(
            f"{folder} holds no masks in a known layout: give {folder / IMAGES}/NAME.jpg with "
            f"{folder / MASKS}/STRUCTURE/NAME.png, or a table {folder / TABLE} with the columns "
            "image and mask_STRUCTURE"
        )
    return PublicSet(
        name=name or folder.resolve().name,
        title=f"photographs with masks of {', '.join(masks)}",
        source=str(folder),
        licence="its owner's",
        url=str(folder),
        folders=(str(folder),),
        masks=masks,
        field=field,
        layouts=(Layout("own", (part,)),),
    )


def _of_table(path: Path) -> tuple[dict[str, MaskFiles], MaskFiles | None, Part]:
    table = tables.read_csv(path, ProblemLog())
    columns = [fold(column) for column in table.columns]
    tables.require_columns(dataclasses.replace(table, columns=tuple(columns)), ["image"])
    structures = [
        column.strip()[len(_PREFIX) :]
        for column in table.columns
        if fold(column).startswith(_PREFIX)
    ]
    masks = {}
    for structure in _checked(structures, path, f"a column {_PREFIX}STRUCTURE"):
        column = f"{_PREFIX}{structure}"
        masks[structure] = MaskFiles(
            (f"{{{column}}}",), where={column: _FILLED}, absent={column: _ABSENT}
        )
    field = MaskFiles(("{fov}",), where={"fov": _FILLED}) if "fov" in columns else None
    return masks, field, Part(table=(path.name,), image=("{image}",))


def _of_folders(folder: Path) -> tuple[dict[str, MaskFiles], MaskFiles | None, Part]:
    structures = [child.name for child in photographs.folders(folder / MASKS)]
    masks = {
        structure: MaskFiles(_paths(f"{MASKS}/{structure}"))
        for structure in _checked(structures, folder / MASKS, "a folder of masks")
    }
    field = MaskFiles(_paths(FIELDS)) if (folder / FIELDS).is_dir() else None
    images = re.compile(
        rf"{IMAGES}/(?P<below>(?:(?P<split>train|training|val|valid|validation|dev|test|testing)/)?"
        r"(?:[^/]+/)*?)(?P<name>[^/]+)\.[^./]+",
        re.IGNORECASE,
    )
    return masks, field, Part(files=images)


def _paths(folder: str) -> tuple[str, ...]:
    """Where a photograph's mask may be: beside the others of its split, or of all."""
    return tuple(
        f"{folder}/{below}{{name}}.{suffix}" for below in ("{below}", "") for suffix in _SUFFIXES
    )


def _checked(structures: list[str], where: Path, wanted: str) -> list[str]:
    """Names of structures that can be told apart.

    Raises:
      UserError: there is none, one cannot be a name, or two are one.
    """
    if not structures:
        raise UserError(f"{where} names no structure: it wants {wanted} for each")
    for name in structures:
        if not _STRUCTURE.fullmatch(name):
            raise UserError(
                f"{where}: {name!r} is no name of a structure: letters, digits and underscores, "
                "beginning with a letter"
            )
    if len({folded(name) for name in structures}) < len(structures):
        raise UserError(f"{where} names a structure twice: {', '.join(sorted(structures))}")
    return structures
