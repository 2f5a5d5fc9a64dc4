"""Photographs and their masks on disk, read in place: public sets, and folders of one's own."""

import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from retfm_jax.data import image_files, masks, photographs
from retfm_jax.data.building import patients
from retfm_jax.data.division import UNDIVIDED
from retfm_jax.data.masks import EncodedMask, MaskError
from retfm_jax.data.public_sets import reading
from retfm_jax.data.public_sets.counts import differences
from retfm_jax.data.public_sets.description import PublicSet
from retfm_jax.data.public_sets.mask_files import FIELD, said_of
from retfm_jax.data.records import SegmentedRecord
from retfm_jax.data.sources import RecordSource
from retfm_jax.errors import Unusable, UserError
from retfm_jax.knowledge.vocabulary import LANGUAGES
from retfm_jax.runtime.threads import in_threads

_LOOKERS = 8


@dataclasses.dataclass(frozen=True)
class SegmentedFile:
    """A photograph on disk, and where its masks are.

    Attributes:
      path: where it is read.
      relative: its path below the folder or release, with forward slashes.
      patient: whom it shows.
      masks: over the structures: the mask's path, "" where the structure is known to be absent,
        None where nobody looked for it.
      field: path of the field of view, None where it has to be found.
    """

    path: Path
    relative: str
    patient: str
    masks: tuple[Path | str | None, ...]
    field: Path | None


class SegmentedFiles(RecordSource[SegmentedRecord]):
    """Photographs on disk with their masks, read when they are asked for.

    Args:
      described: the set; gives structures and the codes of their masks.
      split: of the files, "" where they have none.
      structures: some of the set's.
      files: the photographs.
      patients_known: whether they name real patients.
    """

    kind, label_names = "image", ()

    def __init__(
        self,
        described: PublicSet,
        split: str,
        structures: Sequence[str],
        files: Sequence[SegmentedFile],
        patients_known: bool,
    ):
        self.name, self.split = described.name, split
        self._described, self._structures = described, tuple(structures)
        self._files = tuple(files)
        self.patients_known = patients_known

    @property
    def structures(self) -> tuple[str, ...]:
        return self._structures

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> SegmentedRecord:
        """Reads a record; its image is empty where the file can no longer be read.

        Raises:
          MaskError: a mask can no longer be read.
        """
        file = self._files[index]
        try:
            image = image_files.read(file.path)
        except Unusable:
            image = b""
        codes = [self._described.masks[name].codes for name in self._structures]
        field = None
        if file.field is not None and self._described.field is not None:
            field = _encoded(file.field, self._described.field.codes)
        return SegmentedRecord(
            record_id=file.relative,
            patient_id=file.patient,
            image=image,
            caption=dict.fromkeys(LANGUAGES, ""),
            categories=(),
            attributes=(self._described.modality,),
            labels=np.zeros(0, np.int8),
            masks=tuple(_encoded(path, each) for path, each in zip(file.masks, codes, strict=True)),
            field=field,
        )

    @property
    def patients(self) -> list[str]:
        """Patients of all records, without reading a photograph."""
        return [file.patient for file in self._files]

    @property
    def known(self) -> list[tuple[bool, ...]]:
        """Of all records, which structures somebody looked for, without reading a mask."""
        return [tuple(path is not None for path in file.masks) for file in self._files]

    @property
    def record_ids(self) -> list[str]:
        """Ids of all records: paths below the release."""
        return [file.relative for file in self._files]

    @property
    def identity(self) -> dict[str, Any]:
        listing = "\n".join(
            "\t".join(map(str, (file.relative, file.patient, *file.masks, file.field)))
            for file in self._files
        )
        digest = hashlib.sha256(listing.encode("utf-8", "surrogateescape")).hexdigest()
        return {"set": self.name, "split": self.split, "files": digest}


def _encoded(path: Path | str | None, codes: masks.Codes) -> EncodedMask | None:
    if path is None:
        return None
    if not path:
        return EncodedMask(b"")
    try:
        return EncodedMask(image_files.read(path), codes, str(path))
    except Unusable as error:
        raise MaskError("broken_mask", str(error)) from error


