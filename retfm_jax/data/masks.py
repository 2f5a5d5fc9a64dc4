"""Masks: which pixels of a photograph show a structure, as files write it and as arrays.

In an array 1 is a pixel that shows the structure, 0 one that does not, and `UNKNOWN` one of which
nobody knows. A mask is never interpolated: what is drawn thin would vanish, and values between the
codes would mean something else.
"""

import dataclasses
import io
import re
from typing import IO, Literal, NamedTuple

import cv2
import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, UnidentifiedImageError

from retfm_jax.data.field_of_view import lit_field
from retfm_jax.data.image_limits import ImageError, check_size, too_large
from retfm_jax.data.images import ORIENTATION_TAG, upright
from retfm_jax.errors import UserError
from retfm_jax.files import PathLike

#: A pixel of which nobody knows whether it shows the structure.
UNKNOWN = 255

#: How masks are scaled down: "nearest" takes one pixel of many, "area" what most of them show,
#: which keeps the width of what is thicker than a pixel and loses what is thinner.
Resizing = Literal["nearest", "area"]

#: EXIF's orientations that exchange height and width.
_TURNED = (5, 6, 7, 8)
_FORMATS = ("PNG", "TIFF", "GIF", "BMP", "PPM", "JPEG", "WEBP")
#: What stands for "present" where a mask holds it beside 0 alone.
_ONES = (1, 255, 65535)
#: Stands for a pixel of unknown state in a stored mask.
_STORED_UNKNOWN = 127
_NAMED = 6


class Interval(NamedTuple):
    """Gray values from `low` to `high`, both included."""

    low: int
    high: int


@dataclasses.dataclass(frozen=True)
class Codes:
    """Meaning of the gray values of a mask file.

    Attributes:
      present: values of pixels that show the structure; None: the mask holds 0 and one other value
        of 1, 255 and 65535, which is it, and anything else is refused.
      unknown: values of pixels of which nobody knows; None: there are none.
    """

    present: Interval | None = None
    unknown: Interval | None = None


#: Of masks of two values.
BINARY = Codes()
#: As `encode` writes masks.
STORED = Codes(Interval(255, 255), Interval(_STORED_UNKNOWN, _STORED_UNKNOWN))


class EncodedMask(NamedTuple):
    """Mask as a file holds it.

    Attributes:
      data: the encoded picture; b"" where the structure is known to be absent.
      codes: meaning of its values.
      name: what messages call it.
    """

    data: bytes
    codes: Codes = STORED
    name: str = "mask"


class MaskError(UserError):
    """A file that is no usable mask.

    Attributes:
      kind: "broken_mask", "mask_values", "mask_size" or "empty_field".
    """

    def __init__(self, kind: str, message: str):
        """Names the fault.

        Args:
          kind: the heading it is counted under.
          message: for the user.
        """
        super().__init__(message)
        self.kind = kind


def interval(text: str, where: str) -> Interval:
    """Parses "128" or "0-150", gray values of 8 bits.

    Args:
      text: one value, or the first and the last one.
      where: the entry, for the message.

    Raises:
      UserError: it is neither, or empty.
    """
    match = re.fullmatch(r"\s*(\d{1,3})\s*(?:-\s*(\d{1,3})\s*)?", str(text))
    low, high = (0, -1) if match is None else (int(match[1]), int(match[2] or match[1]))
    if not 0 <= low <= high <= 255:
        raise UserError(f"{where}: {text!r} is no gray value of 0 to 255, nor an interval of them")
    return Interval(low, high)


def decode(data: bytes, name: str, codes: Codes = BINARY) -> UInt8[np.ndarray, "h w"]:
    """Decodes a mask: PNG, TIFF, GIF, BMP or PNM, with 1 to 16 bits or a palette, gray or not.

    A palette of grays counts by its grays, one of colors by its indices. Of colors and of the
    entries of a palette, black and one other one are 0 and 255. A picture whose channels are alike
    is gray. Transparency is not looked at. The picture is turned upright as its EXIF says.

    Args:
      data: the encoded bytes.
      name: of the file, for messages.
      codes: meaning of the values.

    Returns:
      (h, w) uint8: 1 present, 0 absent, `UNKNOWN`.

    Raises:
      MaskError: it is no picture, is damaged or too large, is colored, or its values have no
        meaning.
    """
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            check_size(name, *image.size)
            orientation = image.getexif().get(ORIENTATION_TAG, 1)
            if image.mode == "1" and codes in (BINARY, STORED):  # most masks: nothing to look up
                mask = np.array(image, np.uint8)
            else:
                values = _values(image, name)
                mask = np.take(_table(values, name, codes), values)
    except MaskError:
        raise
    except ImageError as error:
        raise MaskError("broken_mask", str(error)) from error
    except Image.DecompressionBombError as error:
        raise MaskError("broken_mask", f"{name}: {too_large()} ({error})") from error
    except Exception as error:  # Pillow's decoders raise many kinds
        why = "" if isinstance(error, UnidentifiedImageError) else f": {error}"
        raise MaskError(
            "broken_mask",
            f"{name}: not a readable mask ({len(data)} bytes; PNG, TIFF, GIF, BMP or PNM wanted)"
            f"{why}",
        ) from error
    return upright(mask, orientation)


