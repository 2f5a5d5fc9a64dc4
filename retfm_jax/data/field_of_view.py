"""The lit disc that a fundus camera shows: the square around it, and its pixels."""

from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, UInt8

#: Long side of the copy on which the disc is looked for, pixels.
_SMALL = 256
#: Brighter corners than this are no dark surround, of 255.
_DARK = 48
#: The disc is brighter than its surround by this share of the brightness that a tenth of the pixels
#: exceed, and by so many values at least: noise of a sensor stays below.
_SHARE, _LEAST = 0.12, 8
#: Shares that the disc has of the picture, and of its own bounding box (a whole disc has 0.79).
_OF_PICTURE, _OF_BOX = 0.1, 0.5
#: Longest side of the disc's box by its shorter one.
_ASPECT = 2.0
#: Long side of the copy on which the field of view is found, pixels.
_FIELD_COPY = 1024
#: Shares of a picture outside of which a field of view is hardly one.
FIELD_SHARES = (0.3, 0.995)
#: A square that leaves out less than this share of the picture's side is the picture.
_TOLERANCE = 0.02

#: Of the search for a threshold: most steps, and the change at which it ends.
_STEPS, _CLOSE = 100, 0.01


class Square(NamedTuple):
    """Square of a photograph, in its pixels; it may leave the picture.

    Attributes:
      top, left: of its corner.
      side: its height and width.
    """

    top: int
    left: int
    side: int


def around_disc(image: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "_h _w 3"]:
    """Crops a photograph to the bounding square of the disc that its camera lit.

    Where the square leaves the picture, as for a disc that is cut at top and bottom, it is filled
    up with black. A result is left as it is when it is cropped again.

    Args:
      image: (h, w, 3) uint8, RGB.

    Returns:
      (side, side, 3) uint8; or `image` itself where there is no `disc_square`.
    """
    found = disc_square(image)
    if found is None:
        return image
    height, width = image.shape[:2]
    top, left, side = found
    square = np.zeros((side, side, 3), np.uint8)
    rows = slice(max(top, 0), min(top + side, height))
    columns = slice(max(left, 0), min(left + side, width))
    inside = (
        slice(rows.start - top, rows.stop - top),
        slice(columns.start - left, columns.stop - left),
    )
    square[inside] = image[rows, columns]
    return square


