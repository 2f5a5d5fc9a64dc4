"""Built datasets as random-access sources of records."""

import abc
import bisect
import dataclasses
import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Generic, Literal, TypeGuard, TypeVar

import numpy as np
from jaxtyping import Int64, UInt64

from retfm_jax import extras
from retfm_jax.config import DataConfig
from retfm_jax.console import say
from retfm_jax.data import case_keys, exclusions
from retfm_jax.data.datasets import open_builder, stored_digests
from retfm_jax.data.division import no_split
from retfm_jax.data.records import CaseRecord, ImageRecord, PatientRecord, parse_record
from retfm_jax.dataset_folders import find
from retfm_jax.errors import UserError, did_you_mean
from retfm_jax.files import Path, PathLike, as_path, reason
from retfm_jax.knowledge.laterality import SIDES, names_side

Record = PatientRecord | ImageRecord
#: The records of a source that has one kind of them: these, or what is made of them.
OneKind = TypeVar("OneKind", bound=Record | CaseRecord, covariant=True)

_SCANNED_AT_ONCE = 256


class DamagedRecord(UserError):
    """A record of a dataset cannot be read; the others can. Its message names the file."""


class RecordSource(abc.ABC, Generic[OneKind]):
    """Records by index.

    Attributes:
      name: of the dataset.
      split: its split, subsplits included ("train[:80%]").
      kind: what its records are.
      label_names: the classes of the records' label vectors.
      ordered: the classes are grades, from the lowest on, as a task states of its own.
    """

    name: str
    split: str
    kind: Literal["patient", "image", "case"]
    label_names: tuple[str, ...]
    ordered: bool = False

    @property
    def structures(self) -> tuple[str, ...]:
        """Of which the records have masks, in the order of these; () without masks."""
        return ()

    @abc.abstractmethod
    def __len__(self) -> int:
        """Number of records."""

    @abc.abstractmethod
    def __getitem__(self, index: int) -> OneKind:
        """Reads one record.

        Args:
          index: 0 <= index < len.

        Raises:
          DamagedRecord: the record cannot be read.
        """

    def __iter__(self) -> Iterator[OneKind]:
        for index in range(len(self)):
            yield self[index]

    @property
    @abc.abstractmethod
    def identity(self) -> dict[str, Any]:
        """JSON values that change whenever another set of records, or another order, is read."""

    @property
    def record_ids(self) -> list[str] | None:
        """Ids of all records where they are known without reading any, else None."""
        return None

    @property
    def case_keys(self) -> UInt64[np.ndarray, "n 3"] | None:
        """Table of the cases of all records (see `case_keys`), where known without reading any."""
        return None

    def at(self, indices: Int64[np.ndarray, " n"], why: str) -> "RecordSource[OneKind]":
        """Takes some of the records, with all that is known of the source.

        Args:
          indices: (n,) int64, of the records, in the order to take them in.
          why: what they have in common; with the source's identity it identifies them.
        """
        return Subset(self, indices, why)


def of_images(source: RecordSource[Record]) -> TypeGuard[RecordSource[ImageRecord]]:
    """Tells whether the records are single images.

    Args:
      source: of either kind.
    """
    return source.kind == "image"


def of_patients(source: RecordSource[Record]) -> TypeGuard[RecordSource[PatientRecord]]:
    """Tells whether the records are patients.

    Args:
      source: of either kind.
    """
    return source.kind == "patient"


