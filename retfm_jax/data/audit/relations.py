"""Known relations between public sets: which holds photographs of which, and who says so."""

import dataclasses
import functools
import re
from collections.abc import Iterable
from pathlib import Path

from retfm_jax.data.public_sets.bundled import public_sets
from retfm_jax.parsing import read_yaml

_FILE = Path(__file__).with_name("relations.yaml")


@dataclasses.dataclass(frozen=True)
class Relation:
    """A set holds photographs of another one.

    Attributes:
      name: of the set.
      relation: "contains", "subset", "copies", "pools" or "re-annotates".
      of: the other set.
      holds: which or how many of the other's photographs, "" where that is not known.
      source: who says so.
    """

    name: str
    relation: str
    of: str
    holds: str
    source: str

    def __str__(self) -> str:
        verb = {"subset": "is a subset of", "re-annotates": "labels photographs of"}.get(
            self.relation, self.relation
        )
        held = f" ({self.holds})" if self.holds else ""
        return f"{self.name} {verb} {self.of}{held}"


def _folded(name: str) -> str:
    return re.sub(r"[\W_]+", "", name).casefold()


@functools.cache
def _names() -> dict[str, str]:
    """The name of a set by every folded form of it."""
    document = read_yaml(_FILE)
    found = {}
    for relation in document["relations"]:
        found |= {_folded(name): name for name in (relation["set"], *relation["of"])}
    for name, others in document["also"].items():
        found |= {_folded(each): name for each in (name, *others)}
    for name, public in public_sets().items():
        found |= {_folded(each): name for each in (*public.tasks, name)}
    return found


def set_name(name: str) -> str:
    """The name under which a set's relations are known.

    Args:
      name: of a dataset, a task or a folder; one that is unknown is returned as it is.
    """
    return _names().get(_folded(name), name)


@functools.cache
def all_relations() -> tuple[Relation, ...]:
    """Reads all relations that are known."""
    return tuple(
        Relation(each["set"], each["relation"], of, str(each.get("holds", "")), each["source"])
        for each in read_yaml(_FILE)["relations"]
        for of in each["of"]
    )


def relations_of(names: Iterable[str]) -> tuple[Relation, ...]:
    """Relations in which a set stands, on either side.

    Args:
      names: of datasets, tasks or folders.
    """
    wanted = {set_name(name) for name in names}
    return tuple(each for each in all_relations() if each.name in wanted or each.of in wanted)


def related(first: str, second: str) -> tuple[Relation, ...]:
    """Relations between two sets; through a third that both hold, two of them.

    Args:
      first, second: names of datasets, tasks or folders.
    """
    ends = {set_name(first), set_name(second)}
    direct = tuple(each for each in all_relations() if {each.name, each.of} == ends)
    if direct or len(ends) < 2:
        return direct
    one, other = sorted(ends)
    beside = {
        name: [each for each in all_relations() if name in (each.name, each.of)] for name in ends
    }
    return tuple(
        relation
        for left in beside[one]
        for right in beside[other]
        if left.of == right.of
        for relation in (left, right)
    )
