"""Rows of a source, which point at pictures: what is known before anything is decoded.

Every importer and builder of real data turns its source into `PatientRow`s or `ImageRow`s; what is
done with them (splits, checks, writing) is then the same for all: see `builder.RowsBuilder`.
"""

import abc
import base64
import binascii
import dataclasses
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from retfm_jax import files
from retfm_jax.data import image_files
from retfm_jax.data.masks import BINARY, Codes
from retfm_jax.errors import Unusable
from retfm_jax.knowledge.laterality import SIDES

_CHINESE = re.compile(r"[\u3400-\u9fff]")


class Picture(Protocol):
    """Reference to an encoded photograph. Small and picklable, so that a cluster can read it."""

    @property
    @abc.abstractmethod
    def name(self) -> str:
        """Name of the photograph in messages."""

    @abc.abstractmethod
    def read(self) -> bytes:
        """Reads the encoded photograph.

        Raises:
          Unusable: it is missing, or outside the root, or its encoding is broken.
        """


@dataclasses.dataclass(frozen=True, slots=True)
class FilePicture:
    """File under an image root, which it must not leave.

    Attributes:
      root, relative: the folder, and the path below it as the source wrote it.
      follow_links: reads what symbolic links inside the root lead to, wherever that is.
    """

    root: str
    relative: str
    follow_links: bool = False

    @property
    def name(self) -> str:
        """Path below the root, as the source wrote it."""
        return self.relative

    def find(self) -> image_files.Found:
        """Finds the file, and its real spelling where the source spells it in another way.

        Raises:
          Unusable: it is missing or outside the root.
        """
        return image_files.locate(self.root, self.relative, follow_links=self.follow_links)

    def read(self) -> bytes:
        """See `Picture.read`."""
        return image_files.read(self.find().path)

    def spelled_otherwise(self) -> str:
        """Finds the file's real spelling; "" where it is as the source spells it.

        Raises:
          Unusable: see `find`.
        """
        path = os.path.join(self.root, self.relative)
        return "" if files.is_remote(self.root) or os.path.lexists(path) else self.find().spelled


@dataclasses.dataclass(frozen=True, slots=True)
class Base64Slice:
    """Slice of a text file that holds a photograph in URL-safe base64.

    Attributes:
      path: of the text file.
      offset, length: of the slice in the file, bytes.
      name: what a message calls it.
    """

    path: str
    offset: int
    length: int
    name: str

    def read(self) -> bytes:
        """See `Picture.read`."""
        with Path(self.path).open("rb") as file:
            file.seek(self.offset)
            return decode_base64(file.read(self.length), self.name)


def decode_base64(text: str | bytes, name: str) -> bytes:
    """Decodes base64, URL-safe or plain, strictly.

    Args:
      text: the characters, blanks around them allowed.
      name: what a message calls it.

    Raises:
      Unusable: a character or the length is not base64's.
    """
    if isinstance(text, str):
        text = text.encode("utf-8", "replace")
    # The plain alphabet is taken as well: encoders differ in which one they write.
    altchars = None if b"+" in text or b"/" in text else b"-_"
    try:
        return base64.b64decode(text.strip(), altchars=altchars, validate=True)
    except (binascii.Error, ValueError) as error:
        raise Unusable("broken_image", f"{name} is not valid base64: {error}") from error


@dataclasses.dataclass(frozen=True, slots=True)
class MaskPicture:
    """Mask of a structure on a photograph, or of its field of view.

    Attributes:
      picture: the file; None where the structure is known to be absent, or nobody looked for it.
      codes: meaning of its values.
      known: whether somebody looked for the structure.
    """

    picture: Picture | None = None
    codes: Codes = BINARY
    known: bool = True


