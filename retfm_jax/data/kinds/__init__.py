"""Kinds of samples, one file each; a kind is found by its file's name."""

import importlib
import pkgutil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from retfm_jax.data.kinds.base import SampleKind


def kind_names() -> list[str]:
    """Names of all kinds of samples, sorted."""
    return sorted(name for _, name, _ in pkgutil.iter_modules(__path__) if name != "base")


def get_kind(name: str) -> "SampleKind":
    """Finds the kind that a method names: `KIND` of `retfm_jax/data/kinds/<name>.py`.

    Args:
      name: of a file in `data/kinds/`, which a method gives as its `sample_kind`.

    Raises:
      ValueError: there is no such kind.
    """
    if name not in kind_names():
        raise ValueError(f"no kind of sample {name!r}; there are {', '.join(kind_names())}")
    return importlib.import_module(f"retfm_jax.data.kinds.{name}").KIND
