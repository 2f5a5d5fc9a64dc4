"""Affine maps from the pixels of a network's input to those of a photograph, and warps by them.

A map is a (3, 3) matrix of homogeneous coordinates (x, y, 1) in pixels, from the output's to the
source's, where a pixel reaches from its index to the next: its center is at a half. A photograph
and what is drawn on it go through one map, so that they stay on each other.
"""

import math
from typing import Literal

import cv2
import numpy as np
from jaxtyping import Float, Float32, UInt8

from retfm_jax.config import AugmentConfig, ImageConfig
from retfm_jax.data import masks
from retfm_jax.data.contrast import equalized
from retfm_jax.data.field_of_view import around_disc, disc_square
from retfm_jax.data.image_limits import ImageError
from retfm_jax.data.images import center_frame, crop_box, padded_frame

Map = Float[np.ndarray, "3 3"]
Resize = Literal["squash", "squash_bilinear", "pad", "crop"]

#: OpenCV's warps count pixels of a side in 16 bits.
_LONGEST = 32_766


def moved(x: float, y: float) -> Map:
    """Makes the map that adds to coordinates.

    Args:
      x, y: what is added, pixels.
    """
    return np.array([[1, 0, x], [0, 1, y], [0, 0, 1]], np.float64)


def scaled(x: float, y: float) -> Map:
    """Makes the map that multiplies coordinates.

    Args:
      x, y: the factors.
    """
    return np.diag([x, y, 1.0]).astype(np.float64)


def seen(
    image: UInt8[np.ndarray, "h w 3"], config: ImageConfig, shape: tuple[int, int]
) -> tuple[UInt8[np.ndarray, "_h _w 3"], Map, int, int]:
    """Makes of a photograph what networks see of it before it is scaled.

    Args:
      image: (h, w, 3) uint8, RGB; a photograph that may have been decoded at a part of its size.
      config: its `field_of_view` and `contrast`.
      shape: height and width of the photograph, pixels.

    Returns:
      the picture, of the photograph's size or the same part of it; the map from its pixels at the
      photograph's size to those of the photograph; its height and width at that size.
    """
    factor = round(max(shape) / max(image.shape[:2]))
    (height, width), to_source = shape, moved(0, 0)
    square = disc_square(image) if config.field_of_view == "crop" else None
    if square is not None:
        to_source = moved(square.left * factor, square.top * factor)
        height = width = square.side * factor
        image = around_disc(image)
    if config.contrast == "clahe":
        image = equalized(image)
    return image, to_source, height, width


def whole(height: int, width: int, size: int, resize: Resize) -> Map:
    """Makes the map under which all of a photograph is seen, as `images.fit` scales it.

    Args:
      height, width: of the photograph, pixels.
      size: height and width of the output, pixels.
      resize: see `ImageConfig.resize`; what "pad" leaves at right and bottom is outside.
    """
    if resize == "crop":
        (high, wide), (top, left) = center_frame(height, width, size)
        return scaled(width / wide, height / high) @ moved(left, top)
    high, wide = padded_frame(height, width, size) if resize == "pad" else (size, size)
    return scaled(width / wide, height / high)


def cropped(
    height: int,
    width: int,
    size: int,
    resize: Resize,
    area: tuple[float, float],
    rng: np.random.Generator,
) -> Map:
    """Makes the map of a random crop, as training sees photographs; see `images.augmented`.

    What "pad" adds to a crop at right or bottom shows what the photograph has there.

    Args:
      height, width: of the photograph, pixels.
      size: height and width of the output, pixels.
      resize: see `ImageConfig.resize`; a random crop takes the place of the central one.
      area: smallest and largest share of the area that is kept; (1, 1) keeps all.
      rng: of the choice.
    """
    if area == (1.0, 1.0):
        return whole(height, width, size, "squash" if resize == "crop" else resize)
    top, left, high, wide = crop_box(height, width, area, rng)
    return moved(left, top) @ whole(high, wide, size, "squash" if resize == "crop" else resize)


