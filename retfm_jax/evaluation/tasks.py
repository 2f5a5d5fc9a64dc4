"""Where a task's images, classes and prompts come from: a built dataset, a folder, `tasks.yaml`."""

import dataclasses
import difflib
import functools
import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from retfm_jax.data import tables
from retfm_jax.data.cells import is_empty, read_yaml, same_name
from retfm_jax.data.records import LANGUAGES, ImageRecord
from retfm_jax.data.sources import RecordSource, as_images, is_built, open_dataset
from retfm_jax.data.splits import SPLITS, hashed_split, split_name
from retfm_jax.data.validation import ProblemLog
from retfm_jax.errors import UserError
from retfm_jax.evaluation.embeddings import Prompts
from retfm_jax.knowledge.prompts import (
    MODALITIES,
    class_prompts,
    joint_modality,
    knowledge_prompts,
)
from retfm_jax.knowledge.vocabulary import load_vocabulary

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp")

PROMPT_STYLES = ("report", "name", "knowledge")

_TASKS_FILE = Path(__file__).with_name("tasks.yaml")


@dataclasses.dataclass(frozen=True)
class LabelledFile:
    """A photograph on disk with its class and the patient that it shows."""

    path: Path
    label: str
    patient: str


class FileSource(RecordSource):
    """Photographs on disk with one class each, read when they are asked for."""

    kind = "image"

    def __init__(
        self,
        name: str,
        split: str,
        classes: Sequence[str],
        files: Sequence[LabelledFile],
        modality: str = "cfp",
    ):
        self.name, self.split, self.label_names = name, split, tuple(classes)
        self._files, self.modality = tuple(files), modality

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> ImageRecord:
        file = self._files[index]
        try:
            image = file.path.read_bytes()
        except OSError as error:
            raise UserError(f"cannot read {file.path}: {error.strerror or error}") from error
        labels = np.zeros(len(self.label_names), np.int8)
        labels[self.label_names.index(file.label)] = 1
        return ImageRecord(
            record_id=str(file.path),
            patient_id=file.patient,
            image=image,
            caption=dict.fromkeys(LANGUAGES, ""),
            categories=(file.label,),
            attributes=(self.modality,),
            labels=labels,
        )

    @property
    def identity(self) -> dict[str, Any]:
        listing = "\n".join(f"{file.path}\t{file.label}" for file in self._files)
        digest = hashlib.sha256(listing.encode()).hexdigest()
        return {"task": self.name, "split": self.split, "files": digest}


class Selection(RecordSource):
    """Some records of a source under the name and the classes of a task."""

    def __init__(
        self, name: str, source: RecordSource, rows: Sequence[int], classes: Mapping[str, str]
    ):
        self._source, self._rows = source, tuple(rows)
        self._columns = [source.label_names.index(label) for label in classes.values()]
        self.name, self.split, self.kind = name, source.split, source.kind
        self.label_names = tuple(classes)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> ImageRecord:
        record = self._source[self._rows[index]]
        return dataclasses.replace(record, labels=record.labels[self._columns])

    @property
    def identity(self) -> dict[str, Any]:
        return {**self._source.identity, "classes": self.label_names, "rows": self._rows}


def open_task(name: str, split: str, data_dir: str) -> RecordSource:
    """Opens what `--dataset` names.

    Args:
      name: a folder with `train`, `val` or `test` of one folder a class; a task of `tasks.yaml`, or
        a YAML file with one task of that form; or a built dataset.
      split: "train", "validation" or "test"; of a built dataset any TFDS split.
      data_dir: where built datasets and the tasks' own folders are.

    Raises:
      UserError: there is no such task, folder or dataset, or it cannot be used; the message says
        what is wrong where.
    """
    folder = Path(name).expanduser()
    if folder.is_dir() and any(_split_folders(folder)):
        return _folder_source(folder, split)
    if folder.suffix in (".yaml", ".yml"):
        return _described_source(folder.stem, _own_task(folder), split, Path(data_dir))
    tasks = described_tasks()
    if name in tasks:
        return _described_source(name, tasks[name], split, Path(data_dir))
    found = next((task for task in tasks if task.casefold() == name.casefold()), None)
    try:
        return open_dataset(name, split, data_dir)
    except UserError as error:
        if found is not None and not is_built(name, data_dir):
            return _described_source(found, tasks[found], split, Path(data_dir))
        if folder.is_dir():
            raise UserError(
                f"{folder} is neither a built dataset nor a folder of classes: make "
                f"{folder}/train/<class>/*.jpg and {folder}/test/<class>/*.jpg"
            ) from error
        near = difflib.get_close_matches(name.casefold(), [t.casefold() for t in tasks], n=1)
        hint = f"; or did you mean the task {near[0]!r}?" if near else ""
        raise UserError(f"{error}{hint}") from error