class _TfdsSource(RecordSource[Record]):
    """A split of a dataset that TFDS built as array_record; opened at the first read."""

    def __init__(self, folder: Path, builder: Any, split: str):
        info = builder.info
        try:
            size = info.splits[split].num_examples
        except (KeyError, ValueError) as error:
            raise no_split(
                f"dataset {info.name} in {folder}", split, sorted(info.splits)
            ) from error
        self._folder, self._size, self._opened = str(folder), size, None
        parts = info.splits[split].file_instructions
        self._files = [str(part.filename) for part in parts]
        self._ends = list(itertools.accumulate(part.take for part in parts))
        self._taken = [(as_path(part.filename).name, part.skip, part.take) for part in parts]
        self.name, self.split = info.name, split
        features: Any = info.features  # those of `data.records`
        self.kind = "patient" if "left" in features else "image"
        self.label_names = tuple(features["labels"]["present"].feature.names)
        self._structures: tuple[str, ...] = ()
        if "structures" in features:
            self._structures = tuple(features["structures"].feature.names)
        shards = {name: list(part.shard_lengths) for name, part in sorted(info.splits.items())}
        self.identity_values = {
            "dataset": info.full_name,
            "split": split,
            "records": size,
            "shards": shards,
            "bytes": sum(part.num_bytes for part in info.splits.values()),
            "labels": list(self.label_names),
            # Of contents, not of names and sizes: a dataset that was built anew is another one.
            # None where version 0.1 built it.
            "contents": _digests_of(split, stored_digests(folder)),
            **({"structures": list(self._structures)} if self._structures else {}),
        }

    @property
    def structures(self) -> tuple[str, ...]:
        return self._structures

    @property
    def identity(self) -> dict[str, Any]:
        return self.identity_values

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, index: int) -> Record:
        index = int(index)
        try:
            if self._opened is None:
                self._opened = self._open()
            return parse_record(self._opened[index], len(self.label_names))
        except Exception as error:  # the reader is C++: damage is a bare RuntimeError
            shard = self._files[bisect.bisect_right(self._ends, index)]
            raise DamagedRecord(
                f"{shard}: record {index} of split {self.split} cannot be read "
                f"({reason(error)}): the file was changed or damaged after it was written. Copy it "
                "anew, or build the dataset anew"
            ) from error

    @property
    def case_keys(self) -> UInt64[np.ndarray, "n 3"] | None:
        stored = case_keys.read(as_path(self._folder))
        if stored is None:
            return None
        of_files: dict[str, np.ndarray] = {}
        for name, info in open_builder(self._folder).info.splits.items():
            ends = np.cumsum(info.shard_lengths)
            if name not in stored or len(stored[name]) != ends[-1]:
                return None  # of other records
            of_shards = np.split(stored[name], ends[:-1])
            names = [path.name for path in info.filepaths]
            of_files |= dict(zip(names, of_shards, strict=True))
        taken = [of_files[name][skip : skip + take] for name, skip, take in self._taken]
        return np.concatenate(taken)

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_opened": None}

    def _open(self) -> Sequence[Any]:
        with extras.needed("data"):
            import tensorflow_datasets as tfds

        return open_builder(self._folder).as_data_source(
            split=self.split, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES
        )


def _digests_of(split: str, digests: Mapping[str, str] | None) -> dict[str, str] | None:
    """Those of the splits that a slice such as "train[:80%]+validation" is made of."""
    if digests is None:
        return None
    return {name: digests[name] for name in re.findall(r"[a-z_]\w*", split) if name in digests}


class Wrapped(RecordSource[OneKind]):
    """Another source's records, of which subclasses change what is theirs.

    Args:
      source: of the records.
    """

    def __init__(self, source: RecordSource[OneKind]):
        self._source = source
        self.name, self.split, self.kind = source.name, source.split, source.kind
        self.label_names, self.ordered = source.label_names, source.ordered

    @property
    def structures(self) -> tuple[str, ...]:
        return self._source.structures

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> OneKind:
        return self._source[index]


class Subset(Wrapped[OneKind]):
    """Subset of another source's records, in an order of its own."""

    def __init__(self, source: RecordSource[OneKind], indices: Int64[np.ndarray, " n"], why: str):
        """Takes the records at `indices`.

        Args:
          source: whose records are taken.
          indices: (n,) int64, of records in `source`, in the order of the subset; one may stand
            twice.
          why: what the records have in common; with the source's identity it identifies the subset.
        """
        super().__init__(source)
        self._indices, self._why = indices, why

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> OneKind:
        return self._source[self._indices[index]]

    @property
    def identity(self) -> dict[str, Any]:
        return {**self._source.identity, "subset": self._why, "kept": len(self)}

    @property
    def case_keys(self) -> UInt64[np.ndarray, "n 3"] | None:
        keys = self._source.case_keys
        return None if keys is None else keys[self._indices]