def window(
    height: int,
    width: int,
    size: int,
    step: float,
    rng: np.random.Generator,
    holding: tuple[float, float] | None = None,
) -> Map:
    """Makes the map of a random window inside a photograph.

    Where the window is larger than the photograph, all of it is inside the window.

    Args:
      height, width: of the photograph, pixels.
      size: height and width of the window, pixels of the output.
      step: pixels of the photograph for each of the output.
      rng: of its place.
      holding: y and x of a point that it has to hold, at a random place in it; None: it lies
        anywhere.
    """
    starts = []
    for side, point in zip((height, width), holding or (None, None), strict=True):
        low, high = sorted((0.0, side - size * step))
        share = rng.random()
        start = low + share * (high - low) if point is None else point - share * size * step
        starts.append(min(max(start, low), high))
    top, left = starts
    return moved(left, top) @ scaled(step, step)


def augmented(
    base: Map, size: int, augment: AugmentConfig, rng: np.random.Generator, *, mirror: bool
) -> Map:
    """Mirrors, rotates and scales what a map shows, as `images.augmented` does with pictures.

    Args:
      base: the map.
      size: height and width of the output, pixels.
      augment: its affine entries.
      rng: of the choice.
      mirror: whether left and right are exchanged.
    """
    if mirror:
        base = base @ moved(size, 0) @ scaled(-1, 1)
    if not augment.affine_probability or rng.random() >= augment.affine_probability:
        return base
    angle = math.radians(rng.uniform(-augment.affine_degrees, augment.affine_degrees))
    factor = rng.uniform(*augment.affine_scale)
    cos, sin = math.cos(angle) / factor, math.sin(angle) / factor
    turned = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]], np.float64)
    return base @ moved(size / 2, size / 2) @ turned @ moved(-size / 2, -size / 2)


def steps(matrix: Map) -> tuple[float, float]:
    """Computes how far the source's x and y go for one pixel of the output, pixels.

    Args:
      matrix: from output to source.
    """
    return math.hypot(*matrix[0, :2]), math.hypot(*matrix[1, :2])


def warp_image(
    image: UInt8[np.ndarray, "h w 3"], matrix: Map, size: int
) -> UInt8[np.ndarray, "size size 3"]:
    """Samples a photograph: areas are averaged where it shrinks, then bilinear; black outside.

    Args:
      image: (h, w, 3) uint8, RGB.
      matrix: from output to source.
      size: height and width of the output, pixels.

    Returns:
      (size, size, 3) uint8.

    Raises:
      ImageError: what is seen of it is longer than 32,766 px.
    """
    part, matrix = _seen(image, matrix, size)
    if part is None:
        return np.zeros((size, size, 3), np.uint8)
    target = _shrunk(part.shape, matrix)
    if target != part.shape[:2]:
        matrix = scaled(target[1] / part.shape[1], target[0] / part.shape[0]) @ matrix
        part = cv2.resize(part, target[::-1], interpolation=cv2.INTER_AREA)
    # Pixels of the border count as far as their edges, not as far as their centers.
    part = cv2.copyMakeBorder(part, 1, 1, 1, 1, cv2.BORDER_REPLICATE)
    warped = _warp(part, moved(1, 1) @ matrix, size, cv2.INTER_LINEAR)
    inside = _warp(_frame(target), moved(1, 1) @ matrix, size, cv2.INTER_NEAREST)
    warped[inside == 0] = 0
    return warped


def warp_mask(
    mask: UInt8[np.ndarray, "h w"], matrix: Map, size: int, how: masks.Resizing = "nearest"
) -> UInt8[np.ndarray, "size size"]:
    """Samples a mask: each pixel of the output takes the value of one of the source; 0 outside.

    Args:
      mask: (h, w) uint8, see `data.masks`.
      matrix: from output to source.
      size: height and width of the output, pixels.
      how: "area": where it shrinks, what half of the area shows, before one pixel is taken.

    Returns:
      (size, size) uint8, of the mask's values and 0.

    Raises:
      ImageError: what is seen of it is longer than 32,766 px.
    """
    part, matrix = _seen(mask, matrix, size)
    if part is None:
        return np.zeros((size, size), np.uint8)
    target = _shrunk(part.shape, matrix)
    if how == "area" and target != part.shape[:2]:
        matrix = scaled(target[1] / part.shape[1], target[0] / part.shape[0]) @ matrix
        part = masks.resized(part, *target, "area")
    return _warp(part, matrix, size, cv2.INTER_NEAREST)


