"""A guess of the eye from the place of the optic disc. A guess, and called one wherever it is used.

On a photograph as a camera takes it the disc of a right eye lies right of the center, that of a
left eye left. A mirrored photograph is guessed wrong.
"""

from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Float32, UInt8

from retfm_jax.data.field_of_view import around_disc, brightness_of
from retfm_jax.knowledge.laterality import LEFT, RIGHT, Side

#: Side of the copy that is looked at, and standard deviations of the Gaussians in its pixels: of a
#: disc and of what surrounds it, of a vessel's surround, and of the neighborhood of vessels.
_SIDE = 64
_DISC, _AROUND, _BESIDE_VESSEL, _VESSELS = 1.5, 8.0, 2.5, 3.0
#: Weights of the vessels, and of the squared distance from the horizontal, in sides.
_VESSEL_WEIGHT, _OFF_HORIZONTAL = 0.5, 16.0
#: Radius in which a disc is looked for, of the field's; pixels this bright are lit, of 255.
_INNER, _LIT = 0.85, 20
#: A disc nearer to the center than this share of the side tells nothing, and neither does one that
#: stands out from the best place in the other half by less than this, in standard deviations.
_CENTRAL, _MARGIN = 0.12, 1.0
#: Added to spreads, in gray values: rounding of a flat picture is no structure.
_LEAST_SPREAD = 0.05


class Guess(NamedTuple):
    """Guess of an eye.

    Attributes:
      side: "left", "right", or None where nothing is guessed.
      offset: of the brightest disc from the center, to the right, in sides of the field of view.
      margin: by which it stands out from the best place in the other half, in standard deviations.
    """

    side: Side | None
    offset: float
    margin: float


def guess_side(image: UInt8[np.ndarray, "h w 3"]) -> Guess:
    """Guesses which eye a fundus photograph shows.

    The disc is taken to be where it is brighter than around and where vessels crowd, near to the
    horizontal through the center.

    Args:
      image: (h, w, 3) uint8, RGB, as decoded, not mirrored.
    """
    square = cv2.resize(around_disc(image), (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)
    small = square.astype(np.float32)
    position = (np.arange(_SIDE, dtype=np.float32) + 0.5) / _SIDE - 0.5
    radius = 2 * np.hypot(position[:, None], position)
    lit = (brightness_of(square) > _LIT) & (radius < 0.97)
    inside = (radius < _INNER) & lit
    if inside.mean() < 0.25:
        return Guess(None, 0.0, 0.0)
    green = small[..., 1]
    brightness = 0.4 * small[..., 0] + 0.6 * green
    bump = _mean(brightness, lit, _DISC) - _mean(brightness, lit, _AROUND)
    vessels = _mean(np.maximum(_mean(green, lit, _BESIDE_VESSEL) - green, 0), lit, _VESSELS)
    found = _standard(bump, inside) + _VESSEL_WEIGHT * _standard(vessels, inside)
    found -= _OFF_HORIZONTAL * position[:, None] ** 2
    found[~inside] = -np.inf
    column = int(found.argmax()) % _SIDE
    half = _SIDE // 2
    margin = abs(float(found[:, half:].max() - found[:, :half].max()))
    offset = float(position[column])
    sure = np.isfinite(margin) and margin >= _MARGIN and abs(offset) >= _CENTRAL
    return Guess((RIGHT if offset > 0 else LEFT) if sure else None, offset, margin)


def _mean(
    values: Float32[np.ndarray, "h w"], lit: Bool[np.ndarray, "h w"], sigma: float
) -> Float32[np.ndarray, "h w"]:
    """Gaussian means of the lit pixels alone."""
    weights = cv2.GaussianBlur(lit.astype(np.float32), (0, 0), sigma)
    return cv2.GaussianBlur(values * lit, (0, 0), sigma) / np.maximum(weights, 1e-3)


def _standard(
    values: Float32[np.ndarray, "h w"], inside: Bool[np.ndarray, "h w"]
) -> Float32[np.ndarray, "h w"]:
    some = values[inside]
    return (values - some.mean()) / (some.std() + _LEAST_SPREAD)