class OtherLabels(Wrapped[ImageRecord]):
    """Images beside a source with labels of other names, of which none is known of them.

    Args:
      source: of images.
      label_names: those of the other source.
    """

    def __init__(self, source: RecordSource[ImageRecord], label_names: tuple[str, ...]):
        super().__init__(source)
        self.label_names, self.ordered = label_names, False

    def __getitem__(self, index: int) -> ImageRecord:
        record = self._source[index]
        labels = np.full(len(self.label_names), -1, np.int8)
        return dataclasses.replace(record, categories=self.categories(record), labels=labels)

    @abc.abstractmethod
    def categories(self, record: ImageRecord) -> tuple[str, ...]:
        """Names what a record shows, whatever the other source's labels are.

        Args:
          record: with the labels of its own source.
        """


class Chain(RecordSource[OneKind]):
    """Splits of one dataset of images, one after the other."""

    kind = "image"

    def __init__(self, sources: Sequence[RecordSource[OneKind]]):
        """Joins the splits.

        Args:
          sources: with the same labels and structures, at least one.
        """
        self._sources = list(sources)
        self._starts = np.cumsum([0, *(len(source) for source in sources)])
        self.name, self.label_names = sources[0].name, sources[0].label_names
        self.split = "+".join(source.split for source in sources)

    @property
    def structures(self) -> tuple[str, ...]:
        return self._sources[0].structures

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, index: int) -> OneKind:
        part = int(np.searchsorted(self._starts, index, side="right")) - 1
        return self._sources[part][int(index - self._starts[part])]

    @property
    def identity(self) -> dict[str, Any]:
        return {"parts": [source.identity for source in self._sources]}


class Eyes(RecordSource[ImageRecord]):
    """The eyes of patients as single images, each with the text that speaks of it."""

    kind = "image"

    def __init__(
        self, source: RecordSource[PatientRecord], eyes: Int64[np.ndarray, "n 2"], require: str
    ):
        """Takes some of the eyes.

        Args:
          source: of patients.
          eyes: (n, 2), of each the patient's index and the side's, 0 left and 1 right.
          require: what they have in common; with the source's identity it identifies them.
        """
        self._source, self._eyes, self._require = source, eyes, require
        self.name, self.split, self.label_names = source.name, source.split, source.label_names

    def __len__(self) -> int:
        return len(self._eyes)

    def __getitem__(self, index: int) -> ImageRecord:
        patient, side = self._eyes[index]
        return eye_record(self._source[patient], SIDES[side])

    @property
    def identity(self) -> dict[str, Any]:
        return {**self._source.identity, "eyes": self._require, "kept": len(self)}


def open_dataset(
    name_or_folder: str, split: str, data_dir: PathLike, exclude: PathLike | None = None
) -> RecordSource[Record]:
    """Opens a split of a built dataset.

    Args:
      name_or_folder: "synthetic_fundus", "name/config", "name/config/1.0.0", or the folder that
        holds a built dataset's `dataset_info.json`. Without a version the newest is taken.
      split: a TFDS split; slices such as "train[:80%]" are allowed.
      data_dir: where named datasets are.
      exclude: an exclusion list, whose records are left out, which is said; None: nothing is.

    Raises:
      UserError: the dataset is not built, several configurations are, or it was not written by
        this project's builders; it has no such split; or the list says nothing of it, or of all.
    """
    if not isinstance(split, str):
        raise UserError(f"a split is named, such as 'train', not {split!r:.60}")
    folder = find(name_or_folder, data_dir)
    builder = open_builder(folder)
    if "record_id" not in builder.info.features or "labels" not in builder.info.features:
        raise UserError(
            f"the dataset in {folder} holds neither patients nor single images as this project "
            "stores them; build it with `retfm data build` or `retfm data import`"
        )
    source = _TfdsSource(folder, builder, split)
    return source if exclude is None else without_excluded(source, exclude, split)


