"""Folders of built datasets, ``<data_dir>/<name>[/<configuration>]/<version>``."""

import re

from retfm_jax import files
from retfm_jax.errors import UserError

#: Written last: a folder without it holds no dataset.
INFO = "dataset_info.json"

_VERSION = re.compile(r"\d+\.\d+\.\d+")


def find(name_or_folder: str, data_dir: files.PathLike) -> files.Path:
    """Folder of a built dataset; without a version the newest is taken.

    Args:
      name_or_folder: "name", "name/config", "name/config/1.0.0", or the dataset's folder.
      data_dir: the folder of named datasets.

    Raises:
      UserError: it is not built, is built in several configurations, or the name is empty.
    """
    # An empty name would be the folder of all datasets, and of the only one in it.
    if not str(name_or_folder).strip():
        raise UserError("a dataset has a name, or is given by its folder; this one is empty")
    for folder in _candidates(name_or_folder, data_dir):
        found = versions(folder)
        if not found:
            continue
        parents = {path.parent for path in found}
        if len(parents) > 1:
            names = ", ".join(sorted(str(path.relative_to(folder.parent)) for path in parents))
            raise UserError(
                f"{name_or_folder} is built in several configurations: name one of {names}"
            )
        return max(found, key=_version)
    built = sorted({path.relative_to(files.as_path(data_dir)).parts[0] for path in below(data_dir)})
    raise UserError(
        f"dataset {name_or_folder!r} is not built in {data_dir}/ "
        f"(built there: {', '.join(built) or 'none'}); "
        f"run `retfm data build {name_or_folder}` or `retfm data import`, or give its folder"
    )


def is_built(name_or_folder: str, data_dir: files.PathLike) -> bool:
    """Tells whether a dataset of that name is there, in any configuration and version.

    Args:
      name_or_folder, data_dir: see `find`.
    """
    return any(versions(folder) for folder in _candidates(name_or_folder, data_dir))


def is_synthetic(dataset: str) -> bool:
    """Tells whether a dataset's patients were generated, by its name.

    Args:
      dataset: "name", "name/config", "name/config/1.0.0", or the dataset's folder, of which what
        lies above the name does not count.
    """
    parts = dataset.rstrip("/").split("/")
    named = parts[:-1] if _VERSION.fullmatch(parts[-1]) else parts
    return any(part.startswith("synthetic_") for part in named[-2:])


def below(data_dir: files.PathLike) -> list[files.Path]:
    """Folders of all datasets that are built in a data folder, sorted, one for every version.

    Args:
      data_dir: the folder of named datasets; a missing one holds none.
    """
    folder = files.as_path(data_dir)
    return sorted(path for child in _folders(folder) for path in versions(child))


def _candidates(name_or_folder: str, data_dir: files.PathLike) -> list[files.Path]:
    given = files.as_path(name_or_folder)
    # A folder of its own needs no data folder, which may then be empty.
    whole = files.is_remote(given) or given.is_absolute()
    return [given] if whole else [given, files.as_path(data_dir) / given]


def versions(folder: files.Path) -> list[files.Path]:
    """Folders of versions: the given one itself, or those in it or in its configurations.

    Remains of a build that was killed do not count: their names are no versions.

    Args:
      folder: of a version, a configuration or a dataset; a missing one holds none.
    """
    if (folder / INFO).is_file():
        return [folder]
    found = []
    for child in _folders(folder):
        children = [child] if _VERSION.fullmatch(child.name) else _folders(child)
        found += [
            path for path in children if _VERSION.fullmatch(path.name) and (path / INFO).is_file()
        ]
    return found


def _folders(folder: files.Path) -> list[files.Path]:
    if not folder.is_dir():
        return []
    return [path for path in folder.iterdir() if not path.name.startswith(".") and path.is_dir()]


def _version(folder: files.Path) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", folder.name)]