@functools.cache
def described_tasks() -> dict[str, Any]:
    """The tasks of `tasks.yaml` by name."""
    return {name: _task(task, f"task {name}") for name, task in read_yaml(_TASKS_FILE).items()}


def _task(task: dict[str, Any], where: str) -> dict[str, Any]:
    """A task whose numbers are numbers; its names stay as they are written.

    Raises:
      UserError: one is no number.
    """
    try:
        if "shares" in task:
            task["shares"] = {split: float(share) for split, share in task["shares"].items()}
        if "per_class" in task:
            task["per_class"] = int(task["per_class"])
        if "alone" in task:
            task["alone"] = {"true": True, "false": False}[task["alone"].lower()]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(
            f"{where}: `shares` is a mapping of splits to numbers, `per_class` a number and "
            "`alone` true or false"
        ) from error
    return task


_LOOKED_AT = 64


def modality_of(source: RecordSource) -> str:
    """What the images of a source are, for the wording of prompts: see `prompts.joint_modality`.

    Patients are pairs of fundus photographs. Of built sets of single images some records are asked,
    evenly over the set.
    """
    if isinstance(source, FileSource):
        return source.modality
    if source.kind == "patient":
        return "cfp"
    rows = np.linspace(0, len(source) - 1, min(len(source), _LOOKED_AT)).astype(int)
    return joint_modality(source[int(row)].attributes for row in rows)


def _own_task(path: Path) -> dict[str, Any]:
    task = read_yaml(path, "the task")
    kinds = [kind for kind in ("dataset", "tables", "files") if kind in (task or {})]
    if not isinstance(task, dict) or not isinstance(task.get("classes"), dict) or len(kinds) != 1:
        raise UserError(
            f"{path} is no task: it needs `classes` (our name: the source's name) and one of "
            "`dataset`, `tables` and `files`, as in retfm_jax/evaluation/tasks.yaml"
        )
    unnamed = [label for label, name in task["classes"].items() if not isinstance(name, str)]
    if unnamed:
        raise UserError(
            f"{path}: class {unnamed[0]!r} is {task['classes'][unnamed[0]]!r}: put the source's "
            "name for it in quotes"
        )
    modality = task.get("modality", "cfp")
    if modality not in MODALITIES:
        raise UserError(f"{path}: modality {modality!r}; there are {', '.join(MODALITIES)}")
    return {"source": "its files", "folder": ".", **_task(task, str(path))}


def _split_folders(folder: Path) -> dict[str, Path]:
    """TFDS's name of every split -> its folder."""
    return {
        split: child
        for child in sorted(folder.iterdir())
        if child.is_dir() and (split := split_name(child.name)) is not None
    }


def _pictures(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)


