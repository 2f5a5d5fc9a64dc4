"""Division of patients into splits, decided by the patient and nothing else."""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence

from retfm_jax.data.building import patients
from retfm_jax.data.building.rows import ImageRow, Row
from retfm_jax.data.building.validation import ProblemLog
from retfm_jax.errors import UserError

SPLITS = ("train", "validation", "test")

#: Shares of a source that gives no splits of its own.
DEFAULT_SHARES = {"train": 0.8, "validation": 0.1, "test": 0.1}

_SPELLINGS = {
    **{name: "train" for name in ("train", "training")},
    **{name: "validation" for name in ("validation", "valid", "val", "dev")},
    **{name: "test" for name in ("test", "testing")},
}


def split_name(text: str) -> str | None:
    """Translates a split's name to TFDS's spelling; None where it is no split at all.

    Args:
      text: such as "val" or "Training".
    """
    return _SPELLINGS.get(text.strip().lower())


def parse_shares(text: str) -> dict[str, float]:
    """Parses "0.8,0.1,0.1": the shares of train, validation and test.

    Args:
      text: three numbers of 0..1, separated by commas.

    Returns:
      split -> share, in the order of `SPLITS`.

    Raises:
      UserError: not three non-negative numbers that sum to 1.
    """
    try:
        shares = [float(part) for part in text.split(",")]
    except ValueError:
        shares = []
    sums = abs(sum(shares) - 1) <= 1e-6
    if len(shares) != 3 or not sums or not all(0 <= share <= 1 for share in shares):
        raise UserError(
            f"shares {text!r}: give the shares of train, validation and test as three numbers "
            "that sum to 1, such as 0.8,0.1,0.1"
        )
    return dict(zip(SPLITS, shares, strict=True))


def hashed_split(group: str, shares: Mapping[str, float], seed: int) -> str:
    """Chooses a patient's split by a hash of the id: it stays when other patients come or go.

    Args:
      group: the patient id.
      shares: split -> share, summing to 1.
      seed: another seed is another division.
    """
    digest = hashlib.sha256(f"{seed}:{group}".encode()).digest()
    position = int.from_bytes(digest[:8], "big") / 2**64
    for name, share in shares.items():
        if position < share:
            return name
        position -= share
    return max(shares, key=shares.__getitem__)  # rounding at the very end of the interval


def with_patients(rows: Sequence[Row], regex: str | None, problems: ProblemLog) -> list[Row]:
    """Copies rows, each with its patient as its group where that is known: see `patients`.

    Images that are grouped by their case stay so.

    How patients are known, or that nobody knows, is noted. A patient who is only guessed from file
    names leaves a split that the source gives as it is; where such a patient is in two, it is
    noted.

    Args:
      rows: of patients or images, of all splits.
      regex: `patient_regex`; None where the user gives none.
      problems: takes the notes.

    Raises:
      UserError: the regular expression cannot be used, or matches nothing.
    """
    by_case = {
        row.record_id
        for row in rows
        if isinstance(row, ImageRow) and row.case and row.group == row.case
    }
    single = [row for row in rows if isinstance(row, ImageRow) and row.record_id not in by_case]
    if not single and regex is None:
        return list(rows)
    known = [row for row in rows if row.record_id not in by_case]
    given = {row.record_id: row.group for row in known if row.group}
    who = patients.identify((row.record_id for row in known), given=given, regex=regex)
    if single:
        problems.notes.append(who.sentence)
    divided: dict[str, list[str]] = {}
    for row in rows:
        if row.split is not None and not row.group:
            divided.setdefault(row.split, []).append(who.ids[row.record_id])
    torn = patients.in_several(divided) if regex is None else {}
    if torn:
        problems.notes.append(patients.on_both_sides(divided))
    return [
        row
        if row.group or who.ids[row.record_id] in torn or not who.tells(row.record_id)
        else dataclasses.replace(row, group=who.ids[row.record_id])
        for row in rows
    ]


def assign_splits(
    rows: Sequence[Row], shares: Mapping[str, float], seed: int, problems: ProblemLog
) -> dict[str, list[Row]]:
    """Divides rows so that a patient is never in two splits.

    A split that the source gives wins over the hash, for all rows of the same patient. A row
    that the source puts elsewhere than its patient's first row is a problem and is left out.

    Args:
      rows: of patients or images; the group, else the record id, is the patient.
      shares: split -> share, summing to 1, for patients to whom the source gives no split.
      seed: another seed is another division.
      problems: takes the rows that are left out.

    Returns:
      split -> rows, in the order of `SPLITS`, without empty splits.
    """
    given: dict[str, Row] = {}
    for row in rows:
        if row.split is not None:
            given.setdefault(row.group or row.record_id, row)
    divided: dict[str, list[Row]] = {name: [] for name in SPLITS}
    for row in rows:
        group = row.group or row.record_id
        first = given.get(group)
        if first is None:
            divided[hashed_split(group, shares, seed)].append(row)
        elif first.split is not None and row.split in (None, first.split):
            divided[first.split].append(row)
        else:
            problems.add(
                "patient_in_two_splits", row,
                f"patient {group!r} is in {first.split} in row {first.row} of {first.file} and "
                f"in {row.split} here",
                "row left out",
            )  # fmt: skip
    return {name: members for name, members in divided.items() if members}
