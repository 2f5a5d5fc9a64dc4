"""Photographs with masks of all splits: their structures, who has which, and what they show."""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int64, UInt8

from retfm_jax.config import DataConfig
from retfm_jax.data import images, masks
from retfm_jax.data.division import UNDIVIDED, Division
from retfm_jax.data.division import said_of as division_said
from retfm_jax.data.records import SegmentedRecord
from retfm_jax.data.sources import Chain, RecordSource, Subset, open_dataset, scan
from retfm_jax.errors import UserError, did_you_mean


class SegmentedSource(Subset[SegmentedRecord]):
    """Photographs of a split with masks of some structures.

    Attributes:
      patients: of all records.
      patients_known: whether `patients` are real ones, so that intervals can be by patient.
    """

    def __init__(
        self,
        source: RecordSource[SegmentedRecord],
        rows: Int64[np.ndarray, " n"],
        columns: Sequence[int],
        patients: Sequence[str],
        *,
        split: str,
        patients_known: bool,
    ):
        """Takes the records at `rows`.

        Args:
          source: of photographs with masks.
          rows: positions of the records in it.
          columns: positions of the structures among the source's, in the new order.
          patients: of the records.
          split: as what they are used: "train", "validation" or "test".
          patients_known: whether `patients` are real ones.
        """
        super().__init__(source, rows, "segmented")
        self._columns = tuple(columns)
        self.patients, self.split = list(patients), split
        self.patients_known = patients_known
        self._digest = hashlib.sha256(np.ascontiguousarray(rows).tobytes()).hexdigest()

    @property
    def structures(self) -> tuple[str, ...]:
        names = super().structures
        return tuple(names[column] for column in self._columns)

    def __getitem__(self, index: int) -> SegmentedRecord:
        record = super().__getitem__(index)
        return dataclasses.replace(
            record, masks=tuple(record.masks[column] for column in self._columns)
        )

    @property
    def identity(self) -> dict[str, Any]:
        chosen = {"structures": list(self.structures), "rows": self._digest}
        return {**super().identity, **chosen}


@dataclasses.dataclass(frozen=True)
class SegmentedData:
    """Photographs with masks of an experiment.

    Attributes:
      sources: by the names that were asked for, the splits.
      structures: in the order of the masks.
      said: sentences for the user: how patients are known, what was divided.
    """

    sources: Mapping[str, SegmentedSource]
    structures: tuple[str, ...]
    said: tuple[str, ...] = ()


class Truth(NamedTuple):
    """A photograph and what is drawn on it, at the photograph's size.

    Attributes:
      image: (h, w, 3) uint8, RGB.
      masks: (h, w, structures) uint8: 1 present, 0 absent, 255 unknown.
      field: (h, w) uint8, 1 inside the field of view.
    """

    image: UInt8[np.ndarray, "h w 3"]
    masks: UInt8[np.ndarray, "h w structures"]
    field: UInt8[np.ndarray, "h w"]


def truth_of(record: SegmentedRecord) -> Truth:
    """Decodes a photograph and all that is drawn on it.

    Args:
      record: with the masks of the structures that are wanted.

    Raises:
      ImageError: the photograph cannot be decoded.
      MaskError: a mask cannot be, is of another size, or the field of view is empty.
    """
    image = images.decode(record.image, record.record_id)
    shape, name = (image.shape[0], image.shape[1]), record.record_id
    drawn = [masks.pixels(mask, shape, name) for mask in record.masks]
    field = masks.field_pixels(record.field, image, shape, name)
    return Truth(image, np.stack(drawn, axis=-1), field)


@dataclasses.dataclass
class _Part:
    """A split of the source, the patients of its records, and the split that each one gets."""

    source: RecordSource[SegmentedRecord]
    patients: list[str]
    split: list[str]
    patients_known: bool


def open_segmented(config: DataConfig, splits: Sequence[str] = ("train",)) -> SegmentedData:
    """Opens splits of photographs with masks, divided by patient where they are not divided yet.

    Args:
      config: names dataset and structures (`classes`); `train_split` and `eval_split` are what is
        asked for as "train" and "validation".
      splits: of "train", "validation" and "test".

    Raises:
      UserError: the dataset is missing or has no masks, a structure is unknown, or a split is
        empty.
    """
    wanted = tuple(dict.fromkeys(splits))
    parts, said = _built(config, wanted)
    names = next(iter(parts.values())).source.structures
    columns = _columns(config, names, next(iter(parts.values())).source.name)
    sources = {split: _chosen(parts, split, columns) for split in wanted}
    return SegmentedData(
        sources, tuple(names[column] for column in columns), tuple(filter(None, said))
    )


