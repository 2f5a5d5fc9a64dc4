"""Photographs on disk with one class each: folders of classes, and releases that a task describes.

`data.photographs` decides which files are photographs, `data.patients` who their patients are; here
files get their classes and splits. Nothing outside the folder or release is read.
"""

import collections
import dataclasses
import hashlib
import itertools
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from jaxtyping import Int8, Int64

from retfm_jax.data import image_files, photographs
from retfm_jax.data.building import patients
from retfm_jax.data.building.splits import SPLITS, hashed_split, split_name
from retfm_jax.data.building.validation import ProblemLog
from retfm_jax.data.cells import is_empty, same_name
from retfm_jax.data.division import UNDIVIDED, Division, no_split
from retfm_jax.data.division import said_of as division_said
from retfm_jax.data.importing import tables
from retfm_jax.data.public_sets import reading as public_reading
from retfm_jax.data.public_sets.counts import counted
from retfm_jax.data.public_sets.description import Layout, PublicSet
from retfm_jax.data.public_sets.layouts import choose
from retfm_jax.data.records import ImageRecord
from retfm_jax.data.sources import RecordSource
from retfm_jax.errors import Unusable, UserError, did_you_mean
from retfm_jax.files import Path, PathLike
from retfm_jax.knowledge.vocabulary import LANGUAGES


@dataclasses.dataclass(frozen=True)
class Reading:
    """Settings of how the files of a folder or release are read.

    Attributes:
      patient_regex: finds the patient in a file's name, see `patients.parse_regex`; None: patients
        are known as the folder or release tells them.
      follow_links: whether targets of symbolic links outside the release are read.
      division: how splits are made that are not there; None: of a folder of class folders without
        splits as `Division` makes them, of all else as it is.
      exclude: an exclusion list, whose records are left out (see `data.exclusions`); None: nothing.
    """

    patient_regex: str | None = None
    follow_links: bool = False
    division: Division | None = None
    exclude: PathLike | None = None


#: The split of all that is there, for networks that learned nothing of it.
ALL = "all"

#: Patients as the release tells them, nothing outside of it.
AS_RELEASED = Reading()


@dataclasses.dataclass(frozen=True)
class LabeledFile:
    """A photograph on disk with its classes and the patient that it shows.

    Attributes:
      path: where it is read.
      relative: its path below the folder or release, with forward slashes.
      labels: names of its class, or of the findings that it shows.
      patient: an id that does not depend on where the release lies.
    """

    path: Path
    relative: str
    labels: tuple[str, ...]
    patient: str = ""


@dataclasses.dataclass(frozen=True)
class Said:
    """Notes on how a source was read.

    Attributes:
      sentences: for the user.
      facts: the same as JSON values.
      broken: files that are named as photographs and hold none.
    """

    sentences: tuple[str, ...] = ()
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    broken: tuple[str, ...] = ()


NOTHING_SAID = Said()


class FileSource(RecordSource):
    """Photographs on disk with one class each, read when they are asked for.

    Args:
      name: of the task or folder.
      split: "train", "validation" or "test".
      classes: names of all classes, in the order of the labels.
      files: the photographs of the split.
      modality: of all of them, one of `prompts.MODALITIES`, or "mixed".
      said: notes on how they were read.
      patients_known: whether `files` name real patients, so that intervals can be by patient.
    """

    kind = "image"

    def __init__(
        self,
        name: str,
        split: str,
        classes: Sequence[str],
        files: Sequence[LabeledFile],
        modality: str = "cfp",
        said: Said = NOTHING_SAID,
        patients_known: bool = False,
    ):
        self.name, self.split, self.label_names = name, split, tuple(classes)
        self._files, self.modality, self.said = tuple(files), modality, said
        self.patients_known = patients_known

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> ImageRecord:
        """Reads a record; its image is empty where the file can no longer be read."""
        file = self._files[index]
        try:
            image = image_files.read(file.path)
        except Unusable:
            image = b""
        labels = np.zeros(len(self.label_names), np.int8)
        labels[[self.label_names.index(name) for name in file.labels]] = 1
        return ImageRecord(
            record_id=file.relative,
            patient_id=file.patient,
            image=image,
            caption=dict.fromkeys(LANGUAGES, ""),
            categories=file.labels,
            attributes=(self.modality,),
            labels=labels,
        )

    @property
    def labels(self) -> Int8[np.ndarray, "n classes"]:
        """Labels of all records, multi-hot, without reading a photograph."""
        column = {name: index for index, name in enumerate(self.label_names)}
        hot = np.zeros((len(self._files), len(column)), np.int8)
        for row, file in enumerate(self._files):
            hot[row, [column[name] for name in file.labels]] = 1
        return hot

    @property
    def patients(self) -> list[str]:
        """Patients of all records, without reading a photograph."""
        return [file.patient for file in self._files]

    @property
    def record_ids(self) -> list[str]:
        """Ids of all records: paths below the release."""
        return [file.relative for file in self._files]

    def at(self, indices: Int64[np.ndarray, " n"], why: str) -> "FileSource":
        """Takes some of the photographs; see `RecordSource.at`."""
        found = FileSource(
            self.name,
            self.split,
            self.label_names,
            [self._files[index] for index in indices],
            self.modality,
            self.said,
            self.patients_known,
        )
        found.ordered = self.ordered
        return found

    @property
    def identity(self) -> dict[str, Any]:
        listing = "\n".join(
            f"{file.relative}\t{'; '.join(file.labels)}\t{file.patient}" for file in self._files
        )
        digest = hashlib.sha256(listing.encode("utf-8", "surrogateescape")).hexdigest()
        return {"task": self.name, "split": self.split, "files": digest}