@dataclasses.dataclass(frozen=True, slots=True)
class PatientRow:
    """Patient as a source describes them.

    Attributes:
      record_id: unique in the dataset.
      file, row: the file and the line that describe the patient; lines count from 1, the header
        included.
      left, right: the photographs, None where the source has none.
      report, left_report, right_report: text by language; absent languages have none.
      labels, left_labels, right_labels: label names, None where unknown.
      split: the split that the source gives, None where it gives none.
      group: rows of one group share a split; the record id where the source names none.
      wants_report: the source has a column for reports, so that an empty one is a problem.
    """

    record_id: str
    file: str
    row: int
    left: Picture | None = None
    right: Picture | None = None
    report: Mapping[str, str] = dataclasses.field(default_factory=dict)
    left_report: Mapping[str, str] = dataclasses.field(default_factory=dict)
    right_report: Mapping[str, str] = dataclasses.field(default_factory=dict)
    labels: tuple[str, ...] | None = None
    left_labels: tuple[str, ...] | None = None
    right_labels: tuple[str, ...] | None = None
    split: str | None = None
    group: str = ""
    wants_report: bool = True


@dataclasses.dataclass(frozen=True, slots=True)
class ImageRow:
    """Single photograph as a source describes it; attributes as in `PatientRow`.

    Attributes:
      unknown: names of the labels of which nobody knows, beside those that are known; None where
        all labels are known or none is.
      masks: of all structures of the dataset, in its order; None in a dataset without masks.
      field: of the field of view; None where it has to be found.
      case: the name of its case among those of its group, "" where it has none; None in a dataset
        whose source names no cases.
    """

    record_id: str
    file: str
    row: int
    image: Picture
    caption: Mapping[str, str] = dataclasses.field(default_factory=dict)
    categories: tuple[str, ...] = ()
    attributes: tuple[str, ...] = ()
    labels: tuple[str, ...] | None = None
    unknown: tuple[str, ...] | None = None
    split: str | None = None
    group: str = ""
    wants_report: bool = False
    masks: Mapping[str, MaskPicture] | None = None
    field: MaskPicture | None = None
    case: str | None = None


Row = PatientRow | ImageRow


def following_links(row: Row) -> Row:
    """Copies a row so that its pictures are also read by links that leave the image root.

    Args:
      row: of a patient or an image.
    """
    names = ("image",) if isinstance(row, ImageRow) else SIDES
    pictures = {
        name: dataclasses.replace(picture, follow_links=True)
        for name in names
        if isinstance(picture := getattr(row, name), FilePicture)
    }
    if isinstance(row, ImageRow) and row.masks is not None:
        masks = {name: _following(mask) for name, mask in row.masks.items()}
        row = dataclasses.replace(row, masks=masks, field=row.field and _following(row.field))
    return dataclasses.replace(row, **pictures)


def _following(mask: MaskPicture) -> MaskPicture:
    if not isinstance(mask.picture, FilePicture):
        return mask
    return dataclasses.replace(mask, picture=dataclasses.replace(mask.picture, follow_links=True))


def by_language(text: str) -> dict[str, str]:
    """Guesses a text's language: with a Chinese character it is Chinese, else English.

    Args:
      text: a report or caption.

    Returns:
      the text under "zh" or "en"; an empty dict for an empty text.
    """
    text = text.strip()
    if not text:
        return {}
    return {"zh" if _CHINESE.search(text) else "en": text}


def compose_report(left: Mapping[str, str], right: Mapping[str, str]) -> dict[str, str]:
    """Composes one report of the texts of both eyes, by language.

    An eye without a text is left out; nothing is made up for it.

    Args:
      left, right: text of each eye by language; no entry where there is none.

    Returns:
      text by language, without languages in which neither eye has a text.
    """
    parts = {
        "en": ("Left eye: {}", "Right eye: {}", ". ", "."),
        "zh": ("左眼：{}", "右眼：{}", "；", "。"),
    }
    report = {}
    for language, (of_left, of_right, joint, end) in parts.items():
        said = [
            pattern.format(text.get(language, "").strip().rstrip(".。;；"))
            for pattern, text in ((of_left, left), (of_right, right))
            if text.get(language, "").strip()
        ]
        if said:
            report[language] = joint.join(said) + end
    return report