def open_files(
    described: PublicSet,
    folder: Path,
    structures: Sequence[str],
    *,
    layouts: Sequence[str] = (),
    patient_regex: str | None = None,
    follow_links: bool = False,
) -> tuple[dict[str, SegmentedFiles], list[str]]:
    """Opens all splits of a release; of photographs and masks the headers are read.

    Args:
      described: the set.
      folder: of its release.
      structures: that are wanted; photographs on which nobody looked for any are left out.
      layouts: names of those that count; all where there are none.
      patient_regex: finds the patient in a file's name.
      follow_links: whether links may lead out of the release.

    Returns:
      split (`division.UNDIVIDED` where there is none) -> its photographs; and sentences on how they
      were read.

    Raises:
      UserError: the release cannot be read, or a mask is missing or of another size than its
        photograph; the message names the first.
    """
    release = reading.read(described, folder, labels=(), layouts=layouts, follow_links=follow_links)
    for problem in release.problems.problems:
        raise UserError(f"{problem.file} row {problem.row}: {problem.what}")
    for file, row, what in release.faults:
        raise UserError(f"{file} row {row}: {what}")
    wanted = {*structures, FIELD}
    faults = [fault for fault in release.mask_faults if fault.structure in wanted]
    for fault in faults:
        if fault.kind == "missing_mask":
            missing = sum(each.kind == fault.kind for each in faults)
            more = f" ({missing} masks are missing)" if missing > 1 else ""
            raise UserError(
                f"{folder}: {fault.what}{more}; put it there, an empty one where nothing is to be "
                "seen, or build the set, which takes such structures as unknown"
            )
    given = {each.relative: each.patient for each in release.photographs if each.patient}
    names = [each.relative for each in release.photographs]
    who = patients.identify(names, given=given, regex=patient_regex)
    parts: dict[str, list[SegmentedFile]] = {}
    for each in release.photographs:
        if any(name in each.masks for name in structures):
            file = _file(described, release, each, structures, who.ids[each.relative], follow_links)
            parts.setdefault(each.split or UNDIVIDED, []).append(file)
    if not parts:
        raise UserError(
            f"{folder} holds no photograph with masks of {', '.join(structures)}"
            + "".join(f"; {sentence}" for sentence in release.sentences)
        )
    _check_sizes([file for files in parts.values() for file in files])
    here = {split or None: len(files) for split, files in parts.items()}
    left_out = len(release.photographs) - sum(here.values())
    said = [
        *release.sentences,
        *said_of(faults),
        photographs.sentence(release.passed_over),
        *(differences(described, release.images, here) if not left_out else ()),
        f"left out, for nobody looked for {', '.join(structures)}: {left_out} photographs"
        if left_out
        else "",
        who.sentence,
    ]
    sources = {
        split: SegmentedFiles(described, split, structures, files, who.known)
        for split, files in parts.items()
    }
    return sources, [sentence for sentence in said if sentence]


def _file(
    described: PublicSet,
    release: reading.Release,
    each: reading.Photograph,
    structures: Sequence[str],
    patient: str,
    follow_links: bool,
) -> SegmentedFile:
    """Where a photograph and its masks are.

    Raises:
      UserError: one of them is missing, or outside of the release.
    """

    def located(relative: str) -> Path:
        try:
            found = image_files.locate(release.folder, relative, follow_links=follow_links)
        except Unusable as error:
            raise UserError(f"{described.name}: {each.file} row {each.row}: {error}") from error
        return Path(found.path)

    def mask(structure: str) -> Path | str | None:
        relative = each.masks.get(structure)
        return located(relative) if relative else relative

    drawn = tuple(mask(structure) for structure in structures)
    field = located(each.field) if each.field else None
    return SegmentedFile(located(each.relative), each.relative, patient, drawn, field)


def _check_sizes(files: Sequence[SegmentedFile]) -> None:
    """Refuses masks of another size than their photograph, as the headers of the files have it.

    Raises:
      MaskError: one differs, or is no picture.
    """

    def fault(file: SegmentedFile) -> MaskError | None:
        drawn = [path for path in (*file.masks, file.field) if path]
        try:
            image = masks.size_of(file.path, str(file.path))
        except MaskError:
            return None  # DICOM, or a photograph that cannot be read: whoever decodes it says so
        try:
            for path in drawn:
                size = masks.size_of(path, str(path))
                masks.require_size(size, str(path), image, str(file.path))
        except MaskError as error:
            return error
        return None

    with in_threads(fault, files, threads=_LOOKERS, ahead=4 * _LOOKERS) as looked:
        for error in looked:
            if error is not None:
                raise error
