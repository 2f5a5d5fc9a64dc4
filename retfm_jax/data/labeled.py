"""Labeled photographs of all splits: their classes, what these are to each other, who has which.

Labels and patients are looked at once, whatever the data are: a folder of class folders, a release
that a task describes, or a built dataset. Of files nothing is read for it; a built dataset is read
once, as it stores labels beside photographs.
"""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int8, Int64

from retfm_jax.config import DataConfig
from retfm_jax.data.built_splits import open_built
from retfm_jax.data.class_files import FileSource, Reading
from retfm_jax.data.division import Division, no_split
from retfm_jax.data.division import said_of as division_said
from retfm_jax.data.mixing import refuse_mix
from retfm_jax.data.records import ImageRecord
from retfm_jax.data.sources import (
    Chain,
    Eyes,
    Record,
    RecordSource,
    Subset,
    eye_record,
    of_images,
    of_patients,
    scan,
)
from retfm_jax.data.tasks import holds_records, open_splits, said_of
from retfm_jax.decisions import Outcome
from retfm_jax.errors import UserError, did_you_mean
from retfm_jax.knowledge.laterality import SIDES

_BY_RECORD = (
    "no record has a patient of its own: splits and intervals are by image, and two eyes of a "
    "patient may be on both sides"
)


class Unlabeled(UserError):
    """No photograph of a dataset has labels of its own."""


class LabeledSource(Subset[ImageRecord]):
    """Photographs of a split with labels for some classes, known without reading them.

    A record's `labels` are those of `labels`, (classes,) int8.

    Attributes:
      labels: of all records (n, classes) int8: 1 present, 0 absent, -1 unknown.
      patients: of all records.
      ordered: whether the classes are grades, from the lowest on.
      patients_known: whether `patients` are real ones, so that intervals can be by patient.
    """

    def __init__(
        self,
        source: RecordSource[ImageRecord],
        rows: Int64[np.ndarray, " n"],
        labels: Int8[np.ndarray, "n classes"],
        patients: Sequence[str],
        classes: Sequence[str],
        outcome: Outcome,
        *,
        split: str,
        patients_known: bool,
    ):
        """Takes the records at `rows`.

        Args:
          source: of single images.
          rows: positions of the records in it.
          labels, patients: of these.
          classes: names of the labels' columns.
          outcome: what the classes are to each other.
          split: as what they are used: "train", "validation" or "test".
          patients_known: whether `patients` are real ones.
        """
        super().__init__(source, rows, "labeled")
        self.labels, self.patients = labels, list(patients)
        self.label_names, self.split = tuple(classes), split
        self.outcome: Outcome = outcome
        self.ordered, self.patients_known = outcome == "grades", patients_known
        digest = hashlib.sha256(np.ascontiguousarray(rows).tobytes())
        digest.update(np.ascontiguousarray(labels).tobytes())
        self._digest = digest.hexdigest()

    def __getitem__(self, index: int) -> ImageRecord:
        return dataclasses.replace(super().__getitem__(index), labels=self.labels[index])

    @property
    def identity(self) -> dict[str, Any]:
        return {
            **super().identity,
            "classes": list(self.label_names),
            "outcome": self.outcome,
            "rows": self._digest,
        }

    @property
    def prevalence(self) -> Float[np.ndarray, " classes"]:
        """Share of the records, among those where it is known, that show each class."""
        known = np.maximum((self.labels >= 0).sum(0), 1)
        return (self.labels > 0).sum(0) / known

    def reordered(self, columns: Sequence[int]) -> "LabeledSource":
        """Puts the classes into another order.

        Args:
          columns: for each class of the new order, its position in this one.
        """
        classes = [self.label_names[column] for column in columns]
        labels = self.labels[:, list(columns)]
        return LabeledSource(
            self._source,
            self._indices,
            labels,
            self.patients,
            classes,
            self.outcome,
            split=self.split,
            patients_known=self.patients_known,
        )