def split_folders(folder: Path) -> dict[str, Path]:
    """Finds the folder of every split, by TFDS's names.

    Args:
      folder: whose subfolders are looked at; others than splits are passed over.

    Raises:
      UserError: two folders are called by the same split ("val" and "valid").
    """
    found: dict[str, Path] = {}
    for child in photographs.folders(folder):
        split = split_name(child.name)
        if split in found:
            raise UserError(f"{found[split]} and {child} both are the split {split}; keep one")
        if split is not None:
            found[split] = child
    return found


def _split(name: str) -> str | None:
    return ALL if name == ALL else split_name(name)


def has_class_folders(folder: Path) -> bool:
    """Tells whether a folder without splits holds photographs in at least two folders.

    Args:
      folder: whose subfolders are looked at, until there are two.
    """
    filled = (child for child in photographs.folders(folder) if photographs.names(child))
    return len(list(itertools.islice(filled, 2))) == 2


def is_class_folder(folder: Path) -> bool:
    """Tells whether photographs lie in folders of classes, with or without splits above them.

    Args:
      folder: that may hold them; it may be missing.
    """
    return folder.is_dir() and (bool(split_folders(folder)) or has_class_folders(folder))


def folder_sources(
    folder: Path, splits: Sequence[str], reading: Reading = AS_RELEASED
) -> dict[str, FileSource]:
    """Opens splits of a folder of class folders, which is listed once.

    Args:
      folder: holds a folder for every split, and these a folder for every class; or the folders of
        the classes, and is divided.
      splits: any names of splits, such as "val" or "validation", or `ALL`.
      reading: how the files are read.

    Returns:
      by the names of the splits as given, the splits.

    Raises:
      UserError: it has no such split, too few classes or images, or an unknown or empty class.
    """
    parts = split_folders(folder) or {UNDIVIDED: folder}
    division = reading.division or (Division() if UNDIVIDED in parts else None)
    there = list(parts) if division is None else division.splits(parts)
    wanted = {split: _split(split) for split in splits}
    for split, name in wanted.items():
        if name not in (*there, ALL):
            raise UserError(
                f"{folder} has no split {split!r}; it has {', '.join(there)}, and {ALL!r} of them"
                + did_you_mean(split, there)
            )
    first = next((wanted[split] for split in splits if wanted[split] in parts), None)
    reference = parts.get(UNDIVIDED) or parts.get("train") or parts[first or next(iter(parts))]
    classes = [child.name for child in photographs.folders(reference)]
    if len(classes) < 2:
        raise UserError(
            f"{reference} holds {len(classes)} class folders ({', '.join(classes)}); "
            "a task needs at least two, each named after its class"
        )
    _check_alike(classes, reference)
    listed = {
        part: _listed(child, "" if part == UNDIVIDED else f"{child.name}/", classes, reference)
        for part, child in parts.items()
        if division is not None or {part, ALL} & {*wanted.values()}
    }
    # What is evaluated may not be in another split, whatever else lies there.
    beside = {
        part: [f"{child.name}/{relative}" for relative in photographs.names(child)]
        for part, child in parts.items()
        if part != UNDIVIDED
    }
    told, told_by = patients.read_tables(folder)
    who = patients.identify(
        # A link may lead to a folder that was met in another class already.
        itertools.chain(
            *beside.values(), (file.relative for files, _ in listed.values() for file in files)
        ),
        regex=reading.patient_regex,
        pairs=told,
        pairs_from=told_by,
    )
    torn = patients.on_both_sides(
        {name: [who.ids[each] for each in names] for name, names in beside.items()}
        if who.known
        else {}
    )
    found: dict[str, list[LabeledFile]] = {part: [] for part in parts if part != UNDIVIDED}
    named = {
        part: [dataclasses.replace(file, patient=who.ids[file.relative]) for file in files]
        for part, (files, _) in listed.items()
    }
    everything = {file.relative: file for files in named.values() for file in files}
    paths = {relative: folder / relative for names in beside.values() for relative in names}
    copies = _copies(everything, paths)
    assigned = {part: [part] * len(files) for part, files in named.items()}
    if division is not None:
        assigned = division.assign(_groups(named, copies))
    split_of: dict[str, str] = {
        relative: part for part, relatives in beside.items() for relative in relatives
    }
    for part, files in named.items():
        for file, split in zip(files, assigned[part], strict=True):
            found.setdefault(split, []).append(file)
            split_of[file.relative] = split
    passed_over = photographs.merged(*(over for _, over in listed.values()))
    divided = "" if division is None else division_said(division, parts)
    found[ALL] = [*everything.values()]
    sources = {}
    for split, name in wanted.items():
        chosen = found.get(name or "", [])
        if len(chosen) < 2:
            where = f"{parts[name]}" if name in parts else f"{folder}, split {name},"
            raise UserError(
                f"{where} holds {len(chosen)} images; nothing can be measured on fewer than two"
            )
        here = dict.fromkeys(split_of, ALL) if name == ALL else split_of
        copied = _copied(copies, everything, name or "", here)
        sources[split] = FileSource(
            folder.name or folder.resolve().name,
            name or "",
            classes,
            chosen,
            said=_said(
                passed_over,
                who,
                torn,
                [divided * (name != ALL), *copied],
            ),
            patients_known=who.known,
        )
    return sources


