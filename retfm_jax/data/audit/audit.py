"""Audit of sets: copies within and across them, patients in two splits, labels that conflict.

Files of an audit, all in one folder: `audit.json` (everything), `audit.html` (pairs side by side),
`exclusions.csv` (what training and evaluation leave out), and `parts/` (fingerprints and
comparisons, from which a killed audit goes on).
"""

import csv
import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from retfm_jax import files
from retfm_jax.data.audit.candidates import (
    NEAR,
    Candidates,
    Photographs,
    find_candidates,
    gather,
    same_bytes,
    states,
)
from retfm_jax.data.audit.compared import Compared, compare_all
from retfm_jax.data.audit.embedded import Embedder, find_embedded
from retfm_jax.data.audit.groups import groups
from retfm_jax.data.audit.parts import BROKEN, Facts, Parts, make_parts
from retfm_jax.data.audit.relations import relations_of
from retfm_jax.data.audit.sets import open_sets
from retfm_jax.data.building.splits import SPLITS
from retfm_jax.data.class_files import AS_RELEASED, Reading
from retfm_jax.data.exclusions import AUDITED, COLUMNS, records
from retfm_jax.errors import UserError
from retfm_jax.files import PathLike, as_path, atomic_write, write_json
from retfm_jax.runtime.lock import hold

#: Correlation from which two photographs are copies, and from which a person should look.
SAME, DOUBTFUL = 0.7, 0.6
#: How many ids of one fault the document names.
_NAMED = 20

