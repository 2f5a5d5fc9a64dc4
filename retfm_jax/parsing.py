"""Strict reading of users' JSON and YAML: no guesses, no duplicate keys, no unbounded size."""

import json
import re
from typing import Any

import yaml

from retfm_jax.errors import UserError
from retfm_jax.files import PathLike, as_path, errors, reason, refuse_special


def parse_json(source: str) -> Any:
    """Parses JSON like `json.loads`, and refuses what would go wrong later.

    Args:
      source: a JSON document.

    Raises:
      ValueError: it is no JSON, is nested too deeply, holds a key twice, or holds a lone surrogate.
    """

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            keys = [key for key, _ in pairs]
            twice = next(key for key in keys if keys.count(key) > 1)
            raise ValueError(f"the key {twice!r} occurs twice")
        return found

    try:
        value = json.loads(source, object_pairs_hook=once)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if "\\u" in source or not source.isascii():
        _check_characters(json.dumps(value, ensure_ascii=False))
    return value


def _check_characters(written: str) -> None:
    try:
        written.encode()
    except UnicodeEncodeError as error:
        half = written[error.start]
        raise ValueError(f"half of a character (\\u{ord(half):x}) stands in a text") from error


#: YAML files that are larger, deeper, or that their aliases make larger are none of ours.
_LARGEST_YAML = 1 << 22
_DEEPEST_YAML = 64
_MOST_NODES = 1_000_000


class _AsWritten(yaml.SafeLoader):
    """Takes every scalar for the text that stands there: `no`, `1.0`, `01` and dates are names."""

    #: What is left of YAML's guesses: nothing at all, and the merging of mappings.
    yaml_implicit_resolvers: dict[str, list] = {}  # noqa: RUF012

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key {key.value!r} occurs twice", key.start_mark
                    )
                seen.add(key.value)
        return super().construct_mapping(node, deep)


_AsWritten.add_implicit_resolver("tag:yaml.org,2002:null", re.compile("(~|null|)$"), ["~", "n", ""])
_AsWritten.add_implicit_resolver("tag:yaml.org,2002:merge", re.compile("<<$"), ["<"])


def read_yaml(path: PathLike, what: str = "") -> Any:
    """Reads a YAML file whose scalars are texts as written; an absent value or `null` is None.

    Args:
      path: a file of at most 4 MiB.
      what: a word for the file, such as "vocabulary", in the message that it cannot be read.

    Raises:
      UserError: it cannot be read, is no YAML, holds a key twice, or is too deep or too large.
    """
    path = as_path(path)
    refuse_special(path)
    try:
        with path.open("rb") as file:
            data = file.read(_LARGEST_YAML + 1)
    except errors() as error:
        named = f"{what} {path}".strip()
        raise UserError(f"cannot read {named}: {reason(error)}") from error
    if len(data) > _LARGEST_YAML:
        raise UserError(f"{path} is larger than {_LARGEST_YAML >> 20} MiB: no file of ours is")
    try:
        # PyYAML takes the square of the depth, and more, to find out.
        if _depth(data) > _DEEPEST_YAML:
            raise RecursionError
        loader = _AsWritten(data)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            if _nodes(node, {}) > _MOST_NODES:
                raise UserError(f"{path}: its aliases stand for more than {_MOST_NODES:,} values")
            value = loader.construct_document(node)
        finally:
            loader.dispose()
        _check_characters(json.dumps(value, ensure_ascii=False, default=str, skipkeys=True))
        return value
    except RecursionError as error:
        raise UserError(f"{path} is nested too deeply") from error
    except (yaml.YAMLError, ValueError) as error:  # ValueError: text that is none, tags of others
        raise UserError(f"{path} is not valid YAML: {error}") from error


def _depth(data: bytes) -> int:
    """How many brackets are open at once, or how many entries of lists begin on one line."""
    depth = deepest = 0
    for bracket in re.findall(rb"[\[\]{}]", data):
        depth = max(depth + (1 if bracket in b"[{" else -1), 0)
        deepest = max(deepest, depth)
    begun = re.findall(rb"^[ ]*(?:[-?:] +)*", data, re.MULTILINE)
    return max(deepest, *(len(line.split()) for line in begun))


def _nodes(node: yaml.Node, counted: dict[int, int]) -> int:
    """How many values a document holds when every alias is written out."""
    if not isinstance(node, yaml.CollectionNode):
        return 1
    if id(node) not in counted:
        counted[id(node)] = _MOST_NODES  # an alias of what it stands in has no end
        inner = node.value
        if isinstance(node, yaml.MappingNode):
            inner = [part for pair in inner for part in pair]
        counted[id(node)] = 1 + sum(_nodes(part, counted) for part in inner)
    return counted[id(node)]
