"""Fingerprints of a split, kept in parts on disk, so that a killed audit goes on where it was.

A part holds some records: for every photograph its digest, the hashes of all windows and a digest
of its patient. Names and labels lie beside them and are read only where a photograph is named.
"""

import dataclasses
import hashlib
import json
import zipfile
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import UInt8, UInt64

from retfm_jax import files
from retfm_jax.data.audit.fingerprints import WHOLE, WINDOWS, WORDS, fingerprint
from retfm_jax.data.audit.sets import Photograph, Split, photographs
from retfm_jax.data.sources import DamagedRecord
from retfm_jax.errors import UserError
from retfm_jax.progress import progress_bar
from retfm_jax.runtime.threads import cores, in_threads

#: Records of a part.
RECORDS = 256
#: Parts of another version are made anew.
VERSION = 1

#: What became of a photograph.
HASHED, PLAIN, BROKEN, MISSING = range(4)


@dataclasses.dataclass(frozen=True)
class Part:
    """Fingerprints of some records of a split.

    Attributes:
      state: of every photograph, one of `HASHED`, `PLAIN` (it shows nothing that could be told
        apart), `BROKEN` (it cannot be decoded) and `MISSING` (eyes).
      digests: (n, 2) uint64 of the bytes.
      hashes: (n, windows, words) uint64; zero where nothing is hashed.
      patients: (n) uint64 digests of patients; 0 where they are unknown.
    """

    state: UInt8[np.ndarray, " n"]
    digests: UInt64[np.ndarray, "n 2"]
    hashes: UInt64[np.ndarray, "n windows words"]
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
    """

    def __init__(self, split: Split, folder: files.Path):
        self.split = split
        self._folder = folder / f"{split.key}-v{VERSION}"
        self._starts = range(0, len(split.source), RECORDS)
        self._facts: tuple[int, list[Facts]] = (-1, [])

    def __len__(self) -> int:
        """Number of photographs, missing eyes counted."""
        return len(self.split.source) * self.split.of_each

    def _path(self, start: int) -> files.Path:
        return self._folder / f"{start:09d}.npz"

    @property
    def missing(self) -> list[int]:
        """First records of the parts that are not there yet."""
        return [start for start in self._starts if not self._path(start).is_file()]

    def make(self, start: int) -> None:
        """Reads the records of a part, and writes it.

        Args:
          start: the first record.

        Raises:
          UserError: it cannot be written.
        """
        end = min(start + RECORDS, len(self.split.source))
        state, digests, hashes, patients, facts = [], [], [], [], []
        for index in range(start, end):
            for photo, error in self._photographs(index):
                made = fingerprint(photo.image, photo.name) if photo.image else None
                error = error or (made.error if made else "")
                if not photo.image:
                    state.append(BROKEN if error else MISSING)
                else:
                    there = made is not None and made.hashes is not None
                    state.append(BROKEN if error else HASHED if there else PLAIN)
                empty = np.zeros((len(WINDOWS), WORDS), np.uint64)
                hashes.append(made.hashes if made and made.hashes is not None else empty)
                digests.append(np.frombuffer(made.digest if made else bytes(16), np.uint64))
                patients.append(_digest(photo.patient))
                facts.append([photo.record, photo.name, photo.patient, photo.labels, error])
        with files.atomic_write(self._path(start), "wb") as file:
            np.savez(
                file,
                state=np.array(state, np.uint8),
                digests=np.array(digests, np.uint64).reshape(-1, 2),
                hashes=np.array(hashes, np.uint64).reshape(-1, len(WINDOWS), WORDS),
                patients=np.array(patients, np.uint64),
                facts=np.frombuffer(json.dumps(facts).encode(), np.uint8),
            )

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
        for start in self._starts:
            with self._open(start) as arrays:
                yield Part(arrays["state"], arrays["digests"], arrays["hashes"], arrays["patients"])

    def _open(self, start: int):
        path = self._path(start)
        try:
            return np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise UserError(
                f"{path} cannot be read ({files.reason(error)}): remove it, and the same command "
                "makes it anew"
            ) from error

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


def whole(part: Part) -> UInt64[np.ndarray, "n words"]:
    """The hashes of the photographs as they are, without windows.

    Args:
      part: whose they are.
    """
    return part.hashes[:, WHOLE]
