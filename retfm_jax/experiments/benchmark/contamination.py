"""What a network was trained on, against the set of a task: by names, by relations, by copies.

What a network saw is a list of names of sets. A name may have a split, "IDRiD (train)" or "idrid,
train" as audits write it; without one nobody says which split it was. `zoo.UNKNOWN` stands for sets
that are not established.
"""

import dataclasses
import functools
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from retfm_jax import hub
from retfm_jax.config import DataConfig, to_dict
from retfm_jax.config.stored_paths import located
from retfm_jax.data.audit.groups import groups
from retfm_jax.data.audit.relations import Relation, all_relations, held, set_name, shared
from retfm_jax.data.building.splits import SPLITS
from retfm_jax.data.public_sets.bundled import public_sets
from retfm_jax.errors import UserError
from retfm_jax.experiments.benchmark.results import Contamination, Verdict
from retfm_jax.files import Path, PathLike, as_path, read_json
from retfm_jax.interop.zoo import UNKNOWN, entry_of, zoo
from retfm_jax.runtime.checkpoints import find_checkpoint, stored_meta, workdir_of

#: From the worst on: of several that are true, the first one is said.
VERDICTS: tuple[Verdict, ...] = (
    "holds its test",
    "same set",
    "shares a source",
    "trained on its training split",
    "unknown",
    "none known",
)
_WITH_SPLIT = re.compile(r"(?P<name>.+?)(?:, (?P<after>[^,]+)| \((?P<within>[^()]+)\))")
_VERSION = re.compile(r"\d+\.\d+\.\d+")


@dataclasses.dataclass(frozen=True)
class Audited:
    """What an audit looked at, and the copies that it found.

    Attributes:
      splits: set and split of all that it looked at.
      groups: photographs that are copies of one another: set, split and name of each.
    """

    splits: frozenset[tuple[str, str]]
    groups: tuple[frozenset[tuple[str, str, str]], ...]


def read_audit(path: PathLike) -> Audited:
    """Reads what `retfm data audit` wrote as `audit.json`.

    Args:
      path: the file.

    Raises:
      UserError: it is missing, unreadable, or holds no audit.
    """
    said = read_json(path)
    try:
        splits = frozenset((each["set"], each["split"]) for each in said["splits"].values())
        same = [pair for pair in said["pairs"] if pair["verdict"] == "same"]
        pairs = [
            tuple((end["set"], end["split"], end["photograph"]) for end in ends)
            for ends in ((pair["first"], pair["second"]) for pair in same)
        ]
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path} holds no audit; give the audit.json that `retfm data audit` writes"
        ) from error
    names = list(dict.fromkeys(end for pair in pairs for end in pair))
    number = {name: index for index, name in enumerate(names)}
    joined = groups((number[first], number[second]) for first, second in pairs)
    return Audited(splits, tuple(frozenset(names[index] for index in group) for group in joined))


def contamination_of(
    trained_on: Sequence[str], task: str, audited: Audited | None = None, test: str = "test"
) -> Contamination:
    """Holds what a network was trained on against a task.

    Args:
      trained_on: names of sets, see the module; () of an untrained network.
      task: a task of `retfm tasks`, a built dataset or a folder, as it is evaluated.
      audited: an audit of the task and of other sets; None: names and relations alone.
      test: the split on which the task is evaluated.
    """
    seen = [_Seen.of(text) for text in dict.fromkeys(trained_on) if text != UNKNOWN]
    found: list[tuple[Verdict, str]] = [_by_name(each, task, test) for each in seen]
    copies = None
    if audited is not None:
        copies, said = _by_audit(seen, task, test, audited)
        found += said
    if UNKNOWN in trained_on:
        what = "what else it was trained on" if seen else "what it was trained on"
        found.append(("unknown", f"{what} is not established"))
    if not trained_on:
        found.append(("none known", "it was trained on nothing"))
    unrelated = [each.name for each in seen if _by_name(each, task, test)[0] == "none known"]
    sentences = [sentence for _, sentence in found if sentence]
    if unrelated:
        sentences.append(f"no relation to {task} is known of {', '.join(unrelated)}")
    verdicts: list[Verdict] = [verdict for verdict, _ in found]
    verdict = min(verdicts, key=VERDICTS.index)
    said = (f"{each[:1].upper()}{each[1:]}." for each in dict.fromkeys(sentences))
    return Contamination(verdict, tuple(said), copies)


