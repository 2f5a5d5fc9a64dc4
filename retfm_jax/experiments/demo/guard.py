"""What a page takes from whoever reaches it: sizes, contents, and how many at a time."""

import collections
import contextlib
import dataclasses
import io
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from retfm_jax.data.dicom import frames, is_dicom
from retfm_jax.data.image_limits import ImageError
from retfm_jax.data.images import decode, is_flat
from retfm_jax.errors import UserError
from retfm_jax.experiments.demo import words
from retfm_jax.experiments.demo.words import Words

#: Formats that are looked for; the name and the suffix of a file mean nothing.
_FORMATS = ("JPEG", "PNG", "TIFF", "BMP", "WEBP", "PPM", "GIF", "JPEG2000")


class Refused(UserError):
    """Something that the page does not take, told in both languages.

    Args:
      said: the sentence.

    Attributes:
      said: the sentence.
    """

    def __init__(self, said: Words):
        super().__init__(str(said))
        self.said = said


@dataclasses.dataclass(frozen=True)
class Limits:
    """What the page takes.

    Attributes:
      file_bytes: largest file.
      pixels: most pixels of a photograph; the largest fundus cameras stay below 50 megapixels.
      least_side: fewest pixels of its shorter side.
      kept_bytes: most bytes of all photographs that are kept; the oldest make room.
      kept_seconds: how long a photograph is kept.
      waiting: requests that may wait while another one is computed.
      uploads: files that may come in at one time.
      upload_seconds: how long one of them may take.
      classes: most conditions that are compared.
      shown: cases and reports that are shown.
    """

    file_bytes: int = 32_000_000
    pixels: int = 50_000_000
    least_side: int = 32
    kept_bytes: int = 256_000_000
    kept_seconds: float = 600.0
    waiting: int = 16
    uploads: int = 8
    upload_seconds: float = 60.0
    classes: int = 12
    shown: int = 5


def photograph(data: bytes, limits: Limits) -> UInt8[np.ndarray, "h w 3"]:
    """Decodes what was uploaded, if it is one photograph of a reasonable size.

    Width and height are read from the header, before a pixel is decoded. Of a DICOM file its
    picture alone is read.

    Args:
      data: the bytes of the file.
      limits: what is taken.

    Returns:
      (h, w, 3) uint8, RGB, upright.

    Raises:
      Refused: it is empty, too large, of another type, damaged, of several frames, or of one value.
    """
    if not data:
        raise Refused(words.EMPTY)
    if len(data) > limits.file_bytes:
        raise Refused(too_large(limits))
    if is_dicom(data):
        if frames(data) > 1:
            raise Refused(words.SEVERAL_FRAMES)
    else:
        _check_sides(*_size(data, limits), limits)
    try:
        pixels = decode(data, "photograph")
    except ImageError as error:
        raise Refused(words.DAMAGED) from error
    height, width = pixels.shape[:2]
    _check_sides(width, height, limits)  # DICOM's decoder knows a limit of its own before
    if is_flat(pixels):
        raise Refused(words.FLAT)
    return pixels


def too_large(limits: Limits) -> Words:
    """The sentence on a file of too many bytes.

    Args:
      limits: what is taken.
    """
    return words.TOO_LARGE.filled(megabytes=limits.file_bytes // 10**6)


def _check_sides(width: int, height: int, limits: Limits) -> None:
    if width * height > limits.pixels:
        raise Refused(_too_many_pixels(limits))
    if min(width, height) < limits.least_side:
        raise Refused(words.TOO_SMALL.filled(width=width, height=height))


def _too_many_pixels(limits: Limits) -> Words:
    return words.TOO_MANY_PIXELS.filled(most=f"{limits.pixels / 10**6:g}")


def _size(data: bytes, limits: Limits) -> tuple[int, int]:
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            # A JPEG of several (MPO) holds previews. Counting frames would read all of them.
            several = image.format != "JPEG" and _has_another(image)
            width, height = image.size
    except Image.DecompressionBombError as error:
        raise Refused(_too_many_pixels(limits)) from error
    except Exception as error:  # Pillow's parsers raise many kinds
        raise Refused(words.NO_IMAGE) from error
    if several:
        raise Refused(words.SEVERAL_FRAMES)
    return width, height


def _has_another(image: Image.Image) -> bool:
    try:
        image.seek(1)
    except EOFError:
        return False
    return True


class _Entry(NamedTuple):
    """A photograph that is kept: its file, and when it came."""

    data: bytes
    came: float


class Kept:
    """The latest photographs, in memory alone, for a while.

    Whoever has the random key of one has it; nobody can list them.

    Args:
      limits: how many bytes, and how long.
      clock: seconds, which only grow.
    """

    def __init__(self, limits: Limits, clock: Callable[[], float] = time.monotonic):
        self._limits, self._clock = limits, clock
        self._entries: collections.OrderedDict[str, _Entry] = collections.OrderedDict()
        self._lock = threading.Lock()

    def put(self, data: bytes) -> str:
        """Keeps a photograph, and forgets the oldest ones where there is no room for all.

        Args:
          data: the bytes of its file.

        Returns:
          its key.
        """
        key = secrets.token_urlsafe(18)
        with self._lock:
            self._entries[key] = _Entry(data, self._clock())
            self._forget()
        return key

    def get(self, key: str) -> bytes:
        """Finds a photograph.

        Args:
          key: from `put`.

        Raises:
          Refused: it is not kept, or no longer.
        """
        with self._lock:
            self._forget()
            entry = self._entries.get(key)
        if entry is None:
            raise Refused(words.FORGOTTEN)
        return entry.data

    def drop(self, key: str) -> None:
        """Forgets a photograph, if it is still kept.

        Args:
          key: from `put`.
        """
        with self._lock:
            self._entries.pop(key, None)

    def expire(self) -> int:
        """Forgets what is kept for too long.

        Returns:
          how many photographs are left.
        """
        with self._lock:
            self._forget()
            return len(self._entries)

    def _forget(self) -> None:
        oldest_allowed = self._clock() - self._limits.kept_seconds
        size = sum(len(entry.data) for entry in self._entries.values())
        for key, entry in list(self._entries.items()):  # the oldest first
            if entry.came > oldest_allowed and size <= self._limits.kept_bytes:
                break
            del self._entries[key]
            size -= len(entry.data)


class Turns:
    """Lets one request compute and some wait; the rest is told to come back.

    Args:
      waiting: how many may wait.
    """

    def __init__(self, waiting: int):
        self._places = threading.BoundedSemaphore(1 + waiting)
        self._one = threading.Lock()

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """The block runs alone.

        Raises:
          Refused: too many wait already.
        """
        if not self._places.acquire(blocking=False):
            raise Refused(words.BUSY)
        try:
            with self._one:
                yield
        finally:
            self._places.release()