@dataclasses.dataclass(frozen=True)
class LabeledData:
    """Labeled photographs of an experiment.

    Attributes:
      sources: by the names that were asked for, the splits.
      classes: in the order of the labels.
      outcome: what they are to each other, "exclusive", "findings" or "grades".
      said: sentences for the user: how patients are known, what was divided and left out.
      ordered: whether the data themselves state that the classes are grades, in this order.
    """

    sources: Mapping[str, LabeledSource]
    classes: tuple[str, ...]
    outcome: Outcome
    said: tuple[str, ...] = ()
    ordered: bool = False

    def reordered(self, classes: Sequence[str]) -> "LabeledData":
        """Puts the classes into another order.

        Args:
          classes: these classes, in the new order.
        """
        columns = [self.classes.index(name) for name in classes]
        sources = {split: source.reordered(columns) for split, source in self.sources.items()}
        return dataclasses.replace(self, sources=sources, classes=tuple(classes))


@dataclasses.dataclass
class _Part:
    """Labels and patients of a split of the source, and the split that each record gets."""

    source: RecordSource[ImageRecord]
    labels: Int8[np.ndarray, "n all"]
    patients: list[str]
    split: list[str]


def reading_of(config: DataConfig) -> Reading:
    """How the files of an experiment's dataset are read and divided.

    Args:
      config: its `patient_regex`, `follow_links`, `shares`, `fold` and `exclude`.
    """
    division = Division(config.shares, config.fold)
    return Reading(config.patient_regex, config.follow_links, division, config.exclude)


def open_labeled(
    config: DataConfig, splits: Sequence[str] = ("train",), *, test: str = "test"
) -> LabeledData:
    """Opens splits of labeled photographs, divided by patient where they are not divided yet.

    Args:
      config: names dataset, classes and outcome; `train_split` and `eval_split` are what is asked
        for as "train" and "validation".
      splits: of "train", "validation" and "test", with or without the training split, which
        decides about classes and outcome in any case.
      test: the TFDS split that is asked for as "test", of a built dataset.

    Raises:
      UserError: see `tasks.open_splits` and `refuse_mix`; or no photograph has labels, a class is
        unknown or not shown by the training split, or a split is empty.
    """
    refuse_mix(config)
    wanted = tuple(dict.fromkeys(("train", *splits)))
    parts, said = _parts(config, wanted, test)
    train = parts[0]
    names = tuple(train.source.label_names)
    rows = {
        split: [np.flatnonzero([each == split for each in part.split]) for part in parts]
        for split in wanted
    }
    shown = _stacked(parts, rows["train"], range(len(names)))
    columns = _columns(config, names, shown, train.source)
    classes = tuple(names[column] for column in columns)
    ordered = bool(train.source.ordered) and not config.classes
    outcome = config.outcome or _outcome(shown, len(classes), ordered)
    known = _patients_known(parts)
    if not known and not isinstance(train.source, FileSource):
        said.append(_BY_RECORD)
    sources = {}
    for split in wanted:
        sources[split], left_out = _chosen(
            parts, rows[split], columns, classes, outcome, split, known
        )
        if left_out:
            said.append(left_out)
    _check(sources["train"])
    if not config.classes:
        said.append(_unlearned(parts, rows, names, set(columns)))
    for split in wanted:
        missing = [
            name
            for name, there in zip(classes, (sources[split].labels > 0).any(0), strict=True)
            if not there
        ]
        if missing and split != "train":
            said.append(f"{split} shows none of {', '.join(missing)}: its numbers leave them out")
    said = list(dict.fromkeys(filter(None, said)))
    return LabeledData(sources, classes, outcome, tuple(said), ordered)


def _parts(config: DataConfig, wanted: Sequence[str], test: str) -> tuple[list[_Part], list[str]]:
    """The splits of the source that records are taken from, and sentences on how they were read."""
    if holds_records(config.dataset, config.data_dir):
        return _built(config, wanted, test)
    if test != "test":
        raise UserError(
            f"{config.dataset} is one of files, whose test split is called test, not {test!r}"
        )
    opened = open_splits(config.dataset, wanted, config.data_dir, reading_of(config))
    said = [sentence for source in opened.values() for sentence in said_of(source).sentences]
    return [_part(source, split) for split, source in opened.items()], said


