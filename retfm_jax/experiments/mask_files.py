"""Files of masks: their names, and what turns probabilities into pictures.

Below the folder `M`, of a photograph `NAME` and each `STRUCTURE`::

    masks/NAME.png                      all structures, by number, with a palette
    masks/STRUCTURE/NAME.png            the structure, 0 and 255
    fov/NAME.png                        the field of view, 0 and 255
    probabilities/STRUCTURE/NAME.png    probability times 65,535, where wanted
    overlays/NAME.jpg                   the structures on the photograph, where wanted

all of the photograph's own size. With the photographs in `images/` beside `masks/` it is a folder
that training takes (`data.mask_folders`).
"""

import collections
import dataclasses
import hashlib
import io
import math
import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8, UInt16
from PIL import Image

from retfm_jax.data import masks
from retfm_jax.data.mask_folders import FIELDS, MASKS
from retfm_jax.data.photographs import PHOTOGRAPH_SUFFIXES
from retfm_jax.errors import UserError
from retfm_jax.experiments.photograph_list import PhotographList
from retfm_jax.files import Path, write_one_of_many
from retfm_jax.rendering.overlays import STRUCTURE_COLORS, masks_over

PROBABILITIES, OVERLAYS = "probabilities", "overlays"

#: Characters of a name: of at most four bytes each, and a file's name has at most 255.
_LONGEST = 50
#: What a number in a list follows; no other name holds it.
_NUMBER = "~"
#: Levels of probabilities: of k / 255, on which thresholds lie, 16 bits hold a whole number.
_LEVELS = 65_535
#: Palette entries beside the background.
_MOST_STRUCTURES = 255
_JPEG_QUALITY = 92


class FileNames:
    """Names of files for the photographs of a list: their own, as far as files can have them.

    A name is that of the photograph's file without its ending, with "-" for all but letters,
    digits, dots and underscores, cut at 50 characters. Those that several photographs would share,
    or but for upper and lower case, get "~" and the number of their photograph in the list, from 1.

    Args:
      listed: the photographs. Eight bytes are kept for each.
    """

    def __init__(self, listed: PhotographList):
        keys = np.fromiter(
            (
                _key(plain_stem(each.name))
                for part in range(listed.parts)
                for each in listed.part(part)
            ),
            np.uint64,
            listed.count,
        )
        found, counts = np.unique(keys, return_counts=True)
        self._shared = found[counts > 1]

    def of(self, name: str, position: int) -> str:
        """Names the files of a photograph, without an ending.

        Args:
          name: of the photograph, as its list has it.
          position: in the list, from 0.
        """
        stem = plain_stem(name)
        at = int(np.searchsorted(self._shared, _key(stem)))
        shared = at < len(self._shared) and self._shared[at] == _key(stem)
        return f"{stem}{_NUMBER}{position + 1}" if shared else stem


def _key(stem: str) -> np.uint64:
    digest = hashlib.blake2b(stem.casefold().encode(), digest_size=8).digest()
    return np.uint64(int.from_bytes(digest))


def plain_stem(name: str) -> str:
    """Name of a photograph's file without its ending, as every system takes it for a file.

    Args:
      name: a path, with slashes of either kind.
    """
    last = name.replace("\\", "/").rstrip("/").rpartition("/")[2]
    stem, dot, ending = last.rpartition(".")
    return plain(stem if dot and f".{ending.lower()}" in PHOTOGRAPH_SUFFIXES else last)


def plain(name: str) -> str:
    """Name that every system takes for a file or folder.

    Args:
      name: any text.
    """
    text = unicodedata.normalize("NFC", name)
    text = "".join(c if c.isalnum() or c in "._-" else "-" for c in text)
    return text[:_LONGEST].strip(".-") or "x"


def folders_of(structures: Sequence[str]) -> tuple[str, ...]:
    """Names of the structures' folders; those that would be alike get "~" and their number.

    Args:
      structures: their names, in order.

    Raises:
      UserError: there are more than a palette has entries for.
    """
    if len(structures) > _MOST_STRUCTURES:
        raise UserError(
            f"the network finds {len(structures)} structures, and a mask holds the numbers of "
            f"{_MOST_STRUCTURES}"
        )
    names = [plain(name) for name in structures]
    counts = collections.Counter(name.casefold() for name in names)
    return tuple(
        f"{name}{_NUMBER}{number}" if counts[name.casefold()] > 1 else name
        for number, name in enumerate(names, 1)
    )


