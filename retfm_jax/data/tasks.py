"""Sources of a task's images, classes and prompts: a built dataset, a folder, a public set.

A task of one's own is a YAML file with these entries::

    classes   our condition id -> how the source names it
    ordered   true where the classes are grades, from the lowest on: then there is a quadratic kappa
    source    where the data comes from
    folder    the release as it was unpacked, below the data folder. Then either
    tables    for every split a table of images and grades: file, image, label, and, where wanted,
              images (their folder), suffix, patient (the column that names patients), or
    files     for every split and class a glob pattern;
    dataset   or a dataset that `retfm data build` made; images with exactly one of the classes
              count, at most `per_class` of each in a split; with `alone: true` those that show
              nothing else
    shares    divides a release without official splits, by a hash of the patient, or of the file's
              path below `folder` where nobody knows the patient
    pairs     a table of the release that pairs the eyes of patients: file, left, right
    images    how many the source publishes, in all or in each split; "any" where nobody says.
              An evaluation that finds another number says so
    modality  cfp (color fundus photographs, where nothing is said), ffa or oct

Published tasks are those of the public sets: see `data.public_sets.description`.
"""

import copy
import dataclasses
import difflib
import functools
import math
import os
import re
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64

from retfm_jax.data.building.splits import SPLITS, split_name
from retfm_jax.data.class_files import (
    AS_RELEASED,
    NOTHING_SAID,
    FileSource,
    Reading,
    Said,
    count,
    folder_sources,
    has_class_folders,
    layout_of,
    release_sources,
    split_folders,
)
from retfm_jax.data.class_files import whereabouts as release_whereabouts
from retfm_jax.data.public_sets.bundled import public_sets
from retfm_jax.data.public_sets.description import PublicSet, images_of
from retfm_jax.data.records import ImageRecord
from retfm_jax.data.sources import (
    RecordSource,
    Subset,
    as_images,
    open_dataset,
    without_excluded,
)
from retfm_jax.dataset_folders import find as find_built
from retfm_jax.dataset_folders import is_built
from retfm_jax.errors import UserError, did_you_mean
from retfm_jax.files import Path as FilePath
from retfm_jax.files import as_path, read_json
from retfm_jax.knowledge.prompts import MODALITIES, joint_modality
from retfm_jax.knowledge.vocabulary import load_vocabulary
from retfm_jax.parsing import read_yaml


class Selection(Subset):
    """Some records of a source under the name and the classes of a task.

    Args:
      name: of the task.
      source: of single images.
      rows: positions of the records in the source (n).
      classes: by the task's name of a class, its label in the source.
      said: notes on how they were selected.
    """

    def __init__(
        self,
        name: str,
        source: RecordSource,
        rows: Sequence[int],
        classes: Mapping[str, str],
        said: Said = NOTHING_SAID,
    ):
        super().__init__(source, np.array(rows, np.int64), f"task {name}")
        self._columns = [source.label_names.index(label) for label in classes.values()]
        self.name, self.said, self.label_names = name, said, tuple(classes)

    def __getitem__(self, index: int) -> ImageRecord:
        record = super().__getitem__(index)
        return dataclasses.replace(record, labels=record.labels[self._columns])

    @property
    def identity(self) -> dict[str, Any]:
        return super().identity | {"classes": self.label_names}

    def at(self, indices: Int64[np.ndarray, " n"], why: str) -> "Selection":
        """Takes some of the records; see `RecordSource.at`."""
        found = copy.copy(self)
        found._indices, found._why = self._indices[indices], f"{self._why}, {why}"
        return found


def open_task(name: str, split: str, data_dir: str, reading: Reading = AS_RELEASED) -> RecordSource:
    """Opens one split of a task's data; see `open_splits`.

    Args:
      name, data_dir, reading: as there.
      split: "train", "validation", "test" or "all"; of a built dataset any TFDS split.

    Raises:
      UserError: as there.
    """
    return open_splits(name, (split,), data_dir, reading)[split]


