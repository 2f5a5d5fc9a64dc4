"""Whether heat maps show what they claim: insertion and deletion curves, and the pointing game."""

import math
from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8

#: From images (k, h, w, 3) uint8 to the scalar of each that is explained, (k,).
Score = Callable[[np.ndarray], np.ndarray]


class Curve(NamedTuple):
    """How a score changes while a photograph is covered or uncovered.

    Attributes:
      shares: of the pixels that were changed, from 0 to 1.
      scores: of the image at each share.
    """

    shares: Float[np.ndarray, " points"]
    scores: Float[np.ndarray, " points"]

    @property
    def area(self) -> float:
        """Area under the curve by the trapezoidal rule, in units of the score."""
        return float(np.trapezoid(self.scores, self.shares))


def deletion(
    score: Score,
    image: UInt8[np.ndarray, "h w 3"],
    heat: Float[np.ndarray, "h w"],
    covered: UInt8[np.ndarray, "h w 3"],
    steps: int = 32,
) -> Curve:
    """Covers a photograph, the most relevant pixels first (Petsiuk et al., BMVC 2018).

    The sooner the score falls, the smaller the area, the better the map.

    Args:
      score: what the map explains.
      image: the photograph, (h, w, 3) uint8.
      heat: its map, (h, w).
      covered: what takes the place of pixels: one color, or the photograph `blurred`.
      steps: in which all pixels are changed, equally many in each.
    """
    return _changed(score, image, covered, heat, steps)


def insertion(
    score: Score,
    image: UInt8[np.ndarray, "h w 3"],
    heat: Float[np.ndarray, "h w"],
    covered: UInt8[np.ndarray, "h w 3"],
    steps: int = 32,
) -> Curve:
    """Uncovers a photograph, the most relevant pixels first (Petsiuk et al., BMVC 2018).

    The sooner the score rises, the larger the area, the better the map.

    Args:
      score, image, heat, covered, steps: see `deletion`.
    """
    return _changed(score, covered, image, heat, steps)


def _changed(
    score: Score, start: np.ndarray, end: np.ndarray, heat: np.ndarray, steps: int
) -> Curve:
    order = np.argsort(-heat, axis=None, kind="stable")
    ends = np.rint(np.linspace(0, order.size, steps + 1)).astype(int)
    frames = np.repeat(start[None], steps + 1, 0)
    flat, target = frames.reshape(steps + 1, -1, 3), end.reshape(-1, 3)
    for frame, count in zip(flat, ends, strict=True):
        frame[order[:count]] = target[order[:count]]
    return Curve(ends / order.size, np.asarray(score(frames), np.float64))


def blurred(image: UInt8[np.ndarray, "h w 3"], share: float = 0.05) -> UInt8[np.ndarray, "h w 3"]:
    """Blurs a photograph until no finding is seen, to cover it without an edge.

    Args:
      image: (h, w, 3) uint8.
      share: of the longer side that the Gaussian's standard deviation is.
    """
    return cv2.GaussianBlur(image, (0, 0), share * max(image.shape[:2]))


def near(place: Bool[np.ndarray, "h w"], tolerance: float) -> Bool[np.ndarray, "h w"]:
    """Widens a place by a tolerance.

    Args:
      place: pixels that belong to it (h, w) bool.
      tolerance: in pixels.
    """
    distance = cv2.distanceTransform((~place).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return distance <= tolerance if place.any() else place


def peak(heat: Float[np.ndarray, "h w"]) -> tuple[int, int] | None:
    """Row and column of a map's largest value, of equal ones in their middle; None where all are 0.

    The map hits a finding where that is in its place, widened by a tolerance (`near`): the pointing
    game of Zhang et al., Top-down neural attention by excitation backprop, ECCV 2016.

    Args:
      heat: map (h, w), at least 0.
    """
    if not heat.max() > 0:
        return None
    # At the edge of a coarse map whole strips have one value.
    equal = np.argwhere(heat == heat.max())
    nearest = np.linalg.norm(equal - equal.mean(0), axis=1).argmin()
    row, column = map(int, equal[nearest])
    return row, column


def chance(place: Bool[np.ndarray, "h w"], field: Bool[np.ndarray, "h w"]) -> float:
    """Probability that a random pixel of the field of view is in a place.

    Args:
      place: pixels that belong to it (h, w) bool, as `near` widens it.
      field: pixels that show anything (h, w) bool.

    Returns:
      the share of the field, 0 to 1; NaN without a field.
    """
    return float(place[field].mean()) if field.any() else math.nan
