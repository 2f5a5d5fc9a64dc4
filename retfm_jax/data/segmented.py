"""Photographs with masks of all splits: their structures, who has which, and what they show."""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int64, UInt8

from retfm_jax.config import DataConfig
from retfm_jax.data import images, masks
from retfm_jax.data.building.patients import BY_IMAGE
from retfm_jax.data.building.splits import SPLITS
from retfm_jax.data.built_splits import open_built
from retfm_jax.data.class_files import ALL, is_class_folder, whereabouts
from retfm_jax.data.division import UNDIVIDED, Division, no_split
from retfm_jax.data.division import said_of as division_said
from retfm_jax.data.mask_folders import describe_folder, is_mask_folder
from retfm_jax.data.mask_sources import SegmentedFiles, open_files
from retfm_jax.data.mixing import refuse_mix
from retfm_jax.data.public_sets.description import PublicSet
from retfm_jax.data.records import SegmentedRecord
from retfm_jax.data.sources import (
    Chain,
    RecordSource,
    Subset,
    open_dataset,
    scan,
    without_excluded,
)
from retfm_jax.data.tasks import described_tasks
from retfm_jax.dataset_folders import is_built
from retfm_jax.errors import UserError, did_you_mean


class NoMasks(UserError):
    """A dataset has no masks, whatever else it has."""


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
    """A split of the source, the patients of its records, and the split that each one gets.

    `known`: of each record, which structures somebody looked for.
    """

    source: RecordSource[SegmentedRecord]
    patients: list[str]
    known: list[tuple[bool, ...]]
    patients_known: bool
    split: list[str] = dataclasses.field(default_factory=list)


def open_segmented(
    config: DataConfig, splits: Sequence[str] = ("train",), *, test: str = "test"
) -> SegmentedData:
    """Opens splits of photographs with masks, divided by patient where they are not divided yet.

    Args:
      config: names the dataset: a task on masks (`retfm tasks`), a folder with masks (see
        `data.mask_folders`) or a built dataset; and its structures (`classes`). `train_split` and
        `eval_split` are what is asked for of a built one as "train" and "validation".
      splits: of "train", "validation" and "test"; or "all" of them, of data from which nothing is
        learned.
      test: the TFDS split that is asked for as "test", of a built dataset.

    Raises:
      NoMasks: the dataset has none.
      UserError: the dataset is missing, a structure is unknown, or a split is empty.
    """
    refuse_mix(config)
    config, wanted = _of_built(config), tuple(dict.fromkeys(splits))
    division = Division(config.shares, config.fold)
    task = _described(config)
    if task is None:
        sources, said = _built(config, SPLITS if ALL in wanted else wanted, test), []
    elif test != "test":
        raise UserError(
            f"{config.dataset} is one of files, whose test split is called test, not {test!r}"
        )
    else:
        sources, said = _in_place(config, *task)
    there = division.splits(sources)
    missing = [split for split in wanted if split not in (*there, ALL)]
    if missing:
        raise no_split(config.dataset, missing[0], there)
    parts = {
        split: _part(source)
        for split, source in sources.items()
        if split in (*wanted, "train", UNDIVIDED) or division.fold is not None or ALL in wanted
    }
    patients = {split: part.patients for split, part in parts.items()}
    for split, assigned in division.assign(patients, sources).items():
        parts[split].split = assigned
    names = next(iter(sources.values())).structures
    columns = _columns(config, names)
    found = {split: _chosen(parts, split, columns) for split in wanted}
    if task is None and not all(part.patients_known for part in parts.values()):
        said.append(BY_IMAGE)
    if wanted != (ALL,):
        said.append(division_said(division, sources))
    said += [sentence for _, sentence in found.values()]
    return SegmentedData(
        {split: source for split, (source, _) in found.items()},
        tuple(names[column] for column in columns),
        tuple(dict.fromkeys(filter(None, said))),
    )


def masks_alone(dataset: str) -> bool:
    """Tells whether a name is that of photographs with masks and without labels.

    Args:
      dataset: a task, a folder, or a built dataset, which has a name of neither.
    """
    folder = Path(dataset).expanduser()
    return "masks" in described_tasks().get(dataset, {}) or is_mask_folder(folder)


def _of_built(config: DataConfig) -> DataConfig:
    """Where a task's release is not there and its set is built, that and the task's structures."""
    task = described_tasks().get(config.dataset, {})
    if "masks" not in task or not is_built(task["set"].name, config.data_dir):
        return config
    there = whereabouts(task, Path(config.data_dir))
    if there is not None and there.fits:
        return config
    return dataclasses.replace(
        config, dataset=task["set"].name, classes=config.classes or tuple(task["masks"])
    )


