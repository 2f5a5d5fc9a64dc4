"""Comparison of two photographs that may be one: registered, then correlated tile by tile."""

from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Float32, Int8

from retfm_jax.data.audit.fingerprints import SIDE, UNLIT, Window, detail

#: Iterations of the registration, and the gain at which it ends.
_CRITERIA = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 40, 1e-4)
#: Scores before the registration below which two photographs have nothing in common, and from
#: which nothing is left to register.
_HARDLY, _SURELY = 0.25, 0.9
#: Share of the plane that both have to show.
_OVERLAP = 0.2
#: Tiles a side, and the share of one that both have to show.
_TILES, _SHOWN = 8, 0.5


class Comparison(NamedTuple):
    """How alike two photographs are when one lies on the other.

    Attributes:
      score: mean correlation of the tiles that both show, -1 to 1.
      scale: a length in the second one by that in the first.
      rotation: of the second one, degrees.
      overlap: share of the square around the disc that both show.
    """

    score: float
    scale: float
    rotation: float
    overlap: float


NOTHING = Comparison(0.0, 1.0, 0.0, 0.0)


def compare(
    first: Int8[np.ndarray, "side side"],
    second: Int8[np.ndarray, "side side"],
    window: Window,
    mirror: bool,
) -> Comparison:
    """Registers a photograph with a window of another one and correlates them.

    The registration maximizes the enhanced correlation coefficient (Evangelidis and Psarakis, IEEE
    TPAMI 30, 2008) over affine maps. Where the window alone settles it, nothing is registered.

    Args:
      first: plane of a photograph, see `fingerprints.plane`.
      second: of what shows a part of the first, or all.
      window: the part, from which the registration begins.
      mirror: whether `second` is a mirror image.
    """
    if mirror:
        second = np.ascontiguousarray(second[:, ::-1])
    warp = _map(window)
    begun = _correlated(first, second, warp)
    if not _HARDLY <= begun.score < _SURELY:
        return begun
    try:
        _, found = cv2.findTransformECC(
            detail(second),
            detail(first),
            warp.copy(),
            cv2.MOTION_AFFINE,
            _CRITERIA,
            (second != UNLIT).astype(np.uint8),
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


def _correlated(first: np.ndarray, second: np.ndarray, warp: np.ndarray) -> Comparison:
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    moved = cv2.warpAffine(detail(first), warp, (SIDE, SIDE), flags=flags)
    shown = cv2.warpAffine((first != UNLIT).astype(np.uint8), warp, (SIDE, SIDE), flags=flags)
    both = (shown > 0) & (second != UNLIT)
    overlap = float(both.mean())
    if overlap < _OVERLAP:
        return NOTHING
    scale = float(np.sqrt(abs(np.linalg.det(warp[:, :2]))))
    rotation = float(np.degrees(np.arctan2(warp[1, 0] - warp[0, 1], warp[0, 0] + warp[1, 1])))
    return Comparison(tiled_score(moved, detail(second), both), 1 / scale, rotation, overlap)


def tiled_score(
    first: Float32[np.ndarray, "side side"],
    second: Float32[np.ndarray, "side side"],
    both: Bool[np.ndarray, "side side"],
) -> float:
    """Correlates two planes tile by tile.

    With c the correlation of a tile and s, t its standard deviations in either plane, the score is
    the mean of c weighted by sqrt(s t). All eyes have a disc, a macula and arcades, and all cameras
    leave reflections in the same places: these make two eyes correlate in a few tiles, and not in
    most of them.

    Args:
      first, second: registered.
      both: what both show.

    Returns:
      the score; 0 where no tile has any contrast.
    """
    shown = _tiles(both.astype(np.float32))
    shown = shown * (shown.mean(axis=1, keepdims=True) > _SHOWN)
    many = shown.sum(axis=1) + 1e-6
    centered = [
        (tiles - ((tiles * shown).sum(axis=1) / many)[:, None]) * shown
        for tiles in (_tiles(first), _tiles(second))
    ]
    product = np.sqrt(
        np.prod([(tiles * tiles).sum(axis=1) / many for tiles in centered], axis=0)
    )  # s t
    correlation = (centered[0] * centered[1]).sum(axis=1) / many / (product + 1e-6)
    weight = np.sqrt(product)
    total = float(weight.sum())
    return float((correlation * weight).sum()) / total if total > 0 else 0.0


def _tiles(values: np.ndarray) -> Float32[np.ndarray, "tiles pixels"]:
    side = SIDE // _TILES
    return values.reshape(_TILES, side, _TILES, side).swapaxes(1, 2).reshape(_TILES**2, side**2)