def size_of(file: PathLike | IO[bytes], name: str) -> tuple[int, int]:
    """Reads the height and width of a picture from its header, as its EXIF turns it, in pixels.

    Args:
      file: of a photograph or a mask.
      name: of the file, for messages.

    Raises:
      MaskError: it is none.
    """
    try:
        with Image.open(file) as image:
            width, height = image.size
            turned = image.getexif().get(ORIENTATION_TAG, 1) in _TURNED
    except Exception as error:  # Pillow raises many kinds
        raise MaskError("broken_mask", f"{name}: not a readable picture: {error}") from error
    return (width, height) if turned else (height, width)


def _values(image: Image.Image, name: str) -> np.ndarray:
    """Gray values (h, w) of an opened picture, uint8 or uint16; one bit becomes 0 and 255."""
    if image.mode == "1":
        return np.asarray(image).astype(np.uint8) * np.uint8(255)
    if image.mode == "P":
        return _of_palette(image)
    if image.mode == "L":
        return np.array(image)
    if image.mode.startswith(("I", "F")):
        values = np.asarray(image)
        if not (np.isfinite(values).all() and (values >= 0).all() and (values <= 65535).all()):
            raise MaskError("mask_values", f"{name} holds values below 0 or above 65535")
        whole = values.astype(np.uint16)
        if (whole != values).any():
            raise MaskError(
                "mask_values", f"{name} holds fractions, and a mask holds whole values; {_REMEDY}"
            )
        return whole
    if image.mode == "LA":
        return np.array(image)[..., 0]
    channels = np.asarray(image.convert("RGB"))
    first = channels[..., 0]
    if (channels[..., 1] == first).all() and (channels[..., 2] == first).all():
        return np.array(first)
    lit = np.asarray(channels.any(axis=-1))
    colors = channels[lit]
    if (colors == colors[0]).all():
        return lit.astype(np.uint8) * 255
    raise MaskError(
        "mask_values",
        f"{name} is a color picture ({image.mode}), and a mask has one gray value a pixel; "
        f"{_REMEDY}",
    )


_REMEDY = "save it as a gray PNG with 0 and 255, one file for each structure"


def _of_palette(image: Image.Image) -> UInt8[np.ndarray, "h w"]:
    indices = np.array(image)
    palette = np.zeros((256, 3), np.uint8)
    stored = np.array(image.getpalette("RGB"), np.uint8).reshape(-1, 3)
    palette[: len(stored)] = stored
    used = np.flatnonzero(_counts(indices))
    colors = palette[used]
    if (colors == colors[:, :1]).all():
        return np.take(palette[:, 0], indices)
    lit = colors.any(axis=1)
    if lit.sum() == 1:
        return np.take(palette.any(axis=1).astype(np.uint8) * np.uint8(255), indices)
    return indices


def _counts(values: np.ndarray) -> Float[np.ndarray, " values"]:
    """How often each value occurs, of 8 or 16 bits, several times faster than `np.unique`."""
    bins = 256 if values.dtype == np.uint8 else 65536
    rows = np.ascontiguousarray(values)
    return cv2.calcHist([rows], [0], None, [bins], [0, bins]).ravel()


def _table(values: np.ndarray, name: str, codes: Codes) -> UInt8[np.ndarray, " values"]:
    """What each value means.

    Raises:
      MaskError: one that occurs has no meaning.
    """
    counts = _counts(values)
    found = np.flatnonzero(counts)
    table = np.zeros(len(counts), np.uint8)
    if codes.present is None:
        above = found[found > 0]
        if len(above) > 1 or (len(above) and int(above[0]) not in _ONES):
            shown = ", ".join(map(str, found[:_NAMED].tolist())) + ", ..." * (len(found) > _NAMED)
            raise MaskError(
                "mask_values",
                f"{name} holds the values {shown}, and a mask holds 0 and 1, or 0 and 255; "
                f"{_REMEDY}",
            )
        table[above] = 1
        return table
    if found[-1] > 255:
        raise MaskError(
            "mask_values",
            f"{name} holds the value {found[-1]}, and its codes end at 255; {_REMEDY}",
        )
    table[codes.present.low : codes.present.high + 1] = 1
    if codes.unknown is not None:
        table[codes.unknown.low : codes.unknown.high + 1] = UNKNOWN
    return table