def disc_square(image: UInt8[np.ndarray, "h w 3"]) -> Square | None:
    """Finds the bounding square of the disc that a camera lit.

    Its side is the longer one of the disc's box.

    Args:
      image: (h, w, 3) uint8, RGB.

    Returns:
      the square; None where no disc in a dark surround is found, as on most pictures of other
      cameras, or where its square is the picture.
    """
    box = _disc(image)
    if box is None:
        return None
    left, top, right, bottom = box
    height, width = image.shape[:2]
    side = max(right - left, bottom - top)
    if max(abs(side - height), abs(side - width)) <= _TOLERANCE * side:
        return None
    return Square((top + bottom - side) // 2, (left + right - side) // 2, side)


def lit_field(image: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w"]:
    """Finds the field of view: the largest lit part of the red channel, its holes filled.

    What is lit is above Li's threshold of minimum cross-entropy, as FLAIR crops its photographs. It
    is found on a copy of at most 1,024 px a side, the same way for every tool.

    Args:
      image: (h, w, 3) uint8, RGB.

    Returns:
      (h, w) uint8, 1 inside; 1 everywhere where the corners show no dark surround, as of a
      photograph that was cropped to the retina, or where the red channel shows one value.
    """
    height, width = image.shape[:2]
    scale = max(1.0, max(height, width) / _FIELD_COPY)
    size = max(1, round(width / scale)), max(1, round(height / scale))
    red = cv2.resize(np.ascontiguousarray(image[..., 0]), size, interpolation=cv2.INTER_AREA)
    if _lit(red) is None:
        return np.ones((height, width), np.uint8)
    lit = (red > minimum_cross_entropy(red)).astype(np.uint8)
    # A thread of light must not join the surround's marks to the field.
    opened = cv2.morphologyEx(lit, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    _, labels, found, _ = cv2.connectedComponentsWithStats(opened, connectivity=4)
    if len(found) < 2:
        return np.ones((height, width), np.uint8)
    largest = (labels == 1 + int(found[1:, cv2.CC_STAT_AREA].argmax())).astype(np.uint8)
    outlines, _ = cv2.findContours(largest, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    field = cv2.drawContours(np.zeros_like(largest), outlines, -1, 1, cv2.FILLED)
    return cv2.resize(field, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)


def minimum_cross_entropy(values: UInt8[np.ndarray, "h w"]) -> float:
    """Computes Li's threshold: the one with the least cross-entropy between picture and its halves.

    Li and Tam, An iterative algorithm for minimum cross entropy thresholding, Pattern Recognition
    Letters 19, 1998: from the mean on, t = (b - a) / (ln b - ln a), where a and b are the means of
    what is at most t and of what is above it.

    Args:
      values: (h, w) uint8.

    Returns:
      the threshold; what is above it is lit. The value itself of a picture of one value.
    """
    counts = np.bincount(values.ravel(), minlength=256).astype(np.float64)
    grays = np.arange(256) + 1.0  # of a mean of 0 there is no logarithm
    threshold = float((counts * grays).sum() / counts.sum())
    for _ in range(_STEPS):
        below, above = counts[grays <= threshold], counts[grays > threshold]
        if not (below.sum() and above.sum()):
            break
        low = float((below * grays[: len(below)]).sum() / below.sum())
        high = float((above * grays[len(below) :]).sum() / above.sum())
        last, threshold = threshold, (high - low) / (np.log(high) - np.log(low))
        if abs(threshold - last) < _CLOSE:
            break
    return float(threshold) - 1


def brightness_of(image: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w"]:
    """Computes the largest channel of every pixel, several times faster than `max` along an axis.

    Args:
      image: (h, w, 3) uint8.
    """
    return np.maximum(np.maximum(image[..., 0], image[..., 1]), image[..., 2])


def _disc(image: np.ndarray) -> tuple[int, int, int, int] | None:
    """Left, top, right and bottom of the disc in pixels of the picture, the ends excluded."""
    height, width = image.shape[:2]
    scale = max(1.0, max(height, width) / _SMALL)
    size = max(1, round(width / scale)), max(1, round(height / scale))
    # Averages of every fourth row and column say as much as those of all, and cost a tenth.
    step = max(1, int(scale / 4))
    small = cv2.resize(image[::step, ::step], size, interpolation=cv2.INTER_AREA)
    lit = _lit(brightness_of(small))
    if lit is None:
        return None
    # Opening takes away text, single bright pixels and thin reflections at the rim.
    opened = cv2.morphologyEx(lit.astype(np.uint8), cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    _, _, found, _ = cv2.connectedComponentsWithStats(opened, connectivity=4)
    if len(found) < 2:
        return None
    x, y, w, h, area = found[1 + int(found[1:, cv2.CC_STAT_AREA].argmax())].tolist()
    if area < _OF_PICTURE * lit.size or area < _OF_BOX * w * h or max(w, h) > _ASPECT * min(w, h):
        return None
    across, down = width / size[0], height / size[1]
    return (
        int(np.floor(x * across)),
        int(np.floor(y * down)),
        min(width, int(np.ceil((x + w) * across))),
        min(height, int(np.ceil((y + h) * down))),
    )


def _lit(brightness: UInt8[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"] | None:
    """Which pixels are brighter than the surround; None where the corners show none."""
    rows, columns = (max(1, side // 24) for side in brightness.shape)
    corners = [
        float(np.median(brightness[down, across]))
        for down in (slice(rows), slice(-rows, None))
        for across in (slice(columns), slice(-columns, None))
    ]
    # A mark or a date may cover one corner or two.
    surround = sorted(corners)[1]
    if surround > _DARK:
        return None
    bright = float(np.quantile(brightness, 0.9))
    return brightness > surround + max(_LEAST, _SHARE * (bright - surround))
