"""The public sets that are described: found where their descriptions lie, nowhere listed."""

import functools
import importlib
from collections.abc import Mapping

from retfm_jax.data.public_sets.description import PublicSet, parse
from retfm_jax.errors import UserError
from retfm_jax.files import Path, as_path
from retfm_jax.parsing import read_yaml

_FOLDER = "retfm_jax.data_builders"


@functools.cache
def public_sets() -> Mapping[str, PublicSet]:
    """Reads the descriptions of all public sets, by name.

    Raises:
      UserError: a description is none, or two sets have a task of one name.
    """
    found = {}
    tasks: dict[str, str] = {}
    for path in _descriptions():
        described = parse(read_yaml(path), path.stem, str(path))
        for task in described.tasks:
            if task in tasks:
                raise UserError(f"{path}: the task {task} is one of {tasks[task]} already")
            tasks[task] = path.stem
        found[path.stem] = described
    return dict(sorted(found.items()))


def set_of_task(name: str) -> str | None:
    """Finds the public set of a task; None where no public set has a task of that name.

    Args:
      name: of the task.
    """
    return next((of for of, described in public_sets().items() if name in described.tasks), None)


def _descriptions() -> list[Path]:
    """`NAME.yaml`, and `NAME/NAME.yaml` beside the code of a builder."""
    folders = [as_path(folder) for folder in importlib.import_module(_FOLDER).__path__]
    paths = [path for folder in folders for path in folder.glob("*.yaml")]
    paths += [
        path
        for folder in folders
        for path in folder.glob("*/*.yaml")
        if path.stem == path.parent.name
    ]
    return paths
