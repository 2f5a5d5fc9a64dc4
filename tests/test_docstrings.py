"""Every public docstring lists every argument, or a base class's does."""

import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator

import pytest

import retfm_jax

#: What is no library (all of a verb's functions take the parser or its result), and what needs
#: PyTorch and mirrors networks that are documented elsewhere.
_LEFT_OUT = ("retfm_jax.cli", "retfm_jax.methods.torch_twins", "retfm_jax.benchmarks.torch_step")


def module_names() -> list[str]:
    found = pkgutil.walk_packages(retfm_jax.__path__, "retfm_jax.")
    names = [module.name for module in found if not module.name.startswith(_LEFT_OUT)]
    return [name for name in names if not name.rpartition(".")[2].startswith("_")]


def functions(module) -> Iterator[tuple[str, list[str], str]]:
    """Public functions and methods of a module: name, arguments, and all that is said of them."""
    for name, value in vars(module).items():
        if name.startswith("_") or getattr(value, "__module__", None) != module.__name__:
            continue
        if inspect.isclass(value):
            for attribute, member in vars(value).items():
                member = getattr(member, "__func__", member)
                if attribute.startswith("_") or not inspect.isfunction(member):
                    continue
                bases = [vars(base)[attribute] for base in value.__mro__ if attribute in vars(base)]
                said = "\n".join(inspect.getdoc(getattr(b, "__func__", b)) or "" for b in bases)
                yield f"{name}.{attribute}", arguments(member), said
        elif inspect.isfunction(inspect.unwrap(value)):
            yield name, arguments(inspect.unwrap(value)), inspect.getdoc(value) or ""


def arguments(function) -> list[str]:
    return [name for name in inspect.signature(function).parameters if name not in ("self", "cls")]


def is_listed(argument: str, said: str) -> bool:
    """Whether an entry of a section explains it: "rows: ...", "low, high: ..."."""
    return (
        re.search(rf"^ +(\*{{0,2}}\w+, )*\*{{0,2}}{argument}(, \*{{0,2}}\w+)*: ", said, re.M)
        is not None
    )


@pytest.mark.parametrize("name", module_names())
def test_every_argument_of_a_public_function_is_explained(name):
    missing = {
        f"{function}: {argument}"
        for function, listed, said in functions(importlib.import_module(name))
        for argument in listed
        if not is_listed(argument, said)
    }
    assert not missing
