"""Keys of cases: which records are of one, known without reading any image.

Beside the shards of a dataset lies `cases.npz`: for every split a row for each record, in their
order, which is random. Its first two numbers are a key: records with equal keys are one case. The
third is the record's place among all by their names, by which the images of a case are ordered.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from jaxtyping import UInt64

from retfm_jax.array_files import read_arrays, write_arrays
from retfm_jax.files import Path

FILE = "cases.npz"

#: The key of a record that is of no case, for it lacks a report or an image.
_NONE = bytes(16)


def key_of(record: Any) -> bytes:
    """Makes the key of the case that a record is of: its patient's, and its name or its report.

    Args:
      record: of a patient, who is one case, or of an image.

    Returns:
      16 bytes; all 0 where there is no report or no image.
    """
    if hasattr(record, "left"):
        seen, texts = record.left or record.right, record.report
        who, case = record.record_id, ""
    else:
        seen, texts = record.image, record.caption
        who, case = record.patient_id, record.case_id
    said = [texts[language].strip() for language in sorted(texts)]
    if not seen or not any(said):
        return _NONE
    parts = [who, "case", case] if case else [who, "report", *said]
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).digest()[:16]


def table(found: Iterable[tuple[bytes, str]]) -> UInt64[np.ndarray, "n 3"]:
    """Makes the table of a split.

    Args:
      found: the key, and the record id, of every record.
    """
    found = list(found)
    keys = np.frombuffer(b"".join(key for key, _ in found), "<u8").reshape(-1, 2)
    places = np.empty(len(found), np.uint64)
    places[sorted(range(len(found)), key=lambda index: _by_number(found[index][1]))] = np.arange(
        len(found), dtype=np.uint64
    )
    return np.concatenate([keys, places[:, None]], axis=1)


def _by_number(name: str) -> list[tuple[int, str]]:
    """A key of sorting by which "a/10" comes behind "a/9"."""
    parts = re.split(r"(\d{1,18})", name)
    return [(int(part), "") if index % 2 else (0, part) for index, part in enumerate(parts)]


def write(folder: Path, found: Mapping[str, UInt64[np.ndarray, "n 3"]]) -> None:
    """Writes the tables of a dataset; nothing of one without a report.

    Args:
      folder: of one version of a dataset.
      found: split -> its table.
    """
    if any(of_split[:, :2].any() for of_split in found.values()):
        write_arrays(folder / FILE, found)


def read(folder: Path) -> dict[str, UInt64[np.ndarray, "n 3"]] | None:
    """Reads the tables of a dataset.

    Args:
      folder: of one version of a dataset.

    Returns:
      split -> its table; None of a dataset that was built without them.

    Raises:
      UserError: the file is damaged.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    return read_arrays(path, "remove it, and records are read in its place")