def trained_on(place: str) -> tuple[str, ...]:
    """Names the sets that a network was trained on, as far as it is written anywhere.

    A run names its dataset, and what its initial weights were trained on before. Of text towers
    that are no runs and no published models nothing is said: they saw no photographs.

    Args:
      place: what `retfm_jax.load` takes: a workdir, a checkpoint, a folder or file of weights, an
        address of the Hub, or a name of the zoo.

    Returns:
      names of sets, see the module; `zoo.UNKNOWN` among them where something is not established.

    Raises:
      UserError: a checkpoint or a configuration on the way is damaged.
    """
    return tuple(dict.fromkeys(_trained_on(place, ())))


@dataclasses.dataclass(frozen=True)
class _Seen:
    """A set that a network was trained on.

    Attributes:
      name: as it is written.
      splits: of it, () where nobody says which.
    """

    name: str
    splits: tuple[str, ...]

    @classmethod
    def of(cls, text: str) -> "_Seen":
        named = _WITH_SPLIT.fullmatch(text)
        said = re.split(r"\W+", named["after"] or named["within"]) if named else ()
        splits = tuple(split for split in SPLITS if split in said)
        return cls(named["name"], splits) if named and splits else cls(text, ())

    def __str__(self) -> str:
        return f"{self.name} ({', '.join(self.splits)})" if self.splits else self.name


def _plain(name: str) -> str:
    """A dataset's name without its version and without the folders that it lies in."""
    parts = [part for part in re.split(r"[\\/]", name) if part and not _VERSION.fullmatch(part)]
    if len(parts) > 1 and re.match(r"[\\/~.]|\w:", name):
        return parts[-1]
    return "/".join(parts) or name


def _known(name: str) -> str:
    """The set of a dataset, task or folder: by all of its name, its end, or its beginning."""
    plain = _plain(name)
    *_, last = parts = plain.split("/")
    tries = (set_name(each) for each in (plain, last, parts[0]) if set_name(each) in _names())
    return next(tries, plain)


@functools.cache
def _names() -> frozenset[str]:
    sets = {end for each in all_relations() for end in (each.name, each.of)}
    return frozenset({*sets, *public_sets()})


def _same_division(first: str, second: str) -> bool:
    """Whether splits of one name hold the same photographs in two tasks or datasets of a set."""
    if _plain(first) == _plain(second):
        return True
    described = public_sets().get(_known(first))
    if _known(first) != _known(second) or described is None:
        return False
    chosen = []
    for name in (first, second):
        task = described.tasks.get(name, {})
        named = task.get("layouts", [])
        chosen += [layout for layout in described.layouts if not named or layout.name in named]
        if "shares" in task or task.get("classes"):
            return False
    if not chosen or any(part.split is None for layout in chosen for part in layout.parts):
        return False
    return len({str(layout.images) for layout in chosen}) == 1


def _by_name(seen: _Seen, task: str, test: str) -> tuple[Verdict, str]:
    """What names and relations say of one set: the verdict, and a sentence unless it is nothing."""
    if _known(seen.name) == _known(task):
        if seen.splits and _same_division(seen.name, task):
            if {*_splits(test)} & {*seen.splits}:
                return "holds its test", f"it was trained on {seen}, which holds the test of {task}"
            return (
                "trained on its training split",
                f"it was trained on {seen}, and tested on {test}",
            )
        other = "whose division may be another"
        which = other if seen.splits else "and nobody says on which split of it"
        return "same set", f"it was trained on {seen}, the set of {task}, {which}"
    if chain := held(_known(seen.name), _known(task)):
        return "holds its test", f"it was trained on {seen}, and {_written(chain)}"
    if common := shared(_known(seen.name), _known(task)):
        return "shares a source", f"it was trained on {seen}, and {_written(common)}"
    return "none known", ""


def _splits(test: str) -> tuple[str, ...]:
    """Names the splits that a TFDS split is made of.

    Args:
      test: such as "test", "train[90%:]" or "validation+test"; "all" is each of them.
    """
    named = tuple(split for split in SPLITS if split in re.split(r"\W+", test))
    return named or SPLITS