def open_splits(
    name: str, splits: Sequence[str], data_dir: str, reading: Reading = AS_RELEASED
) -> dict[str, RecordSource]:
    """Opens the data of a task by its name; files are listed and tables read once for all splits.

    Args:
      name: a folder with `train`, `val` or `test` of one folder a class, or a folder of these
        without splits; a task of a public set, or a YAML file with a task of one's own; or a
        built dataset.
      splits: "train", "validation", "test" or "all"; of a built dataset any TFDS splits.
      data_dir: folder of built datasets and of the tasks' own folders.
      reading: how files are read, where the task is one of files, and what is left out of any.

    Returns:
      by the names of the splits, the splits.

    Raises:
      UserError: there is no such task, folder or dataset, or it cannot be used; the message names
        what is wrong and where.
    """
    sources = _opened(name, splits, data_dir, reading)
    if reading.exclude is None:
        return sources
    return {
        split: without_excluded(
            source, reading.exclude, None if isinstance(source, FileSource) else split
        )
        for split, source in sources.items()
    }


def _opened(
    name: str, splits: Sequence[str], data_dir: str, reading: Reading = AS_RELEASED
) -> dict[str, RecordSource]:
    if isinstance(name, str) and not name.strip():
        raise UserError("a task has a name: a folder, a published task or a built dataset")
    as_path(name)  # refuses what is no path
    if not isinstance(data_dir, str):  # it may be empty where a folder is named
        as_path(data_dir)
    name = os.fspath(name)
    folder = Path(name).expanduser()
    if folder.is_dir() and any(split_folders(folder)):
        return {**folder_sources(folder, splits, reading)}
    if folder.suffix in (".yaml", ".yml"):
        task = _own_task(folder)
        return _described_sources(folder.stem, task, splits, Path(data_dir), reading)
    tasks = described_tasks()
    if name in tasks:
        return _described_sources(name, tasks[name], splits, Path(data_dir), reading)
    found = next((task for task in tasks if task.casefold() == name.casefold()), None)
    try:
        sources = {split: open_dataset(name, split, data_dir) for split in splits}
    except UserError as error:
        if found is not None and not is_built(name, data_dir):
            return _described_sources(found, tasks[found], splits, Path(data_dir), reading)
        if folder.is_dir() and not is_built(name, data_dir):
            if has_class_folders(folder):
                return {**folder_sources(folder, splits, reading)}
            raise UserError(
                f"{folder} is neither a built dataset nor a folder of classes: make "
                f"{folder}/train/<class>/*.jpg and {folder}/test/<class>/*.jpg, or "
                f"{folder}/<class>/*.jpg"
            ) from error
        hint = "" if is_built(name, data_dir) else did_you_mean(name, tasks)
        raise UserError(f"{error}{hint}") from error
    if reading.patient_regex is not None:
        raise UserError(_no_regex(name))
    return sources


def _no_regex(name: str) -> str:
    return (
        f"patient_regex reads file names, and {name} is a built dataset: give it to `retfm "
        "data import` or `retfm data build`, which store patients"
    )


def holds_records(name: str, data_dir: str) -> bool:
    """Tells whether a task's photographs are records of a built dataset, not files.

    Args:
      name, data_dir: see `open_splits`.

    Raises:
      UserError: the name is that of a YAML file that describes no task.
    """
    path = Path(os.fspath(name)).expanduser()
    if path.is_dir() and any(split_folders(path)):
        return False
    if path.suffix in (".yaml", ".yml"):
        return "dataset" in _own_task(path)
    task = described_tasks().get(name, {})
    if "set" in task and _is_from_built(task, Path(data_dir)):
        return True
    return "dataset" in task or is_built(name, data_dir)


def said_of(source: RecordSource) -> Said:
    """Notes on how a source was read; empty where there are none.

    Args:
      source: a split as `open_task` opens it.
    """
    return getattr(source, "said", NOTHING_SAID)


def counts_by(source: RecordSource) -> str:
    """The unit that intervals resample: "patient", or "image" where the patients are unknown.

    Of built sets of single images some records are looked at, evenly over the set.

    Args:
      source: the split that is predicted.
    """
    stated = getattr(source, "patients_known", None)
    if stated is not None:
        return "patient" if stated else "image"
    if source.kind == "patient":
        return "patient"
    rows = np.linspace(0, len(source) - 1, min(len(source), _LOOKED_AT)).astype(int)
    records = (source[int(row)] for row in rows)
    known = any(record.patient_id != record.record_id for record in records)
    return "patient" if known else "image"