def _described(config: DataConfig) -> tuple[PublicSet, Path, Sequence[str], Sequence[str]] | None:
    """The set that a name or folder means, its folder, structures and layouts; None: a built one.

    Raises:
      NoMasks: it is a task of classes, or a folder of such.
      UserError: its release is not there.
    """
    folder = Path(config.dataset).expanduser()
    if folder.is_dir() and is_mask_folder(folder):
        described = describe_folder(folder)
        return described, folder, tuple(described.masks), ()
    if folder.suffix in (".yaml", ".yml") or (
        not is_built(config.dataset, config.data_dir) and is_class_folder(folder)
    ):
        raise NoMasks(f"{folder} has photographs by class, and segmentation learns from masks")
    task = described_tasks().get(config.dataset)
    if task is None:
        return None
    if "masks" not in task:
        raise NoMasks(
            f"task {config.dataset} is one of classes, and segmentation learns from masks: "
            + ", ".join(name for name, each in described_tasks().items() if "masks" in each)
        )
    there = whereabouts(task, Path(config.data_dir))
    if there is None:
        raise UserError(
            f"task {config.dataset}: put {task['source']} into "
            f"{Path(config.data_dir) / task['folders'][0]} (or choose another data_dir)"
        )
    return task["set"], Path(there.folder), task["masks"], task["layouts"]


def _in_place(
    config: DataConfig,
    described: PublicSet,
    folder: Path,
    structures: Sequence[str],
    layouts: Sequence[str],
) -> tuple[dict[str, RecordSource[SegmentedRecord]], list[str]]:
    """The splits of files, without what an exclusion list names."""
    found, said = open_files(
        described,
        folder,
        structures,
        layouts=layouts,
        patient_regex=config.patient_regex,
        follow_links=config.follow_links,
    )
    sources: dict[str, RecordSource[SegmentedRecord]] = {**found}
    if config.exclude is not None:
        sources = {
            split: without_excluded(source, config.exclude, None)
            for split, source in sources.items()
        }
    return sources, said


def _built(
    config: DataConfig, wanted: Sequence[str], test: str
) -> dict[str, RecordSource[SegmentedRecord]]:
    """The splits of a built dataset that records are taken from."""

    def opened(name: str) -> RecordSource[Any]:
        return open_dataset(config.dataset, name, config.data_dir, config.exclude)

    found = open_built(config, wanted, opened, test=test)
    return {split: _with_masks(source) for split, source in found.items()}


def _with_masks(source: RecordSource[Any]) -> RecordSource[SegmentedRecord]:
    if not source.structures:
        raise NoMasks(
            f"dataset {source.name} has no masks, and segmentation learns from them: name a task "
            "of masks (`retfm tasks`), a folder with images and masks, or a dataset that was built "
            "of one"
        )
    return source


def _part(source: RecordSource[SegmentedRecord]) -> _Part:
    """Looks at the patients of a split; of files nothing is read for it."""
    if isinstance(source, SegmentedFiles):
        return _Part(source, source.patients, source.known, source.patients_known)

    def look(index: int) -> tuple[str, bool, tuple[bool, ...]]:
        record = source[index]
        known = tuple(mask is not None for mask in record.masks)
        return record.patient_id, record.patient_id != record.record_id, known

    seen = list(scan(len(source), look))
    return _Part(
        source,
        [patient for patient, _, _ in seen],
        [known for _, _, known in seen],
        any(other for _, other, _ in seen),
    )


def _columns(config: DataConfig, names: Sequence[str]) -> list[int]:
    """Positions of the structures that are learned among the source's."""
    for name in config.classes:
        if name not in names:
            raise UserError(
                f"config.data.classes: {config.dataset} has no masks of {name!r} (structures: "
                f"{', '.join(names)}){did_you_mean(name, names)}"
            )
        if config.classes.count(name) > 1:
            raise UserError(f"config.data.classes names {name!r} twice")
    return [names.index(name) for name in config.classes or names]


def _chosen(
    parts: Mapping[str, _Part], split: str, columns: Sequence[int]
) -> tuple[SegmentedSource, str]:
    """The records that are used as a split, of whatever split of the source, and what is left out.

    A photograph on which nobody looked for any of the structures teaches nothing.
    """
    rows, unknown = {}, 0
    for name, part in parts.items():
        here = [row for row, of in enumerate(part.split) if split in (of, ALL)]
        rows[name] = [row for row in here if any(part.known[row][column] for column in columns)]
        unknown += len(here) - len(rows[name])
    holding = [name for name in parts if rows[name]]
    if not holding:
        first = next(iter(parts.values())).source.name
        raise UserError(
            f"split {split} of {first} has no photograph with masks; give other shares "
            "(config.data.shares) where it was divided"
        )
    sources = [parts[name].source for name in holding]
    starts = np.cumsum([0, *(len(source) for source in sources[:-1])])
    positions = [
        np.array(rows[name], np.int64) + start for name, start in zip(holding, starts, strict=True)
    ]
    source = SegmentedSource(
        sources[0] if len(sources) == 1 else Chain(sources),
        np.concatenate(positions),
        columns,
        [parts[name].patients[row] for name in holding for row in rows[name]],
        split=split,
        patients_known=all(part.patients_known for part in parts.values()),
    )
    said = f"{split}: left out, for nobody looked for the structures: {unknown} photographs"
    return source, said if unknown else ""
