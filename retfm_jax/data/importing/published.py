"""The published RET-CLIP training data: TSV + JSON Lines, and the LMDB built from them.

`<split>_imgs.tsv` has a line `patient_id<TAB>left<TAB>right`, the eyes in URL-safe base64;
`<split>_texts.jsonl` has a line `{"text_id", "text", "image_ids": [patient_id, ...]}`. The LMDB
folder of a split has `imgs/` (patient id -> pickled `(left, right)`) and `pairs/` (number ->
pickled `(patient_id, text_id, text)`), the layout of Chinese-CLIP.
"""

import dataclasses
import functools
import pickletools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from retfm_jax import extras
from retfm_jax.data import cells
from retfm_jax.data.building import splits
from retfm_jax.data.building.rows import (
    Base64Slice,
    PatientRow,
    Unusable,
    by_language,
    decode_base64,
)
from retfm_jax.data.building.validation import Problem, ProblemLog
from retfm_jax.data.importing import lmdb_pages, tables
from retfm_jax.errors import UserError
from retfm_jax.knowledge.laterality import SIDES

with extras.needed("data"):
    import lmdb

#: What a pickle of tuples of strings, bytes and integers is made of: the instructions that stand
#: for a value, that make a tuple of values, that note a value, and that recall it.
_VALUES = frozenset(
    {
        "UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "SHORT_BINBYTES", "BINBYTES",
        "BINBYTES8", "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4",
    }
)  # fmt: skip
_TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_NOTES = frozenset({"MEMOIZE", "PUT", "BINPUT", "LONG_BINPUT"})
_RECALLS = frozenset({"GET", "BINGET", "LONG_BINGET"})
_MARK = object()


def load_plain(data: bytes, name: str) -> tuple[str | bytes | int, ...]:
    """Reads a pickled tuple of strings, bytes and integers, and refuses everything else.

    The pickle is read as a list of instructions of which none can do more than make such a tuple;
    `pickle` itself is not used: a few bytes can make it take any amount of memory.

    Args:
      data: the pickle.
      name: what a message calls it.

    Raises:
      UserError: it holds anything else: it was not written by the published tool and may be
        meant to run code.
      Unusable: it is cut short or not a pickle, or holds half characters or numbers without end.
    """
    try:
        value = _value_of(data, name)
    except UserError:
        raise
    except Exception as error:  # pickletools raises many kinds on damaged data
        raise Unusable("unreadable_row", f"{name}: not a readable pickle ({error})") from error
    if not isinstance(value, tuple) or not all(isinstance(v, str | bytes | int) for v in value):
        raise UserError(f"{name}: the pickle is no tuple of text; the published tool writes tuples")
    for part in value:
        if isinstance(part, str) and not _is_text(part):
            raise Unusable("unreadable_row", f"{name}: half of a character stands in a text")
        if isinstance(part, int) and part.bit_length() > 64:
            raise Unusable("unreadable_row", f"{name}: a number of {part.bit_length()} bits")
    return value


def _value_of(data: bytes, name: str) -> Any:
    stack: list[Any] = []
    notes: dict[int, Any] = {}
    for opcode, argument, _ in pickletools.genops(data):
        kind = opcode.name
        if kind in _VALUES:
            stack.append(argument)
        elif kind == "MARK":
            stack.append(_MARK)
        elif kind in _TUPLES or kind == "TUPLE":
            start = len(stack) - _TUPLES[kind] if kind in _TUPLES else _last_mark(stack)
            if start < 0 or len(stack) - start > _LONGEST_TUPLE:
                raise ValueError("a tuple that the published tool does not write")
            made = tuple(part for part in stack[start:] if part is not _MARK)
            stack[start:] = [made]
        elif kind in _NOTES:
            notes[len(notes) if argument is None else argument] = stack[-1]
        elif kind in _RECALLS and argument is not None:
            stack.append(notes[argument])
        elif kind == "STOP":
            return stack.pop()
        elif kind not in ("PROTO", "FRAME"):
            detail = f" {argument!r}" if isinstance(argument, str) else ""
            raise UserError(
                f"{name}: the pickle holds {kind}{detail}, not only text in a tuple as the "
                "published tool writes it; it may be meant to run code and was not loaded. Do not "
                "use this LMDB unless you know who made it"
            )
    raise ValueError("it does not end")


