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
    own: dict[str, str] = {}
    for name, public in public_sets().items():
        own |= {_folded(each): name for each in (*public.tasks, name)}
        folders = [*public.folders]
        for task in public.tasks.values():
            places = task.get("folder", [])
            folders += [places] if isinstance(places, str) else places
        found |= {_folded(folder.rpartition("/")[2]): name for folder in folders}
    return found | own  # of sets that share a folder, it is the one that is called so


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
    """Relations between two sets; through others that both hold, those that lead there.

    Args:
      first, second: names of datasets, tasks or folders.
    """
    return held(first, second) or shared(first, second)


def held(first: str, second: str) -> tuple[Relation, ...]:
    """Relations by which one of two sets holds photographs of the other, through others or not.

    Args:
      first, second: names of datasets, tasks or folders.
    """
    one, other = set_name(first), set_name(second)
    if one == other:
        return ()
    return _below(one).get(other) or _below(other).get(one) or ()


def shared(first: str, second: str) -> tuple[Relation, ...]:
    """Relations by which two sets hold photographs of the same further sets.

    Args:
      first, second: names of datasets, tasks or folders.
    """
    one, other = sorted((set_name(first), set_name(second)))
    if one == other:
        return ()
    left, right = _below(one), _below(other)
    common = [name for name in left if name in right]
    # What lies below a common set is common because of that one.
    nearest = [
        name
        for name in common
        if not {each.of for each in (*left[name][:-1], *right[name][:-1])} & set(common)
    ]
    return tuple(relation for name in nearest for relation in (*left[name], *right[name]))


@functools.cache
def _below(name: str) -> dict[str, tuple[Relation, ...]]:
    """The sets whose photographs a set holds, each with the shortest way that leads there."""
    found: dict[str, tuple[Relation, ...]] = {}
    ways: list[tuple[Relation, ...]] = [()]
    while ways:
        longer: list[tuple[Relation, ...]] = []
        for way in ways:
            end = way[-1].of if way else name
            steps = [each for each in all_relations() if each.name == end]
            for of in dict.fromkeys(each.of for each in steps):
                if of not in found and of != name:
                    found[of] = (*way, *(each for each in steps if each.of == of))
                    longer.append(found[of])
        ways = longer
    return found
