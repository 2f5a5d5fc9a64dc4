"""Vocabulary of retinal conditions: what `conditions.yaml` says, checked."""

import dataclasses
import functools
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from retfm_jax.errors import UserError
from retfm_jax.files import Path, PathLike, as_path
from retfm_jax.knowledge.cues import BARE_SIDES, CUES, SIDES, SIDES_IN_CAPITALS, Cue
from retfm_jax.knowledge.normalize import fold
from retfm_jax.parsing import read_yaml

#: Languages of names, synonyms and signs.
LANGUAGES = ("en", "zh")
KINDS = ("disease", "finding", "state")
GRADES = ("mild", "moderate", "severe")

_LONGEST_TERM = 200

_BUNDLED = as_path(__file__).with_name("conditions.yaml")


@dataclasses.dataclass(frozen=True)
class Condition:
    """A disease, a visible finding or a state of the eye.

    Attributes:
      id: snake_case name in British spelling.
      name: the term to write, by language.
      synonyms: other terms, by language.
      abbreviations: matched in capitals; from three letters on in any case.
      signs: what is seen on a color fundus photograph, short phrases by language.
      oct_signs: what is seen on an OCT scan, the same way.
      kind: "disease", "finding" (a visible sign) or "state".
      parent: the condition that this one is a case of; it is implied.
      grade: "mild", "moderate" or "severe" where this condition is that grade of its parent.
      sign_of: conditions of which this one is a typical sign; they are not implied.
      suspicion_of: the condition that this one suspects.
      absence_of: the condition whose absence this one states, a class of a task.
    """

    id: str
    name: Mapping[str, str]
    synonyms: Mapping[str, tuple[str, ...]]
    abbreviations: tuple[str, ...]
    signs: Mapping[str, tuple[str, ...]]
    oct_signs: Mapping[str, tuple[str, ...]]
    kind: str = "finding"
    parent: str | None = None
    grade: str | None = None
    sign_of: tuple[str, ...] = ()
    suspicion_of: str | None = None
    absence_of: str | None = None

    def seen_on(self, modality: str) -> Mapping[str, tuple[str, ...]] | None:
        """What is seen of it on images of a modality, by language; None: nothing at all.

        Args:
          modality: "cfp" or "oct"; of others, nothing is known.
        """
        if modality == "oct":
            return self.oct_signs if any(self.oct_signs.values()) else None
        if modality != "cfp" or (any(self.oct_signs.values()) and not any(self.signs.values())):
            return None
        return self.signs

    def terms(self, language: str | None = None) -> tuple[str, ...]:
        """Name and synonyms in one language or in all, each once.

        Args:
          language: "en" or "zh"; None: all of them.
        """
        languages = LANGUAGES if language is None else (language,)
        terms = [term for lang in languages for term in (self.name[lang], *self.synonyms[lang])]
        return tuple(dict.fromkeys(terms))


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """Conditions by id, in the order of their file.

    Attributes:
      conditions: every condition by its id.
    """

    conditions: Mapping[str, Condition]

    def __len__(self) -> int:
        return len(self.conditions)

    def __iter__(self) -> Iterator[Condition]:
        return iter(self.conditions.values())

    def __contains__(self, condition_id: object) -> bool:
        return condition_id in self.conditions

    def __getitem__(self, condition_id: str) -> Condition:
        return self.conditions[condition_id]

    @property
    def ids(self) -> tuple[str, ...]:
        """All ids in the order of the file: a fixed order for multi-hot vectors."""
        return tuple(self.conditions)

    @property
    def digest(self) -> str:
        """A checksum of everything that the vocabulary says."""
        entries = [dataclasses.asdict(condition) for condition in self]
        text = json.dumps(entries, ensure_ascii=False, default=dict)
        return hashlib.sha256(text.encode()).hexdigest()

    def ancestors(self, condition_id: str) -> tuple[str, ...]:
        """Conditions that `condition_id` is a case of, nearest first, itself left out.

        Args:
          condition_id: an id of the vocabulary.

        Raises:
          KeyError: there is no such id.
        """
        chain: list[str] = []
        parent = self.conditions[condition_id].parent
        while parent is not None:
            chain.append(parent)
            parent = self.conditions[parent].parent
        return tuple(chain)

    def children(self, condition_id: str) -> tuple[str, ...]:
        """Conditions whose parent is `condition_id`.

        Args:
          condition_id: an id of the vocabulary.
        """
        return tuple(c.id for c in self if c.parent == condition_id)

    def descendants(self, condition_id: str) -> tuple[str, ...]:
        """Conditions that are a case of `condition_id`, itself left out.

        Args:
          condition_id: an id of the vocabulary.
        """
        return self._descendants.get(condition_id, ())

    @functools.cached_property
    def _descendants(self) -> Mapping[str, tuple[str, ...]]:
        found: dict[str, tuple[str, ...]] = {}
        for condition in self:
            for ancestor in self.ancestors(condition.id):
                found[ancestor] = (*found.get(ancestor, ()), condition.id)
        return found

    def findings_of(self, condition_id: str) -> tuple[str, ...]:
        """Findings that are typical signs of `condition_id`.

        Args:
          condition_id: an id of the vocabulary.
        """
        return tuple(c.id for c in self if condition_id in c.sign_of)

    def find(self, name: str) -> Condition | None:
        """Finds the condition that a name means; None where there is none.

        Args:
          name: an id, name, synonym or abbreviation, in any spelling.
        """
        if name in self.conditions:
            return self.conditions[name]
        condition_id = self._by_term.get(fold(name))
        return None if condition_id is None else self.conditions[condition_id]

    @functools.cached_property
    def _by_term(self) -> Mapping[str, str]:
        return {
            fold(term): condition.id
            for condition in self
            for term in (condition.id, *condition.terms(), *condition.abbreviations)
        }


