"""From the network's input back to the photograph: maps, undoing what `images.fit` did."""

import cv2
import numpy as np
from jaxtyping import Bool, Float32

from retfm_jax.config import ImageConfig
from retfm_jax.data.field_of_view import Square
from retfm_jax.data.images import center_frame, padded_frame


def scaled_frame(
    height: int, width: int, config: ImageConfig
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Computes where the frame of what is scaled lies in the network's input.

    Args:
      height, width: of the photograph, or of the square that is cropped from it, in pixels.
      config: its `size` and `resize`.

    Returns:
      (height, width) of the scaled photograph, and (top, left) of its corner, in pixels of the
      input; the corner is negative where a margin was cropped.
    """
    size = config.size
    if config.resize in ("squash", "squash_bilinear"):
        return (size, size), (0, 0)
    if config.resize == "pad":
        return padded_frame(height, width, size), (0, 0)
    scaled, (top, left) = center_frame(height, width, size)
    return scaled, (-top, -left)


def onto_photograph(
    maps: Float32[np.ndarray, "k rows columns"],
    height: int,
    width: int,
    config: ImageConfig,
    shown: tuple[int, int] | None = None,
    square: Square | None = None,
) -> Float32[np.ndarray, "k h w"]:
    """Lays maps over the network's input onto the photograph that it was made of.

    Between the centers of a map's cells values are bilinear, beyond the outer ones constant. What
    the network did not see, a margin that is cut away, is 0; what is only padding is gone.

    Args:
      maps: over the input, of any resolution, (k, rows, columns) float32.
      height, width: of the photograph in pixels, upright.
      config: its `size` and `resize`.
      shown: height and width of the result, of the whole photograph at another resolution; None:
        that of the photograph.
      square: of the photograph that the network saw, where it is cropped to its field of view.

    Returns:
      maps over the photograph, (k, h, w) float32.
    """
    whole = 0, 0, height, width
    upper, lefter, rows_seen, columns_seen = (
        whole if square is None else (square.top, square.left, square.side, square.side)
    )
    (high, wide), (top, left) = scaled_frame(rows_seen, columns_seen, config)
    out_height, out_width = shown or (height, width)
    count, rows, columns = maps.shape
    # From a pixel's center of the result to the input, then to the map's cells.
    y = ((np.arange(out_height) + 0.5) * height / out_height - upper) / rows_seen
    x = ((np.arange(out_width) + 0.5) * width / out_width - lefter) / columns_seen
    framed = _inside(y)[:, None] & _inside(x)
    y, x = (y * high + top) / config.size, (x * wide + left) / config.size
    seen = framed & _inside(y)[:, None] & _inside(x)
    down = np.broadcast_to((y * rows - 0.5)[:, None], seen.shape).astype(np.float32)
    across = np.broadcast_to(x * columns - 0.5, seen.shape).astype(np.float32)
    laid = np.zeros((count, *seen.shape), np.float32)
    for number, each in enumerate(maps):
        found = cv2.remap(each, across, down, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        laid[number] = np.where(seen, found, 0)
    return laid


def _inside(shares: np.ndarray) -> Bool[np.ndarray, " n"]:
    return (shares >= 0) & (shares <= 1)
