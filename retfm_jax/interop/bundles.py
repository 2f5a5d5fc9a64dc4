"""Source text of functions of this package with all that they use, for files that go without it.

An export computes with the very functions that this package computes with, so that there is one way
to scale a photograph. Their text is taken along as it stands, but for annotations of arguments and
results, whose types would need further packages.
"""

import ast
import functools
import importlib.util
import pathlib
from collections.abc import Iterable, Mapping
from typing import NamedTuple

_PACKAGE = "retfm_jax"


class Bundle(NamedTuple):
    """Text of functions, classes and constants.

    Attributes:
      imports: lines that import what they use of other packages, sorted.
      code: their text, each behind what it uses.
    """

    imports: tuple[str, ...]
    code: str


def bundle(names: Iterable[tuple[str, str]], known: Iterable[str] = ()) -> Bundle:
    """Takes functions, classes and constants along, with those of this package that they use.

    Args:
      names: (module, name) of each, such as ("retfm_jax.data.images", "fit").
      known: names that the file defines by itself.

    Raises:
      ValueError: two modules call different things by one name, or something is used in a way that
        cannot be taken along: this package is imported within a function, or as a module.
    """
    found = _Found(known)
    for module, name in names:
        found.take(module, name)
    plain = {line for line in found.imports if line.startswith("import ")}
    others = {line for line in found.imports if not line.startswith("import ")}
    return Bundle((*sorted(plain), *sorted(others)), "\n\n\n".join(found.texts))


class _Module(NamedTuple):
    """Module as text: what it defines, and where its other names come from."""

    lines: list[str]
    defined: Mapping[str, ast.stmt]
    inside: Mapping[str, tuple[str, str]]
    outside: Mapping[str, str]


@functools.cache
def _module(name: str) -> _Module:
    spec = importlib.util.find_spec(name)
    assert spec is not None
    assert spec.origin is not None
    text = pathlib.Path(spec.origin).read_text(encoding="utf-8")
    defined: dict[str, ast.stmt] = {}
    inside: dict[str, tuple[str, str]] = {}
    outside: dict[str, str] = {}
    for node in ast.parse(text).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            defined[node.name] = node
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            for target in targets:
                for each in ast.walk(target):
                    if isinstance(each, ast.Name):
                        defined[each.id] = node
        elif isinstance(node, ast.Import):
            for alias in node.names:
                line = f"import {alias.name}" + (f" as {alias.asname}" if alias.asname else "")
                outside[alias.asname or alias.name.split(".")[0]] = line
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                own = alias.asname or alias.name
                renamed = f" as {alias.asname}" if alias.asname else ""
                if (node.module or "").startswith(_PACKAGE):
                    inside[own] = (node.module or "", alias.name)
                else:
                    outside[own] = f"from {node.module} import {alias.name}{renamed}"
    return _Module(text.splitlines(), defined, inside, outside)


class _Found:
    """What has been taken along so far."""

    def __init__(self, known: Iterable[str]):
        #: The module that each name of the file is of.
        self.owners = dict.fromkeys(known, "")
        #: The file's name of what (module, name) defines.
        self.called: dict[tuple[str, str], str] = {}
        self.texts: list[str] = []
        self.imports: set[str] = set()

    def take(self, where: str, name: str) -> str:
        """Takes one name of a module along, behind what it uses; returns its name in the file."""
        module = _module(where)
        if name in module.inside:
            return self.take(*module.inside[name])
        if self.owners.get(name) == "":
            return name
        if (where, name) in self.called:
            return self.called[where, name]
        node = module.defined.get(name)
        if node is None:
            raise ValueError(f"{where} does not define {name}")
        for each, other in module.defined.items():
            if other is node:
                self.called[where, each] = self._free(each, where)
        renamed = {}
        for used in _used(node, where):
            if used in module.defined or used in module.inside:
                renamed[used] = self.take(where, used)
            elif used in module.outside:
                self.imports.add(module.outside[used])
        own = {old: new for old, new in renamed.items() if old != new}
        own |= {old: new for (of, old), new in self.called.items() if of == where and old != new}
        self.texts.append(_text(module.lines, node, own))
        return self.called[where, name]

    def _free(self, name: str, where: str) -> str:
        """The name itself, or where another module has it, one that says whose it is."""
        if name in self.owners:
            name = f"{name}_of_{where.rpartition('.')[2]}"
        if name in self.owners:
            raise ValueError(f"{where} and {self.owners[name]} both define {name}")
        self.owners[name] = where
        return name


def _used(node: ast.stmt, where: str) -> list[str]:
    """Names that a definition reads, without those of its signatures' annotations."""
    left_out = {id(part) for each in _annotations(node) for part in ast.walk(each)}
    used = {}
    for part in ast.walk(node):
        if isinstance(part, ast.Import | ast.ImportFrom):
            names = [getattr(part, "module", None) or "", *(alias.name for alias in part.names)]
            if any(name.startswith(_PACKAGE) for name in names):
                raise ValueError(f"{where}, line {part.lineno}, imports this package in a function")
        if isinstance(part, ast.Name) and id(part) not in left_out:
            used[part.id] = None
    return list(used)


def _annotations(node: ast.stmt) -> list[ast.expr]:
    found = []
    for each in ast.walk(node):
        if isinstance(each, ast.FunctionDef):
            arguments = each.args
            named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
            named += filter(None, (arguments.vararg, arguments.kwarg))
            found += [argument.annotation for argument in named if argument.annotation is not None]
            found += [each.returns] if each.returns is not None else []
    return found


def _text(lines: list[str], node: ast.stmt, renamed: Mapping[str, str]) -> str:
    """A definition as it stands, with the comments above it, without its annotations."""
    decorators = getattr(node, "decorator_list", [])
    first = min([node.lineno, *(each.lineno for each in decorators)]) - 1
    while first and lines[first - 1].startswith("#"):
        first -= 1
    assert node.end_lineno is not None
    own = [line.encode() for line in lines[first : node.end_lineno]]
    annotations = _annotations(node)
    inside = {id(part) for each in annotations for part in ast.walk(each)}
    edits: list[tuple[ast.expr, str | None]] = [(each, None) for each in annotations]
    edits += [
        (part, renamed[part.id])
        for part in ast.walk(node)
        if isinstance(part, ast.Name) and part.id in renamed and id(part) not in inside
    ]
    for each, new in sorted(edits, key=lambda edit: (edit[0].lineno, edit[0].col_offset))[::-1]:
        assert each.end_lineno is not None
        assert each.end_col_offset is not None
        start, stop = each.lineno - 1 - first, each.end_lineno - 1 - first
        before, behind = own[start][: each.col_offset], own[stop][each.end_col_offset :]
        if new is None:  # with the colon or the arrow before it
            before = before.rstrip()
            arrow = before.endswith(b"->")
            before = before[:-2].rstrip() if arrow else before[:-1]
        own[start : stop + 1] = [before + (new or "").encode() + behind]
    text = "\n".join(line.decode() for line in own)
    name = getattr(node, "name", "")
    if name in renamed:
        text = text.replace(f"def {name}(", f"def {renamed[name]}(", 1)
    return text