def _listed(
    folder: Path, prefix: str, classes: Sequence[str], reference: Path
) -> tuple[list[LabeledFile], dict[str, tuple[str, ...]]]:
    """The photographs in class folders, and the files that were passed over, by reason."""
    files: list[LabeledFile] = []
    passed_over = [photographs.beside(folder, prefix.rstrip("/"))]
    for child in photographs.folders(folder):
        label = _class_of(child, classes, reference)
        listing = photographs.find(child)
        if not listing.photographs:
            raise UserError(
                f"class folder {child} holds no image; fill it or remove the class"
                + _because(listing.passed_over)
            )
        below = f"{prefix}{child.name}"
        files += [
            LabeledFile(path, f"{below}/{relative}", (label,))
            for path, relative in zip(listing.paths(), listing.photographs, strict=True)
        ]
        passed_over.append(_below(below, listing.passed_over))
    return files, photographs.merged(*passed_over)


def _copies(files: Mapping[str, LabeledFile], others: Mapping[str, Path]) -> list[tuple[str, ...]]:
    """Groups of photographs that are there several times, byte for byte.

    Args:
      files: those with a class, by their paths below the release.
      others: all other files that could be copies of them.
    """
    named = {
        relative: path
        for relative, path in others.items()
        if path.suffix.lower() in photographs.PHOTOGRAPH_SUFFIXES
    }
    return photographs.copies(named | {relative: file.path for relative, file in files.items()})


def _groups(
    parts: Mapping[str, Sequence[LabeledFile]], copies: Sequence[Sequence[str]]
) -> dict[str, list[str]]:
    """By part, whose photograph each file is: patients who share a photograph are one.

    So no photograph is on both sides of a division, also where nobody knows the patients.
    """
    patient_of = {file.relative: file.patient for files in parts.values() for file in files}
    joined: dict[str, str] = {}

    def first(patient: str) -> str:
        while joined.get(patient, patient) != patient:
            patient = joined[patient]
        return patient

    for group in copies:
        found = sorted({first(patient_of[name]) for name in group if name in patient_of})
        joined |= dict.fromkeys(found, found[0]) if found else {}
    return {part: [first(file.patient) for file in files] for part, files in parts.items()}


