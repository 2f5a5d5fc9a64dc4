"""Photographs of a task, the same for every model: splits, labels, and what takes no part."""

import csv
import dataclasses
import hashlib
from collections.abc import Mapping

import numpy as np
from jaxtyping import Int

from retfm_jax.config import DataConfig
from retfm_jax.data.class_files import Reading
from retfm_jax.data.exclusions import AUDITED, COLUMNS, read_exclusions
from retfm_jax.data.labeled import LabeledSource, Unlabeled, open_labeled
from retfm_jax.data.public_sets.bundled import public_sets
from retfm_jax.data.public_sets.description import PublicSet
from retfm_jax.data.segmented import masks_alone
from retfm_jax.data.sources import RecordSource
from retfm_jax.data.tasks import modality_of, open_task
from retfm_jax.dataset_folders import is_synthetic
from retfm_jax.errors import UserError
from retfm_jax.evaluation.metrics.grades import class_order
from retfm_jax.evaluation.protocols.supervised import Images, Looked, look
from retfm_jax.evaluation.study import undecodable
from retfm_jax.experiments.benchmark.blocks import in_blocks
from retfm_jax.experiments.benchmark.heads import Judge
from retfm_jax.experiments.benchmark.results import TaskFacts, folder_name
from retfm_jax.experiments.benchmark.suite import TaskEntry
from retfm_jax.files import Path, PathLike, as_path, atomic_write, read_json, write_json
from retfm_jax.runtime.lock import hold

SPLITS = ("train", "validation", "test")
#: In the folder of a task: facts of its labels, and the records that training leaves out.
FACTS, EXCLUSIONS = "task.json", "exclusions.csv"


@dataclasses.dataclass(frozen=True)
class Photographs:
    """Labeled photographs of a task, opened; every model sees these.

    Attributes:
      facts: what a reader must know of them.
      splits: of "train", "validation" and "test" the photographs that can be decoded, those of
        training and validation without what later splits hold too; None of a task without labels.
      data: configuration that fine-tuning opens the same splits with.
      judge: of validation predictions.
    """

    facts: TaskFacts
    splits: Mapping[str, Images] | None
    data: DataConfig
    judge: Judge

    @property
    def exclusive(self) -> bool:
        """Whether every photograph has exactly one class."""
        return self.facts.outcome != "findings"

    def labeled(self) -> Mapping[str, Images]:
        """The splits.

        Raises:
          Unlabeled: the task has no labels.
        """
        if self.splits is None:
            raise Unlabeled(f"{self.facts.name} has no labels of single photographs")
        return self.splits


@dataclasses.dataclass(frozen=True)
class Place:
    """Folders and lists that all of a benchmark shares.

    Attributes:
      out: folder of the benchmark.
      data_dir: where datasets are.
      exclude: an exclusion list whose records take no part in any split; None: nothing is left out.
      metric: the primary one, which decides on validation.
    """

    out: Path
    data_dir: str
    exclude: PathLike | None
    metric: str

    def task(self, name: str) -> Path:
        """Folder of what all models share of a task.

        Args:
          name: of the task, in the suite.
        """
        return self.out / "tasks" / folder_name(name)


def open_photographs(place: Place, name: str, entry: TaskEntry) -> Photographs:
    """Opens a task; what it takes to find copies and damage is kept beside the results.

    Args:
      place: of the benchmark.
      name, entry: of the task, in the suite.

    Raises:
      Held: another process looks through the task's photographs.
      UserError: the task cannot be opened, or is not what it was when other cells were measured.
    """
    data = data_of(place, entry)
    if masks_alone(entry.dataset):
        described = described_set(entry.dataset)
        modality = "cfp" if described is None else described.modality
        return _unlabeled(place, name, entry, data, modality)
    try:
        opened = open_labeled(data, SPLITS, test=entry.test)
    except Unlabeled:
        return _unlabeled(place, name, entry, data, modality_of(raw_test(place, entry)))
    order = class_order(opened.classes, stated=opened.outcome == "grades")
    if order is not None and opened.outcome == "grades" and not entry.classes:
        opened = opened.reordered(order.classes)
    splits = {split: _looked_through(place, name, opened.sources[split]) for split in SPLITS}
    dropped, said = keep_apart(name, splits)
    modality, notes = modality_of(raw_test(place, entry)), (*opened.said, *said)
    facts = facts_of(name, entry, splits, opened.classes, opened.outcome, modality, notes)
    keep_facts(place.task(name) / FACTS, facts, digest_of(splits))
    left_out = {split: _records(splits[split], dropped[split]) for split in dropped}
    path = place.task(name) / EXCLUSIONS
    exclude = exclusions(place, path, opened.sources["train"].name, entry, left_out)
    data = dataclasses.replace(
        data, classes=opened.classes, outcome=opened.outcome, exclude=exclude
    )
    judge = Judge(place.metric, opened.classes, opened.outcome != "findings", order)
    return Photographs(facts, splits, data, judge)