def load_vocabulary(
    path: PathLike | None = None, extend: PathLike | Sequence[PathLike] | None = None
) -> Vocabulary:
    """Reads and checks a vocabulary.

    Args:
      path: a YAML file in the format that `conditions.yaml` explains; the bundled one where None.
      extend: YAML files whose entries are added. An entry with a known id adds its synonyms,
        abbreviations, signs of both kinds and `sign_of` to that condition and replaces its other
        keys.

    Raises:
      UserError: a file cannot be read, or an entry is wrong; the message names file and entry.
    """
    extensions = [extend] if isinstance(extend, str | os.PathLike) else list(extend or ())
    if path is None and not extensions:
        return _bundled()
    return _load(
        as_path(_BUNDLED if path is None else path), [as_path(file) for file in extensions]
    )


@functools.cache
def _bundled() -> Vocabulary:
    return _load(_BUNDLED, [])


def _load(path: Path, extensions: Sequence[Path]) -> Vocabulary:
    entries: dict[str, Condition] = {}
    files: dict[str, str] = {}
    for file in (path, *extensions):
        seen: set[str] = set()
        for number, raw in enumerate(_read(file), 1):
            condition_id = _entry_id(raw, file, number)
            if condition_id in seen:
                raise UserError(f"{file}: the id {condition_id!r} occurs twice; merge the entries")
            seen.add(condition_id)
            condition = _parse(raw, entries.get(condition_id), f"{file}: entry {condition_id!r}")
            entries[condition_id] = condition
            files[condition_id] = str(file)
    _check(entries, files)
    return Vocabulary(entries)


def _read(path: Path) -> list[Any]:
    entries = read_yaml(path)
    if not isinstance(entries, list) or not entries:
        raise UserError(f"{path}: expected a list of conditions, each starting with '- id: ...'")
    return entries


def _entry_id(raw: Any, file: Path, number: int) -> str:
    if not isinstance(raw, dict):
        raise UserError(f"{file}: entry {number} is no mapping; write '- id: ...' and its keys")
    condition_id = raw.get("id")
    if not isinstance(condition_id, str) or not condition_id:
        raise UserError(f"{file}: entry {number} has no 'id'")
    plain = condition_id.replace("_", "")
    if not (plain.isascii() and plain.isalnum() and condition_id == condition_id.lower()):
        raise UserError(
            f"{file}: entry {number}: the id {condition_id!r} is not in snake_case "
            "(lower-case letters, digits and underscores)"
        )
    return condition_id


_KEYS = tuple(field.name for field in dataclasses.fields(Condition))


