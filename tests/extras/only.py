"""Runs a script as if only this package and what some extras install were there.

`python only.py data,torch SCRIPT ARGUMENTS...`; "core" is no extra at all. What is left is counted
from the installed packages' own requirements, so that what a package needs and does not name is
missing here as it would be in an environment of its own.
"""

import importlib.metadata
import runpy
import sys
from typing import Any

from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def closure(extras: set[str]) -> set[str]:
    """Names of the distributions that an installation with some extras consists of."""
    found: set[tuple[str, str]] = set()
    left = [("retfm-jax", extra) for extra in {"", *extras}]
    while left:
        name, extra = left.pop()
        if (name, extra) in found:
            continue
        found.add((name, extra))
        try:
            lines = importlib.metadata.requires(name) or ()
        except importlib.metadata.PackageNotFoundError:
            continue
        for requirement in map(Requirement, lines):
            markers = default_environment() | {"extra": extra}
            if requirement.marker is None or requirement.marker.evaluate(markers):
                asked = canonicalize_name(requirement.name)
                left += [(asked, each) for each in {"", *requirement.extras}]
    return {name for name, _ in found}


def hidden(extras: set[str]) -> set[str]:
    """Names of the modules of all installed packages that such an installation would not have."""
    kept = closure(extras)
    of_module = importlib.metadata.packages_distributions()
    return {
        module
        for module, owners in of_module.items()
        if kept.isdisjoint(map(canonicalize_name, owners))
    }


class Without:
    """A finder of modules that does not find some."""

    def __init__(self, finder: Any, modules: set[str]):
        self._finder, self._modules = finder, modules

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name.split(".")[0] in self._modules:
            return None
        return self._finder.find_spec(name, path, target)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._finder, name)  # that finds the metadata of distributions


if __name__ == "__main__":
    _, extras, script, *arguments = sys.argv
    modules = hidden(set(extras.split(",")) - {"core"})
    sys.meta_path[:] = [Without(finder, modules) for finder in sys.meta_path]
    sys.argv = [script, *arguments]
    runpy.run_path(script, run_name="__main__")