def _copied(
    copies: Sequence[Sequence[str]],
    files: Mapping[str, LabeledFile],
    split: str,
    split_of: Mapping[str, str],
) -> list[str]:
    """Describes which photographs of a split are in another one, in two classes or twice.

    Args:
      copies: see `_copies`.
      files: those with a class, by their paths below the release.
      split: what is evaluated.
      split_of: the split of every file.
    """
    said: dict[str, list[str]] = {}
    for group in copies:
        here = [name for name in group if split_of[name] == split and name in files]
        example = " = ".join(sorted(group))
        for other in sorted({split_of[name] for name in group} - {split}) if here else ():
            said.setdefault(f"photographs of {split} are in {other} as well", []).append(example)
        if len({files[name].labels for name in here}) > 1:
            said.setdefault(f"photographs of {split} are in several classes", []).append(example)
        elif len(here) > 1:
            said.setdefault(f"photographs of {split} are there several times", []).append(example)
    return [
        f"{len(examples)} {what}, byte for byte ({_first(examples, 3)})"
        for what, examples in said.items()
    ]


def _first(names: Sequence[str], most: int, comma: str = ", ") -> str:
    """The first of some names, and whether there are more."""
    return comma.join([*names[:most], *["..."] * (len(names) > most)])


def _check_alike(classes: Sequence[str], reference: Path) -> None:
    """Refuses one class in two folders: another case, form of Unicode or kind of space."""
    alike: dict[str, list[str]] = {}
    for name in classes:
        alike.setdefault(" ".join(image_files.folded(name).replace("_", " ").split()), []).append(
            name
        )
    for names in alike.values():
        if len(names) > 1:
            written = " and ".join(
                f"{name!r} ({name!a})" if name.isprintable() and not name.isascii() else repr(name)
                for name in names
            )
            raise UserError(
                f"{reference} holds the class folders {written}, which are one name written in "
                "several ways: move their photographs into one of them"
            )


def _class_of(folder: Path, classes: Sequence[str], reference: Path) -> str:
    """The class that a folder's name means, spelled as the reference's folders are."""
    name = folder.name
    same = [each for each in classes if image_files.folded(each) == image_files.folded(name)]
    if name in classes:
        return name
    if len(same) == 1:
        return same[0]
    hint = did_you_mean(name, classes)
    raise UserError(
        f"{folder}: {name!r} is no class of {reference} (classes: {', '.join(classes)}){hint}"
    )


def _below(folder: str, passed_over: Mapping[str, Sequence[str]]) -> dict[str, tuple[str, ...]]:
    return {
        reason: tuple(f"{folder}/{name}" for name in names) for reason, names in passed_over.items()
    }


def _because(passed_over: Mapping[str, Sequence[str]]) -> str:
    said = photographs.sentence(passed_over)
    return f" ({said})" if said else ""


def _said(
    passed_over: Mapping[str, Sequence[str]],
    who: patients.Patients,
    torn: str,
    sentences: Sequence[str] = (),
    **facts: Any,
) -> Said:
    over = photographs.sentence(passed_over)
    return Said(
        sentences=tuple(filter(None, [over, *sentences, torn, who.sentence])),
        facts={
            **facts,
            "patients": who.sentence,
            **({"patients_in_two_splits": torn} if torn else {}),
            **({"passed_over": photographs.to_json(passed_over)} if over else {}),
        },
        broken=tuple(passed_over.get("broken", ())),
    )


