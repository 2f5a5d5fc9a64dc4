"""Logits of whole photographs, of any size, from a network that takes pictures of one size.

A photograph is seen as in training (`config.data.masks`): as a whole, or in windows that overlap by
half and are blended, so that every pixel is weighed once. Logits come back at the photograph's own
size, bilinearly: what is thresholded there is the photograph, not the network's input.
"""

import math
from collections.abc import Callable
from typing import Literal

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

from retfm_jax.config import DataConfig
from retfm_jax.data.geometry import scaled, seen, spread, warp_image, whole

#: From pictures (batch, size, size, 3) uint8 to logits (batch, size, size, c) float32.
Network = Callable[[np.ndarray], np.ndarray]
Weighing = Literal["hann", "equal"]

#: Logit of what a network does not see, as outside of a central square.
UNSEEN = -30.0


def photograph_logits(
    image: UInt8[np.ndarray, "h w 3"],
    network: Network,
    config: DataConfig,
    *,
    batch: int = 4,
    weighing: Weighing = "hann",
    background: bool = False,
) -> Float32[np.ndarray, "h w c"]:
    """Computes the logits of a photograph at its own size.

    Args:
      image: (h, w, 3) uint8, RGB.
      network: from pictures (batch, size, size, 3) uint8 to logits (batch, size, size, c).
      config: its image size and conversion, and `masks`.
      batch: windows that the network takes at once; always as many, so that it is compiled once. A
        whole photograph is one.
      weighing: of a window's pixels; see `window_weights`.
      background: whether the first logit of a pixel is that of none of the others.

    Returns:
      (h, w, c) float32; -30, and 30 of a background, where the network does not see the photograph.

    Raises:
      ImageError: the photograph is longer than 32,766 px.
    """
    shape, size = (image.shape[0], image.shape[1]), config.image.size
    picture, to_source, high, wide = seen(image, config.image, shape)
    if config.masks.geometry == "whole":
        to_seen = whole(high, wide, size, config.image.resize)
        logits = network(warp_image(picture, to_seen, size)[None])[0]
    else:
        step = max(shape) / (config.masks.working_size or max(shape))
        target = max(1, round(high / step)), max(1, round(wide / step))
        to_seen = scaled(wide / target[1], high / target[0])
        if target != picture.shape[:2]:
            how = cv2.INTER_AREA if step > 1 else cv2.INTER_LINEAR
            picture = cv2.resize(picture, target[::-1], interpolation=how)
        logits = blended(picture, network, size, batch=batch, weighing=weighing)
    outside = np.full(logits.shape[-1], UNSEEN)
    if background:
        outside[0] = -UNSEEN
    return spread(logits, to_source @ to_seen, shape, outside)


def blended(
    image: UInt8[np.ndarray, "h w 3"],
    network: Network,
    size: int,
    *,
    batch: int = 4,
    weighing: Weighing = "hann",
) -> Float32[np.ndarray, "h w c"]:
    """Blends the logits of windows that overlap by half.

    Args:
      image: (h, w, 3) uint8, at the size at which the network sees it.
      network: see `photograph_logits`.
      size: height and width of a window, pixels. What a window has beyond the picture is black.
      batch: windows that the network takes at once.
      weighing: see `window_weights`.

    Returns:
      (h, w, c) float32, of every pixel the weighted mean over the windows that hold it.
    """
    height, width = image.shape[:2]
    corners = [
        (top, left) for top in window_starts(height, size) for left in window_starts(width, size)
    ]
    weights = window_weights(size, weighing)
    weights = weights[:, None] * weights
    total = np.zeros((height, width, 1), np.float32)
    sums: np.ndarray | None = None
    for start in range(0, len(corners), batch):
        part = corners[start : start + batch]
        windows = np.zeros((batch, size, size, 3), np.uint8)
        for row, (top, left) in enumerate(part):
            piece = image[top : top + size, left : left + size]
            windows[row, : piece.shape[0], : piece.shape[1]] = piece
        found = network(windows)
        if sums is None:
            sums = np.zeros((height, width, found.shape[-1]), np.float32)
        for logits, (top, left) in zip(found, part, strict=False):
            here = np.s_[top : top + size, left : left + size]
            weight = weights[: height - top, : width - left, None]
            sums[here] += weight * logits[: height - top, : width - left]
            total[here] += weight
    assert sums is not None  # there is a window at least
    sums /= total
    return sums


def window_starts(side: int, size: int) -> tuple[int, ...]:
    """First pixels of windows that cover a side evenly and overlap by half at least.

    Args:
      side: length of the picture, pixels.
      size: length of a window, pixels.
    """
    if side <= size:
        return (0,)
    count = math.ceil((side - size) / max(1, size // 2)) + 1
    return tuple(round(number * (side - size) / (count - 1)) for number in range(count))


def window_weights(size: int, weighing: Weighing) -> Float32[np.ndarray, " size"]:
    """Weights of a window's pixels along a side, all greater than 0.

    Args:
      size: length of the window, pixels.
      weighing: "hann", sin^2(pi (x + 1/2) / size), by which windows fade into each other; "equal".
    """
    if weighing == "equal":
        return np.ones(size, np.float32)
    return (np.sin(np.pi * (np.arange(size) + 0.5) / size) ** 2).astype(np.float32)
