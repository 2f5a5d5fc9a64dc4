"""Sets that are looked through together: their splits, records and photographs."""

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from retfm_jax.data.building.splits import SPLITS
from retfm_jax.data.class_files import Reading
from retfm_jax.data.public_sets.bundled import set_of_task
from retfm_jax.data.records import ImageRecord, PatientRecord
from retfm_jax.data.sources import Record, RecordSource, of_images, of_patients
from retfm_jax.data.tasks import open_splits
from retfm_jax.errors import UserError
from retfm_jax.knowledge.laterality import SIDES


@dataclasses.dataclass(frozen=True)
class Split:
    """A split of a set, photograph by photograph.

    Photographs are numbered in the order of the records; a patient has one for each side.

    Attributes:
      name: of the set.
      split: "train", "validation" or "test".
      source: its records.
    """

    name: str
    split: str
    source: RecordSource[Record]

    def __str__(self) -> str:
        return f"{self.name}, {self.split}"

    @property
    def of_each(self) -> int:
        """Photographs of a record, missing eyes counted."""
        return len(SIDES) if self.source.kind == "patient" else 1

    @property
    def key(self) -> str:
        """Text that changes with the set's records, which can be the name of a folder."""
        said = json.dumps(self.source.identity, sort_keys=True, default=str)
        digest = hashlib.sha256(f"{self.name}\n{self.split}\n{said}".encode()).hexdigest()[:16]
        stem = "".join(
            c if c.isascii() and c.isalnum() else "_" for c in f"{self.name}-{self.split}"
        )
        return f"{stem[:80]}-{digest}"

    def photograph(self, number: int) -> "Photograph":
        """Reads a photograph.

        Args:
          number: its number in the split.

        Raises:
          DamagedRecord: its record cannot be read.
        """
        index, side = divmod(number, self.of_each)
        return photographs(self.source, index)[side]


@dataclasses.dataclass(frozen=True)
class Photograph:
    """A photograph with what is known of it.

    Attributes:
      record: id of its record.
      name: the same, with the side of the eye where the record is a patient.
      patient: id of the patient, "" where nobody knows.
      image: the encoded bytes, b"" where the eye is missing.
      labels: names of the present classes, None where they are unknown.
    """

    record: str
    name: str
    patient: str
    image: bytes
    labels: tuple[str, ...] | None


def photographs(source: RecordSource[Record], index: int) -> list[Photograph]:
    """Reads the photographs of a record.

    Args:
      source: of either kind.
      index: of the record.

    Raises:
      DamagedRecord: it cannot be read.
    """
    names = source.label_names
    if of_images(source):
        return [_of_image(source[index], names)]
    assert of_patients(source)
    return _of_patient(source[index], names)


def _of_image(record: ImageRecord, names: Sequence[str]) -> Photograph:
    known = record.patient_id if record.patient_id != record.record_id else ""
    labels = _present(record.labels, names)
    return Photograph(record.record_id, record.record_id, known, record.image, labels)


def _of_patient(record: PatientRecord, names: Sequence[str]) -> list[Photograph]:
    images = {"left": record.left, "right": record.right}
    labels = {"left": record.left_labels, "right": record.right_labels}
    return [
        Photograph(
            record.record_id,
            f"{record.record_id}/{side}",
            record.record_id,
            images[side],
            _present(labels[side], names),
        )
        for side in SIDES
    ]


def _present(labels: np.ndarray, names: Sequence[str]) -> tuple[str, ...] | None:
    if not len(labels) or (labels < 0).any():
        return None
    return tuple(names[index] for index in np.flatnonzero(labels > 0).tolist())


def _same_files(first: Split, second: Split) -> bool:
    public = set_of_task(first.name)
    return (
        public is not None
        and set_of_task(second.name) == public
        and first.source.record_ids is not None
        and first.source.record_ids == second.source.record_ids
    )


def open_sets(names: Sequence[str], data_dir: str, reading: Reading) -> list[Split]:
    """Opens every split of every set.

    Args:
      names: built datasets, tasks and folders of class folders, see `tasks.open_splits`.
      data_dir: folder of built datasets and of the tasks' own folders.
      reading: how files are read.

    Raises:
      UserError: a set cannot be opened or is named twice.
    """
    found: list[Split] = []
    for name in names:
        there: dict[str, Any] = {}
        errors: list[UserError] = []
        for split in SPLITS:
            try:
                there |= open_splits(name, (split,), data_dir, reading)
            except UserError as error:
                errors.append(error)
        if not there:
            raise errors[0]
        opened = [Split(source.name, split, source) for split, source in there.items()]
        for earlier in found:
            if earlier.name == opened[0].name:
                raise UserError(
                    f"two sets are called {earlier.name!r} (one of them is {name}): name each set "
                    "once, and give folders names of their own"
                )
            if any(_same_files(earlier, split) for split in opened):
                raise UserError(
                    f"{earlier.name} and {name} are two tasks on the same photographs: name one of "
                    "them, and its exclusion list holds for both"
                )
        found += opened
    return found
