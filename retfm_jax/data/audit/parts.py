"""Fingerprints of a split, kept in parts on disk, so that a killed audit goes on where it was.

A part holds some records: for every photograph its digest, its hash and a digest of its patient.
Names and labels lie beside them and are read only where a photograph is named. Its plane, which is
compared, lies in a file of its own, of which single planes can be read.
"""

import dataclasses
import hashlib
import json
import zipfile
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Int8, UInt8, UInt64

from retfm_jax import files
from retfm_jax.array_files import unreadable, write_arrays
from retfm_jax.data.audit.fingerprints import SIDE, UNLIT, WORDS, fingerprint, hash_of
from retfm_jax.data.audit.sets import Photograph, Split, photographs
from retfm_jax.data.sources import DamagedRecord
from retfm_jax.progress import progress_bar
from retfm_jax.runtime.threads import cores, in_threads

#: Records of a part.
RECORDS = 256
#: Parts of another version are made anew.
VERSION = 2

#: What became of a photograph.
HASHED, PLAIN, BROKEN, MISSING = range(4)


@dataclasses.dataclass(frozen=True)
class Part:
    """Fingerprints of some records of a split.

    Attributes:
      state: of every photograph, one of `HASHED`, `PLAIN` (it shows nothing that could be told
        apart), `BROKEN` (it cannot be decoded) and `MISSING` (eyes).
      digests: (n, 2) uint64 of the bytes.
      hashes: (n, words) uint64 of the whole planes; zero where nothing is hashed.
      patients: (n) uint64 digests of patients; 0 where they are unknown.
    """

    state: UInt8[np.ndarray, " n"]
    digests: UInt64[np.ndarray, "n 2"]
    hashes: UInt64[np.ndarray, "n words"]
    patients: UInt64[np.ndarray, " n"]


@dataclasses.dataclass(frozen=True)
class Facts:
    """What is known of a photograph beside its pixels.

    Attributes:
      record, name, patient, labels: see `sets.Photograph`.
      error: why it cannot be decoded, "" where it can.
    """

    record: str
    name: str
    patient: str
    labels: tuple[str, ...] | None
    error: str


