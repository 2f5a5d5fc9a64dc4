"""Cases: the images that one report speaks of, as report generation learns from them."""

import hashlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple, overload

import numpy as np
from jaxtyping import Int64, UInt64

from retfm_jax.config import DataConfig
from retfm_jax.console import say
from retfm_jax.data.case_keys import key_of, table
from retfm_jax.data.mixing import Mixed, with_mix
from retfm_jax.data.records import CaseRecord
from retfm_jax.data.sources import (
    Record,
    RecordSource,
    of_images,
    of_patients,
    open_dataset,
    open_training_split,
    scan,
)
from retfm_jax.errors import UserError
from retfm_jax.knowledge.laterality import SIDES


class _Members:
    """Records of a case, of which one is kept at a time."""

    def __init__(self, source: RecordSource[Any], positions: Int64[np.ndarray, " n"], first: Any):
        self._source, self._positions = source, positions
        self._at, self._record = 0, first

    def __len__(self) -> int:
        return len(self._positions)

    def __getitem__(self, index: int) -> Any:
        if index != self._at:
            self._record = self._source[int(self._positions[index])]
            self._at = index
        return self._record


class _Each(Sequence[Any]):
    """An attribute of each record of a case, read when it is asked for."""

    def __init__(self, members: _Members, attribute: str):
        self._members, self._attribute = members, attribute

    def __len__(self) -> int:
        return len(self._members)

    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Any]: ...
    def __getitem__(self, index: int | slice) -> Any:
        found = range(len(self))[index]
        if isinstance(found, range):
            return tuple(self[each] for each in found)
        return getattr(self._members[found], self._attribute)


class Cases(RecordSource[CaseRecord]):
    """The cases of a dataset of images, or of patients.

    To give a case is to read its first record: the others are read as their images are taken.

    Args:
      source: of images or of patients.
      positions: (n,) int64, of the cases' records in `source`, those of a case side by side.
      ends: (cases,) int64, behind the last position of each.
    """

    kind = "case"

    def __init__(
        self,
        source: RecordSource[Record],
        positions: Int64[np.ndarray, " n"],
        ends: Int64[np.ndarray, " cases"],
    ):
        self._source, self._positions, self._ends = source, positions, ends
        self.name, self.split, self.label_names = source.name, source.split, source.label_names

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: int) -> CaseRecord:
        start = self._ends[index - 1] if index else 0
        positions = self._positions[start : self._ends[index]]
        first: Any = self._source[int(positions[0])]
        if self._source.kind == "patient":
            return CaseRecord(
                record_id=first.record_id,
                patient_id=first.record_id,
                images=tuple(getattr(first, side) or b"" for side in SIDES),
                names=tuple(f"{first.record_id}/{side}" for side in SIDES),
                report=first.report,
                eyes=True,
            )
        members = _Members(self._source, positions, first)
        return CaseRecord(
            record_id=_name(first),
            patient_id=first.patient_id,
            images=_Each(members, "image"),
            names=_Each(members, "record_id"),
            report=first.caption,
        )

    def report(self, index: int) -> Mapping[str, str]:
        """Reads the report of a case, by language.

        Args:
          index: 0 <= index < len.
        """
        start = self._ends[index - 1] if index else 0
        record: Any = self._source[int(self._positions[start])]
        return record.report if self._source.kind == "patient" else record.caption

    @property
    def identity(self) -> dict[str, Any]:
        members = hashlib.sha256(self._positions.tobytes() + self._ends.tobytes())
        return {**self._source.identity, "cases": members.hexdigest(), "kept": len(self)}


class MixedCases(Mixed[CaseRecord]):
    """The cases of two datasets."""

    def report(self, index: int) -> Mapping[str, str]:
        """Reads the report of a case; see `Cases.report`.

        Args:
          index: 0 <= index < len.
        """
        first, second = self.parts
        source: Any = first if index < len(first) else second
        return source.report(index if source is first else index - len(first))


class CaseData(NamedTuple):
    """Cases that an experiment names.

    Attributes:
      sources: by "train" and, where it is asked for, "validation".
    """

    sources: Mapping[str, Cases | MixedCases]


def open_cases(config: DataConfig, splits: Collection[str]) -> CaseData:
    """Opens the cases with reports of a built dataset.

    Args:
      config: names the dataset and its splits.
      splits: of "train" and "validation".

    Raises:
      UserError: there is no such dataset or split, or it has no case with a report.
    """
    sources: dict[str, Any] = {}
    for split in splits:
        if split == "train":
            sources[split] = with_mix(config, _open_training, MixedCases)
            continue
        source = open_dataset(config.dataset, config.eval_split, config.data_dir, config.exclude)
        sources[split] = as_cases(source)
    return CaseData(sources)


def _name(image: Any) -> str:
    """The name of the case of an image: what its source calls it, else that of the image."""
    if not image.case_id:
        return image.record_id
    if image.case_id == image.patient_id:
        return image.case_id
    return f"{image.patient_id}/{image.case_id}"


def _open_training(config: DataConfig) -> Cases:
    return as_cases(open_training_split(config))


def as_cases(source: RecordSource[Record]) -> Cases:
    """Joins the images of a patient that are of one case; a patient's eyes are one, too.

    Where the dataset names no cases, the images of a patient that share a report are one. Records
    without a report, and patients without an image, are left out, which is said. Reads every record
    once where a dataset was built without the keys of cases, and no record elsewhere.

    Args:
      source: of images or of patients.

    Raises:
      UserError: nothing is left.
    """
    keys = source.case_keys
    if keys is None:

        def look(index: int) -> tuple[bytes, str]:
            record = source[index]
            return key_of(record), record.record_id

        keys = table(scan(len(source), look))
    positions = np.flatnonzero(keys[:, :2].any(axis=1))
    if not len(positions):
        raise UserError(
            f"no record of {source.name}, split {source.split}, has a report and an image, from "
            "which reports could be learned: give a column of reports when the dataset is built"
        )
    without = len(keys) - len(positions)
    if without:
        what = "patients" if of_patients(source) else "images"
        say(
            f"{source.name}, split {source.split}: {without} of {len(keys)} {what} have no report "
            "and are left out"
        )
    if not of_images(source):
        return Cases(source, positions, np.arange(1, len(positions) + 1))
    order, ends = _joined(keys[positions])
    return Cases(source, positions[order], ends)


def _joined(
    keys: UInt64[np.ndarray, "n 3"],
) -> tuple[Int64[np.ndarray, " n"], Int64[np.ndarray, " cases"]]:
    """The order in which records of a case are side by side, by name, and the end of each case.

    Cases stand in the order in which the first record of each does.
    """
    _, first, of_each = np.unique(keys[:, :2], axis=0, return_index=True, return_inverse=True)
    seen_at = first[of_each.reshape(-1)]
    order = np.lexsort((keys[:, 2], seen_at))
    return order, np.flatnonzero(np.diff(seen_at[order], append=-1)) + 1
