"""The methods, one file each; a method is found by its file's name, or by "module:Class"."""

import importlib
import pkgutil
from typing import TYPE_CHECKING, Any

from retfm_jax.errors import UserError, did_you_mean
from retfm_jax.plugins import find, is_outside

if TYPE_CHECKING:
    from retfm_jax.methods.base import Method

_SHARED = (
    "base",
    "dual_encoder",
    "image_tower",
    "masked",
    "outputs",
    "patients",
    "per_sample",
    "towers",
)


def method_names() -> list[str]:
    """Names of the methods that come with this package."""
    found = pkgutil.iter_modules(__path__)
    return sorted(name for _, name, is_package in found if not is_package and name not in _SHARED)


def get_method_class(name: str) -> "type[Method]":
    """The class of a method.

    Args:
      name: of a file, whose `METHOD` it is (`retfm_jax/methods/<name>.py`); or "module:Class", as
        in "my_lab.siglip:Siglip", of a method from outside this package.

    Raises:
      UserError: there is no such method.
    """
    if is_outside(name):
        from retfm_jax.methods.base import Method

        return find(name, "method", Method)
    if name not in method_names():
        names = method_names()
        meant = did_you_mean(name, names)
        raise UserError(
            f"no method {name!r}; there are {', '.join(names)}, and module:Class from outside this "
            f"package{meant}"
        )
    return importlib.import_module(f"retfm_jax.methods.{name}").METHOD


def make_method(name: str, config: Any) -> "Method":
    """Makes a method by name from its `config.model`.

    Args:
      name: of the method, as `get_method_class` takes it.
      config: its sizes and objective, an instance of the method's `config_class`.

    Raises:
      UserError: there is no such method.
    """
    return get_method_class(name)(config)