def _built(config: DataConfig, wanted: Sequence[str], test: str) -> tuple[list[_Part], list[str]]:
    """Splits of a built dataset, or of a task on one; validation is made where there is none."""
    reading = Reading(exclude=config.exclude)
    sources = open_built(
        config,
        wanted,
        lambda name: open_splits(config.dataset, (name,), config.data_dir, reading)[name],
        test=test,
    )
    division = Division(config.shares, config.fold)
    there = division.splits(sources)
    missing = [split for split in wanted if split not in there]
    if missing:
        raise no_split(f"dataset {config.dataset}", missing[0], there)
    parts = {
        split: _part(source, split)
        for split, source in sources.items()
        if split in wanted or config.fold is not None
    }
    patients = {split: part.patients for split, part in parts.items()}
    for split, assigned in division.assign(patients, sources).items():
        parts[split].split = assigned
    if "validation" not in sources and "validation" not in wanted:
        return list(parts.values()), []
    return list(parts.values()), [division_said(division, sources)]


def _part(source: RecordSource[Record], split: str) -> _Part:
    """Looks at the labels and patients of a split."""
    if isinstance(source, FileSource):
        return _Part(source, source.labels, source.patients, [split] * len(source))
    if of_patients(source):
        patients = source

        def eyes(index: int) -> list[tuple[int, int, np.ndarray, str]]:
            found = [eye_record(patients[index], side) for side in SIDES]
            return [
                (index, side, eye.labels, eye.patient_id)
                for side, eye in enumerate(found)
                if eye.image
            ]

        seen = [eye for patient in scan(len(source), eyes) for eye in patient]
        rows = np.array([each[:2] for each in seen], np.int64).reshape(-1, 2)
        images: RecordSource[ImageRecord] = Eyes(patients, rows, "image")
        labels, who = [each[2] for each in seen], [each[3] for each in seen]
    else:
        assert of_images(source)
        images = source

        def look(index: int) -> tuple[np.ndarray, str]:
            record = images[index]
            return record.labels, record.patient_id

        found = list(scan(len(source), look))
        labels, who = [each[0] for each in found], [each[1] for each in found]
    width = len(source.label_names)
    stacked = np.stack(labels).astype(np.int8) if labels else np.zeros((0, width), np.int8)
    return _Part(images, stacked, who, [split] * len(stacked))


def _patients_known(parts: Sequence[_Part]) -> bool:
    """Whether the records name patients: of built datasets, whether one has several records."""
    sources = [part.source for part in parts]
    if all(isinstance(source, FileSource) for source in sources):
        return all(source.patients_known for source in sources if isinstance(source, FileSource))
    if any(isinstance(source, Eyes) for source in sources):
        return True
    return any(len(set(part.patients)) < len(part.patients) for part in parts)


def _stacked(
    parts: Sequence[_Part], rows: Sequence[Int64[np.ndarray, " n"]], columns: Sequence[int]
) -> Int8[np.ndarray, "n columns"]:
    chosen = [part.labels[of][:, list(columns)] for part, of in zip(parts, rows, strict=True)]
    return np.concatenate(chosen)


def _columns(
    config: DataConfig,
    names: tuple[str, ...],
    shown: Int8[np.ndarray, "n all"],
    source: RecordSource,
) -> list[int]:
    """Positions of the classes among the source's; where none are named, all that are shown."""
    there = np.any(shown > 0, axis=0).reshape(-1)
    if not (shown >= 0).any():
        raise Unlabeled(
            f"no photograph of {source.name}, split {source.split}, has labels of its own: a head "
            "learns from classes of each photograph (or of each eye)"
        )
    if not config.classes:
        return np.flatnonzero(there).tolist()
    columns = []
    for name in config.classes:
        if name not in names:
            raise UserError(
                f"config.data.classes: {source.name} has no class {name!r} (classes: "
                f"{', '.join(names)}){did_you_mean(name, names)}"
            )
        column = names.index(name)
        if column in columns:
            raise UserError(f"config.data.classes names {name!r} twice")
        if not there[column]:
            raise UserError(
                f"config.data.classes: no photograph of the training split of {source.name} shows "
                f"{name!r}, so that nothing can be learned of it"
            )
        columns.append(column)
    return columns