#: Reasons for which a record is left out, as exclusion lists name them.
COPY, PATIENT, REPEATED, CONFLICT = (
    "copy in evaluation",
    "patient in evaluation",
    "repeated",
    "conflicting labels",
)


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two photographs that are copies of one, or may be.

    Attributes:
      first, second: numbers among all photographs.
      how: "bytes" (equal byte for byte), "registered" (proposed by their hashes) or "embedded"
        (proposed by a network's embeddings alone, and registered as well).
      score: correlation of the registered photographs; 1 for equal bytes.
      bits: of their hashes that differ, of 448.
      mirror: whether the second is a mirror image.
      scale, rotation, overlap: see `comparison.Comparison`.
    """

    first: int
    second: int
    how: str
    score: float
    bits: int = 0
    mirror: bool = False
    scale: float = 1.0
    rotation: float = 0.0
    overlap: float = 1.0

    @property
    def same(self) -> bool:
        """Whether they are taken for copies."""
        return self.score >= SAME


class Found:
    """What was found, before it is written.

    Attributes:
      every: parts of all splits.
      photographs: what was gathered of them.
      pairs: equal bytes, then the others from the most alike on.
      facts: of every photograph that a pair names, by its number.
    """

    def __init__(
        self,
        every: Sequence[Parts],
        photographs: Photographs,
        candidates: Candidates,
        compared: Compared,
        embedded: tuple[str, Candidates, Compared] | None = None,
    ):
        """Decides which candidates are pairs.

        Args:
          every: parts of all splits.
          photographs: what was gathered of them.
          candidates: pairs that were compared.
          compared: the comparisons.
          embedded: name of the network whose embeddings proposed further pairs, these, each
            straight and mirrored, and their comparisons.
        """
        self.every, self.photographs = every, photographs
        self.compared, self.cut_off = len(candidates.first), int(candidates.cut_off)
        equal = [
            Pair(int(group[0]), int(other), "bytes", 1.0)
            for group in same_bytes(photographs)
            for other in group[1:]
        ]
        pairs = _alike(candidates, compared, "registered")
        #: Of the network: its name, how many pairs its embeddings added, and what these became.
        self.embedded: dict[str, Any] = {}
        if embedded is not None:
            name, added, comparisons = embedded
            count = len(added.first) // 2
            more = _alike(added, comparisons, "embedded")
            same = sum(pair.same for pair in more)
            self.embedded = {
                "model": name, "added": count, "same": same, "doubtful": len(more) - same
            }  # fmt: skip
            self.compared += count
            pairs = sorted(pairs + more, key=lambda pair: -pair.score)
        self.pairs = equal + pairs
        self.groups = groups((pair.first, pair.second) for pair in self.pairs if pair.same)
        numbers = {number for pair in self.pairs for number in (pair.first, pair.second)}
        self.facts = self.facts_of(numbers)

    def facts_of(self, numbers: Iterable[int]) -> dict[int, Facts]:
        """Reads what is known of photographs.

        Args:
          numbers: of the photographs.
        """
        found = {}
        for number in sorted(numbers):  # in order, so that every part is read once
            parts = self.every[self.split(number)]
            start = int(self.photographs.start[self.split(number)])
            found[number] = parts.facts(number - start)
        return found

    def known(self, number: int) -> Facts:
        """What is known of a photograph, whether or not a pair names it.

        Args:
          number: of the photograph.
        """
        return self.facts[number] if number in self.facts else self.facts_of([number])[number]

    def split(self, number: int) -> int:
        """Position of a photograph's split.

        Args:
          number: of the photograph.
        """
        return int(self.photographs.split[number])

    def row(self, number: int) -> int:
        """Position of a photograph's record in its split.

        Args:
          number: of the photograph.
        """
        split = self.split(number)
        return (number - int(self.photographs.start[split])) // self.every[split].split.of_each

    def conflict(self, pair: Pair) -> bool | None:
        """Tells whether the labels of two copies differ; None where that cannot be told.

        Args:
          pair: of which classes are compared that both sets have.
        """
        one, other = self.facts[pair.first].labels, self.facts[pair.second].labels
        names = [
            set(self.every[self.split(number)].split.source.label_names)
            for number in (pair.first, pair.second)
        ]
        shared = names[0] & names[1]
        if one is None or other is None or not shared:
            return None
        return set(one) & shared != set(other) & shared

    def torn_patients(self) -> list[dict[str, int]]:
        """Patients with photographs in several splits of a set.

        Returns:
          of each, by split, the number of a photograph.
        """
        patients, splits = self.photographs.patients, self.photographs.split
        found = []
        by_set: dict[str, list[int]] = {}
        for position, parts in enumerate(self.every):
            by_set.setdefault(parts.split.name, []).append(position)
        for positions in by_set.values():
            rows = np.flatnonzero(np.isin(splits, positions) & (patients > 0))
            order = rows[np.lexsort((rows, patients[rows]))]
            cuts = np.flatnonzero(patients[order[1:]] != patients[order[:-1]]) + 1
            for group in np.split(order, cuts):
                if len(group) < 2 or splits[group[0]] == splits[group[-1]]:
                    continue
                first = {}
                for number in group.tolist():
                    first.setdefault(self.every[self.split(number)].split.split, number)
                found.append(first)
        return found


def _alike(candidates: Candidates, compared: Compared, how: str) -> list[Pair]:
    """Candidates that are copies or may be, the most alike first; every pair once."""
    rows = np.flatnonzero(compared.score >= DOUBTFUL)
    rows = rows[np.argsort(-compared.score[rows], kind="stable")]
    found: dict[frozenset[int], Pair] = {}
    for row in rows:
        pair = Pair(
            int(candidates.first[row]),
            int(candidates.second[row]),
            how,
            round(float(compared.score[row]), 4),
            int(candidates.distance[row]),
            bool(candidates.mirror[row]),
            round(float(compared.scale[row]), 4),
            round(float(compared.rotation[row]), 2),
            round(float(compared.overlap[row]), 4),
        )
        found.setdefault(frozenset((pair.first, pair.second)), pair)
    return list(found.values())


@dataclasses.dataclass(frozen=True)
class Exclusion:
    """Record that is left out.

    Attributes:
      set, split, row, record: which.
      reason: why.
      of: what it is a copy of, or shares its patient with.
    """

    set: str
    split: str
    row: int
    record: str
    reason: str
    of: str


def audit(
    names: Sequence[str],
    data_dir: str,
    out: PathLike,
    reading: Reading = AS_RELEASED,
    embedder: Embedder | None = None,
) -> dict[str, Any]:
    """Looks sets through together, and writes what was found.

    Args:
      names: built datasets, tasks and folders of class folders.
      data_dir: folder of built datasets and of the tasks' own folders.
      out: folder of the audit; one that was begun with the same sets is continued.
      reading: how files are read.
      embedder: network whose embeddings propose pairs beside the hashes; None: hashes alone.

    Returns:
      the contents of `audit.json`, pairs left out.

    Raises:
      UserError: a set cannot be opened, nothing can be decoded, or `out` cannot be written.
    """
    from retfm_jax.data.audit.page import page

    folder = as_path(out)
    files.check_writable(folder / "audit.json")
    with hold(folder) as lock:
        splits = open_sets(names, data_dir, reading)
        every = [Parts(split, folder / "parts") for split in splits]
        make_parts(every)
        photographs = gather(every)
        _require_photographs(every, photographs)
        candidates = find_candidates(every, photographs, folder / "parts" / "candidates")
        compared = compare_all(every, photographs, candidates, folder / "parts" / "comparisons")
        embedded = None
        if embedder is not None:
            added = find_embedded(
                every, photographs, candidates, embedder, folder / "parts" / "embeddings"
            )
            more = compare_all(every, photographs, added, folder / "parts" / "comparisons")
            embedded = (embedder.name, added, more)
        found = Found(every, photographs, candidates, compared, embedded)
        torn = found.torn_patients()
        left_out = exclusions(found, torn)
        document = _document(found, torn, left_out)
        lock.check()
        write_exclusions(folder / "exclusions.csv", found, left_out)
        write_json(folder / "audit.json", document | {"pairs": _pairs(found)})
        with atomic_write(folder / "audit.html") as file:
            file.write(page(found, document))
    return document


def _require_photographs(every: Sequence[Parts], photographs: Photographs) -> None:
    for position, parts in enumerate(every):
        counted = states(photographs, position)
        if len(parts) and counted["broken"] == len(parts):
            raise UserError(
                f"none of {len(parts)} photographs of {parts.split} can be decoded, such as "
                f"{parts.facts(0).error}"
            )


def _rank(split: str) -> int:
    """What is evaluated stays: training gives way to validation, and both to test."""
    return SPLITS.index(split)


def exclusions(found: Found, torn: Sequence[Mapping[str, int]]) -> list[Exclusion]:
    """Decides which records are left out.

    From a training split go copies of what any validation or test split holds, copies within the
    split but the first one, all copies in it whose labels conflict, and patients that another split
    of the set evaluates. Validation gives way to test in the same way. Nothing is left out of a
    test split: its numbers stay those of the published split.

    Args:
      found: pairs and facts.
      torn: patients in several splits.
    """
    chosen: dict[tuple[int, int], Exclusion] = {}

    def leave_out(number: int, reason: str, of: int) -> None:
        split = found.every[found.split(number)].split
        exclusion = Exclusion(
            split.name,
            split.split,
            found.row(number),
            found.known(number).record,
            reason,
            f"{found.every[found.split(of)].split}: {found.known(of).name}",
        )
        chosen.setdefault((found.split(number), found.row(number)), exclusion)

    conflicting = {
        number
        for pair in found.pairs
        if pair.same and found.conflict(pair)
        for number in (pair.first, pair.second)
    }
    for group in found.groups:
        ranks = {number: _rank(found.every[found.split(number)].split.split) for number in group}
        top = max(ranks.values())
        stays = next(number for number in group if ranks[number] == top)
        first_in: dict[int, int] = {}
        for number in group:
            first = first_in.setdefault(found.split(number), number)
            if ranks[number] < top:
                leave_out(number, COPY, stays)
            elif top < _rank("test"):
                if number in conflicting:
                    other = next(each for each in group if each != number)
                    leave_out(number, CONFLICT, other)
                elif first != number and found.row(first) != found.row(number):
                    leave_out(number, REPEATED, first)
    members = _members(found, torn)
    for patient in torn:
        top = max(patient, key=_rank)
        for split, number in patient.items():
            if _rank(split) < _rank(top):
                for other in members[number]:
                    leave_out(other, PATIENT, patient[top])
    order = {str(parts.split): position for position, parts in enumerate(found.every)}
    return sorted(chosen.values(), key=lambda each: (order[f"{each.set}, {each.split}"], each.row))


def _members(found: Found, torn: Sequence[Mapping[str, int]]) -> dict[int, list[int]]:
    """By the photograph that stands for a patient in a split, all of the patient's there."""
    members = {}
    wanted: dict[int, dict[int, int]] = {}
    for patient in torn:
        for number in patient.values():
            of_split = wanted.setdefault(found.split(number), {})
            of_split[int(found.photographs.patients[number])] = number
    for split, of_split in wanted.items():
        start, stop = found.photographs.start[split : split + 2].tolist()
        patients = found.photographs.patients[start:stop]
        for row in np.flatnonzero(np.isin(patients, np.array(list(of_split), np.uint64))):
            members.setdefault(of_split[int(patients[row])], []).append(start + int(row))
    return members


def write_exclusions(path: files.Path, found: Found, left_out: Sequence[Exclusion]) -> None:
    """Writes an exclusion list: a row for each split that was looked through, and one a record.

    Args:
      path: of the CSV.
      found: whose splits they are.
      left_out: the records.
    """
    with atomic_write(path) as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        for parts in found.every:
            split = parts.split
            ids = split.source.record_ids
            said = {"of": records(ids)} if ids is not None else {}
            writer.writerow({"set": split.name, "split": split.split, "reason": AUDITED, **said})
        for each in left_out:
            writer.writerow(dataclasses.asdict(each))


def _document(
    found: Found, torn: Sequence[Mapping[str, int]], left_out: Sequence[Exclusion]
) -> dict[str, Any]:
    same = [pair for pair in found.pairs if pair.same]
    conflicts = [pair for pair in same if found.conflict(pair)]
    splits = {
        str(parts.split): {
            "set": parts.split.name,
            "split": parts.split.split,
            "records": len(parts.split.source),
            **states(found.photographs, position),
            "first_broken": _broken(found, position),
        }
        for position, parts in enumerate(found.every)
    }
    where = Counter(_where(found, pair) for pair in same)
    facts = found.facts_of({number for patient in torn[:_NAMED] for number in patient.values()})
    return {
        "splits": splits,
        "thresholds": {"bits": NEAR, "same": SAME, "doubtful": DOUBTFUL},
        "compared_pairs": found.compared,
        "comparisons_cut_off": found.cut_off,
        **({"embeddings": found.embedded} if found.embedded else {}),
        "copies": {
            "pairs": len(same),
            "equal_bytes": sum(pair.how == "bytes" for pair in same),
            "mirrored": sum(pair.mirror for pair in same),
            "groups": len(found.groups),
            "largest_group": max(map(len, found.groups), default=0),
            "between": [
                {"first": first, "second": second, "pairs": count}
                for (first, second), count in sorted(where.items())
            ],
        },
        "doubtful_pairs": len(found.pairs) - len(same),
        "label_conflicts": len(conflicts),
        "patients_in_several_splits": {
            "count": len(torn),
            "first": [
                {split: facts[number].name for split, number in patient.items()}
                for patient in torn[:_NAMED]
            ],
        },
        "relations": [
            dataclasses.asdict(each)
            for each in relations_of({parts.split.name for parts in found.every})
        ],
        "excluded": dict(Counter(each.reason for each in left_out)),
    }


def _broken(found: Found, position: int) -> list[str]:
    start, stop = found.photographs.start[position : position + 2].tolist()
    rows = np.flatnonzero(found.photographs.state[start:stop] == BROKEN)[:_NAMED]
    return [found.every[position].facts(int(row)).error for row in rows]


def _where(found: Found, pair: Pair) -> tuple[str, str]:
    first, second = sorted(found.split(number) for number in (pair.first, pair.second))
    return str(found.every[first].split), str(found.every[second].split)


def _pairs(found: Found) -> list[dict[str, Any]]:
    return [
        {
            "first": _named(found, pair.first),
            "second": _named(found, pair.second),
            "verdict": "same" if pair.same else "doubtful",
            **{
                name: value
                for name, value in dataclasses.asdict(pair).items()
                if name not in ("first", "second")
            },
            "labels_conflict": found.conflict(pair),
        }
        for pair in found.pairs
    ]


def _named(found: Found, number: int) -> dict[str, Any]:
    split, facts = found.every[found.split(number)].split, found.facts[number]
    labels = None if facts.labels is None else list(facts.labels)
    return {
        "set": split.name,
        "split": split.split,
        "photograph": facts.name,
        "patient": facts.patient,
        "labels": labels,
    }
