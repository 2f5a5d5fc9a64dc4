"""Objects from outside this package, by "module:name"."""

import importlib
from typing import Any

from retfm_jax.errors import UserError


def is_outside(name: object) -> bool:
    """Whether a name is one of an object from outside this package."""
    return isinstance(name, str) and ":" in name


def find(name: str, what: str, wanted: type) -> Any:
    """Imports the object of a name such as "my_lab.siglip:Siglip".

    Args:
      what: it should be, for messages: "method".
      wanted: the class that it has to be a subclass of.

    Raises:
      UserError: the module cannot be imported, or holds no such class.
    """
    module, _, attribute = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute, None)
    except (ImportError, ValueError, TypeError) as error:
        raise UserError(
            f"{what} {name!r}: {module!r} cannot be imported ({error}). Install the package that "
            "holds it, or put its folder on PYTHONPATH"
        ) from error
    if not (isinstance(found, type) and issubclass(found, wanted)):
        raise UserError(
            f"{what} {name!r}: {module} has no class {attribute!r} that is a "
            f"{wanted.__module__}.{wanted.__name__}"
        )
    return found