def spread(
    values: Float[np.ndarray, "h w c"],
    matrix: Map,
    shape: tuple[int, int],
    outside: Float[np.ndarray, " c"],
) -> Float32[np.ndarray, "_h _w c"]:
    """Brings what was computed of pixels back to the photograph, bilinearly.

    Args:
      values: (h, w, c) floats, as logits.
      matrix: from the pixels of the values to those of the photograph.
      shape: height and width of the photograph, pixels.
      outside: values of what the values do not show.

    Returns:
      (height, width, c) float32; `values` itself where the map changes nothing.

    Raises:
      ImageError: the photograph is longer than 32,766 px.
    """
    if shape == values.shape[:2] and np.array_equal(matrix, np.eye(3)):
        return values.astype(np.float32, copy=False)
    if max(shape) > _LONGEST:
        raise ImageError(f"it is longer than {_LONGEST:,} px; scale the picture down first")
    back = np.linalg.inv(matrix)
    result = np.empty((*shape, values.shape[-1]), np.float32)
    size = (shape[1], shape[0])
    for channel in range(values.shape[-1]):
        plane = np.ascontiguousarray(values[..., channel], np.float32)
        # Values of the border reach as far as their pixels' edges.
        plane = cv2.copyMakeBorder(plane, 1, 1, 1, 1, cv2.BORDER_REPLICATE)
        result[..., channel] = _warp(plane, moved(1, 1) @ back, size, cv2.INTER_LINEAR)
    frame = _frame((values.shape[0], values.shape[1]))
    result[_warp(frame, moved(1, 1) @ back, size, cv2.INTER_NEAREST) == 0] = outside
    return result


def _frame(shape: tuple[int, int]) -> UInt8[np.ndarray, "h w"]:
    """1 inside, and a border of 0."""
    return np.pad(np.ones(shape, np.uint8), 1)


def _seen(picture: np.ndarray, matrix: Map, size: int) -> tuple[np.ndarray | None, Map]:
    """The part of a picture that the output shows, without a copy, and the map to it."""
    corners = matrix @ np.array([[0, size, 0, size], [0, 0, size, size], [1, 1, 1, 1]])
    low = np.floor(corners[:2].min(axis=1)).astype(int) - 2
    high = np.ceil(corners[:2].max(axis=1)).astype(int) + 2
    left, top = np.maximum(low, 0).tolist()
    right, bottom = np.minimum(high, picture.shape[1::-1]).tolist()
    if left >= right or top >= bottom:
        return None, matrix
    if max(right - left, bottom - top) > _LONGEST:
        raise ImageError(f"it is longer than {_LONGEST:,} px; scale the picture down first")
    return picture[top:bottom, left:right], moved(-left, -top) @ matrix


def _shrunk(shape: tuple[int, ...], matrix: Map) -> tuple[int, int]:
    """Height and width at which a pixel of the source is about one of the output, or larger."""
    across, down = steps(matrix)
    return (
        max(1, round(shape[0] / max(1.0, down))),
        max(1, round(shape[1] / max(1.0, across))),
    )


def _warp(picture: np.ndarray, matrix: Map, size: int | tuple[int, int], flags: int) -> np.ndarray:
    """Samples a picture at (width, height) pixels, or a square of them."""
    centers = (moved(-0.5, -0.5) @ matrix @ moved(0.5, 0.5))[:2]
    size = (size, size) if isinstance(size, int) else size
    return cv2.warpAffine(picture, centers, size, flags=flags | cv2.WARP_INVERSE_MAP, borderValue=0)