def release_sources(
    name: str,
    task: Mapping[str, Any],
    splits: Sequence[str],
    data_dir: Path,
    reading: Reading = AS_RELEASED,
) -> dict[str, FileSource]:
    """Opens splits of the release of a public set, or of one's own that a task describes.

    Args:
      name: of the task.
      task: its entries, see `data.tasks`, checked.
      splits: any names of splits, such as "val" or "validation", or `ALL`.
      data_dir: parent of the task's folder.
      reading: how the files are read.

    Returns:
      by the names of the splits as given, the splits.

    Raises:
      UserError: the release is missing, is not as the task describes it, or leaves its folder.
    """
    wanted = {split: _split(split) for split in splits}
    for split, part in wanted.items():
        if part is None:
            known = ", ".join((*SPLITS, ALL))
            raise UserError(f"task {name} has the splits {known}, not {split!r}")
    folder = _release(name, task, data_dir)
    if "set" in task:
        found = _from_set(name, task, folder, reading)
        task = {**task, "images": found.images}
        folder = found.folder or folder
    else:
        read = _from_tables if "tables" in task else _from_patterns
        found = read(name, task, folder, reading)
    names = [file.relative for files in found.files.values() for file in files]
    told, told_by, missing = _pairs(name, task, folder, reading)
    who = patients.identify(
        names, given=found.given, regex=reading.patient_regex, pairs=told, pairs_from=told_by
    )
    files = {
        part: [dataclasses.replace(file, patient=who.ids[file.relative]) for file in members]
        for part, members in found.files.items()
    }
    division, torn, divided = reading.division, "", ""
    everyone = sum(len(members) for members in files.values())
    if "shares" in task and (division is None or division.fold is None):
        for file in files.pop(UNDIVIDED, []):
            files.setdefault(hashed_split(file.patient, task["shares"], 0), []).append(file)
    elif who.known:
        torn = patients.on_both_sides(
            {part: [file.patient for file in members] for part, members in files.items()}
        )
    official = {part: len(members) for part, members in files.items()}
    apart: list[str] = []
    if "set" in task and task["set"].patients_apart:
        files, apart = _apart(files)
        torn = ""
    copies = _copies({file.relative: file for each in files.values() for file in each}, {})
    if division is not None:
        divided = division_said(division, official)
        assigned = division.assign(_groups(files, copies))
        members, files = files, {}
        for part, of in assigned.items():
            for file, split in zip(members[part], of, strict=True):
                files.setdefault(split, []).append(file)
    for split, part in wanted.items():
        if part != ALL and not files.get(part or ""):
            raise no_split(f"task {name}", split, task.get("shares") or files)
    split_of = {file.relative: part for part, members in files.items() for file in members}
    files[ALL] = [*{file.relative: file for each in files.values() for file in each}.values()]
    sources = {}
    for split, part in wanted.items():
        chosen = files[part or ""]
        by_split = part != ALL and isinstance(task.get("images"), Mapping)
        here = official.get(part or "", len(chosen)) if by_split else everyone
        counted, facts = count(name, task, part or "", here)
        # A file may be in several splits: here it is in this one.
        owned = split_of | {file.relative: part or "" for file in chosen}
        copied = _copied(copies, {file.relative: file for file in chosen}, part or "", owned)
        sources[split] = FileSource(
            name,
            part or "",
            tuple(task["classes"]),
            chosen,
            task.get("modality", "cfp"),
            _said(
                found.passed_over,
                who,
                torn,
                [counted, *found.sentences, missing, divided, *apart, *copied],
                **facts,
            ),
            who.known,
        )
    return sources


def _apart(
    files: Mapping[str, list[LabeledFile]],
) -> tuple[dict[str, list[LabeledFile]], list[str]]:
    """The same splits, none with a patient of another one, and sentences for the user."""
    left_out = patients.to_leave_out(
        {part: [file.patient for file in members] for part, members in files.items()}
    )
    kept = {
        part: [file for file in members if file.patient not in left_out.get(part, ())]
        for part, members in files.items()
    }
    return kept, [
        patients.apart_said(part, len(who), len(files[part]) - len(kept[part]))
        for part, who in left_out.items()
        if part is not None
    ]


def count(name: str, task: Mapping[str, Any], split: str, here: int) -> tuple[str, dict[str, Any]]:
    """Compares how many images are here with how many the source publishes.

    Args:
      name: of the task, for the sentence.
      task: its entries; `images` is the published number, of all or by split.
      split: "train", "validation", "test" or `ALL`.
      here: how many images are here.

    Returns:
      a sentence where the numbers differ, else "", and the numbers as JSON values.
    """
    published = task.get("images")
    where = ""
    if isinstance(published, Mapping) and split == ALL:
        published = sum(published.values())
    elif isinstance(published, Mapping):
        published, where = published.get(split), f" in {split}"
    if not isinstance(published, int):
        return "", {"images_here": here}
    known = task["set"].versions.get(here) if "set" in task and not where else None
    said = f"task {name}: {here} images are here: {known}" if known else ""
    if published != here and not known:
        said = (
            f"task {name}: its source publishes {published} images{where}, {here} are here; "
            "numbers do not compare with those on the whole release"
        )
    return said, {"images_published": published, "images_here": here}


