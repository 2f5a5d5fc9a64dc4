"""Every entry of a configuration in words: what lists and the documentation show."""

import dataclasses
import inspect
import json
import re
import types
import typing
from collections.abc import Iterator
from typing import Annotated, Any, NamedTuple

from retfm_jax.ranges import hints


class Entry(NamedTuple):
    """An entry of a configuration.

    Attributes:
      path: as `--config.PATH=VALUE` names it.
      value: JSON.
      kind: its type and range, in words.
      meaning: what its section's docstring says of it.
    """

    path: str
    value: str
    kind: str
    meaning: str


def entries(section: Any, path: str = "") -> Iterator[Entry]:
    """Every entry of a configuration, those of its sections after its own."""
    meanings = documented(type(section))
    later = []
    if hasattr(section, "sizes"):
        about = f"or a size by name, as {path.rstrip('.')}={next(iter(section.sizes))}"
        yield Entry(f"{path}kind", json.dumps(section.kind), "str", about)
    for name, hint in hints(type(section)).items():
        value = getattr(section, name)
        if dataclasses.is_dataclass(value):
            later.append((value, f"{path}{name}."))
        else:
            given = json.dumps(value, ensure_ascii=False)
            yield Entry(f"{path}{name}", given, kind(hint), meanings.get(name, ""))
    for value, below in later:
        yield from entries(value, below)


def documented(section: type) -> dict[str, str]:
    """What the docstrings of a section and of those it inherits from say of its entries."""
    found: dict[str, str] = {}
    for cls in reversed(section.__mro__):
        _, _, listed = inspect.cleandoc(cls.__doc__ or "").partition("Attributes:\n")
        for names, text in re.findall(r"^  ([\w, ]+): (.*(?:\n    .*)*)", listed, re.MULTILINE):
            found |= dict.fromkeys(names.split(", "), " ".join(text.split()))
    return found


def kind(hint: Any) -> str:
    """A type in words: "int, at least 1, or null"."""
    origin, options = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        inner, *rules = options
        return ", ".join([kind(inner), *filter(None, map(str, rules))])
    if origin in (types.UnionType, typing.Union):
        parts = [kind(option) for option in options if option is not type(None)]
        return ", or ".join(parts + ["null"] * (type(None) in options))
    if origin is typing.Literal:
        return " or ".join(map(repr, options))
    if origin is tuple:
        many = "list" if options[-1] is Ellipsis else f"list of {len(options)}"
        return f"{many}: {kind(options[0])}"
    if dataclasses.is_dataclass(hint):
        return f"section of {', '.join(hints(hint))}"
    return getattr(hint, "__name__", "any")
