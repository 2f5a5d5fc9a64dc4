"""Exclusion lists: records that training and evaluation leave out, and why.

A list is a CSV with the columns `set, split, record, reason, of` and, optionally, `row`: the
position of the record in its split, which saves looking for it. `retfm data audit` writes one; rows
can be added and removed by hand. A row without a record says that a split was looked through: what
the list does not know is not taken for clean. It may say in `of` which records the split has; then
it holds for every task of the same public set with a split of these records.
"""

import dataclasses
import functools
import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from retfm_jax.data.building.validation import ProblemLog
from retfm_jax.data.importing import tables
from retfm_jax.data.public_sets.bundled import set_of_task
from retfm_jax.errors import UserError, first_of
from retfm_jax.files import PathLike, as_path

COLUMNS: tuple[str, ...] = ("set", "split", "row", "record", "reason", "of")
#: Reason of a row that names no record.
AUDITED = "audited"


@dataclasses.dataclass(frozen=True)
class Excluded:
    """Record that is left out.

    Attributes:
      record: its id.
      reason: in a word or a few.
      row: its position in the split, None where that is unknown.
    """

    record: str
    reason: str
    row: int | None = None


@dataclasses.dataclass(frozen=True)
class Exclusions:
    """Exclusion list.

    Attributes:
      path: its file.
      splits: by set and split, the records that are left out; empty for one that is clean.
      audited: by set and split, which records were looked through, see `records`; "" where the list
        does not say.
    """

    path: str
    splits: Mapping[tuple[str, str], tuple[Excluded, ...]]
    audited: Mapping[tuple[str, str], str]

    @property
    def sets(self) -> tuple[str, ...]:
        """Names of the sets that the list knows."""
        return tuple(dict.fromkeys(name for name, _ in self.splits))

    def of(
        self, name: str, split: str | None = None, ids: Sequence[str] | None = None
    ) -> dict[str, Excluded]:
        """Records of a set that are left out, by their ids.

        Args:
          name: of the set.
          split: a split of a built dataset, slices included; None: whatever split they are in.
          ids: of all records of the split that is opened; None where they are unknown. Where the
            list knows another task of the same public set with these records, it holds for them.

        Raises:
          UserError: the list does not know the set, or none of these splits.
        """
        if name not in self.sets and ids is not None and (same := self._alike(name, records(ids))):
            return {each.record: each for each in self.splits[same]}
        if name not in self.sets:
            raise UserError(
                f"{self.path} says nothing of {name} (it knows {first_of(self.sets, 8) or 'no set'}"
                "): audit it together with the sets that it is used with, by `retfm data audit`"
            )
        known = [part for of, part in self.splits if of == name]
        wanted = known if split is None else re.findall(r"[^\W\d]\w*", split)
        there = [part for part in wanted if part in known or part == "all"]
        if not there:
            raise UserError(
                f"{self.path} says nothing of {name}, split {split} (of {name} it knows "
                f"{', '.join(known)}): audit that split, too"
            )
        parts = known if "all" in there else there
        return {each.record: each for part in parts for each in self.splits[name, part]}

    def _alike(self, name: str, looked_through: str) -> tuple[str, str] | None:
        """The set and split that has the same records of the same public set."""
        public = set_of_task(name)
        if public is None:
            return None
        return next(
            (
                (other, split)
                for (other, split), audited in self.audited.items()
                if audited == looked_through and set_of_task(other) == public
            ),
            None,
        )


def read_exclusions(path: PathLike) -> Exclusions:
    """Reads an exclusion list.

    Args:
      path: of a CSV.

    Raises:
      UserError: it is missing or no such table, or a cell cannot be used (the row is named).
    """
    stat = as_path(path)
    try:
        changed = stat.stat().st_mtime_ns  # pyright: ignore[reportAttributeAccessIssue]
    except (OSError, AttributeError):
        changed = None  # the reader says what is wrong; stores have no such time
    return _read(str(path), changed)


@functools.lru_cache(maxsize=4)
def _read(path: str, changed: int | None) -> Exclusions:
    problems = ProblemLog()
    table = tables.read_csv(as_path(path), problems)
    for problem in problems.problems:
        raise UserError(f"{path} row {problem.row}: {problem.what}")
    tables.require_columns(table, ("set", "split", "record", "reason"))
    found: dict[tuple[str, str], list[Excluded]] = {}
    audited: dict[tuple[str, str], str] = {}
    for line in table.rows:
        cells = {name: str(value).strip() for name, value in line.cells.items()}
        where = f"{path} row {line.row}"
        if not cells["set"] or not cells["split"]:
            raise UserError(f"{where}: the cells of set and split are filled in every row")
        members = found.setdefault((cells["set"], cells["split"]), [])
        if not cells["record"]:
            if cells["reason"] != AUDITED:
                raise UserError(
                    f"{where} names no record: fill it, or write {AUDITED!r} as the reason of a "
                    "row that says that the split was looked through"
                )
            audited[cells["set"], cells["split"]] = cells.get("of", "")
            continue
        row = cells.get("row", "")
        if row and not (row.isascii() and row.isdecimal()):
            raise UserError(f"{where}: row {row!r} is no position; leave the cell empty")
        members.append(Excluded(cells["record"], cells["reason"], int(row) if row else None))
    return Exclusions(path, {key: tuple(members) for key, members in found.items()}, audited)


def records(ids: Sequence[str]) -> str:
    """Says which records a split has, in whatever order.

    Args:
      ids: of all of them.
    """
    listing = "\n".join(sorted(ids)).encode("utf-8", "surrogateescape")
    return f"{len(ids)} records, {hashlib.sha256(listing).hexdigest()[:16]}"


def kept(
    listed: Mapping[str, Excluded], positions: Mapping[int, str]
) -> tuple[np.ndarray, Counter[str]]:
    """Tells which positions of a split stay, and counts the others by reason.

    Args:
      listed: records that are left out, by id.
      positions: by position, the ids of all records that could be among them; others are None.

    Returns:
      positions that are left out, sorted, int64; and their number by reason.
    """
    rows = sorted(row for row, record in positions.items() if record in listed)
    reasons = Counter(listed[positions[row]].reason for row in rows)
    return np.array(rows, np.int64), reasons


def sentence(name: str, split: str, size: int, reasons: Mapping[str, int], path: PathLike) -> str:
    """Describes what was left out.

    Args:
      name, split: of the source.
      size: number of its records before.
      reasons: number of records by reason.
      path: of the list.
    """
    count = sum(reasons.values())
    why = ", ".join(f"{many} {reason}" for reason, many in sorted(reasons.items()))
    return (
        f"{count} of {size} records of {name}, split {split}, are left out, as {path} says"
        + f" ({why})" * bool(why)
    )


def digest(rows: Iterable[int]) -> str:
    """Identifies which records were left out.

    Args:
      rows: their positions.
    """
    return hashlib.sha256(",".join(map(str, rows)).encode()).hexdigest()[:16]