def palette(count: int) -> list[tuple[int, int, int]]:
    """Colors of the background and of structures, RGB, as overlays have them.

    Args:
      count: number of structures.
    """
    colors = [color for _, color in STRUCTURE_COLORS]
    return [(0, 0, 0), *(colors[number % len(colors)] for number in range(count))]


def labels_of(found: Bool[np.ndarray, "h w c"]) -> UInt8[np.ndarray, "h w"]:
    """Numbers what each pixel shows: 0 nothing, else 1 + the index of the last structure there.

    Args:
      found: (h, w, c) bool, which structures a pixel shows.
    """
    labels = np.zeros(found.shape[:2], np.uint8)
    for number in range(found.shape[-1]):
        labels[found[..., number]] = number + 1
    return labels


def encode_labels(labels: UInt8[np.ndarray, "h w"], count: int) -> bytes:
    """Encodes numbers of structures as PNG with a palette.

    Args:
      labels: (h, w) uint8, from 0 to `count`.
      count: number of structures.
    """
    picture = Image.fromarray(labels)
    picture.putpalette([value for color in palette(count) for value in color])
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def levels_of(
    probabilities: Float[np.ndarray, "h w"], found: Bool[np.ndarray, "h w"], threshold: float
) -> UInt16[np.ndarray, "h w"]:
    """Rounds probabilities to 16 bits, so that the same pixels stay above the threshold.

    Args:
      probabilities: (h, w) floats from 0 to 1.
      found: (h, w) bool, where they are above the threshold.
      threshold: from 0 to 1.

    Returns:
      (h, w) uint16; `found` is where they are above 65,535 times the threshold, and divided by
      65,535 they are the probabilities to within 1 / 65,535.
    """
    levels = np.rint(probabilities * np.float32(_LEVELS)).astype(np.uint16)
    # Of k / 255, a product that is a whole number but for rounding.
    limit = math.floor(threshold * _LEVELS + 1e-6)
    np.minimum(levels, limit, out=levels, where=~found)
    np.maximum(levels, min(limit + 1, _LEVELS), out=levels, where=found)
    return levels


class Found(NamedTuple):
    """What a network finds in a photograph, at the photograph's size.

    Attributes:
      image: (h, w, 3) uint8, RGB.
      probabilities: of the structures, (h, w, c) float32; 0 outside of the field of view.
      masks: (h, w, c) bool, where they are above the thresholds.
      field: (h, w) uint8, 1 inside of the field of view.
    """

    image: UInt8[np.ndarray, "h w 3"]
    probabilities: Float[np.ndarray, "h w c"]
    masks: Bool[np.ndarray, "h w c"]
    field: UInt8[np.ndarray, "h w"]


@dataclasses.dataclass(frozen=True)
class MaskFiles:
    """Files of the structures of a network.

    Attributes:
      out: the folder `M`.
      folders: of the structures, in order; see `folders_of`.
      thresholds: of the structures.
      probabilities, overlays: whether they are written, too.
    """

    out: Path
    folders: tuple[str, ...]
    thresholds: tuple[float, ...]
    probabilities: bool = False
    overlays: bool = False

    def write(self, name: str, found: Found) -> None:
        """Writes the files of a photograph, each as a whole or not at all.

        Args:
          name: of the files, as `FileNames` gives it.
          found: in the photograph.

        Raises:
          UserError: a file cannot be written.
        """
        self._put(encode_labels(labels_of(found.masks), len(self.folders)), MASKS, f"{name}.png")
        self._put(masks.encode(found.field), FIELDS, f"{name}.png")
        for index, (folder, threshold) in enumerate(
            zip(self.folders, self.thresholds, strict=True)
        ):
            here = np.ascontiguousarray(found.masks[..., index])
            self._put(masks.encode(here.view(np.uint8)), MASKS, folder, f"{name}.png")
            if self.probabilities:
                levels = levels_of(found.probabilities[..., index], here, threshold)
                self._put(_encoded(".png", levels), PROBABILITIES, folder, f"{name}.png")
        if self.overlays:
            laid = masks_over(found.image, found.masks.view(np.uint8), found.field)[..., ::-1]
            options = (cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY)
            self._put(_encoded(".jpg", laid, *options), OVERLAYS, f"{name}.jpg")

    def _put(self, data: bytes, *parts: str) -> None:
        write_one_of_many(self.out.joinpath(*parts), data)


def _encoded(ending: str, picture: np.ndarray, *options: int) -> bytes:
    done, data = cv2.imencode(ending, picture, options)
    assert done, f"OpenCV writes {ending}"
    return data.tobytes()
