"""Optional dependencies, and the command that installs them."""

import contextlib
import importlib.metadata
import re
import sys
from collections.abc import Iterator

from retfm_jax.errors import UserError


class MissingExtra(UserError, ModuleNotFoundError):
    """A package that an extra installs is not there; the message has the command that installs it.

    Attributes:
      extra: its name.
      name: of the module that was not found.
    """

    def __init__(self, extra: str, name: str | None):
        super().__init__(
            f"{name} is not installed; it belongs to the extra {extra!r}: {install(extra)}"
        )
        self.extra, self.name = extra, name


class needed:
    """Imports what an extra installs, in a block: `with needed("data"): import lmdb`.

    A class, for of a generator's block type checkers do not know that no error ends in it.

    Args:
      extra: a name of pyproject's optional dependencies, such as "data".

    Raises:
      MissingExtra: a package is not installed.
    """

    def __init__(self, extra: str):
        self._extra = extra

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if not isinstance(error, ModuleNotFoundError) or isinstance(error, MissingExtra):
            return
        if (error.name or "").split(".")[0] != "retfm_jax":
            raise MissingExtra(self._extra, error.name) from error


def install(extra: str) -> str:
    """Command that installs what an extra of this package asks for.

    Args:
      extra: a name of pyproject's optional dependencies, such as "torch".
    """
    wanted = requirements(extra)
    if not wanted:
        return f"pip install '.[{extra}]' in this project's folder"
    return f"pip install {' '.join(map(repr, wanted))}"


def requirements(extra: str) -> tuple[str, ...]:
    """What an extra of this package asks for, with what the extras that it takes in ask for.

    Args:
      extra: a name of pyproject's optional dependencies.

    Returns:
      requirements such as "torch>=2.6", without markers; () where the package is not installed, or
      was without this extra.
    """
    try:
        lines = importlib.metadata.requires("retfm-jax") or ()
    except importlib.metadata.PackageNotFoundError:  # a checkout on the path
        lines = ()
    found: list[str] = []
    for line in lines:
        requirement, _, marker = line.partition(";")
        if f"extra == '{extra}'" not in marker.replace('"', "'"):
            continue
        taken_in = re.fullmatch(r"retfm-jax\[([\w,-]+)\]", requirement.strip())
        if taken_in is None:
            found.append(requirement.strip())
        else:
            found += [each for name in taken_in[1].split(",") for each in requirements(name)]
    return tuple(dict.fromkeys(found))


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
