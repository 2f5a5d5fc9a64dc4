"""`retfm configs` and `retfm tasks`: what can be chosen, and what can be set."""

import argparse
import dataclasses
import inspect
import json
import re
import types
import typing
from collections.abc import Iterator
from typing import Annotated, Any, NamedTuple

from retfm_jax.config import bundled_configs, load_config, load_variants, summary
from retfm_jax.console import Table, say
from retfm_jax.errors import UserError
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


def run_configs(args: argparse.Namespace) -> None:
    """`retfm configs`: the bundled configs, or the entries of one.

    Raises:
      UserError: no such config.
    """
    if args.name is None:
        table = Table(
            "bundled configs", ["config", "method", "what it is"], ["method", "what it is"]
        )
        for name in bundled_configs():
            table.row(name, load_config(name).method, summary(name))
        table.show()
        say("", "`retfm configs NAME` lists the entries of one, for --config.ENTRY=VALUE")
        return
    config = load_config(args.name, args.overrides)
    say(f"{args.name}: {summary(args.name)}")
    for entry in entries(config):
        say("", f"{entry.path} = {entry.value}", style="bold")
        say(f"    {entry.kind}")
        if entry.meaning:
            say(f"    {entry.meaning}")
    try:
        variants = load_variants(args.name)
    except UserError:
        return
    say("", "variants, for `retfm ablate`:")
    say(*(f"    {name}: {', '.join(changes) or 'as it is'}" for name, changes in variants.items()))


def run_tasks(args: argparse.Namespace) -> None:
    """`retfm tasks`: the protocols and the published tasks of `retfm evaluate`."""
    from retfm_jax.evaluation.evaluate import PROTOCOLS
    from retfm_jax.evaluation.tasks import described_tasks

    say("protocols (--task):", *(f"    {name}" for name in PROTOCOLS))
    columns = ["task", "classes", "from", "source"]
    table = Table("published tasks (--dataset)", columns, ["from", "source"])
    for name, task in described_tasks().items():
        where = f"dataset {task['dataset']}" if "dataset" in task else f"folder {task['folder']}"
        table.row(name, len(task["classes"]), where, task.get("source", ""))
    table.show()
    say(
        "",
        "Datasets and folders lie below --data_dir. A folder with train/CLASS/*.jpg and "
        "test/CLASS/*.jpg is a task, too, and so is a YAML file of your own.",
    )


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