def _folder_source(folder: Path, split: str) -> FileSource:
    splits = _split_folders(folder)
    wanted = split_name(split)
    if wanted not in splits:
        raise UserError(f"{folder} has no split {split!r}; it has {', '.join(splits)}")
    names = {
        name: {child.name for child in child_folder.iterdir() if child.is_dir()}
        for name, child_folder in splits.items()
    }
    reference = "train" if "train" in splits else wanted
    classes = sorted(names[reference])
    if len(classes) < 2:
        raise UserError(
            f"{splits[reference]} holds {len(classes)} class folders ({', '.join(classes)}); "
            "a task needs at least two, each named after its class"
        )
    for name in sorted(names[wanted] - set(classes)):
        near = difflib.get_close_matches(name, classes, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise UserError(
            f"{splits[wanted] / name}: {name!r} is no class of {splits[reference]} "
            f"(classes: {', '.join(classes)}){hint}"
        )
    files = []
    for name in classes:
        place = splits[wanted] / name
        found = _pictures(place) if place.is_dir() else []
        if place.is_dir() and not found:
            raise UserError(
                f"class folder {place} holds no image ({', '.join(IMAGE_SUFFIXES)}); "
                "fill it or remove the class"
            )
        files += [LabelledFile(path, name, str(path)) for path in found]
    if len(files) < 2:
        raise UserError(
            f"{splits[wanted]} holds {len(files)} images; nothing can be measured on fewer than two"
        )
    return FileSource(folder.name, wanted, classes, files)


def _described_source(
    name: str, task: Mapping[str, Any], split: str, data_dir: Path
) -> RecordSource:
    classes: dict[str, str] = task["classes"]
    wanted = split_name(split)
    if "dataset" in task:
        return _from_dataset(name, task, wanted or split, data_dir)
    if wanted is None:
        raise UserError(f"task {name} has the splits {', '.join(SPLITS)}, not {split!r}")
    folder = data_dir / task["folder"]
    if not folder.is_dir():
        raise UserError(
            f"task {name}: put {task['source']} into {folder} (or choose another --data_dir)"
        )
    read = _from_tables if "tables" in task else _from_patterns
    files = read(name, task, folder)
    if "shares" in task:
        chosen = [f for f in files[""] if hashed_split(f.patient, task["shares"], 0) == wanted]
    else:
        chosen = files.get(wanted, [])
    if not chosen:
        official = task.get("shares") or files
        raise UserError(f"task {name} has no split {split!r}; it has {', '.join(official)}")
    return FileSource(name, wanted, tuple(classes), chosen, task.get("modality", "cfp"))


def _from_tables(name: str, task: Mapping[str, Any], folder: Path) -> dict[str, list[LabelledFile]]:
    """Files and classes of tables: image name -> grade, a table for every split.

    A class is what `classes` calls it, also where that is "None" or "NA"; rows without an image or
    a grade are passed over.
    """
    classes = {grade: label for label, grade in task["classes"].items()}
    files: dict[str, list[LabelledFile]] = {}
    for split, described in task["tables"].items():
        path = folder / described["file"]
        problems = ProblemLog()
        table = tables.read_csv(path, problems)
        for problem in problems.problems:
            raise UserError(f"task {name}: {path} row {problem.row}: {problem.what}")
        tables.require_columns(table, (described["image"], described["label"]))
        for line in table.rows:
            image, grade = line.cells[described["image"]], line.cells[described["label"]]
            known = same_name(grade, classes)
            if is_empty(image) or (known is None and is_empty(grade)):
                continue
            if known is None:
                raise UserError(
                    f"task {name}: {path} row {line.row}: {grade!r} is none of {', '.join(classes)}"
                )
            picture = folder / described["images"] / f"{image}{described.get('suffix', '')}"
            if not picture.is_file():
                raise UserError(f"task {name}: {path} row {line.row}: {picture} does not exist")
            labelled = LabelledFile(picture, classes[known], str(picture))
            files.setdefault(split, []).append(labelled)
    return files


def _from_patterns(
    name: str, task: Mapping[str, Any], folder: Path
) -> dict[str, list[LabelledFile]]:
    """Files of glob patterns, one list of patterns for every split and class."""
    files: dict[str, list[LabelledFile]] = {}
    for split, patterns in task["files"].items():
        for label, pattern in patterns.items():
            found = sorted(p for p in folder.glob(pattern) if p.suffix.lower() in IMAGE_SUFFIXES)
            if not found:
                raise UserError(
                    f"task {name}: no image matches {folder / pattern} (class {label}); "
                    f"the layout of {task['source']} is expected"
                )
            files.setdefault(split, []).extend(LabelledFile(p, label, str(p)) for p in found)
    return files


def _from_dataset(name: str, task: Mapping[str, Any], split: str, data_dir: Path) -> RecordSource:
    """Single images that have exactly one of the task's classes, at most so many of each.

    What else an image shows does not count, unless the task wants its classes `alone`.
    """
    source = as_images(open_dataset(task["dataset"], split, str(data_dir)))
    classes: dict[str, str] = task["classes"]
    missing = [label for label in classes.values() if label not in source.label_names]
    if missing:
        raise UserError(
            f"task {name}: dataset {source.name} has no label {', '.join(missing)} "
            f"(labels: {', '.join(source.label_names)})"
        )
    columns = [source.label_names.index(label) for label in classes.values()]
    taken: Counter[int] = Counter()
    rows = []
    for row, record in enumerate(source):
        present = [column for column in columns if record.labels[column] > 0]
        others = (record.labels > 0).sum() - len(present)
        if len(present) == 1 and not (others and task.get("alone")):
            taken[present[0]] += 1
            if taken[present[0]] <= task.get("per_class", len(source)):
                rows.append(row)
    if not rows:
        raise UserError(f"task {name}: no image of {source.name}, split {split}, has one class")
    return Selection(name, source, rows, classes)


def prompts_of(style: str, modality: str = "cfp") -> Prompts:
    """The prompts of a class.

    Args:
      style: one of `PROMPT_STYLES`: "report" words them as reports do, per eye; "name" is
        KeepFIT's "A fundus photograph of [CLS]"; "knowledge" adds one such text for every expert
        description of the class.
      modality: of the images; it decides what the prompts call them.
    """
    if style == "report":
        return functools.partial(class_prompts, modality=modality)

    def prompts(name: str, language: str, eye: str | None) -> Sequence[str]:
        texts = knowledge_prompts(name, language, modality=modality)
        return texts if style == "knowledge" else texts[:1]

    return prompts


def unknown_classes(names: Sequence[str]) -> tuple[str, ...]:
    """Classes that the vocabulary does not know, so that nobody can say in words what they are."""
    vocabulary = load_vocabulary()
    return tuple(name for name in names if vocabulary.find(name) is None)
