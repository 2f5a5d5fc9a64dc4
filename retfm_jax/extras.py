"""Optional dependencies, and the command that installs them."""

import contextlib
import importlib.metadata
import sys
from collections.abc import Iterator


def install(extra: str) -> str:
    """Command that installs what an extra of this package asks for.

    Args:
      extra: a name of pyproject's optional dependencies, such as "torch".
    """
    try:
        lines = importlib.metadata.requires("retfm-jax") or ()
    except importlib.metadata.PackageNotFoundError:  # a checkout on the path
        lines = ()
    wanted = []
    for line in lines:
        requirement, _, marker = line.partition(";")
        if f"extra == '{extra}'" in marker.replace('"', "'"):
            wanted.append(f"'{requirement.strip()}'")
    if not wanted:
        return f"pip install '.[{extra}]' in this project's folder"
    return f"pip install {' '.join(wanted)}"


@contextlib.contextmanager
def absent(*packages: str) -> Iterator[None]:
    """Imports what is imported inside as if optional packages were not installed.

    For libraries that take a package in wherever they find it, and with it seconds of every start.
    One that is imported already is found nevertheless.

    Args:
      packages: their names, such as "torch" and "google.cloud.storage".
    """
    finder = _Absent(packages)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


class _Absent:
    """Keeps others from finding packages."""

    def __init__(self, packages: tuple[str, ...]):
        self._packages = packages

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name in self._packages:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
