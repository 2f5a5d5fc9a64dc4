"""Faults of a source: found before training, written down, and dealt with by one policy.

The policy, for `on_error="skip"` (with "refuse" any problem stops the build, after all of them
were found and listed):

- missing_image, broken_image, outside_root: the eye is stored as missing; an image is left out;
- no_eye: the patient is left out;
- empty_report: the patient is kept for its labels; left out where nobody labeled it either;
- duplicate_id, patient_in_two_splits, unreadable_row: the row is left out, the first one stays;
- image_in_two_splits: the photograph is left out of training;
- other_spelling: the one file that differs in letter case or form of Unicode is taken;
- flat_image: an image of one value everywhere is kept, and named;
- flat_rest: a JPEG whose lower rows show one value, as cut ones do, is kept, and named;
- several_pages: the first page or frame is taken;
- second_report: the first report stays, of an image and of a case;
- long_report: a report of more than 1,000 words is kept, and named;
- unknown_language: a report in letters that are neither Latin nor Chinese is kept, and named;
- no_image: a case without an image is left out;
- unreadable_table: a table of a release is left out;
- similar_id: ids that differ in letter case, zeros in front and the like stay two;
- similar_file: files that differ in letter case, form of Unicode or `./` are read as written;
- stray_quote, damaged_text: the cell is kept as it stands;
- missing_mask, broken_mask, mask_size, mask_values: the structure is stored as unknown;
- mask_without_image: the mask is passed over;
- empty_field: the field of view is found on the photograph;
- field_of_view: one that covers hardly any or all of the photograph is kept, and named.
"""

import collections
import dataclasses
import io
import posixpath
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8

from retfm_jax.data import cells, image_files, images, records
from retfm_jax.data.building.mask_rows import prepare_masks
from retfm_jax.data.building.rows import FilePicture, ImageRow, PatientRow, Picture, Row, Unusable
from retfm_jax.errors import UserError
from retfm_jax.files import PathLike, atomic_write

POLICIES = ("skip", "refuse")
#: What is done about an image that cannot be used.
LEFT_OUT = "image left out"

#: Formats that are stored as they came. Everything else is re-encoded.
_JPEG, _PNG = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"
#: Rows of a JPEG that are coded together, at most.
_BLOCK = 16


@dataclasses.dataclass(frozen=True, slots=True)
class Problem:
    """Fault of a source.

    Attributes:
      kind: the heading it is counted under.
      file, row: the file and the line of the fault; lines count from 1, the header included.
      record: the record's id, "" where the row has none.
      what: what is wrong.
      remedy: what is done about it.
    """

    kind: str
    file: str
    row: int
    record: str
    what: str
    remedy: str