def _unlabeled(
    place: Place, name: str, entry: TaskEntry, data: DataConfig, modality: str
) -> Photographs:
    """A task without labels, of which some protocols can do something."""
    facts = facts_of(name, entry, {}, (), "", modality, ())
    keep_facts(place.task(name) / FACTS, facts, "")
    return Photographs(facts, None, data, Judge(place.metric, (), True))


def data_of(place: Place, entry: TaskEntry) -> DataConfig:
    """Configuration of the data of a task, as its suite has it.

    Args:
      place: of the benchmark.
      entry: of the task.
    """
    return DataConfig(
        dataset=entry.dataset,
        data_dir=place.data_dir,
        train_split=entry.train,
        eval_split=entry.validation,
        classes=entry.classes,
        outcome=entry.outcome,
        patient_regex=entry.patient_regex,
        follow_links=entry.follow_links,
        exclude=None if place.exclude is None else str(place.exclude),
    )


#: Record ids by split and reason.
Dropped = Mapping[str, dict[str, list[str]]]


def keep_apart(name: str, splits: Mapping[str, Images]) -> tuple[Dropped, tuple[str, ...]]:
    """Leaves out of training and validation what later splits hold, too.

    Args:
      name: of the task.
      splits: "train", "validation" and "test", of which the first two are changed.

    Returns:
      what was dropped of these two, and sentences on it and on what cannot be decoded.

    Raises:
      UserError: nothing is left of a split.
    """
    dropped = {
        "validation": splits["validation"].without(splits["test"]),
        "train": splits["train"].without(splits["test"]),
    }
    for reason, ids in splits["train"].without(splits["validation"]).items():
        dropped["train"][reason] += ids
    notes = []
    for split, reasons in dropped.items():
        for reason, ids in reasons.items():
            if ids:
                what = reason.replace("_", " ")
                notes.append(
                    f"{len(ids)} photographs left out of {split}: {what} as in later splits"
                )
    for split, images in splits.items():
        notes += [f"{split}: {each}" for each in undecodable(images.unusable)]
        if not images.rows:
            raise UserError(f"{name}: split {split} has no photograph left that can be used")
    return dropped, tuple(notes)


def raw_test(place: Place, entry: TaskEntry) -> RecordSource:
    """Opens the test split with its reports, patients as patients.

    Args:
      place: of the benchmark.
      entry: of the task.

    Raises:
      UserError: see `tasks.open_task`.
    """
    reading = Reading(entry.patient_regex, entry.follow_links, exclude=place.exclude)
    return open_task(entry.dataset, entry.test, place.data_dir, reading)


def read_facts(path: Path) -> TaskFacts | None:
    """Facts of a task that has been opened before; else None.

    Args:
      path: of the file that has them.

    Raises:
      UserError: it is damaged.
    """
    if not path.is_file():
        return None
    said = read_json(path)
    try:
        lists = {key: tuple(said["facts"][key]) for key in ("classes", "notes")}
        return TaskFacts(**{**said["facts"], **lists})
    except (KeyError, TypeError) as error:
        raise UserError(f"{path} is no task of a benchmark: remove it") from error


def _looked_through(place: Place, name: str, source: LabeledSource) -> Images:
    """Reads every photograph of a split once, or what an earlier process has found of them."""
    folder = place.task(name) / source.split

    def make(rows: range) -> dict[str, np.ndarray]:
        found = look(source, rows)
        digests = np.array([np.frombuffer(each.digest, np.uint8) for each in found])
        return {"digest": digests, "unusable": np.array([each.unusable for each in found], str)}

    with hold(place.task(name)):
        found = in_blocks(folder, len(source), make, f"looking through {name}, {source.split}")
    looked = [
        Looked(labels, patient, digest.tobytes(), str(unusable))
        for labels, patient, digest, unusable in zip(
            source.labels, source.patients, found["digest"], found["unusable"], strict=True
        )
    ]
    return Images(source, looked)