def _written(relations: Iterable[Relation]) -> str:
    return "; ".join(f"{relation} [{relation.source}]" for relation in relations)


def _by_audit(
    seen: Sequence[_Seen], task: str, test: str, audited: Audited
) -> tuple[int | None, list[tuple[Verdict, str]]]:
    """Counts the task's test photographs that have a copy in what a network was trained on."""
    tested = {
        (name, split)
        for name, split in audited.splits
        if _same_division(name, task) and split in _splits(test)
    }
    if not tested:
        return None, [("none known", f"the audit did not look at {task}, {test}")]
    found: list[tuple[Verdict, str]] = []
    every: set[tuple[str, str, str]] = set()
    looked = False
    for each in seen:
        here = {place for place in audited.splits if _is_part(each, place)} - tested
        if not here:
            if not any(_is_part(each, place) for place in audited.splits):
                found.append(("none known", f"the audit did not look at {each}"))
            continue
        looked = True
        copied = {
            photograph
            for group in audited.groups
            if any(photograph[:2] in here for photograph in group)
            for photograph in group
            if photograph[:2] in tested
        }
        every |= copied
        if copied:
            said = f"photographs of {task}, {test}, with a copy in {each}, by the audit"
            found.append(("holds its test", f"{said}: {len(copied)}"))
        else:
            said = f"the audit found no copy of a photograph of {task}, {test}, in {each}"
            found.append(("none known", said))
    return (len(every) if looked else None), found


def _is_part(seen: _Seen, place: tuple[str, str]) -> bool:
    """Whether a split that was audited is, or may be, what a network was trained on."""
    name, split = place
    if _known(name) != _known(seen.name):
        return False
    return split in seen.splits or not (seen.splits and _same_division(name, seen.name))


def _trained_on(place: str, before: Sequence[str]) -> list[str]:
    if place in before:  # a run that begins with itself
        return []
    if not as_path(place).exists():
        return _published(place)
    stored = _stored(place)
    if stored is None:
        return [UNKNOWN]
    config, origin, follows = stored
    if origin is not None:
        return [str(name) for name in origin.get("trained_on", [UNKNOWN])]
    data = config.get("data", {})
    found = [_of_data(data)]
    expert = data.get("expert")
    if expert is not None:
        found.append(f"{expert['dataset']}, {expert.get('split', 'train')}")
    init = config.get("init", {})
    way = (*before, place)
    for entry in ("weights", "image", "text"):
        source = init.get(entry)
        if source is not None:
            there = _trained_on(source, way) if follows else _published(source)
            found += [name for name in there if entry != "text" or name != UNKNOWN]
    return found


def _published(place: str) -> list[str]:
    """What an address of the Hub or a name of the zoo was trained on."""
    entry = entry_of(hub.address(place)) if hub.is_address(place) else zoo().get(place)
    return [UNKNOWN] if entry is None else list(entry.trained_on)


def _of_data(data: Mapping[str, Any]) -> str:
    """The dataset of a run, with its split where that is the same in every run."""
    plain = to_dict(DataConfig())
    name, own = data.get("dataset", plain["dataset"]), ("shares", "fold", "patient_regex")
    if any(data.get(entry, plain[entry]) != plain[entry] for entry in own):
        return name
    return f"{name}, {data.get('train_split', plain['train_split'])}"


_Stored = tuple[Mapping[str, Any], Mapping[str, Any] | None, bool]


def _stored(place: str) -> _Stored | None:
    """Configuration of a network, the origin of its weights, and whether its paths are followed."""
    path = as_path(place)
    if _holds_checkpoint(path):
        meta = stored_meta(find_checkpoint(path))
        return located(meta["config"], workdir_of(path)), meta.get("origin"), True
    beside = (path if path.is_dir() else path.parent) / "config.json"
    content = read_json(beside) if beside.is_file() else None
    own = content.get("retfm_jax") if isinstance(content, Mapping) else None
    if not isinstance(own, Mapping) or not isinstance(own.get("config"), Mapping):
        return None
    return own["config"], own.get("origin"), False  # a folder that somebody else made


def _holds_checkpoint(path: Path) -> bool:
    try:
        return path.is_dir() and bool(find_checkpoint(path))
    except UserError:
        return False