def open_training_split(config: DataConfig) -> RecordSource[Record]:
    """Opens the training split of a built dataset.

    Args:
      config: names the dataset, its folder, its split and the exclusion list.

    Raises:
      UserError: see `open_dataset`.
    """
    return open_dataset(config.dataset, config.train_split, config.data_dir, config.exclude)


def without_excluded(
    source: RecordSource[OneKind], exclude: PathLike, split: str | None
) -> RecordSource[OneKind]:
    """Leaves out the records that an exclusion list names, and says how many.

    Args:
      source: a split of a set, as it is.
      exclude: the list.
      split: see `Exclusions.of`.

    Raises:
      UserError: the list cannot be used, says nothing of this set, or leaves nothing.
    """
    listed = exclusions.read_exclusions(exclude).of(source.name, split, source.record_ids)
    rows, reasons = exclusions.kept(listed, _positions(source, listed))
    if len(rows) == len(source):
        raise UserError(
            f"{exclude} leaves out all {len(source)} records of {source.name}, split {source.split}"
        )
    say(exclusions.sentence(source.name, source.split, len(source), reasons, exclude))
    if not len(rows):
        return source
    left = np.setdiff1d(np.arange(len(source)), rows)
    return source.at(left, f"without {exclusions.digest(rows)}")


def _positions(
    source: RecordSource[Record | CaseRecord], listed: Mapping[str, exclusions.Excluded]
) -> dict[int, str]:
    """Positions of listed records: where the list says, else all records are read."""
    known = source.record_ids
    if known is not None:
        return dict(enumerate(known))
    found = {}
    for each in listed.values():
        if each.row is None or each.row >= len(source):
            break
        if source[each.row].record_id != each.record:
            break
        found[each.row] = each.record
    else:
        return found
    return dict(enumerate(scan(len(source), lambda index: source[index].record_id)))


def eye_record(patient: PatientRecord, side: Literal["left", "right"]) -> ImageRecord:
    """Makes a single image of one eye of a patient.

    Its caption is the part of the report that describes the eye, where that is known; else the
    report of the patient if it names no side, for then it describes both; else it is empty. Its
    labels are the eye's, never the patient's.

    Args:
      patient: whose eye it is.
      side: of the patient, not of the picture.
    """
    own = patient.left_report if side == "left" else patient.right_report
    labels = patient.left_labels if side == "left" else patient.right_labels
    caption = {
        language: own.get(language) or ("" if names_side(report) else report)
        for language, report in patient.report.items()
    }
    return ImageRecord(
        record_id=f"{patient.record_id}/{side}",
        patient_id=patient.record_id,
        image=patient.left if side == "left" else patient.right,
        caption=caption,
        categories=(),
        attributes=(),
        labels=labels,
    )


def as_images(
    source: RecordSource[Record], require: Literal["image", "caption", "category"] = "image"
) -> RecordSource[ImageRecord]:
    """Gives single images: the source itself, or the eyes of its patients.

    Args:
      source: of patients or of single images.
      require: which eyes are taken: all that have an image, those with a text of their own as well
        (see `eye_record`), or those with at least one label. Reads every patient once. Of single
        images those without a text are left out where a caption is required.

    Raises:
      UserError: no eye or image meets the requirement.
    """
    if of_images(source):
        return _with_caption(source) if require == "caption" else source
    assert of_patients(source)
    patients = source

    def eyes(index: int) -> list[tuple[int, int]]:
        records = [eye_record(patients[index], side) for side in SIDES]
        return [(index, side) for side, eye in enumerate(records) if _fulfils(eye, require)]

    found = [eye for patient in scan(len(source), eyes) for eye in patient]
    if not found:
        raise UserError(
            f"no eye in {source.name}, split {source.split}, has "
            + {
                "image": "an image",
                "caption": "a text of its own: give reports per eye, or reports that name no side",
                "category": "labels of its own: give labels per eye when the dataset is built",
            }[require]
        )
    return Eyes(patients, np.array(found, np.int64), require)