def _unlearned(
    parts: Sequence[_Part],
    rows: dict[str, list[Int64[np.ndarray, " n"]]],
    names: Sequence[str],
    columns: set[int],
) -> str:
    """Names the classes that other splits show and training does not; empty where there is none."""
    others = [column for column in range(len(names)) if column not in columns]
    counts = [
        f"{names[column]} ({int(shown)} of {split})"
        for split in rows
        for column, shown in zip(
            others, (_stacked(parts, rows[split], others) > 0).sum(0), strict=True
        )
        if shown
    ]
    if not counts:
        return ""
    return f"not learned, for no training photograph shows them: {', '.join(counts)}"


def _outcome(labels: Int8[np.ndarray, "n all"], chosen: int, ordered: bool) -> Outcome:
    """What classes are to each other, as the labels of training have it.

    Some of several that exclude each other do so as well; one of them is there or not.
    """
    known = labels[(labels >= 0).any(1)]
    one_each = chosen > 1 and bool((known.clip(0).sum(1) == 1).all())
    return ("grades" if ordered else "exclusive") if one_each else "findings"


def _chosen(
    parts: Sequence[_Part],
    rows: Sequence[Int64[np.ndarray, " n"]],
    columns: Sequence[int],
    classes: tuple[str, ...],
    outcome: Outcome,
    split: str,
    known: bool,
) -> tuple[LabeledSource, str]:
    """The records of a split that have labels as the outcome wants them, and what was left out."""
    labels = _stacked(parts, rows, columns)
    usable: Bool[np.ndarray, " n"] = np.asarray((labels >= 0).any(1))
    said = [f"{int((~usable).sum())} have no labels"] if not usable.all() else []
    if outcome != "findings":
        one = (labels > 0).sum(1) == 1
        several = int((usable & ~one).sum())
        said += [f"{several} have none or several of the classes"] if several else []
        usable, labels = usable & one, labels.clip(0)
    if not usable.any():
        raise UserError(
            f"split {split} of {parts[0].source.name} has no photograph with "
            + ("labels" if outcome == "findings" else "exactly one of the classes")
            + "; give other shares (config.data.shares) where it was divided"
        )
    source, positions = _joined(parts, rows)
    patients = [parts[p].patients[row] for p, of in enumerate(rows) for row in of.tolist()]
    kept = np.flatnonzero(usable)
    left_out = f"{split}: photographs left out: {', '.join(said)}" if said else ""
    return (
        LabeledSource(
            source,
            positions[kept],
            labels[kept],
            [patients[row] for row in kept.tolist()],
            classes,
            outcome,
            split=split,
            patients_known=known,
        ),
        left_out,
    )


def _joined(
    parts: Sequence[_Part], rows: Sequence[Int64[np.ndarray, " n"]]
) -> tuple[RecordSource[ImageRecord], Int64[np.ndarray, " n"]]:
    """One source of the records of a split, and their positions in it."""
    holding = [(part, of) for part, of in zip(parts, rows, strict=True) if len(of)]
    if len(holding) <= 1:
        part, of = (holding or [(parts[0], rows[0])])[0]
        return part.source, of
    sources = [part.source for part, _ in holding]
    starts = np.cumsum([0, *(len(source) for source in sources[:-1])])
    positions = [of + start for (_, of), start in zip(holding, starts, strict=True)]
    return Chain(sources), np.concatenate(positions)


def _check(train: LabeledSource) -> None:
    """Refuses what nothing can be learned from.

    Raises:
      UserError: of classes that exclude each other there are fewer than two.
    """
    if train.outcome != "findings" and len(train.label_names) < 2:
        raise UserError(
            f"the training split of {train.name} shows {len(train.label_names)} class "
            f"({', '.join(train.label_names)}); classes that exclude each other are two or more"
        )