@dataclasses.dataclass
class _Found:
    """Files of a release by split, the patients that a column gives, and sentences for the user."""

    files: dict[str, list[LabeledFile]] = dataclasses.field(default_factory=dict)
    given: dict[str, str] = dataclasses.field(default_factory=dict)
    sentences: list[str] = dataclasses.field(default_factory=list)
    passed_over: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=dict)
    folder: Path | None = None
    images: int | Mapping[str, int] | None = None


def _from_set(name: str, task: Mapping[str, Any], folder: Path, reading: Reading) -> _Found:
    """Files and classes of a public set's release, by one of its labels."""
    described: PublicSet = task["set"]
    label = described.labels[task["label"]]
    release = public_reading.read(
        described,
        folder,
        labels=[label.name],
        layouts=task["layouts"],
        follow_links=reading.follow_links,
    )
    for problem in release.problems.problems:
        raise UserError(f"task {name}: {problem.file} row {problem.row}: {problem.what}")
    for file, row, what in release.faults:
        raise UserError(f"task {name}: {file} row {row}: {what}")
    found = _Found(
        passed_over=release.passed_over,
        sentences=list(release.sentences),
        folder=release.folder,
        images=release.images if task["images_of_layout"] else task["images"],
    )
    respelled, unlabeled, repeated = [], [], []
    only = None if task["only"] is None else re.compile(task["only"], re.IGNORECASE)
    seen: dict[tuple[str, str], tuple[tuple[str, ...], public_reading.Photograph]] = {}
    for each in release.photographs:
        where = f"task {name}: {each.file} row {each.row}"
        try:
            labels = public_reading.labels_of(label, each.cells)
        except ValueError as error:
            raise UserError(f"{where}: {error}") from error
        record = public_reading.record_id(described, each)
        if only is not None and only.search(record) is None:
            continue
        if labels is None:
            unlabeled.append(each.relative)
            continue
        try:
            picture = image_files.locate(
                release.folder, each.relative, follow_links=reading.follow_links
            )
        except Unusable as error:
            raise UserError(f"{where}: {error}") from error
        if picture.spelled:
            respelled.append((each.relative, picture.spelled))
        part = each.split or ""
        known, first = seen.setdefault((part, record), (labels, each))
        if known != labels:
            raise UserError(
                f"{where}: {each.relative!r} is {', '.join(labels)} here and {', '.join(known)} in "
                f"{f'row {first.row}' if first.row else first.relative}"
            )
        if first is not each:
            repeated.append(each.relative)
            continue
        if each.patient:
            found.given[record] = each.patient
        found.files.setdefault(part, []).append(LabeledFile(picture.path, record, labels))
    if task["classes_of"]:
        found.files = {part: _some(of, task) for part, of in found.files.items()}
    if unlabeled:
        found.sentences.append(
            f"left out for they have no label: {len(unlabeled)} images ({_first(unlabeled, 5)})"
        )
    if repeated:
        found.sentences.append(
            f"rows that name an image again were left out: {len(repeated)} ({_first(repeated, 5)})"
        )
    found.sentences.append(image_files.respelled(respelled))
    if task["images_of_layout"]:
        shown = [each.labels for files in found.files.values() for each in files]
        found.sentences += counted(label, found.images, shown)
    return found


def _some(files: Sequence[LabeledFile], task: Mapping[str, Any]) -> list[LabeledFile]:
    """Files of the classes that a task takes, at most so many of each, by their paths."""
    taken: collections.Counter[tuple[str, ...]] = collections.Counter()
    chosen = []
    for file in sorted(files, key=lambda file: file.relative):
        taken[file.labels] += 1
        if file.labels[0] in task["classes"] and taken[file.labels] <= task["per_class"]:
            chosen.append(file)
    return chosen


