"""Entries of a configuration in words, for lists and the documentation."""

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
    """Entry of a configuration.

    Attributes:
      path: as `--config.PATH=VALUE` names it.
      value: JSON.
      kind: its type and range, in words.
      meaning: its entry in the section's docstring.
    """

    path: str
    value: str
    kind: str
    meaning: str


def entries(section: Any, path: str = "") -> Iterator[Entry]:
    """Yields every entry of a configuration, those of its sections after its own.

    Args:
      section: a configuration, as its dataclass.
      path: prefix of the entries' paths, such as "data.".
    """
    meanings = documented(type(section))
    later = []
    if hasattr(section, "sizes"):
        size = next(iter(section.sizes), None)
        about = f"or a size by name, as {path.rstrip('.')}={size}" if size else "what it is"
        yield Entry(f"{path}kind", json.dumps(section.kind), "str", about)
    for name, hint in hints(type(section)).items():
        value = getattr(section, name)
        if dataclasses.is_dataclass(value):
            later.append((value, f"{path}{name}."))
        else:
            given = json.dumps(value, ensure_ascii=False, default=dataclasses.asdict)
            yield Entry(f"{path}{name}", given, kind(hint), meanings.get(name, ""))
    for value, below in later:
        yield from entries(value, below)


def documented(section: type) -> dict[str, str]:
    """Descriptions of a section's entries, from its docstring and those of its base classes.

    Args:
      section: its dataclass, whose docstrings have a part `Attributes`.
    """
    found: dict[str, str] = {}
    for cls in reversed(section.__mro__):
        _, _, listed = inspect.cleandoc(cls.__doc__ or "").partition("Attributes:\n")
        for names, text in re.findall(r"^  ([\w, ]+): (.*(?:\n    .*)*)", listed, re.MULTILINE):
            found |= dict.fromkeys(names.split(", "), " ".join(text.split()))
    return found


def kind(hint: Any) -> str:
    """Type of an entry in words: "int, at least 1, or null".

    Args:
      hint: the type, with the ranges that annotate it.
    """
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
