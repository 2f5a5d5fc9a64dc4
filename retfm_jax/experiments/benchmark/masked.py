"""Photographs with masks of a task, the same for every model: splits, and what takes no part."""

import dataclasses
import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Int8

from retfm_jax.config import DataConfig
from retfm_jax.data.image_limits import ImageError
from retfm_jax.data.masks import MaskError
from retfm_jax.data.segmented import NoMasks, SegmentedSource, masks_alone, open_segmented, truth_of
from retfm_jax.data.tasks import modality_of
from retfm_jax.errors import UserError
from retfm_jax.evaluation.protocols.supervised import Images, Looked
from retfm_jax.experiments.benchmark.blocks import in_blocks
from retfm_jax.experiments.benchmark.photographs import (
    SPLITS,
    Place,
    data_of,
    digest_of,
    exclusions,
    facts_of,
    keep_apart,
    keep_facts,
)
from retfm_jax.experiments.benchmark.results import DRAWN, TaskFacts
from retfm_jax.experiments.benchmark.suite import TaskEntry
from retfm_jax.runtime.lock import hold
from retfm_jax.runtime.threads import in_threads

#: In the folder of a task: facts of its masks, the records that training leaves out, and what was
#: found in its photographs.
FACTS, EXCLUSIONS, LOOKED = "masks.json", "masks_exclusions.csv", "masks"
#: Photographs that are decoded at once, each at its own size with all of its masks.
_DECODED = 4


@dataclasses.dataclass(frozen=True)
class Masked:
    """Photographs with masks of a task, opened; every model sees these.

    Attributes:
      facts: what a reader must know of them; its classes are the structures.
      splits: of "train", "validation" and "test" the photographs that can be decoded with all of
        their masks, those of training and validation without what later splits hold too; their
        labels are the structures that each one shows.
      sources: the splits with everything in them.
      data: configuration that training opens the same splits with.
    """

    facts: TaskFacts
    splits: Mapping[str, Images]
    sources: Mapping[str, SegmentedSource]
    data: DataConfig

    def source(self, split: str) -> SegmentedSource:
        """The photographs of a split that can be used.

        Args:
          split: "train", "validation" or "test".
        """
        images = self.splits[split]
        return SegmentedSource(
            self.sources[split],
            np.array(images.rows, np.int64),
            range(len(self.facts.classes)),
            images.patients,
            split=split,
            patients_known=self.facts.patients_known,
        )


def open_masked(place: Place, name: str, entry: TaskEntry) -> Masked | None:
    """Opens the masks of a task; what it takes to find copies and damage is kept with the results.

    Args:
      place: of the benchmark.
      name, entry: of the task, in the suite.

    Returns:
      the photographs; None of a task without masks.

    Raises:
      Held: another process looks through the task's photographs.
      UserError: the task cannot be opened, or is not what it was when other cells were measured.
    """
    if masks_alone(entry.dataset) and entry.outcome is not None:
        raise UserError(
            f"tasks.{name}.outcome is one of classes, and {name} has masks: leave it out"
        )
    data = dataclasses.replace(data_of(place, entry), outcome=None)
    try:
        opened = open_segmented(data, SPLITS, test=entry.test)
    except NoMasks:
        return None
    found = {split: _looked_through(place, name, opened.sources[split]) for split in SPLITS}
    splits = {split: images for split, (images, _) in found.items()}
    broken = {split: dict.fromkeys(images.unusable, "unusable") for split, images in splits.items()}
    dropped, said = keep_apart(name, splits)
    modality = modality_of(opened.sources["test"])
    notes = (*opened.said, *said)
    facts = facts_of(name, entry, splits, opened.structures, DRAWN, modality, notes)
    masks = b"".join(digest for _, digest in found.values())
    keep_facts(place.task(name) / FACTS, facts, digest_of(splits, masks))
    left_out = {
        split: broken[split]
        | {record: reason.replace("_", " ") for reason, ids in each.items() for record in ids}
        for split, each in dropped.items()
    }
    path = place.task(name) / EXCLUSIONS
    exclude = exclusions(place, path, opened.sources["train"].name, entry, left_out)
    data = dataclasses.replace(data, classes=opened.structures, exclude=exclude)
    return Masked(facts, splits, opened.sources, data)


def _looked_through(place: Place, name: str, source: SegmentedSource) -> tuple[Images, bytes]:
    """Reads a split once, or what an earlier process has found; also what identifies its masks."""
    folder = place.task(name) / LOOKED / source.split

    def make(rows: range) -> dict[str, np.ndarray]:
        with in_threads(
            lambda row: _look(source, row), rows, threads=_DECODED, ahead=_DECODED
        ) as looked:
            found = list(looked)
        digests = {"digest": "image", "masks": "masks"}
        return {
            "shown": np.stack([each["shown"] for each in found]),
            "unusable": np.array([each["unusable"] for each in found], str),
            **{
                of: np.array([np.frombuffer(each[what], np.uint8) for each in found])
                for of, what in digests.items()
            },
        }

    with hold(place.task(name)):
        found = in_blocks(folder, len(source), make, f"looking through {name}, {source.split}")
    looked = [
        Looked(shown, patient, digest.tobytes(), str(unusable))
        for shown, patient, digest, unusable in zip(
            found["shown"], source.patients, found["digest"], found["unusable"], strict=True
        )
    ]
    return Images(source, looked), found["masks"].tobytes()


def _look(source: SegmentedSource, row: int) -> dict[str, Any]:
    """What identifies a photograph and its masks, and which structures it shows."""
    record = source[row]
    masks = hashlib.sha256()
    for mask in (*record.masks, record.field):
        masks.update(b"unknown" if mask is None else hashlib.sha256(mask.data).digest())
    shown: Int8[np.ndarray, " structures"] = np.array(
        [-1 if mask is None else 0 for mask in record.masks], np.int8
    )
    unusable = ""
    try:
        drawn = truth_of(record).masks == 1
        shown = np.where(shown < 0, shown, drawn.any((0, 1))).astype(np.int8)
    except (ImageError, MaskError):
        unusable = record.record_id
    return {
        "shown": shown,
        "image": hashlib.sha256(record.image).digest(),
        "masks": masks.digest(),
        "unusable": unusable,
    }