@dataclasses.dataclass(frozen=True)
class Whereabouts:
    """The release of a public set's task as it lies in a data folder.

    Attributes:
      place: of those where it may lie.
      folder: the same below the data folder.
      layout: that is there; None where none is known.
      fits: whether the task takes it.
    """

    place: str
    folder: Path
    layout: Layout | None
    fits: bool

    def __str__(self) -> str:
        """Says it in a table's cell."""
        if self.layout is None:
            return f"{self.place} in no known layout"
        return f"{self.place} ({self.layout.name}{', another layout' * (not self.fits)})"


def whereabouts(task: Mapping[str, Any], data_dir: Path) -> Whereabouts | None:
    """Finds the release of a public set's task, in the places where it may lie.

    Args:
      task: its entries; `folders` are those places.
      data_dir: the data folder.

    Returns:
      the first place that holds one of the task's layouts, else the first that is there; None
      where none is there.
    """
    there = None
    for place in task["folders"]:
        folder = release_folder(place, data_dir)
        if not folder.is_dir():
            continue
        layout = layout_of(task["set"], folder, task["layouts"])
        if layout is not None:
            return Whereabouts(place, folder, layout, True)
        there = there or Whereabouts(place, folder, layout_of(task["set"], folder, ()), False)
    return there


def layout_of(described: PublicSet, folder: Path, allowed: Sequence[str]) -> Layout | None:
    """Finds the layout of a set's release that lies in a folder; None where none does.

    Args:
      described: the set.
      folder: of the release, or above it.
      allowed: names of the layouts that count; all where there are none.
    """
    try:
        return choose(described, folder, allowed)[0]
    except UserError:
        return None


def _release(name: str, task: Mapping[str, Any], data_dir: Path) -> Path:
    """The folder of a release."""
    if "set" in task and (there := whereabouts(task, data_dir)) is not None:
        return there.folder
    relative = task["folders"][0] if "set" in task else task["folder"]
    _require_below(f"task {name}: folder", relative, "give its parent as data_dir")
    folder = release_folder(relative, data_dir)
    if not folder.is_dir():
        layouts = " or ".join(task.get("layouts", ()))
        how = f", laid out as {layouts} (`retfm tasks {name}` shows it)," if layouts else ""
        raise UserError(
            f"task {name}: put {task['source']}{how} into {folder} (or choose another data_dir)"
        )
    return folder


def release_folder(relative: str, data_dir: Path) -> Path:
    """Finds the folder of a release, whatever its letter case; it may not be there.

    Args:
      relative: its path below the data folder.
      data_dir: the data folder.
    """
    try:
        return image_files.locate(data_dir, relative, follow_links=True).path
    except Unusable:
        return data_dir / relative


def _require_below(where: str, path: str, remedy: str) -> None:
    """Refuses a path or pattern that leaves the folder that it starts from."""
    parts = PurePosixPath(path.replace("\\", "/")).parts
    if os.path.isabs(path) or parts[:1] == ("/",) or ".." in parts or ":" in (parts or ("",))[0]:
        raise UserError(f"{where} {path!r} leads outside the release; {remedy}")


_BELOW = "give a path below the task's folder"


def _pairs(
    name: str, task: Mapping[str, Any], folder: Path, reading: Reading
) -> tuple[dict[str, str], str, str]:
    """Patients by the release's table of pairs, its name, and a sentence where it is missing."""
    described = task.get("pairs")
    if described is None:
        return {}, "", ""
    try:
        path = image_files.locate(folder, described["file"], follow_links=reading.follow_links).path
    except Unusable as error:
        if error.kind != "missing_image":
            raise
        missing = f"{described['file']}, which pairs the eyes of patients, is not in the release"
        return {}, "", missing
    return patients.read_pairs(path, described["left"], described["right"]), described["file"], ""


