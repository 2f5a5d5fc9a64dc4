"""What masks are as shapes: skeletons, connected parts, a cup in its disc, shares of a field."""

import math
import re
from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Bool, Int32, Shaped

#: Neighbors of a pixel clockwise, as steps of (row, column).
_RING = {
    "N": (-1, 0), "NE": (-1, 1), "E": (0, 1), "SE": (1, 1),
    "S": (1, 0), "SW": (1, -1), "W": (0, -1), "NW": (-1, -1),
}  # fmt: skip
#: Of both passes: triples of neighbors of which one at least is not set where a pixel goes.
_TRIPLES = ((("N", "E", "S"), ("E", "S", "W")), (("N", "E", "W"), ("N", "S", "W")))
#: Where scikit-image departs from the conditions, by pass, as neighbors that are set: corners of a
#: staircase go, and ends two pixels wide stay for the other pass.
_GO = (
    ("N E", "E S", "S W", "N W", "N E NW", "N NE W", "S W NW", "N SW W", "N NE SW W"),
    ("N E", "E S", "S W", "N W", "N E SE", "E S SW", "SE S W", "NE E S SW"),
)
_STAY = (
    ("E SE", "SE S", "S SW", "SW W", "W NW", "E SE S", "S SW W"),
    ("N NW", "N NE", "NE E", "SE S", "W NW", "N NE E", "N W NW"),
)


def _code(neighbors: str) -> int:
    """Number of a pattern of neighbors: bit i for the i-th of the ring."""
    return sum(1 << [*_RING].index(name) for name in neighbors.split())


def _removable(number: int) -> Bool[np.ndarray, " codes"]:
    """By the code of its neighbors, whether a pass takes a pixel away.

    It does where 2 to 6 neighbors are set, they are one run around the pixel, and each triple has
    one that is not set.
    """
    neighbors = (np.arange(256)[:, None] >> np.arange(8)) & 1
    runs = ((neighbors == 0) & (np.roll(neighbors, -1, axis=1) == 1)).sum(1)
    count = neighbors.sum(1)
    found = (count >= 2) & (count <= 6) & (runs == 1)
    for triple in _TRIPLES[number]:
        found &= neighbors[:, [[*_RING].index(name) for name in triple]].min(1) == 0
    found[[_code(neighbors) for neighbors in _GO[number]]] = True
    found[[_code(neighbors) for neighbors in _STAY[number]]] = False
    return found


#: Of the two passes of an iteration: the south-east rim and the north-west one.
_PASSES = (_removable(0), _removable(1))


