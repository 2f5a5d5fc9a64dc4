"""Heat maps and masks over photographs, as pictures."""

from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

#: Share of the color at the largest value; the photograph stays visible everywhere.
_OPACITY = 0.75
#: Colors of structures in turn, RGB, told apart on a red fundus and by color-blind eyes (Okabe and
#: Ito), and how strongly they cover a photograph.
STRUCTURE_COLORS = (
    ("sky blue", (86, 180, 233)),
    ("yellow", (240, 228, 66)),
    ("white", (255, 255, 255)),
    ("green", (0, 158, 115)),
    ("blue", (0, 114, 178)),
    ("purple", (204, 121, 167)),
    ("orange", (230, 159, 0)),
)
_COVER = 0.7
#: What differences between masks are, how their colors are called and what they are, RGB, on a
#: photograph whose gray is dimmed.
DIFFERENCES = {
    "right": ("green", (0, 158, 115)),
    "false": ("orange", (230, 159, 0)),
    "missed": ("sky blue", (86, 180, 233)),
}
_DIM = 0.6
#: Level of the contour, as a share of the way from the least to the largest value.
_CONTOUR = 0.5


def overlay(
    photograph: UInt8[np.ndarray, "h w 3"], heat: Float32[np.ndarray, "h w"]
) -> UInt8[np.ndarray, "h w 3"]:
    """Colors a photograph by a map: from clear at its least value to yellow at its largest.

    A line goes round what lies above half of that range. A map of one value colors nothing.

    Args:
      photograph: RGB, (h, w, 3) uint8.
      heat: map over it, (h, w) float32.

    Returns:
      RGB, (h, w, 3) uint8.
    """
    low, high = float(heat.min()), float(heat.max())
    if not high > low:
        return photograph
    share = (heat - low) / (high - low)
    colors = cv2.applyColorMap(np.rint(255 * share).astype(np.uint8), cv2.COLORMAP_VIRIDIS)
    cover = (_OPACITY * share)[..., None]
    mixed = photograph * (1 - cover) + cv2.cvtColor(colors, cv2.COLOR_BGR2RGB) * cover
    picture = np.ascontiguousarray(np.rint(mixed).astype(np.uint8))
    above = (share >= _CONTOUR).astype(np.uint8)
    outlines, _ = cv2.findContours(above, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    width = max(1, round(max(heat.shape) / 300))
    return np.asarray(cv2.drawContours(picture, outlines, -1, (255, 255, 255), width))


def masks_over(
    photograph: UInt8[np.ndarray, "h w 3"],
    masks: UInt8[np.ndarray, "h w structures"],
    field: UInt8[np.ndarray, "h w"],
) -> UInt8[np.ndarray, "h w 3"]:
    """Colors the structures on a photograph, the last on top, and outlines the field of view.

    Args:
      photograph: RGB, (h, w, 3) uint8.
      masks: (h, w, structures) uint8; what is 1 is colored, in the order of `STRUCTURE_COLORS`.
      field: (h, w) uint8, 1 inside.

    Returns:
      RGB, (h, w, 3) uint8.
    """
    picture = photograph.copy()
    for column in range(masks.shape[-1]):
        _, color = STRUCTURE_COLORS[column % len(STRUCTURE_COLORS)]
        shown = masks[..., column] == 1
        mixed = (1 - _COVER) * photograph[shown] + _COVER * np.array(color)
        picture[shown] = np.rint(mixed).astype(np.uint8)
    return outlined(picture, field)


def outlined(
    picture: UInt8[np.ndarray, "h w 3"], field: UInt8[np.ndarray, "h w"]
) -> UInt8[np.ndarray, "h w 3"]:
    """Outlines the field of view by a white line, in the picture itself.

    Args:
      picture: RGB, (h, w, 3) uint8.
      field: (h, w) uint8, 1 inside.

    Returns:
      RGB, (h, w, 3) uint8.
    """
    outlines, _ = cv2.findContours(field, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    return np.asarray(cv2.drawContours(picture, outlines, -1, (255, 255, 255), 1))


def shares_over(
    photograph: UInt8[np.ndarray, "h w 3"],
    shares: Float32[np.ndarray, "h w structures"],
    colors: Sequence[tuple[str, tuple[int, int, int]]] = STRUCTURE_COLORS,
) -> UInt8[np.ndarray, "h w 3"]:
    """Colors what structures cover of each pixel of a small copy, the last on top.

    A share s is shown as its root, so that what is thinner than a pixel of the copy stays visible.

    Args:
      photograph: the copy, RGB, (h, w, 3) uint8.
      shares: of each pixel, 0 to 1, (h, w, structures) float32.
      colors: in turn, with their names.

    Returns:
      RGB, (h, w, 3) uint8.
    """
    picture = photograph.astype(np.float32)
    for column in range(shares.shape[-1]):
        _, color = colors[column % len(colors)]
        cover = _COVER * np.sqrt(shares[..., column, None])
        picture += cover * (np.array(color, np.float32) - picture)
    return np.rint(picture).astype(np.uint8)


def differences_over(
    photograph: UInt8[np.ndarray, "h w 3"], shares: Float32[np.ndarray, "h w 3"]
) -> UInt8[np.ndarray, "h w 3"]:
    """Colors what of each pixel of a small copy is right, false and missed; see `DIFFERENCES`.

    Args:
      photograph: the copy, RGB, (h, w, 3) uint8, of which a dim gray is left.
      shares: as of `shares_over`, of pixels that are right, false and missed.

    Returns:
      RGB, (h, w, 3) uint8.
    """
    gray = cv2.cvtColor(photograph, cv2.COLOR_RGB2GRAY)
    dim = np.repeat((gray * _DIM).astype(np.uint8)[..., None], 3, axis=2)
    return shares_over(dim, shares, tuple(DIFFERENCES.values()))


def beside(*pictures: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h all 3"]:
    """Puts pictures of one height side by side, with a narrow black gap.

    Args:
      pictures: RGB, each (h, w, 3) uint8.
    """
    gap = np.zeros((len(pictures[0]), max(2, len(pictures[0]) // 100), 3), np.uint8)
    parts = [part for picture in pictures for part in (gap, picture)][1:]
    return np.concatenate(parts, axis=1)
