"""What is measured of masks: a row of areas, places and ratios for each photograph.

Lengths and areas are in pixels of the photograph: nothing tells how large one is on the retina.
"""

import math
from collections.abc import Sequence

import numpy as np

from retfm_jax.data.field_of_view import FIELD_SHARES, lit_field
from retfm_jax.evaluation.metrics import shapes
from retfm_jax.experiments.mask_files import Found
from retfm_jax.experiments.photograph_rows import rounded
from retfm_jax.experiments.prediction_files import Columns, Row

#: Of each structure, before its name.
_OF_STRUCTURE: Columns = {"pixels": int, "share": float, "parts": int, "x": float, "y": float}
#: Of a disc and its cup, before their names, and of both.
_OF_DISC = ("height", "width")
_RATIOS = ("vertical_cup_disc_ratio", "horizontal_cup_disc_ratio")
#: Significant digits of shares and ratios.
_DIGITS = 6


def columns_of(structures: Sequence[str]) -> Columns:
    """Columns of what is measured, and what each holds.

    - `pixels_NAME`: number of pixels that show the structure.
    - `share_NAME`: their share of the field of view; of vessels it is their density.
    - `parts_NAME`: number of connected parts.
    - `x_NAME`, `y_NAME`: mean column and row of the pixels, from 0 at the upper left.
    - `height_NAME`, `width_NAME`: of a disc and its cup, of the largest part; of structures that
      exclude each other, the disc with its cup.
    - `vertical_cup_disc_ratio`, `horizontal_cup_disc_ratio`: of these.
    - `image_width`, `image_height`: of the photograph.
    - `fov_pixels`: number of pixels in the field of view.
    - `fov_found`: whether it was found; else the whole photograph counts.

    Args:
      structures: names, in order.
    """
    columns: dict[str, type] = {
        f"{what}_{name}": kind for name in structures for what, kind in _OF_STRUCTURE.items()
    }
    pair = shapes.disc_and_cup(structures)
    if pair is not None:
        names = [structures[index] for index in pair]
        columns |= {f"{what}_{name}": int for name in names for what in _OF_DISC}
        columns |= dict.fromkeys(_RATIOS, float)
    columns |= dict.fromkeys(("image_width", "image_height", "fov_pixels"), int)
    return {**columns, "fov_found": bool}


def field_of(image: np.ndarray) -> tuple[np.ndarray, bool]:
    """Finds the field of view of a photograph.

    Args:
      image: (h, w, 3) uint8, RGB.

    Returns:
      (h, w) uint8, 1 inside, and whether it was found; where what is found is hardly a field of
      view, all of the photograph is inside.
    """
    field = lit_field(image)
    low, high = FIELD_SHARES
    found = low <= float(field.mean()) <= high
    return (field if found else np.ones_like(field)), found


def measured(structures: Sequence[str], found: Found, exclusive: bool) -> Row:
    """Measures the masks of a photograph; see `columns_of`.

    Args:
      structures: names, in order.
      found: in the photograph.
      exclusive: whether a pixel shows one structure at most, so that a disc is its rim alone.

    Returns:
      values by column, without `fov_found`; what is not defined, as the place of nothing, is None.
    """
    row: Row = {}
    for index, name in enumerate(structures):
        mask = found.masks[..., index]
        down, across = np.nonzero(mask)
        row |= {
            f"pixels_{name}": len(down),
            f"share_{name}": _known(shapes.density(mask, found.field)),
            f"parts_{name}": len(shapes.parts(mask)),
            f"x_{name}": _place(across),
            f"y_{name}": _place(down),
        }
    pair = shapes.disc_and_cup(structures)
    if pair is not None:
        disc, cup = (found.masks[..., index] for index in pair)
        disc = disc | cup if exclusive else disc
        for index, mask in zip(pair, (disc, cup), strict=True):
            row |= {
                f"{what}_{structures[index]}": length
                for what, length in zip(_OF_DISC, shapes.extent(mask), strict=True)
            }
        ratios = map(_known, shapes.cup_disc_ratios(disc, cup))
        row |= dict(zip(_RATIOS, ratios, strict=True))
    height, width = found.field.shape
    return row | {
        "image_width": width, "image_height": height, "fov_pixels": int(found.field.sum())
    }  # fmt: skip


def _known(value: float) -> float | None:
    return None if math.isnan(value) else rounded(value, _DIGITS)


def _place(positions: np.ndarray) -> float | None:
    return round(float(positions.mean()), 1) if len(positions) else None
