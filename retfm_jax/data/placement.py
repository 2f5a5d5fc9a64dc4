"""From the network's input back to the photograph: maps, undoing what `images.fit` did."""

import cv2
import numpy as np
from jaxtyping import Bool, Float32

from retfm_jax.config import ImageConfig


def scaled_frame(
    height: int, width: int, config: ImageConfig
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Computes where the photograph's frame lies in the network's input.

    Args:
      height, width: of the photograph in pixels.
      config: its `size` and `resize`.

    Returns:
      (height, width) of the scaled photograph, and (top, left) of its corner, in pixels of the
      input; the corner is negative where a margin was cropped.
    """
    size = config.size
    if config.resize == "squash":
        return (size, size), (0, 0)
    if config.resize == "pad":
        scale = max(height, width) / size
        return (max(1, int(height / scale)), max(1, int(width / scale))), (0, 0)
    short, shorter = int(size * 256 / 224), min(height, width)
    high, wide = int(short * height / shorter), int(short * width / shorter)
    return (high, wide), (-round((high - size) / 2), -round((wide - size) / 2))


def onto_photograph(
    maps: Float32[np.ndarray, "k rows columns"],
    height: int,
    width: int,
    config: ImageConfig,
    shown: tuple[int, int] | None = None,
) -> Float32[np.ndarray, "k h w"]:
    """Lays maps over the network's input onto the photograph that it was made of.

    Between the centers of a map's cells values are bilinear, beyond the outer ones constant. What
    the network did not see, the margin that "crop" cuts away, is 0; what is only padding is gone.

    Args:
      maps: over the input, of any resolution, (k, rows, columns) float32.
      height, width: of the photograph in pixels, upright.
      config: its `size` and `resize`.
      shown: height and width of the result, of the whole photograph at another resolution; None:
        that of the photograph.

    Returns:
      maps over the photograph, (k, h, w) float32.
    """
    (high, wide), (top, left) = scaled_frame(height, width, config)
    out_height, out_width = shown or (height, width)
    count, rows, columns = maps.shape
    # From a pixel's center of the result to the input, then to the map's cells.
    y = ((np.arange(out_height) + 0.5) * high / out_height + top) / config.size
    x = ((np.arange(out_width) + 0.5) * wide / out_width + left) / config.size
    seen = _inside(y)[:, None] & _inside(x)
    down = np.broadcast_to((y * rows - 0.5)[:, None], seen.shape).astype(np.float32)
    across = np.broadcast_to(x * columns - 0.5, seen.shape).astype(np.float32)
    laid = np.zeros((count, *seen.shape), np.float32)
    for number, each in enumerate(maps):
        found = cv2.remap(each, across, down, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        laid[number] = np.where(seen, found, 0)
    return laid


def _inside(shares: np.ndarray) -> Bool[np.ndarray, " n"]:
    return (shares >= 0) & (shares <= 1)