class ProblemLog:
    """Collects problems in the order in which they are found."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        #: What was made of the source that is no fault, but that its owner should know.
        self.notes: list[str] = []

    def add(self, kind: str, row: Row, what: str, remedy: str) -> None:
        """Notes a problem of a row that could at least be read.

        Args:
          kind: the heading it is counted under, such as "broken_image"; see the module.
          row: the row; names file, line and record.
          what: what is wrong, for people.
          remedy: what is done about it, for people.
        """
        self.problems.append(Problem(kind, row.file, row.row, row.record_id, what, remedy))

    def unreadable(self, file: PathLike, row: int, what: str, record: str = "") -> None:
        """Notes a row that could not be read, and that is left out.

        Args:
          file: the table.
          row: line from 1, the header included.
          what: what is wrong, for people.
          record: the record's id, "" where the row has none.
        """
        self.note("unreadable_row", file, row, what, "row left out", record)

    def note(
        self, kind: str, file: PathLike, row: int, what: str, remedy: str, record: str = ""
    ) -> None:
        """Notes a problem of a row of a file.

        Args:
          kind: the heading it is counted under, such as "broken_image"; see the module.
          file: the file of the source.
          row: line from 1, the header included.
          what: what is wrong, for people.
          remedy: what is done about it, for people.
          record: the record's id, "" where there is none.
        """
        self.problems.append(Problem(kind, str(file), row, record, what, remedy))

    def extend(self, problems: Iterable[Problem]) -> None:
        """Notes problems found elsewhere.

        Args:
          problems: in the order in which they were found.
        """
        self.problems.extend(problems)

    def counts(self) -> dict[str, int]:
        """Counts the problems of each kind."""
        return dict(collections.Counter(problem.kind for problem in self.problems))

    def write(self, path: PathLike) -> None:
        """Writes the problems as CSV, a row each, sorted by file and row; no cell is a formula.

        Args:
          path: of the CSV file; its folder is made where it is missing.

        Raises:
          UserError: it cannot be written.
        """
        fields = [field.name for field in dataclasses.fields(Problem)]
        with atomic_write(path) as file:
            found = sorted(self.problems, key=lambda problem: (problem.file, problem.row))
            rows = ([getattr(problem, field) for field in fields] for problem in found)
            cells.write_csv(file, fields, rows)


def refusal(problems: ProblemLog, listed_in: PathLike) -> UserError:
    """Makes the error of a source with problems under the policy "refuse".

    Args:
      problems: at least one.
      listed_in: the file that lists them, for the message.
    """
    first = problems.problems[0]
    counts = ", ".join(f"{count} {kind}" for kind, count in problems.counts().items())
    where = f"{first.file} row {first.row}" if first.row else first.file
    return UserError(
        f"the source has problems ({counts}) and nothing was written, as on_error refuse asks. "
        f"The first: {where}: {first.what}. All of them are in {listed_in}; "
        "mend them, or build with on_error skip"
    )


def drop_duplicates(rows: Sequence[Row], problems: ProblemLog) -> list[Row]:
    """Keeps the first row of every record id; the others are problems.

    Ids and groups that `cells.alike` folds to one are problems, too, and are kept: "00123"
    and "123" may be one patient, who must not train and test.

    Args:
      rows: of patients or images, of all splits.
      problems: takes the rows that are left out, similar ids and files, and notes.

    Returns:
      the first row of every record id, in their order.
    """
    first: dict[str, Row] = {}
    for row in rows:
        known = first.setdefault(row.record_id, row)
        if known is not row:
            problems.add(
                "duplicate_id", row,
                f"{row.record_id!r} stands in row {known.row} of {known.file} already",
                "row left out",
            )  # fmt: skip
    _note_similar(first.values(), problems)
    _note_shared(first.values(), problems)
    return list(first.values())


def _note_similar(rows: Iterable[Row], problems: ProblemLog) -> None:
    groups: dict[str, Row] = {}
    files: dict[str, Row] = {}
    for row in rows:
        if row.group or isinstance(row, PatientRow):  # an image's own id is its file
            groups.setdefault(row.group or row.record_id, row)
        pictures = (row.image,) if isinstance(row, ImageRow) else (row.left, row.right)
        for picture in pictures:
            if isinstance(picture, FilePicture):
                files.setdefault(picture.relative, row)
    for written, known, row, first in _alike(groups, cells.alike):
        what = f"{written!r} is nearly {known!r} in row {first.row} of {first.file}"
        problems.add("similar_id", row, what, "taken for two")
    for written, known, row, first in _alike(files, _path):
        what = f"{written!r} is another way to write {known!r} in row {first.row} of {first.file}"
        problems.add("similar_file", row, what, "read as it is written")


def _note_shared(rows: Iterable[Row], problems: ProblemLog) -> None:
    """Notes which photographs several patients have, or a patient twice: one of them is wrong."""
    first: dict[tuple[str, str], tuple[Row, str]] = {}
    shared: list[str] = []
    for row in rows:
        if isinstance(row, ImageRow):  # its id is its file
            continue
        for eye, picture in (("left", row.left), ("right", row.right)):
            if not isinstance(picture, FilePicture):
                continue
            known, side = first.setdefault(
                (picture.root, posixpath.normpath(picture.relative)), (row, eye)
            )
            if (known, side) != (row, eye):
                shared.append(
                    f"{picture.relative!r} is the {eye} eye of {row.record_id!r} in row {row.row} "
                    f"and the {side} eye of {known.record_id!r} in row {known.row}"
                )
    if shared:
        problems.notes.append(
            f"{len(shared)} photographs occur more than once, and patients who share one may be "
            f"in different splits: {'; '.join(shared[:3])}" + "; ..." * (len(shared) > 3)
        )


def _alike(
    named: Mapping[str, Row], form: Callable[[str], str]
) -> Iterator[tuple[str, str, Row, Row]]:
    """Names that become one by `form`: each with the first such name, and the rows of both."""
    first: dict[str, tuple[str, Row]] = {}
    for written, row in named.items():
        known, where = first.setdefault(form(written), (written, row))
        if known != written:
            yield written, known, row, where


def _path(name: str) -> str:
    return image_files.folded(posixpath.normpath(name.replace("\\", "/")))


def encode_jpeg(image: UInt8[np.ndarray, "h w 3"]) -> bytes:
    """Encodes an image as JPEG at quality 95.

    There is no chroma subsampling, which would smear small red lesions.

    Args:
      image: (h, w, 3) uint8, RGB.
    """
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="JPEG", quality=95, subsampling=0)
    return buffer.getvalue()


def prepare_image(
    data: bytes, name: str, short_side: int, remarks: list[tuple[str, str, str]] | None = None
) -> bytes:
    """Checks that a photograph can be decoded, and makes the bytes that are stored.

    Args:
      data: the encoded photograph.
      name: what a message calls it.
      short_side: pixels; a photograph whose short side is longer is shrunk to it; 0 keeps every
        size.
      remarks: takes kind, what and remedy of whatever is odd about a photograph that is kept; None
        takes nothing.

    Returns:
      `data` itself where it is a JPEG or PNG of that size already, else a JPEG.

    Raises:
      Unusable: it cannot be decoded.
    """
    return checked_image(data, name, short_side, remarks)[0]


def checked_image(
    data: bytes,
    name: str,
    short_side: int,
    remarks: list[tuple[str, str, str]] | None = None,
    *,
    lossless: bool = False,
) -> tuple[bytes, UInt8[np.ndarray, "h w 3"]]:
    """Does what `prepare_image` does, and gives the decoded photograph as well.

    Args:
      data, name, short_side, remarks: as there.
      lossless: whether a photograph that keeps its size and is neither JPEG nor PNG becomes a PNG.

    Returns:
      the bytes that are stored, and the photograph as it came, RGB.

    Raises:
      Unusable: it cannot be decoded.
    """
    import cv2

    try:
        image = images.decode(data, name)
    except UserError as error:
        raise Unusable("broken_image", str(error)) from error
    if remarks is not None:
        if images.is_flat(image):
            what = f"{name} shows one value everywhere ({', '.join(map(str, image[0, 0]))})"
            remarks.append(("flat_image", what, "kept"))
        elif data.startswith(_JPEG) and (rows := images.flat_rest(image)) >= _BLOCK:
            what = f"{name}: its lower {rows} of {len(image)} rows show one value: cut short?"
            remarks.append(("flat_rest", what, "kept"))
        if (pages := images.pages(data)) > 1:
            what = f"{name} holds {pages} pages or frames"
            remarks.append(("several_pages", what, "the first one is taken"))
    height, width = image.shape[:2]
    scale = short_side / min(height, width)
    if short_side and scale < 1:
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        return encode_jpeg(cv2.resize(image, size, interpolation=cv2.INTER_AREA)), image
    if data.startswith((_JPEG, _PNG)):
        return data, image
    return (encode_png if lossless else encode_jpeg)(image), image


def encode_png(image: UInt8[np.ndarray, "h w 3"]) -> bytes:
    """Encodes an image as PNG.

    Args:
      image: (h, w, 3) uint8, RGB.
    """
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG")
    return buffer.getvalue()


def prepare_row(row: Row, short_side: int) -> tuple[dict[str, Any] | None, list[Problem]]:
    """Reads and checks everything a row points at.

    A pure function of the row and the files it names: it runs in threads here and on a cluster.

    Args:
      row: of a patient or an image.
      short_side: pixels, see `prepare_image`.

    Returns:
      The example to store, None where nothing usable is left, and the problems found.
    """
    problems: list[Problem] = []

    def note(kind: str, what: str, remedy: str) -> None:
        problems.append(Problem(kind, row.file, row.row, row.record_id, what, remedy))

    def load(
        picture: Picture | None, what: str, remedy: str, *, lossless: bool = False
    ) -> tuple[bytes, np.ndarray] | None:
        if picture is None:
            return None
        remarks: list[tuple[str, str, str]] = []
        try:
            data = picture.read()
            if isinstance(picture, FilePicture) and (spelled := picture.spelled_otherwise()):
                said = f"{picture.name!r} is not there, {spelled!r} is"
                remarks.append(("other_spelling", said, f"{spelled!r} taken"))
            prepared = checked_image(data, picture.name, short_side, remarks, lossless=lossless)
        except Unusable as error:
            note(error.kind, f"{what}: {error}", remedy)
            return None
        for kind, said, done in remarks:
            note(kind, f"{what}: {said}", done)
        return prepared

    if isinstance(row, ImageRow):
        loaded = load(row.image, "image", LEFT_OUT, lossless=row.masks is not None)
        if loaded is None:
            return None, problems
        image, pixels = loaded
        if row.wants_report and not any(row.caption.values()):
            kept = row.labels is not None or bool(row.categories)
            note("empty_report", "no caption", "kept for its labels" if kept else LEFT_OUT)
            if not kept:
                return None, problems
        example = records.image_example(
            row.record_id, image=image, patient_id=row.group or None, caption=row.caption,
            categories=row.categories, attributes=row.attributes, labels=row.labels,
            unknown=row.unknown, case_id=row.case,
        )  # fmt: skip
        if row.masks is not None:
            example |= prepare_masks(row, row.masks, pixels, short_side, note)
        return example, problems
    left = load(row.left, "left eye", "left eye stored as missing")
    right = load(row.right, "right eye", "right eye stored as missing")
    if left is None and right is None:
        note("no_eye", "neither eye has a usable photograph", "patient left out")
        return None, problems
    texts = (row.report, row.left_report, row.right_report)
    if row.wants_report and not any(any(text.values()) for text in texts):
        labels = (row.labels, row.left_labels, row.right_labels)
        kept = any(label is not None for label in labels)
        note("empty_report", "no report", "kept for its labels" if kept else "patient left out")
        if not kept:
            return None, problems
    return _patient_example(row, left and left[0], right and right[0]), problems


def _patient_example(row: PatientRow, left: bytes | None, right: bytes | None) -> dict[str, Any]:
    return records.patient_example(
        row.record_id, left=left, right=right, report=row.report, left_report=row.left_report,
        right_report=row.right_report, labels=row.labels, left_labels=row.left_labels,
        right_labels=row.right_labels,
    )  # fmt: skip