#: The published tool writes pairs and triples.
_LONGEST_TUPLE = 16


def _last_mark(stack: list[Any]) -> int:
    return next(index for index in reversed(range(len(stack))) if stack[index] is _MARK)


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


@functools.lru_cache(maxsize=16)
def _environment(folder: str) -> lmdb.Environment:
    # Opened once a process: LMDB forbids a second opening of the same files.
    lmdb_pages.check(folder)
    try:
        return lmdb.open(folder, readonly=True, create=False, lock=False, readahead=False)
    except lmdb.Error as error:
        raise UserError(f"cannot open {folder} as an LMDB: {error}") from error


@dataclasses.dataclass(frozen=True, slots=True)
class LmdbPicture:
    """Reference to one eye of the pickled pair that an LMDB holds under a patient id.

    Attributes:
      folder: of the LMDB of images.
      patient: the patient id as the key is written.
      eye: 0 for the left one, 1 for the right one.
    """

    folder: str
    patient: str
    eye: int

    @property
    def name(self) -> str:
        """Patient id and "left" or "right"."""
        return f"{self.patient} {('left', 'right')[self.eye]}"

    def read(self) -> bytes:
        """See `Picture.read`.

        Raises:
          UserError: the LMDB is damaged, or the pickle holds more than text.
          Unusable: the pair is missing or broken.
        """
        with _environment(self.folder).begin() as transaction:
            stored = transaction.get(self.patient.encode())
        if stored is None:
            raise Unusable("missing_image", f"{self.folder} has no images of {self.patient!r}")
        pair = load_plain(stored, f"{self.folder} key {self.patient!r}")
        halves = [half for half in pair if isinstance(half, str | bytes)]
        if len(pair) != 2 or len(halves) != 2:
            raise Unusable(
                "broken_image", f"{self.folder} key {self.patient!r} is no pair of images"
            )
        return decode_base64(halves[self.eye], self.name)


@dataclasses.dataclass(slots=True)
class _Reports:
    """The reports of a split by patient, and which of them found their patient."""

    texts: dict[str, dict[str, str]]
    rows: dict[str, int]
    used: set[str]

    def add(self, patient: str, text: str, file: str, row: int, problems: ProblemLog) -> None:
        report = self.texts.setdefault(patient, {})
        self.rows.setdefault(patient, row)
        for language, words in by_language(text).items():
            if report.setdefault(language, words) != words:
                what = f"another report of the patient than in row {self.rows[patient]}"
                problems.extend(
                    [Problem("second_report", file, row, patient, what, "the first report stays")]
                )

    def take(self, patient: str) -> dict[str, str]:
        self.used.add(patient)
        return self.texts.get(patient, {})

    def note_unused(self, file: str, problems: ProblemLog) -> None:
        for patient in self.texts.keys() - self.used:
            problems.unreadable(
                file, self.rows[patient], "a report of a patient who has no images", patient
            )


def rows_of_tsv(images: Path, texts: Path, problems: ProblemLog) -> list[PatientRow]:
    """Reads the rows of one `<split>_imgs.tsv` with its `<split>_texts.jsonl`.

    Only offsets are kept in memory, the images stay in the file. The split is the prefix of the
    file's name where that is a split, else it is left open.

    Args:
      images: the `<split>_imgs.tsv`.
      texts: the `<split>_texts.jsonl`.
      problems: takes the lines that cannot be used.

    Raises:
      UserError: a file is missing or unreadable as a whole.
    """
    table = tables.read_jsonl(texts, problems)
    tables.require_columns(table, ["text", "image_ids"], known=["text_id"])
    reports = _Reports({}, {}, set())
    for line in table.rows:
        text, patients = line.cells.get("text"), line.cells.get("image_ids")
        if not isinstance(text, str) or not isinstance(patients, list):
            problems.unreadable(texts, line.row, "wants a text and a list of image_ids")
            continue
        try:
            named = [cells.identifier(patient) for patient in patients]
        except ValueError as error:
            problems.unreadable(texts, line.row, f"image_ids: {error}")
            continue
        for patient in filter(None, named):
            reports.add(patient, cells.text(text), str(texts), line.row, problems)
    split = splits.split_name(images.name.partition("_")[0])
    rows = []
    for number, patient, (left, right) in _tsv_lines(images, problems):
        report = reports.take(patient)
        rows.append(
            PatientRow(
                patient, str(images), number, left=left, right=right, report=report, split=split
            )
        )
    reports.note_unused(str(texts), problems)
    return rows


