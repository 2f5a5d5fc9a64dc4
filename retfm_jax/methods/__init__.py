"""The published systems, one file each; a method is found by its file's name."""

import importlib
import pkgutil
from typing import TYPE_CHECKING

from retfm_jax.errors import UserError

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
        raise UserError(f"no method {name!r}; there are {', '.join(method_names())}")
    return importlib.import_module(f"retfm_jax.methods.{name}").METHOD
