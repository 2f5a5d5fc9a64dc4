"""What one sample of a batch is, one file each; a kind is found by its file's name."""

import importlib
import pkgutil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from retfm_jax.data.kinds.base import SampleKind


def kind_names() -> list[str]:
    """Names of the kinds that there are."""
    return sorted(name for _, name, _ in pkgutil.iter_modules(__path__) if name != "base")


def get_kind(name: str) -> "SampleKind":
    """The kind that a method names: `KIND` of `retfm_jax/data/kinds/<name>.py`.

    Raises:
      ValueError: there is no such kind.
    """
    if name not in kind_names():
        raise ValueError(f"no kind of sample {name!r}; there are {', '.join(kind_names())}")
    return importlib.import_module(f"retfm_jax.data.kinds.{name}").KIND