class Parts:
    """Parts of a split on disk.

    Args:
      split: whose photographs they describe.
      folder: of all parts of all sets.

    Attributes:
      starts: the first record of every part.
    """

    def __init__(self, split: Split, folder: files.Path):
        self.split = split
        self._folder = folder / f"{split.key}-v{VERSION}"
        self.starts = range(0, len(split.source), RECORDS)
        self._facts: tuple[int, list[Facts]] = (-1, [])

    def __len__(self) -> int:
        """Number of photographs, missing eyes counted."""
        return len(self.split.source) * self.split.of_each

    def _path(self, start: int) -> files.Path:
        return self._folder / f"{start:09d}.npz"

    def _planes(self, start: int) -> files.Path:
        return self._folder / f"{start:09d}.planes"

    @property
    def missing(self) -> list[int]:
        """First records of the parts that are not there yet."""
        return [
            start
            for start in self.starts
            if not (self._path(start).is_file() and self._planes(start).is_file())
        ]

    def make(self, start: int) -> None:
        """Reads the records of a part, and writes it.

        Args:
          start: the first record.

        Raises:
          UserError: it cannot be written.
        """
        end = min(start + RECORDS, len(self.split.source))
        state, digests, planes, hashes, patients, facts = [], [], [], [], [], []
        dark, nothing = np.full((SIDE, SIDE), UNLIT, np.int8), np.zeros(WORDS, np.uint64)
        for index in range(start, end):
            for photo, error in self._photographs(index):
                made = fingerprint(photo.image, photo.name) if photo.image else None
                error = error or (made.error if made else "")
                plane = None if made is None else made.plane
                if not photo.image:
                    state.append(BROKEN if error else MISSING)
                else:
                    state.append(BROKEN if error else PLAIN if plane is None else HASHED)
                planes.append(dark if plane is None else plane)
                hashes.append(nothing if plane is None else hash_of(plane))
                digests.append(np.frombuffer(made.digest if made else bytes(16), np.uint64))
                patients.append(_digest(photo.patient))
                facts.append([photo.record, photo.name, photo.patient, photo.labels, error])
        with files.atomic_write(self._planes(start), "wb") as file:
            file.write(np.array(planes, np.int8).tobytes())
        arrays = {
            "state": np.array(state, np.uint8),
            "digests": np.array(digests, np.uint64).reshape(-1, 2),
            "hashes": np.array(hashes, np.uint64).reshape(-1, WORDS),
            "patients": np.array(patients, np.uint64),
            "facts": np.frombuffer(json.dumps(facts).encode(), np.uint8),
        }
        write_arrays(self._path(start), arrays)

    def _photographs(self, index: int) -> list[tuple[Photograph, str]]:
        try:
            found = photographs(self.split.source, index)
        except DamagedRecord as error:
            name = f"record {index}"
            return [(Photograph(name, name, "", b"", None), str(error))] * self.split.of_each
        unread = "its file cannot be read" if self.split.of_each == 1 else ""
        return [(photo, "" if photo.image else unread) for photo in found]

    def __iter__(self) -> Iterator[Part]:
        """Reads every part, in order."""
        for start in self.starts:
            with self._open(start) as arrays:
                yield Part(arrays["state"], arrays["digests"], arrays["hashes"], arrays["patients"])

    def _open(self, start: int):
        path = self._path(start)
        try:
            return np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise unreadable(path, error) from error

    def planes(
        self, start: int, first: int = 0, count: int = -1
    ) -> Int8[np.ndarray, "n side side"]:
        """Reads planes of a part.

        Args:
          start: first record of the part.
          first: photograph of the part to begin with.
          count: how many; -1: all that follow.

        Raises:
          UserError: they cannot be read.
        """
        size = SIDE * SIDE
        path = self._planes(start)
        try:
            with path.open("rb") as file:
                file.seek(first * size)
                data = file.read(count * size if count >= 0 else -1)
            wanted = _size(self, start) - first if count < 0 else count
            if len(data) != wanted * size:
                raise EOFError(f"it holds {len(data)} bytes of {wanted * size}")
        except (OSError, EOFError) as error:
            raise unreadable(path, error) from error
        return np.frombuffer(data, np.int8).reshape(-1, SIDE, SIDE)

    def plane(self, number: int) -> Int8[np.ndarray, "side side"]:
        """Reads the plane of a photograph.

        Args:
          number: of the photograph in the split.
        """
        each = self.split.of_each
        start = number // each // RECORDS * RECORDS
        return self.planes(start, number - start * each, 1)[0]

    def facts(self, number: int) -> Facts:
        """Reads what is known of a photograph; those of its part are kept until another is asked.

        Args:
          number: of the photograph in the split.
        """
        start = number // self.split.of_each // RECORDS * RECORDS
        held, found = self._facts
        if held != start:
            with self._open(start) as arrays:
                rows = json.loads(arrays["facts"].tobytes())
            found = [
                Facts(record, name, patient, None if labels is None else tuple(labels), error)
                for record, name, patient, labels, error in rows
            ]
            self._facts = (start, found)
        return found[number - start * self.split.of_each]


def _digest(patient: str) -> int:
    if not patient:
        return 0
    return int.from_bytes(hashlib.blake2b(patient.encode(), digest_size=8).digest(), "little") or 1


def make_parts(every: Sequence[Parts]) -> None:
    """Makes the parts that are not there, several at a time.

    Args:
      every: those of all splits.
    """
    work = [(parts, start) for parts in every for start in parts.missing]
    photographs = sum(len(parts) for parts in every)

    def make(item: tuple[Parts, int]) -> int:
        parts, start = item
        parts.make(start)
        return min(RECORDS, len(parts.split.source) - start) * parts.split.of_each

    with (
        progress_bar(desc="hashing", total=photographs, unit="photographs") as bar,
        in_threads(make, work, threads=cores(), ahead=2 * cores()) as done,
    ):
        bar.update(photographs - sum(_size(*item) for item in work))
        for count in done:
            bar.update(count)


def _size(parts: Parts, start: int) -> int:
    return min(RECORDS, len(parts.split.source) - start) * parts.split.of_each