def _records(images: Images, reasons: Mapping[str, list[str]]) -> dict[str, str]:
    """Ids of dropped records as exclusion lists have them, with the reasons.

    Of an eye that is its patient's record: a list cannot leave out one eye.
    """
    found = {}
    for reason, ids in reasons.items():
        for record in ids:
            found[record] = reason.replace("_", " ")
            patient, slash, side = record.rpartition("/")
            if slash and side in ("left", "right"):
                found[patient] = found[record]
    return found


def exclusions(
    place: Place,
    path: Path,
    name: str,
    entry: TaskEntry,
    left_out: Mapping[str, Mapping[str, str]],
) -> str | None:
    """The list that training leaves out: the benchmark's own, and what is not to be learned from.

    Args:
      place: of the benchmark.
      path: of the list, which is written where there is something to add.
      name: of the set, as its records have it.
      entry: of the task.
      left_out: of "train" and "validation", record ids with the reason.

    Returns:
      the list's path; None where nothing is left out.

    Raises:
      UserError: it cannot be written, or the benchmark's own cannot be read.
    """
    given = None if place.exclude is None else str(place.exclude)
    if not any(left_out.values()):
        return given
    rows: list[dict[str, str]] = []
    if given is not None:
        for (of, split), members in read_exclusions(given).splits.items():
            rows.append({"set": of, "split": split, "reason": AUDITED})
            rows += [
                {"set": of, "split": split, "record": m.record, "reason": m.reason} for m in members
            ]
    everyone = {**left_out["validation"], **left_out["train"]}
    for split in dict.fromkeys((entry.train, entry.validation)):
        rows.append({"set": name, "split": split, "reason": AUDITED})
        rows += [
            {"set": name, "split": split, "record": record, "reason": reason}
            for record, reason in sorted(everyone.items())
        ]
    with atomic_write(path) as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return str(path)


def digest_of(splits: Mapping[str, Images], more: bytes = b"") -> str:
    """Identifies photographs, labels and patients of all splits.

    Args:
      splits: by name.
      more: what identifies all else that belongs to them.
    """
    found = hashlib.sha256(more)
    for split, images in splits.items():
        labels: Int[np.ndarray, "n classes"] = images.labels
        found.update(f"{split} {labels.shape}".encode())
        found.update(np.ascontiguousarray(labels.astype(np.int8)).tobytes())
        found.update("\0".join(images.patients).encode())
        found.update(b"".join(images.digests))
    return found.hexdigest()


def keep_facts(path: Path, facts: TaskFacts, digest: str) -> None:
    """Writes what the task is, or makes sure that it is what it was.

    Args:
      path: of the file.
      facts: of the task.
      digest: that identifies its photographs, see `digest_of`.

    Raises:
      UserError: it is another one.
    """
    if path.is_file():
        said = read_json(path)
        if said.get("digest") != digest:
            raise UserError(
                f"{facts.name} is not what it was when this benchmark began: photographs, labels "
                f"or splits have changed since {path} was written; take a new folder for the "
                "benchmark, or bring the data back"
            )
        return
    write_json(path, {"digest": digest, "facts": dataclasses.asdict(facts)})


def facts_of(
    name: str,
    entry: TaskEntry,
    splits: Mapping[str, Images],
    classes: tuple[str, ...],
    outcome: str,
    modality: str,
    notes: tuple[str, ...],
) -> TaskFacts:
    """Collects what a reader must know of a task.

    Args:
      name, entry: of the task, in the suite.
      splits: its photographs; {} where they have neither labels nor masks.
      classes, outcome, modality, notes: as of `TaskFacts`.
    """
    described = described_set(entry.dataset)
    known = all(getattr(images.source, "patients_known", False) for images in splits.values())
    return TaskFacts(
        name=name,
        classes=classes,
        outcome=outcome,
        images={split: len(images.rows) for split, images in splits.items()},
        patients={split: len(set(images.patients)) for split, images in splits.items()},
        patients_known=bool(splits) and known,
        modality=modality,
        citation="" if described is None else described.source,
        licence="" if described is None else described.licence,
        synthetic=described is not None and is_synthetic(described.name),
        notes=notes,
    )


def described_set(dataset: str) -> PublicSet | None:
    """The public set of a task or a built dataset; None where it is of none.

    Args:
      dataset: by its name or folder.
    """
    sets = public_sets()
    found = next((each for each in sets.values() if dataset in each.tasks), None)
    return found or next((sets[part] for part in as_path(dataset).parts if part in sets), None)
