"""Cases: the images that one report speaks of, as report generation learns from them."""

import hashlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from retfm_jax.config import DataConfig
from retfm_jax.console import say
from retfm_jax.data.records import CaseRecord
from retfm_jax.data.sources import Record, RecordSource, of_images, of_patients, open_dataset, scan
from retfm_jax.errors import UserError
from retfm_jax.knowledge.laterality import SIDES


class Cases(RecordSource[CaseRecord]):
    """The cases of a dataset of images, or of patients.

    Args:
      source: of images or of patients.
      members: of each case, the positions of its records in `source`: of images at least one, of
        patients one.
    """

    kind = "case"

    def __init__(self, source: RecordSource[Record], members: Sequence[np.ndarray]):
        self._source, self._members = source, list(members)
        self.name, self.split, self.label_names = source.name, source.split, source.label_names

    def __len__(self) -> int:
        return len(self._members)

    def __getitem__(self, index: int) -> CaseRecord:
        records = [self._source[int(position)] for position in self._members[index]]
        first: Any = records[0]
        if self._source.kind == "patient":
            return CaseRecord(
                record_id=first.record_id,
                patient_id=first.record_id,
                images=tuple(getattr(first, side) or b"" for side in SIDES),
                names=tuple(f"{first.record_id}/{side}" for side in SIDES),
                report=first.report,
                eyes=True,
            )
        images: Any = records
        return CaseRecord(
            record_id=first.record_id,
            patient_id=first.patient_id,
            images=tuple(image.image for image in images),
            names=tuple(image.record_id for image in images),
            report=first.caption,
        )

    def report(self, index: int) -> Mapping[str, str]:
        """Reads the report of a case, by language.

        Args:
          index: 0 <= index < len.
        """
        record: Any = self._source[int(self._members[index][0])]
        return record.report if self._source.kind == "patient" else record.caption

    @property
    def identity(self) -> dict[str, Any]:
        members = hashlib.sha256()
        for positions in self._members:
            members.update(np.array([len(positions), *positions], np.int64).tobytes())
        return {**self._source.identity, "cases": members.hexdigest(), "kept": len(self)}


class CaseData(NamedTuple):
    """Cases that an experiment names.

    Attributes:
      sources: by "train" and, where it is asked for, "validation".
    """

    sources: Mapping[str, Cases]


def open_cases(config: DataConfig, splits: Collection[str]) -> CaseData:
    """Opens the cases with reports of a built dataset.

    Args:
      config: names the dataset and its splits.
      splits: of "train" and "validation".

    Raises:
      UserError: there is no such dataset or split, or it has no case with a report.
    """
    names = {"train": config.train_split, "validation": config.eval_split}
    return CaseData(
        {
            split: as_cases(
                open_dataset(config.dataset, names[split], config.data_dir, config.exclude)
            )
            for split in splits
        }
    )


def as_cases(source: RecordSource[Record]) -> Cases:
    """Joins the images of a patient that share a report to a case; a patient's eyes are one, too.

    Records without a report, and patients without an image, are left out, which is said. Reads
    every record once.

    Args:
      source: of images or of patients.

    Raises:
      UserError: nothing is left.
    """
    found = list(scan(len(source), lambda index: _key(source[index])))
    cases: dict[str, list[int]] = {}
    for position, key in enumerate(found):
        if key is not None:
            cases.setdefault(key if of_images(source) else str(position), []).append(position)
    if not cases:
        raise UserError(
            f"no record of {source.name}, split {source.split}, has a report and an image, from "
            "which reports could be learned: give a column of reports when the dataset is built"
        )
    without = sum(key is None for key in found)
    if without:
        what = "patients" if of_patients(source) else "images"
        say(
            f"{source.name}, split {source.split}: {without} of {len(found)} {what} have no report "
            "and are left out"
        )
    return Cases(source, [np.array(positions, np.int64) for positions in cases.values()])


def _key(record: Any) -> str | None:
    """What images of one case have in common; None of a record without a report or an image."""
    if hasattr(record, "left"):
        seen, texts, who = record.left or record.right, record.report, record.record_id
    else:
        seen, texts, who = record.image, record.caption, record.patient_id
    said = [texts[language].strip() for language in sorted(texts)]
    if not seen or not any(said):
        return None
    return hashlib.sha256("\0".join([who, *said]).encode("utf-8", "surrogatepass")).hexdigest()