def _from_tables(name: str, task: Mapping[str, Any], folder: Path, reading: Reading) -> _Found:
    """Files and classes of tables: image name -> grade, a table for every split.

    A class is what `classes` calls it, also where that is "None" or "NA"; rows without an image or
    a grade are passed over.
    """
    classes = {grade: label for label, grade in task["classes"].items()}
    found, respelled, ungraded, repeated = _Found(), [], [], []
    graded: dict[tuple[str, str], tuple[str, int]] = {}
    for split, described in task["tables"].items():
        for key in ("file", "images"):
            _require_below(f"task {name}: {key}", described.get(key, "."), _BELOW)
        try:
            path = image_files.locate(
                folder, described["file"], follow_links=reading.follow_links
            ).path
        except Unusable as error:
            raise UserError(f"task {name}: {error}") from error
        table = _table(name, path)
        tables.require_columns(table, (described["image"], described["label"]))
        patient = described.get("patient")
        tables.require_columns(table, (patient,) if patient else ())
        for line in table.rows:
            image, grade = line.cells[described["image"]], line.cells[described["label"]]
            known = same_name(grade, classes)
            if is_empty(image) or (known is None and is_empty(grade)):
                if not is_empty(image):
                    ungraded.append(image)
                continue
            where = f"task {name}: {path} row {line.row}"
            if known is None:
                raise UserError(f"{where}: {grade!r} is none of {', '.join(classes)}")
            written = f"{image}{described.get('suffix', '')}"
            if not os.path.isabs(written):
                written = f"{described.get('images', '.')}/{written}"
            try:
                picture = image_files.locate(folder, written, follow_links=reading.follow_links)
            except Unusable as error:
                raise UserError(f"{where}: {error}") from error
            if picture.spelled:
                respelled.append((written, picture.spelled))
            relative = picture.path.relative_to(_base(folder, picture.path)).as_posix()
            if patient and not is_empty(line.cells[patient]):
                found.given[relative] = line.cells[patient]
            part = split_name(split) or ""
            label, row = graded.setdefault((part, relative), (classes[known], line.row))
            if label != classes[known]:
                raise UserError(
                    f"{where}: {image!r} is {classes[known]} here and {label} in row {row}"
                )
            if row != line.row:
                repeated.append(image)
                continue
            labeled = LabeledFile(picture.path, relative, (label,))
            found.files.setdefault(part, []).append(labeled)
    if ungraded:
        found.sentences.append(
            f"left out for they have no grade: {len(ungraded)} images ({_first(ungraded, 5)})"
        )
    if repeated:
        found.sentences.append(
            f"rows that name an image again were left out: {len(repeated)} ({_first(repeated, 5)})"
        )
    found.sentences.append(image_files.respelled(respelled))
    return found


def _base(folder: Path, path: Path) -> str:
    """The folder as the path of a file in it names it: with links, or without."""
    absolute = os.path.abspath(folder)
    return absolute if path.is_relative_to(absolute) else os.path.realpath(folder)


def _table(name: str, path: Path) -> tables.Table:
    problems = ProblemLog()
    spreadsheet = path.suffix.lower() in (".xlsx", ".xlsm")
    table = (tables.read_xlsx if spreadsheet else tables.read_csv)(path, problems)
    for problem in problems.problems:
        raise UserError(f"task {name}: {path} row {problem.row}: {problem.what}")
    return table


def _from_patterns(name: str, task: Mapping[str, Any], folder: Path, reading: Reading) -> _Found:
    """Files of glob patterns, one pattern for every split and class."""
    matchers = {}
    for split, patterns in task["files"].items():
        for label, pattern in patterns.items():
            _require_below(f"task {name}: pattern", pattern, _BELOW)
            matchers[split, label] = photographs.matcher(pattern)
    listing = photographs.find(
        folder,
        wanted=lambda relative: any(match(relative) for match in matchers.values()),
        links_leave=reading.follow_links,
    )
    found = _Found(passed_over=listing.passed_over)
    matched: dict[str, list[str]] = {}
    paths = dict(zip(listing.photographs, listing.paths(), strict=True))
    for (split, label), match in matchers.items():
        files = [LabeledFile(paths[each], each, (label,)) for each in paths if match(each)]
        if not files:
            links = listing.passed_over.get("link")
            raise UserError(
                f"task {name}: no image matches {folder / task['files'][split][label]} (class "
                f"{label}); the layout of {task['source']} is expected"
                + _because(listing.passed_over)
                + ("; follow_links reads what links in the release lead to" if links else "")
            )
        for file in files:
            matched.setdefault(file.relative, []).append("/".join(filter(None, (split, label))))
        found.files.setdefault(split_name(split) or "", []).extend(files)
    torn = [f"{each}: {', '.join(of)}" for each, of in matched.items() if len(of) > 1]
    if torn:
        found.sentences.append(
            f"{len(torn)} photographs match the patterns of several classes or splits and count in "
            f"each ({_first(torn, 3, '; ')})"
        )
    return found