def _built(config: DataConfig, wanted: Sequence[str]) -> tuple[dict[str, _Part], list[str]]:
    """The splits of a built dataset that records are taken from, and how they were divided."""
    division = Division(config.shares, config.fold)
    names = {"train": config.train_split, "validation": config.eval_split, "test": "test"}
    sources: dict[str, RecordSource[SegmentedRecord]] = {}
    for split, name in names.items():
        if split == "test" and "test" not in wanted and config.fold is None:
            continue
        try:
            source = open_dataset(config.dataset, name, config.data_dir, config.exclude)
        except UserError:
            if split == "train" or name != split:  # what is named is wanted
                raise
            continue
        if len(source):
            sources[split] = _with_masks(source)
    return _divided(sources, division, wanted, config.dataset)


def _with_masks(source: RecordSource[Any]) -> RecordSource[SegmentedRecord]:
    if not source.structures:
        raise UserError(
            f"dataset {source.name} has no masks, and segmentation learns from them: give one "
            "that has, such as `retfm data build synthetic_fundus` with masks makes"
        )
    return source


def _divided(
    sources: Mapping[str, RecordSource[SegmentedRecord]],
    division: Division,
    wanted: Sequence[str],
    name: str,
) -> tuple[dict[str, _Part], list[str]]:
    """Gives every record of a source's splits the split that it is used in."""
    missing = [split for split in wanted if split not in division.splits(sources)]
    if missing:
        raise UserError(f"{name} has no split {', '.join(missing)}")
    parts = {
        split: _part(source, split)
        for split, source in sources.items()
        if split in (*wanted, "train", UNDIVIDED) or division.fold is not None
    }
    # A split that is there is none that has to be made, also where nobody asks for it.
    patients = {split: parts[split].patients if split in parts else [] for split in sources}
    for split, assigned in division.assign(patients).items():
        if split in parts:
            parts[split].split = assigned
    return parts, [division_said(division, sources)]


def _part(source: RecordSource[SegmentedRecord], split: str) -> _Part:
    def look(index: int) -> tuple[str, bool]:
        record = source[index]
        return record.patient_id, record.patient_id != record.record_id

    seen = list(scan(len(source), look))
    patients = [patient for patient, _ in seen]
    return _Part(source, patients, [split] * len(seen), any(known for _, known in seen))


def _columns(config: DataConfig, names: Sequence[str], dataset: str) -> list[int]:
    """Positions of the structures that are learned among the source's."""
    for name in config.classes:
        if name not in names:
            raise UserError(
                f"config.data.classes: {dataset} has no masks of {name!r} (structures: "
                f"{', '.join(names)}){did_you_mean(name, names)}"
            )
    if len(set(config.classes)) < len(config.classes):
        raise UserError(f"config.data.classes names {max(config.classes)!r} twice")
    return [names.index(name) for name in config.classes or names]


def _chosen(parts: Mapping[str, _Part], split: str, columns: Sequence[int]) -> SegmentedSource:
    """The records that are used as a split, of whatever split of the source."""
    rows = {
        name: np.flatnonzero([each == split for each in part.split]).astype(np.int64)
        for name, part in parts.items()
    }
    holding = [name for name in parts if len(rows[name])]
    if not holding:
        first = next(iter(parts.values())).source.name
        raise UserError(
            f"split {split} of {first} has no photograph with masks; give other shares "
            "(config.data.shares) where it was divided"
        )
    sources = [parts[name].source for name in holding]
    starts = np.cumsum([0, *(len(source) for source in sources[:-1])])
    positions = [rows[name] + start for name, start in zip(holding, starts, strict=True)]
    patients = [parts[name].patients[row] for name in holding for row in rows[name].tolist()]
    return SegmentedSource(
        sources[0] if len(sources) == 1 else Chain(sources),
        np.concatenate(positions),
        columns,
        patients,
        split=split,
        patients_known=all(part.patients_known for part in parts.values()),
    )
