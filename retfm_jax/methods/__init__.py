"""The published systems, one file each; a method is found by its file's name."""

import importlib
import pkgutil
from typing import TYPE_CHECKING

from retfm_jax.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from retfm_jax.methods.method import Method


def method_names() -> list[str]:
    """Names of the methods that there are."""
    shared = ("method", "towers")
    return sorted(name for _, name, _ in pkgutil.iter_modules(__path__) if name not in shared)


def get_method_class(name: str) -> "type[Method]":
    """The class of a method: `METHOD` of `retfm_jax/methods/<name>.py`.

    Raises:
      UserError: there is no such method.
    """
    if name not in method_names():
        names = method_names()
        meant = did_you_mean(name, names)
        raise UserError(f"no method {name!r}; there are {', '.join(names)}{meant}")
    return importlib.import_module(f"retfm_jax.methods.{name}").METHOD