def _with_caption(source: RecordSource[ImageRecord]) -> RecordSource[ImageRecord]:
    kept = np.flatnonzero(
        list(scan(len(source), lambda index: any(source[index].caption.values())))
    )
    if not len(kept):
        raise UserError(f"no image of {source.name}, split {source.split}, has a text")
    return Subset(source, kept, "with a caption")


def _fulfils(eye: ImageRecord, require: str) -> bool:
    if not eye.image:
        return False
    if require == "caption":
        return any(eye.caption.values())
    return require == "image" or bool((eye.labels > 0).any())


def with_category(
    source: RecordSource[ImageRecord], banned: Sequence[str] = ()
) -> RecordSource[ImageRecord]:
    """Selects the images that have a category, none of them banned. Reads every record once.

    Args:
      source: of single images.
      banned: names of categories; an image that shows one of them is left out.

    Raises:
      UserError: nothing is left, or there is no such category: it would be banned in vain.
    """
    shown = list(scan(len(source), lambda index: source[index].shows(source.label_names)))
    known = {*source.label_names, *itertools.chain.from_iterable(shown)}
    for name in banned:
        if name not in known:
            raise UserError(
                f"config.data.banned_categories: {source.name} has no category {name!r}"
                + did_you_mean(name, sorted(known))
            )
    kept = np.flatnonzero([bool(names) and not set(names) & set(banned) for names in shown])
    if not len(kept):
        raise UserError(
            f"no record of {source.name}, split {source.split}, has a category"
            + (f" beside the banned ones ({', '.join(banned)})" if banned else "")
        )
    why = "with a category" + "".join(f", not {name}" for name in sorted(banned))
    return Subset(source, kept, why)


def balanced(source: RecordSource[ImageRecord]) -> RecordSource[ImageRecord]:
    """Takes the sets of a collection in turn, each as often as the largest of them.

    The set of an image is the first folder in its record id, as in a FLAIR-style collection. The
    images of a small set come back until the largest set is through, so an epoch is as many sets
    times the largest set long. Reads every record once.

    Args:
      source: of single images, whose record ids begin with a folder.

    Raises:
      UserError: the record ids name no sets.
    """

    def set_of(index: int) -> str:
        record = source[index]
        name, _, rest = record.record_id.partition("/")
        # "patient/left" is an eye, not an image of a set.
        return name if rest and name != record.patient_id else ""

    names = np.array(list(scan(len(source), set_of)))
    if not names.all():
        raise UserError(
            f"config.data.balance_sets: the records of {source.name} belong to no sets; their ids "
            "must begin with one, as those of `retfm data build flair` do (SET/image.jpg)"
        )
    members = [np.flatnonzero(names == name) for name in np.unique(names)]
    longest = max(map(len, members))
    turns = np.stack([np.resize(of_set, longest) for of_set in members], axis=1)
    return Subset(source, turns.ravel(), "sets in turn")


def scan(size: int, look: Callable[[int], Any]) -> Iterator[Any]:
    """Looks at all records in threads, and gives what was seen in their order.

    Args:
      size: number of records.
      look: called with the index of each; what it returns should be small.

    Yields:
      what `look` returned.
    """

    def look_at(start: int) -> list[Any]:
        return [look(index) for index in range(start, min(start + _SCANNED_AT_ONCE, size))]

    with ThreadPoolExecutor() as pool:
        for part in pool.map(look_at, range(0, size, _SCANNED_AT_ONCE)):
            yield from part