def require_size(
    shape: tuple[int, ...], name: str, image_shape: tuple[int, ...], image_name: str
) -> None:
    """Refuses a mask of another size than its photograph.

    Args:
      shape: height and width of the mask, pixels.
      name: of its file.
      image_shape: height and width of the photograph; more axes are not looked at.
      image_name: of its file.

    Raises:
      MaskError: they differ.
    """
    (height, width), (tall, wide) = shape[:2], image_shape[:2]
    if (height, width) != (tall, wide):
        raise MaskError(
            "mask_size",
            f"{name} has {width} x {height} pixels, and its photograph {image_name} has "
            f"{wide} x {tall}; a mask is as large as its photograph",
        )


def require_field(field: UInt8[np.ndarray, "h w"], name: str) -> None:
    """Refuses a field of view without a pixel.

    Args:
      field: (h, w) uint8, 1 inside.
      name: of its file.

    Raises:
      MaskError: nothing is inside.
    """
    if not (field == 1).any():
        raise MaskError(
            "empty_field", f"{name} is an empty field of view: no pixel of it is inside"
        )


def encode(mask: UInt8[np.ndarray, "h w"]) -> bytes:
    """Encodes a mask as PNG: one bit a pixel, or gray 0, 127 (unknown) and 255 where it needs that.

    `decode` with `STORED` gives it back.

    Args:
      mask: (h, w) uint8, 1 present, 0 absent, `UNKNOWN`.
    """
    buffer = io.BytesIO()
    if (mask == UNKNOWN).any():
        table = np.zeros(256, np.uint8)
        table[1], table[UNKNOWN] = 255, _STORED_UNKNOWN
        picture = Image.fromarray(table[mask])
    else:
        picture = Image.fromarray(mask * np.uint8(255)).convert("1", dither=Image.Dither.NONE)
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def resized(
    mask: UInt8[np.ndarray, "h w"], height: int, width: int, how: Resizing = "nearest"
) -> UInt8[np.ndarray, "height width"]:
    """Scales a mask; pixels have their centers at halves, as in the photograph's scaling.

    Args:
      mask: (h, w) uint8, 1 present, 0 absent, `UNKNOWN`.
      height, width: of the result, pixels.
      how: "nearest"; or "area": present, or unknown, where at least half of the area is.

    Returns:
      (height, width) uint8, of the same values.
    """
    if mask.shape == (height, width):
        return mask
    if how == "nearest":
        return cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
    result = np.zeros((height, width), np.uint8)
    for value in (1, UNKNOWN):
        part = (mask == value).astype(np.float32)
        share = cv2.resize(part, (width, height), interpolation=cv2.INTER_AREA)
        result[share >= 0.5] = value
    return result


def pixels(
    mask: EncodedMask | None, shape: tuple[int, int], image_name: str
) -> UInt8[np.ndarray, "h w"]:
    """Decodes a mask of a record, which may be absent or unknown.

    Args:
      mask: None where nobody looked for the structure.
      shape: height and width of the photograph, pixels.
      image_name: of the photograph, for messages.

    Returns:
      (h, w) uint8, 1 present, 0 absent, `UNKNOWN`.

    Raises:
      MaskError: it cannot be decoded, or is of another size.
    """
    if mask is None:
        return np.full(shape, UNKNOWN, np.uint8)
    if not mask.data:
        return np.zeros(shape, np.uint8)
    drawn = decode(mask.data, mask.name, mask.codes)
    require_size(drawn.shape, mask.name, shape, image_name)
    return drawn


def field_pixels(
    field: EncodedMask | None,
    image: UInt8[np.ndarray, "_ _ 3"],
    shape: tuple[int, int],
    image_name: str,
) -> UInt8[np.ndarray, "h w"]:
    """Decodes the field of view of a record, or finds it on the photograph.

    Args:
      field: None where it has to be found.
      image: the photograph, RGB, perhaps decoded at a part of its size.
      shape: height and width of the photograph, pixels.
      image_name: of the photograph, for messages.

    Returns:
      (h, w) uint8, 1 inside.

    Raises:
      MaskError: it cannot be decoded, is of another size, or is empty.
    """
    if field is None:
        return resized(lit_field(image), *shape)
    drawn = pixels(field, shape, image_name)
    require_field(drawn, field.name)
    return drawn
