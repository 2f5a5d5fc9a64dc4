"""Comparison of two photographs that may be one: registered, then correlated vessel by vessel."""

from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Float32, UInt8

from retfm_jax.data.audit.fingerprints import Window, plane

#: Side of the planes that are registered and compared, pixels.
SIDE = 192
#: Iterations of the registration, and the gain at which it ends.
_CRITERIA = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 40, 1e-4)
#: Correlation before the registration below which two photographs have nothing in common.
_HARDLY = 0.25
#: Share of the plane that both have to show.
_OVERLAP = 0.2


class Plane(NamedTuple):
    """Photograph as it is compared.

    Attributes:
      detail, lit: see `fingerprints.plane`.
    """

    detail: Float32[np.ndarray, "side side"]
    lit: Bool[np.ndarray, "side side"]


def planes(image: UInt8[np.ndarray, "h w 3"]) -> Plane:
    """Makes of a photograph what is compared.

    Args:
      image: (h, w, 3) uint8, RGB.
    """
    return Plane(*plane(image, SIDE))


class Comparison(NamedTuple):
    """How alike two photographs are when one lies on the other.

    Attributes:
      score: correlation of what both show, -1 to 1.
      scale: a length in the second one by that in the first.
      rotation: of the second one, degrees.
      overlap: share of the square around the disc that both show.
    """

    score: float
    scale: float
    rotation: float
    overlap: float


NOTHING = Comparison(0.0, 1.0, 0.0, 0.0)


def compare(first: Plane, second: Plane, window: Window, mirror: bool) -> Comparison:
    """Registers a photograph with a window of another one and correlates them.

    The registration maximizes the enhanced correlation coefficient (Evangelidis and Psarakis, IEEE
    TPAMI 30, 2008) over affine maps. Where the window alone gives hardly any correlation, nothing
    is registered.

    Args:
      first: see `planes`.
      second: of what shows a part of the first, or all.
      window: the part, from which the registration begins.
      mirror: whether `second` is a mirror image.
    """
    if mirror:
        second = Plane(*(np.ascontiguousarray(array[:, ::-1]) for array in second))
    warp = _map(window)
    begun = _correlated(first, second, warp)
    if begun.score < _HARDLY:
        return begun
    try:
        _, found = cv2.findTransformECC(
            second.detail,
            first.detail,
            warp.copy(),
            cv2.MOTION_AFFINE,
            _CRITERIA,
            second.lit.astype(np.uint8),
            5,
        )
    except cv2.error:  # it did not converge
        return begun
    return max(begun, _correlated(first, second, found.astype(np.float32)))


def _map(window: Window) -> Float32[np.ndarray, "2 3"]:
    """Maps pixels of the second plane to those of the first one."""

    def row(shift: float) -> float:
        return (0.5 + shift - window.scale / 2) * SIDE + window.scale / 2 - 0.5

    return np.array(
        [[window.scale, 0, row(window.across)], [0, window.scale, row(window.down)]], np.float32
    )


def _correlated(first: Plane, second: Plane, warp: Float32[np.ndarray, "2 3"]) -> Comparison:
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    moved = cv2.warpAffine(first.detail, warp, (SIDE, SIDE), flags=flags)
    shown = cv2.warpAffine(first.lit.astype(np.uint8), warp, (SIDE, SIDE), flags=flags)
    both = (shown > 0) & second.lit
    overlap = float(both.mean())
    if overlap < _OVERLAP:
        return NOTHING
    score = float(np.corrcoef(moved[both], second.detail[both])[0, 1])
    scale = float(np.sqrt(abs(np.linalg.det(warp[:, :2]))))
    rotation = float(np.degrees(np.arctan2(warp[1, 0] - warp[0, 1], warp[0, 0] + warp[1, 1])))
    return Comparison(score if np.isfinite(score) else 0.0, 1 / scale, rotation, overlap)
