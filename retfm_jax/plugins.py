"""Objects from outside this package, by "module:name"."""

import importlib
from typing import Any

from retfm_jax.errors import UserError


def is_outside(name: object) -> bool:
    """Tells whether a name is that of an object from outside this package, "module:name".

    Args:
      name: a value of a configuration; false where it is no text.
    """
    return isinstance(name, str) and ":" in name


def find(name: str, what: str, wanted: type) -> Any:
    """Imports the class of a name such as "my_lab.siglip:Siglip".

    Args:
      name: "module:class", of a module on the import path.
      what: a word for its role in messages, such as "method".
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
