"""Releases whose file names are personal: nothing of a name is stored, said or logged.

A record is called by a digest of its image's bytes, and a patient by that of one of its images, so
that neither can be told from a list of names. What such an image file holds beside its pixels is
left behind as well.
"""

import dataclasses
import hashlib
import re
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath

from retfm_jax.data import images
from retfm_jax.data.building.rows import FilePicture, ImageRow
from retfm_jax.data.building.validation import Problem, ProblemLog, encode_png
from retfm_jax.errors import Unusable, UserError
from retfm_jax.files import as_path

#: In place of whatever a message would repeat of a row.
_UNSAID = "not repeated here, because names of this release are personal: see the row itself"
#: Numbers of a patient's images at the end of a file's name, "(2)", "_003", "12b".
_NUMBER = re.compile(r"(?:[\W_]+|(?<=[^\W\d_]))\d{1,3}\D?$")
_DIGITS = 24


@dataclasses.dataclass(frozen=True, slots=True)
class NamelessPicture:
    """File whose name no message repeats.

    Attributes:
      file: where the photograph is.
      name: what messages call it.
    """

    file: FilePicture
    name: str

    def read(self) -> bytes:
        """Reads the photograph's pixels, as PNG; see `Picture.read`."""
        try:
            data = self.file.read()
        except Unusable as error:
            raise Unusable(error.kind, _UNSAID) from None
        try:
            return encode_png(images.decode(data, self.name))
        except UserError as error:
            raise Unusable("broken_image", str(error)) from None


def nameless(rows: Sequence[ImageRow], *, follow_links: bool = False) -> list[ImageRow]:
    """Copies rows without any name; reads every file once.

    Args:
      rows: whose record ids and files are names; a group keeps the rows of one patient together,
        and rows without one are grouped by their files' names up to a number at the end.
      follow_links: whether links that leave the image root are followed.

    Returns:
      the rows, in their order; one whose file cannot be read is called by its table and line.
    """
    patients: dict[str, list[int]] = {}
    digests = []
    for index, row in enumerate(rows):
        assert isinstance(row.image, FilePicture), "releases have files"
        picture = dataclasses.replace(row.image, follow_links=follow_links)
        digests.append(_digest(picture, row))
        patients.setdefault(row.group or _patient(row), []).append(index)
    groups = {
        index: f"patient-{min(digests[each] for each in members)}"
        for members in patients.values()
        for index in members
    }
    found = []
    for index, (row, digest) in enumerate(zip(rows, digests, strict=True)):
        assert isinstance(row.image, FilePicture), "looked at above"
        picture = dataclasses.replace(row.image, follow_links=follow_links)
        image = NamelessPicture(picture, digest)
        named = {"record_id": digest, "image": image, "group": groups[index], "case": None}
        found.append(dataclasses.replace(row, **named))
    return found


def redacted(problems: ProblemLog) -> Iterable[Problem]:
    """Gives the problems of such a release without a name: kind, table, line and remedy.

    Args:
      problems: of reading its tables.
    """
    for problem in problems.problems:
        yield dataclasses.replace(problem, record="", what=_UNSAID)


def _digest(picture: FilePicture, row: ImageRow) -> str:
    try:
        data = as_path(picture.find().path).read_bytes()
    except (Unusable, OSError):
        return f"{PurePosixPath(row.file).stem}-row-{row.row}"
    return hashlib.sha256(data).hexdigest()[:_DIGITS]


def _patient(row: ImageRow) -> str:
    return _NUMBER.sub("", PurePosixPath(row.record_id).stem)