@functools.cache
def described_tasks() -> dict[str, Any]:
    """Reads the tasks of all public sets by name."""
    return {
        name: _task({"source": described.source, **task}, f"task {name}")
        if "dataset" in task
        else _of_set(described, task)
        for described in public_sets().values()
        for name, task in described.tasks.items()
    }


def _of_set(described: PublicSet, said: Mapping[str, Any]) -> dict[str, Any]:
    """A task on the release of a public set, by one of its labels, or by some of its masks."""
    structures = said.get("masks", ())
    structures = (structures,) if isinstance(structures, str) else tuple(structures)
    label = None if structures else described.labels[said["label"]]
    names = structures if label is None else said.get("classes", label.classes)
    layouts = tuple(said.get("layouts", ()))
    chosen = [each for each in described.layouts if each.name in layouts or not layouts]
    # Where each of its layouts has splits of its own, there is nothing to divide.
    divided = any(part.split is None for layout in chosen for part in layout.parts)
    shares = said.get("shares", described.shares)
    folders = said.get("folder", described.folders)
    folders = (folders,) if isinstance(folders, str) else tuple(folders)
    images = images_of(said.get("images"), "images")
    own = images is not None or "classes" in said or "only" in said
    if not own:
        of_layout = chosen[0].images if len(chosen) == 1 else None
        images = described.images if of_layout is None else of_layout
    return {
        "set": described,
        **({"masks": structures} if label is None else {"label": label.name}),
        "layouts": layouts,
        "source": described.source,
        "folders": folders,
        "only": said.get("only"),
        "classes": {name: name for name in names},
        "classes_of": bool(said.get("classes")),
        "per_class": int(said.get("per_class", sys.maxsize)),
        "images": "any" if images is None else images,
        "images_of_layout": not own,
        "ordered": label is not None and label.ordered,
        "modality": described.modality,
        **({"shares": {k: float(v) for k, v in shares.items()}} if divided else {}),
        **({"pairs": described.pairs} if described.pairs else {}),
    }


def whereabouts(task: Mapping[str, Any], data_dir: str) -> str:
    """Says what of a task's data is there: its folder, a built dataset, or "" where nothing is.

    Args:
      task: one of `described_tasks`.
      data_dir: folder of built datasets and of the tasks' own folders.
    """
    if "dataset" in task:
        return "built" if is_built(task["dataset"], data_dir) else ""
    described: PublicSet = task["set"]
    built = "built" if is_built(described.name, data_dir) else ""
    there = release_whereabouts(task, Path(data_dir))
    if there is None or (there.layout is None and _is_of_another(described, there.folder)):
        return built
    return ", ".join(filter(None, [str(there), built]))


def _is_of_another(described: PublicSet, folder: FilePath) -> bool:
    """Whether a folder that sets share holds the release of another one than this."""
    return any(
        {*other.folders} & {*described.folders} and layout_of(other, folder, ()) is not None
        for other in public_sets().values()
        if other.name != described.name
    )


#: Entries of a task, and what is wanted of those that are plain texts.
_ENTRIES = (
    "source", "folder", "classes", "tables", "files", "dataset", "shares", "modality", "per_class",
    "alone", "images", "pairs", "ordered",
)  # fmt: skip
_OF_A_TABLE = ("file", "image", "label", "images", "suffix", "patient")