#: Words for "nothing" that are base64, too.
_NOTHING = (b"none", b"null", b"nan", b"na", b"n/a")


def _tsv_lines(
    path: Path, problems: ProblemLog
) -> Iterable[tuple[int, str, tuple[Base64Slice | None, Base64Slice | None]]]:
    try:
        file = path.open("rb")
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    with file:
        offset = 0
        for number, line in enumerate(file, start=1):
            start, offset = offset, offset + len(line)
            fields = line.rstrip(b"\r\n").split(b"\t")
            if fields == [b""]:
                continue
            if len(fields) != 3:
                what = f"{len(fields)} fields where patient_id, left and right are wanted"
                problems.unreadable(path, number, what)
                continue
            try:
                patient = cells.identifier(fields[0].decode("utf-8"))
            except UnicodeDecodeError:
                problems.unreadable(path, number, "the patient id is not UTF-8")
                continue
            if not patient:
                problems.unreadable(path, number, "no patient id")
                continue
            eyes = []
            begin = start + len(fields[0]) + 1
            for eye, field in zip(SIDES, fields[1:], strict=True):
                name = f"{patient} {eye}"
                there = field.strip() and field.strip().lower() not in _NOTHING
                eyes.append(Base64Slice(str(path), begin, len(field), name) if there else None)
                begin += len(field) + 1
            yield number, patient, tuple(eyes)


def rows_of_lmdb(folder: Path, problems: ProblemLog) -> list[PatientRow]:
    """Reads the rows of a published LMDB, of one split or of all splits in a folder.

    Args:
      folder: of one split (with `imgs` and `pairs`), or of all splits.
      problems: takes the entries that cannot be used.

    Raises:
      UserError: no such layout, unreadable, or a pickle that holds more than text.
    """
    if (folder / "pairs").is_dir():
        return _rows_of_split(folder, problems)
    found = sorted(path.parent for path in folder.glob("*/pairs") if path.is_dir())
    if not found:
        raise UserError(
            f"{folder} is no published LMDB: neither it nor a folder in it has imgs and pairs"
        )
    return [row for part in found for row in _rows_of_split(part, problems)]


def _rows_of_split(folder: Path, problems: ProblemLog) -> list[PatientRow]:
    pairs, images = str(folder / "pairs"), str(folder / "imgs")
    reports = _Reports({}, {}, set())
    for key, stored in _entries(pairs, b"num_samples"):
        row = int(key) + 1 if key.isdigit() else 0
        try:
            pair = load_plain(stored, f"{pairs} key {key!r}")
        except Unusable as error:
            problems.unreadable(pairs, row, str(error))
            continue
        if len(pair) != 3 or not isinstance(pair[2], str):
            problems.unreadable(pairs, row, "is no (patient id, text id, text)")
            continue
        patient = pair[0].decode("utf-8", "replace") if isinstance(pair[0], bytes) else pair[0]
        reports.add(cells.identifier(patient), cells.text(pair[2]), pairs, row, problems)
    split = splits.split_name(folder.name)
    rows = []
    for row, key in enumerate(_patients(images), start=1):
        left, right = (LmdbPicture(images, key, eye) for eye in (0, 1))
        patient = cells.identifier(key)
        if not patient:
            problems.unreadable(images, row, f"no patient id: {key!r} is an empty cell")
            continue
        report = reports.take(patient)
        rows.append(
            PatientRow(patient, images, row, left=left, right=right, report=report, split=split)
        )
    reports.note_unused(pairs, problems)
    return rows


def _entries(folder: str, without: bytes) -> Iterable[tuple[bytes, bytes]]:
    try:
        with _environment(folder).begin() as transaction:
            for key, value in transaction.cursor():
                if key != without:
                    yield key, value
    except lmdb.Error as error:
        raise UserError(f"{folder} is a damaged LMDB: {error}") from error


def _patients(folder: str) -> Iterable[str]:
    try:
        with _environment(folder).begin() as transaction:
            for key in transaction.cursor().iternext(keys=True, values=False):
                if key != b"num_images":
                    yield key.decode("utf-8")
    except lmdb.Error as error:
        raise UserError(f"{folder} is a damaged LMDB: {error}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{folder}: a patient id is not UTF-8: {error.object!r}") from error