def _parse(raw: Mapping[str, Any], known: Condition | None, where: str) -> Condition:
    unknown = [str(key) for key in raw if key not in _KEYS]
    if unknown:
        raise UserError(
            f"{where}: unknown key {', '.join(map(repr, unknown))}; known are {', '.join(_KEYS)}"
        )
    name = _name(raw.get("name", {}), where)
    if known is None and not name:
        raise UserError(f"{where}: 'name' is missing; give {{en: ..., zh: ...}} or one of them")
    if known is not None:
        name = {**known.name, **name}
    else:
        # One language is enough: its name then stands for the other.
        name = {language: name.get(language) or next(iter(name.values())) for language in LANGUAGES}
    changes: dict[str, Any] = {
        key: _text(raw[key], f"{where}: {key!r}")
        for key in ("kind", "parent", "grade", "suspicion_of", "absence_of")
        if raw.get(key) is not None
    }
    for key, allowed in (("kind", KINDS), ("grade", GRADES)):
        if key in changes and changes[key] not in allowed:
            raise UserError(f"{where}: {key!r} must be one of {', '.join(allowed)}")
    for key in ("synonyms", "signs", "oct_signs"):
        added = _lists(raw.get(key) or {}, f"{where}: {key!r}")
        before = getattr(known, key) if known else dict.fromkeys(LANGUAGES, ())
        changes[key] = {lang: before[lang] + added[lang] for lang in LANGUAGES}
    for key in ("abbreviations", "sign_of"):
        added_list = _texts(raw.get(key) or [], f"{where}: {key!r}")
        changes[key] = (getattr(known, key) if known else ()) + added_list
    changes["name"] = name
    if known is not None:
        return dataclasses.replace(known, **changes)
    return Condition(id=raw["id"], **changes)


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise UserError(f"{where}: {value!r} is not text")
    return value.strip()


def _texts(value: Any, where: str) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise UserError(f"{where}: expected a list of texts, not {value!r}")
    return tuple(_text(item, where) for item in value)


def _languages(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UserError(f"{where}: expected {{en: ..., zh: ...}}, not {value!r}")
    unknown = [str(key) for key in value if key not in LANGUAGES]
    if unknown:
        raise UserError(f"{where}: unknown language {unknown[0]!r}; known are en and zh")
    return value


def _name(value: Any, where: str) -> dict[str, str]:
    where = f"{where}: 'name'"
    return {language: _text(text, where) for language, text in _languages(value, where).items()}


def _lists(value: Any, where: str) -> dict[str, tuple[str, ...]]:
    given = _languages(value, where)
    return {language: _texts(given.get(language) or [], where) for language in LANGUAGES}


def _check_term(term: str, written: str, where: str) -> None:
    """Refuses what no report could be searched for, or what would undo the reading of reports."""
    if not any(character.isalpha() for character in term):
        raise UserError(f"{where}: the term {written!r} has no letter; write it out")
    if len(term) > _LONGEST_TERM:
        raise UserError(
            f"{where}: the term {written[:40]!r}... has {len(term)} characters, which no report "
            f"repeats; a term has {_LONGEST_TERM} at most"
        )
    if term in _grammar():
        raise UserError(
            f"{where}: the term {written!r} is a word by which reports deny, doubt, list or name a "
            "side; a condition needs a term of its own"
        )


@functools.cache
def _grammar() -> frozenset[str]:
    cues = (Cue.NEGATION, Cue.NEGATED, Cue.DOUBT, Cue.AND, Cue.OR, Cue.CONTRAST, Cue.ASSERTION)
    words = [word for cue in cues for word in CUES[cue].split("|")]
    for sides in (SIDES, SIDES_IN_CAPITALS, BARE_SIDES):
        words += [word for listed in sides.values() for word in listed]
    return frozenset(map(fold, words))


def _check(entries: Mapping[str, Condition], files: Mapping[str, str]) -> None:
    """Refuses unknown references, cycles and terms of two conditions.

    Args:
      files: the file that each entry was read from last.
    """
    owners: dict[str, str] = {}
    for condition in entries.values():
        where = f"{files[condition.id]}: entry {condition.id!r}"
        references = {
            "parent": (condition.parent,),
            "sign_of": condition.sign_of,
            "suspicion_of": (condition.suspicion_of,),
            "absence_of": (condition.absence_of,),
        }
        for key, targets in references.items():
            for target in targets:
                if target is not None and target not in entries:
                    raise UserError(f"{where}: {key!r} names {target!r}, which is no entry")
                if target == condition.id:
                    raise UserError(f"{where}: {key!r} names the entry itself")
        if condition.grade and not condition.parent:
            raise UserError(f"{where}: a 'grade' needs a 'parent' that it is a grade of")
        folded = {
            fold(term): term
            for term in (condition.id, *condition.terms(), *condition.abbreviations)
        }
        for term, written in folded.items():
            _check_term(term, written, where)
            owner = owners.setdefault(term, condition.id)
            if owner != condition.id:
                raise UserError(f"{where}: the term {written!r} belongs to {owner!r} already")
    for condition in entries.values():
        chain = [condition.id]
        while (parent := entries[chain[-1]].parent) is not None:
            chain.append(parent)
            if parent in chain[:-1]:
                raise UserError(
                    f"{files[condition.id]}: entry {condition.id!r}: its parents form a cycle: "
                    + " -> ".join(chain)
                )