def _task(task: dict[str, Any], where: str) -> dict[str, Any]:
    """A task whose numbers are numbers; its names stay as they are written.

    Raises:
      UserError: an entry is of another shape than a task's; the message names it.
    """

    def need(fine: bool, what: str) -> None:
        if not fine:
            raise UserError(f"{where}: {what}")

    def texts(value: Any, entry: str, wanted: Iterable[str] = ()) -> None:
        need(
            isinstance(value, dict)
            and all(isinstance(part, str) for pair in value.items() for part in pair),
            f"`{entry}` is a mapping of names to texts, not {_short(value)}",
        )
        for key in wanted:
            need(bool(value.get(key)), f"`{entry}` has no `{key}`")

    need(isinstance(task, dict), f"a task is a mapping, not {_short(task)}")
    for key in task:
        near = difflib.get_close_matches(str(key), _ENTRIES, n=1, cutoff=0.8)
        need(key in _ENTRIES or not near, f"no entry `{key}`; did you mean `{near and near[0]}`?")
    texts(task.get("classes"), "classes")
    need(bool(task["classes"]) and "" not in task["classes"], "`classes` names no class")
    for entry in ("source", "folder", "dataset", "modality"):
        value = task.get(entry, "")
        need(isinstance(value, str), f"`{entry}` is a text, not {_short(value)}")
    parts = task.get("tables", task.get("files", {}))
    need(
        isinstance(parts, dict) and all(isinstance(part, str) for part in parts),
        f"`tables` and `files` are mappings of splits, not {_short(parts)}",
    )
    need("dataset" in task or bool(parts), "it names no split")
    for split in parts:
        known = split == "" if "shares" in task else split_name(split) is not None
        divided = ' or "" where `shares` divide it'
        need(known, f"{split!r} is no split: {', '.join(SPLITS)}{divided}")
    for split, table in task.get("tables", {}).items():
        texts(table, f"tables: {split}", ("file", "image", "label"))
        for key in table:
            need(key in _OF_A_TABLE, f"`tables: {split}` has no `{key}` ({', '.join(_OF_A_TABLE)})")
    for split, patterns in task.get("files", {}).items():
        texts(patterns, f"files: {split}")
        for label, pattern in patterns.items():
            hint = did_you_mean(label, task["classes"])
            known = ", ".join(task["classes"])
            need(label in task["classes"], f"{label!r} is none of its classes ({known}){hint}")
            need(bool(pattern), f"the pattern of {label!r} is empty")
    if "files" not in task:
        twice = [name for name, many in Counter(task["classes"].values()).items() if many > 1]
        need(not twice, f"two classes are called {twice and twice[0]!r} by the source")
    if "pairs" in task:
        texts(task["pairs"], "pairs", ("file", "left", "right"))
    return {**task, **_numbers(task, need)}


def _numbers(task: Mapping[str, Any], need: Any) -> dict[str, Any]:
    """The entries of a task that are no texts."""

    def number(value: Any, entry: str, kind: type) -> Any:
        try:
            found = kind(value)
        except (ValueError, TypeError):
            found = math.nan
        need(math.isfinite(found) and found >= 0, f"`{entry}` is a number, not {_short(value)}")
        return found

    found: dict[str, Any] = {}
    if "shares" in task:
        shares = task["shares"]
        need(
            isinstance(shares, dict) and set(shares) <= set(SPLITS),
            f"`shares` is a mapping of {', '.join(SPLITS)} to numbers, not {_short(shares)}",
        )
        found["shares"] = {name: number(share, "shares", float) for name, share in shares.items()}
        need(abs(sum(found["shares"].values()) - 1) < 1e-6, "`shares` do not sum to 1")
    if "per_class" in task:
        found["per_class"] = number(task["per_class"], "per_class", int)
        need(found["per_class"] > 0, "`per_class` is 0")
    for entry in ("alone", "ordered"):
        if entry in task:
            said = {"true": True, "false": False}.get(str(task[entry]).lower())
            need(said is not None, f"`{entry}` is true or false, not {_short(task[entry])}")
            found[entry] = said
    images = task.get("images", "any")
    if isinstance(images, dict):
        found["images"] = {
            split_name(str(split)): number(value, "images", int) for split, value in images.items()
        }
    elif images != "any":
        found["images"] = number(images, "images", int)
    return found


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:60] + "..."


_LOOKED_AT = 64


