"""The house: who may import whom, and where a method may be named."""

import ast
import functools
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import retfm_jax
from retfm_jax.methods import method_names

_ROOT = Path(retfm_jax.__file__).parent
#: From the ground up; a room imports those below it, and those beside it only as `_BESIDE` says.
_FLOORS = (
    {"errors", "extras", "files", "parsing", "plugins", "ranges", "trees", "array_files",
     "console", "progress", "dataset_folders", "decisions", "mask_decisions", "hub", "rendering"},
    {"models", "losses", "knowledge"},
    {"methods"},
    {"config"},
    {"runtime", "data"},
    {"training"},
    {"interop"},
    {"model", "inputs", "zero_shot", "captioning", "heatmaps", "table", "notebook"},
    {"evaluation", "benchmarks", "planning"},
    {"experiments"},
    {"cli"},
)  # fmt: skip
#: Neighbors on one floor, (who imports, whom).
_BESIDE = {
    ("data", "runtime"), ("model", "inputs"), ("model", "zero_shot"), ("model", "heatmaps"),
    ("model", "table"), ("table", "errors"), ("table", "extras"), ("table", "rendering"),
    ("model", "captioning"), ("captioning", "inputs"), ("heatmaps", "inputs"),
    ("heatmaps", "zero_shot"), ("files", "errors"),
    ("files", "extras"), ("parsing", "errors"), ("parsing", "files"), ("plugins", "errors"),
    ("ranges", "errors"), ("trees", "errors"), ("array_files", "errors"), ("array_files", "files"),
    ("dataset_folders", "errors"),
    ("dataset_folders", "files"), ("decisions", "errors"), ("decisions", "files"),
    ("mask_decisions", "decisions"), ("mask_decisions", "errors"),
    ("extras", "errors"), ("hub", "errors"), ("rendering", "extras"), ("rendering", "files"),
}  # fmt: skip
#: Generated data is a tool of two rooms, as any caller of the command line's.
_BUILDERS = {"benchmarks", "experiments"}


@functools.cache
def modules() -> tuple[tuple[str, ast.Module], ...]:
    """Every module below `retfm_jax`, by its dotted path there."""
    return tuple(_modules())


def _modules() -> Iterator[tuple[str, ast.Module]]:
    for path in sorted(_ROOT.rglob("*.py")):
        parts = path.relative_to(_ROOT).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        if name:
            yield name, ast.parse(path.read_text(encoding="utf-8"))


def imported(tree: ast.Module) -> Iterator[str]:
    """What a module imports of this package, by the dotted path below it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "retfm_jax":
            inside = node.module.removeprefix("retfm_jax").lstrip(".")
            yield from (".".join(filter(None, (inside, alias.name))) for alias in node.names)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.startswith("retfm_jax."):
                    yield alias.name.removeprefix("retfm_jax.")


def room(name: str) -> str:
    return name.split(".")[0]


def floor(name: str) -> int:
    """The floor of a room.

    Raises:
      LookupError: it stands on none: give it a place in `_FLOORS`.
    """
    for number, rooms in enumerate(_FLOORS):
        if name in rooms:
            return number
    raise LookupError(f"{name} stands on no floor of the house")


def test_no_room_imports_from_above():
    wrong = []
    for name, tree in modules():
        here = room(name)
        for other in imported(tree):
            there = room(other)
            if there in ("data_builders", "configs"):
                if here not in _BUILDERS and (here, there) != ("config", "configs"):
                    wrong.append(f"{name} imports {other}")
            elif here != there and floor(there) >= floor(here) and (here, there) not in _BESIDE:
                wrong.append(f"{name} imports {other}")
    assert not wrong


def test_every_neighbor_is_one():
    used = {(room(name), room(other)) for name, tree in modules() for other in imported(tree)}
    assert used >= _BESIDE


@pytest.mark.parametrize("method", method_names())
def test_methods_know_nothing_of_each_other(method):
    trees = dict(modules())
    others = {f"methods.{name}" for name in method_names() if name != method}
    for name, tree in trees.items():
        if name.split(".")[-1] == method:
            found = {other for other in imported(tree) if other.startswith(tuple(others))}
            assert not found, name


def names_of(method: str) -> Callable[[str], object]:
    """A method's name, its class and its module in code."""
    return re.compile(rf"{method}|_?{method.capitalize()}(Config)?").fullmatch


@pytest.mark.parametrize("method", method_names())
def test_no_method_is_named_outside_of_its_room(method):
    is_named, wrong = names_of(method), []
    for name, tree in modules():
        if room(name) == "methods":
            continue
        wrong += [f"{name} imports {o}" for o in imported(tree) if f"methods.{method}" in o]
        for node in ast.walk(tree):
            said = {
                ast.Name: lambda node: node.id,
                ast.Attribute: lambda node: node.attr,
                ast.Constant: lambda node: node.value,
                ast.FunctionDef: lambda node: node.name,
                ast.ClassDef: lambda node: node.name,
            }.get(type(node))
            if said is not None and isinstance(said(node), str) and is_named(said(node)):
                wrong.append(f"{name}, line {node.lineno}: {said(node)}")
    assert not wrong


def test_only_the_command_line_knows_of_options():
    wrong = []
    for name, tree in modules():
        if room(name) == "cli":
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Import) and node.names[0].name == "argparse":
                wrong.append(f"{name} imports argparse")
            # A message or a part of one; docstrings may name a command.
            if isinstance(node, ast.Raise | ast.Call):
                texts = [part.value for part in ast.walk(node) if isinstance(part, ast.Constant)]
                said = [text for text in texts if re.search(r"(^|\s)--[a-z]\w+", str(text))]
                wrong += [f"{name}, line {node.lineno}: {text.strip():.60}" for text in said]
    assert not sorted(set(wrong))