def skeleton(mask: Shaped[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """Thins a mask to lines of one pixel that keep its form.

    Source: Zhang and Suen, Communications of the ACM 27(3), 1984, as scikit-image's `skeletonize`
    computes it. What is outside of the picture counts as not set.

    Args:
      mask: (h, w); what is greater than 0 is set.
    """
    height, width = mask.shape
    padded = np.zeros((height + 2, width + 2), np.uint8)
    padded[1:-1, 1:-1] = mask > 0
    flat = padded.reshape(-1)  # a view: pixels that are taken away vanish from both
    steps = [rows * (width + 2) + columns for rows, columns in _RING.values()]
    left = np.flatnonzero(flat)
    changed = True
    while changed:
        changed = False
        for removable in _PASSES:
            codes = np.zeros(len(left), np.uint8)
            for bit, step in enumerate(steps):
                codes |= flat[left + step] << bit
            gone = removable[codes]
            flat[left[gone]] = 0
            left = left[~gone]
            changed = changed or bool(gone.any())
    return padded[1:-1, 1:-1] > 0


def centerline_dice(
    prediction: Shaped[np.ndarray, "h w"], truth: Shaped[np.ndarray, "h w"]
) -> float:
    """Computes clDice, the harmonic mean of how much of each skeleton lies in the other mask.

    Source: Shit et al., CVPR 2021, equations 1 to 3.

    Args:
      prediction, truth: masks (h, w); what is greater than 0 is set.

    Returns:
      from 0 to 1; 1 where both masks are empty, 0 where one is.
    """
    if not (prediction > 0).any() or not (truth > 0).any():
        return float((prediction > 0).any() == (truth > 0).any())
    precision = float((truth[skeleton(prediction)] > 0).mean())
    sensitivity = float((prediction[skeleton(truth)] > 0).mean())
    both = precision + sensitivity
    return 2 * precision * sensitivity / both if both else 0.0


def disc_and_cup(structures: Sequence[str]) -> tuple[int, int] | None:
    """Finds the optic disc and its cup among structures, by the last words of their names.

    Args:
      structures: their names, such as "optic_disc" and "optic_cup".

    Returns:
      the positions of both; None where there is not one of each.
    """
    last = [["", *re.findall("[a-z]+", name.casefold())][-1] for name in structures]
    discs = [index for index, word in enumerate(last) if word in ("disc", "disk")]
    cups = [index for index, word in enumerate(last) if word == "cup"]
    return (discs[0], cups[0]) if len(discs) == len(cups) == 1 else None


def parts(mask: Shaped[np.ndarray, "h w"]) -> Int32[np.ndarray, "n 5"]:
    """Finds the connected parts of a mask; pixels that touch at a corner are connected.

    Args:
      mask: (h, w); what is greater than 0 is set.

    Returns:
      of each part the left column and the upper row of its box, the box's width and height, and its
      number of pixels, (n, 5) int32; n is 0 where nothing is set.
    """
    set_ = (mask > 0).astype(np.uint8)
    return cv2.connectedComponentsWithStats(set_, connectivity=8)[2][1:]


def extent(mask: Shaped[np.ndarray, "h w"]) -> tuple[int, int]:
    """Measures the height and width of the largest connected part of a mask, in pixels.

    Single pixels elsewhere, as a network finds some, count for nothing.

    Args:
      mask: (h, w); what is greater than 0 is set.

    Returns:
      of the box around it; 0 and 0 where nothing is set.
    """
    found = parts(mask)
    if not len(found):
        return 0, 0
    largest = found[found[:, cv2.CC_STAT_AREA].argmax()]
    return int(largest[cv2.CC_STAT_HEIGHT]), int(largest[cv2.CC_STAT_WIDTH])


def cup_disc_ratios(
    disc: Shaped[np.ndarray, "h w"], cup: Shaped[np.ndarray, "h w"]
) -> tuple[float, float]:
    """Computes the height of the cup by that of the disc, and the width by the width.

    Of each the largest connected part is measured.

    Args:
      disc: mask of the optic disc, its cup included, (h, w); what is greater than 0 is set.
      cup: mask of the cup, (h, w).

    Returns:
      the vertical and the horizontal ratio: 0 without a cup, NaN without a disc.
    """
    (height, width), (high, wide) = extent(disc), extent(cup)
    return (high / height, wide / width) if height else (math.nan, math.nan)


def vertical_cup_disc_ratio(
    disc: Shaped[np.ndarray, "h w"], cup: Shaped[np.ndarray, "h w"]
) -> float:
    """Computes the height of the cup by that of the disc; see `cup_disc_ratios`.

    Args:
      disc, cup: as there.

    Returns:
      0 without a cup, NaN without a disc.
    """
    return cup_disc_ratios(disc, cup)[0]


def density(mask: Shaped[np.ndarray, "h w"], fov: Shaped[np.ndarray, "h w"] | None = None) -> float:
    """Computes the share of the field of view that a mask covers, as of vessels.

    Args:
      mask: (h, w); what is greater than 0 is set.
      fov: field of view (h, w); None: the whole picture.

    Returns:
      from 0 to 1; NaN where the field of view is empty.
    """
    if fov is None:
        return float((mask > 0).mean())
    inside = fov > 0
    return float((mask[inside] > 0).mean()) if inside.any() else math.nan