def modality_of(source: RecordSource) -> str:
    """Modality of a source's images, for the wording of prompts: see `prompts.joint_modality`.

    Patients are pairs of fundus photographs. Of built sets of single images some records are looked
    at, evenly over the set.

    Args:
      source: the split that is predicted.

    Returns:
      one of `prompts.MODALITIES`, or "mixed".
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
            "`dataset`, `tables` and `files`, as docs/evaluation.md has it"
        )
    unnamed = [label for label, name in task["classes"].items() if not isinstance(name, str)]
    if unnamed:
        raise UserError(
            f"{path}: class {unnamed[0]!r} is {task['classes'][unnamed[0]]!r}: put the source's "
            "name for it in quotes"
        )
    task = _task(task, str(path))
    modality = task.get("modality", "cfp")
    if modality not in MODALITIES:
        raise UserError(f"{path}: modality {modality!r}; there are {', '.join(MODALITIES)}")
    return {"source": "its files", "folder": ".", **task}


def _described_sources(
    name: str,
    task: Mapping[str, Any],
    splits: Sequence[str],
    data_dir: Path,
    reading: Reading = AS_RELEASED,
) -> dict[str, RecordSource]:
    sources: dict[str, RecordSource]
    if "masks" in task:
        raise UserError(
            f"task {name} is one of masks ({', '.join(task['masks'])}), not of classes: it is for "
            "segmentation"
        )
    if "dataset" in task:
        sources = {
            split: _from_dataset(name, task, split_name(split) or split, data_dir)
            for split in splits
        }
    elif "set" in task and _is_from_built(task, data_dir):
        if reading.patient_regex is not None:
            raise UserError(_no_regex(task["set"].name))
        sources = {
            split: _from_built(name, task, split_name(split) or split, data_dir) for split in splits
        }
    else:
        sources = {**release_sources(name, task, splits, data_dir, reading)}
    for source in sources.values():
        source.ordered = task.get("ordered", False)
    return sources


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
    said, facts = count(name, task, split, len(rows))
    return Selection(name, source, rows, classes, Said((said,) if said else (), facts))


def _is_from_built(task: Mapping[str, Any], data_dir: Path) -> bool:
    """Whether a task's release is not there, and the set that was built of it is."""
    there = release_whereabouts(task, data_dir)
    missing = there is None or not there.fits
    return missing and is_built(task["set"].name, data_dir)


def _from_built(name: str, task: Mapping[str, Any], split: str, data_dir: Path) -> RecordSource:
    """Records of the set that was built of a task's release, by the task's label.

    Raises:
      UserError: it was built of another layout than the task takes, or of none that is known.
    """
    from retfm_jax.data.building.builder import SUMMARY_FILE  # and with it TFDS

    described: PublicSet = task["set"]
    label = described.labels[task["label"]]
    folder = find_built(described.name, data_dir)
    summary = read_json(folder / SUMMARY_FILE) if (folder / SUMMARY_FILE).is_file() else {}
    layout = summary.get("layout", "")
    if task["layouts"] and layout not in task["layouts"]:
        of = f"the layout {layout!r}" if layout else "a layout that it does not name"
        raise UserError(
            f"task {name} takes the layouts {', '.join(task['layouts'])}, and {folder} was built "
            f"of {of}: put the release into {data_dir / task['folders'][0]}, or build it anew"
        )
    source = as_images(open_dataset(described.name, split, str(data_dir)))
    columns = {each: source.label_names.index(each) for each in label.classes}
    only = re.compile(task["only"] or "", re.IGNORECASE)
    chosen = []
    for row, record in enumerate(source):
        values = {each: int(record.labels[column]) for each, column in columns.items()}
        present = [each for each, value in values.items() if value > 0]
        known = min(values.values()) >= 0 if label.findings else len(present) == 1
        wanted = label.findings or (known and present[0] in task["classes"])
        if known and wanted and only.search(record.record_id):
            chosen.append((record.record_id, present, row))
    taken: Counter[str] = Counter()
    rows = []
    for _, present, row in sorted(chosen):
        taken.update(present)
        if label.findings or taken[present[0]] <= task["per_class"]:
            rows.append(row)
    if not rows:
        raise UserError(f"task {name}: no image of {source.name}, split {split}, has its label")
    by_split = isinstance(task.get("images"), Mapping)
    counted, facts = count(name, task if by_split else {}, split, len(rows))
    said = f"task {name} is read from the built dataset {source.name}, with its splits"
    sentences = tuple(filter(None, (said, counted)))
    return Selection(name, source, sorted(rows), task["classes"], Said(sentences, facts))


def same_conditions(names: Sequence[str]) -> list[tuple[str, ...]]:
    """Groups classes that are one condition under several names: their prompts are the same.

    Args:
      names: of the classes.

    Returns:
      groups of at least two names.
    """
    vocabulary = load_vocabulary()
    alike: dict[str, list[str]] = {}
    for name in names:
        condition = vocabulary.find(name)
        if condition is not None:
            alike.setdefault(condition.id, []).append(name)
    return [tuple(members) for members in alike.values() if len(members) > 1]


def unknown_classes(names: Sequence[str]) -> tuple[str, ...]:
    """Classes that the vocabulary does not know, so that there are no prompts for them.

    Args:
      names: of the classes.
    """
    vocabulary = load_vocabulary()
    return tuple(name for name in names if vocabulary.find(name) is None)
