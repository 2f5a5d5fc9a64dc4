"""Paths of a stored configuration: found again from any folder, and after a workdir was moved.

A run stores what is in its workdir as `{workdir}/...` and everything else by its absolute path.
Where a folder of workdirs and datasets was moved as a whole, missing paths are looked for in its
new location. Version 0.1 stored relative paths as they were given; they are looked for where they
may have been.
"""

import copy
import os
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from retfm_jax import dataset_folders, files, hub
from retfm_jax.console import say

_WORKDIR = "{workdir}"
#: The tokenizer of this name is never a file, whatever lies in the working folder.
_BUNDLED_TOKENIZER = "bert-base-chinese"
#: Names of published models, such as "retfound-mae-cfp".
_MODEL = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")

#: Entries that hold a path, or several.
_PATHS = (
    ("data", "vocabulary"),
    ("data", "extend"),
    ("data", "exclude"),
    ("data", "curriculum", "table"),
    ("init", "weights"),
    ("init", "image"),
    ("init", "text"),
)
#: Entries that hold a name, or a path where there is such a file or folder.
_NAMES_OR_PATHS = (
    ("data", "dataset"),
    ("data", "expert", "dataset"),
    ("data", "curriculum", "descriptions", "dataset"),
    ("data", "text", "tokenizer"),
)


def portable(values: Mapping[str, Any], workdir: files.PathLike) -> dict[str, Any]:
    """Configuration as it is stored in a workdir, so that its paths can be found again.

    Args:
      values: see `config.to_dict`; relative paths are relative to the working folder.
      workdir: folder of the run; paths inside of it become `{workdir}/...`.
    """

    def store(text: str, where: tuple[str, ...]) -> str:
        if _is_name(text, where):
            return text
        path, root = _absolute(text), _absolute(workdir)
        inside = path.is_relative_to(root)
        return f"{_WORKDIR}/{path.relative_to(root).as_posix()}" if inside else str(path)

    return _mapped(values, store)


def located(values: Mapping[str, Any], workdir: files.PathLike) -> dict[str, Any]:
    """Configuration that a workdir holds, with paths that are valid here and now.

    A path that is found elsewhere than stored is reported on stdout.

    Args:
      values: as `portable` returns them, or as version 0.1 stored them.
      workdir: the run's folder in its present location.
    """
    root = _absolute(workdir)

    def find(text: str, where: tuple[str, ...]) -> str:
        if text == _WORKDIR or text.startswith(f"{_WORKDIR}/"):
            return str(root / text[len(_WORKDIR) + 1 :])
        path = files.as_path(text)
        if files.is_remote(path) or hub.is_address(text) or text == _BUNDLED_TOKENIZER:
            return text

        def holds(candidate: files.Path) -> bool:
            if where == ("data", "data_dir"):
                return dataset_folders.is_built(values["data"].get("dataset", ""), candidate)
            return _is_there(candidate, where)

        candidates = _candidates_of_moved if path.is_absolute() else _candidates_of_old
        for candidate in candidates(path, root):
            if holds(candidate):
                if candidate != path:
                    say(f"config.{'.'.join(where)} {text!r} is taken to be {candidate}")
                return str(candidate)
        return text

    return _mapped(values, find)


def _candidates_of_old(path: files.Path, workdir: files.Path) -> Iterator[files.Path]:
    """Where a path of version 0.1 may lead: it was relative to the folder that a run began in."""
    yield path
    for folder in (workdir, *workdir.parents):
        yield folder / path
    # The workdir has another name now: "quickstart/datasets" is its folder "datasets".
    for skipped in range(1, len(path.parts)):
        yield workdir.joinpath(*path.parts[skipped:])


def _candidates_of_moved(path: files.Path, workdir: files.Path) -> Iterator[files.Path]:
    """Where a file or folder may be now that lay beside the workdir, or beside a folder of it."""
    yield path
    for skipped in range(1, len(path.parts)):
        for folder in (workdir, *workdir.parents):
            yield folder.joinpath(*path.parts[skipped:])


def _is_name(text: str, where: tuple[str, ...]) -> bool:
    """Whether an entry is a name that means the same in every folder."""
    if hub.is_address(text):
        return True
    if where[0] == "init":
        return _MODEL.fullmatch(text) is not None and not files.as_path(text).exists()
    if where not in _NAMES_OR_PATHS:
        return False
    return text == _BUNDLED_TOKENIZER or not _is_there(files.as_path(text), where)


def _is_there(path: files.Path, where: tuple[str, ...]) -> bool:
    if where[-1] == "dataset":
        return bool(dataset_folders.versions(path))
    return path.exists()


def _absolute(path: files.PathLike) -> files.Path:
    path = files.as_path(path)
    return path if files.is_remote(path) else files.as_path(os.path.abspath(path))


def _mapped(
    values: Mapping[str, Any], change: Callable[[str, tuple[str, ...]], str]
) -> dict[str, Any]:
    changed = copy.deepcopy(dict(values))
    for where in (("data", "data_dir"), *_PATHS, *_NAMES_OR_PATHS):
        section: Any = changed
        for name in where[:-1]:
            section = section.get(name) if isinstance(section, dict) else None
        if not isinstance(section, dict):
            continue
        value = section.get(where[-1])
        if isinstance(value, str):
            section[where[-1]] = change(value, where)
        elif isinstance(value, list):
            section[where[-1]] = [
                change(item, where) if isinstance(item, str) else item for item in value
            ]
    return changed
