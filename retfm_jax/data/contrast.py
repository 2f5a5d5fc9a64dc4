"""Contrast-limited adaptive histogram equalization (CLAHE) of photographs."""

import cv2
import numpy as np
from jaxtyping import UInt8

#: A value of lightness counts at most so many times its mean count in a tile, and the picture has
#: so many tiles in each direction: what most pipelines for fundus photographs use.
CLIP_LIMIT, TILES = 2.0, 8


def equalized(image: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w 3"]:
    """Equalizes the lightness L* of CIELAB by CLAHE; a* and b* stay.

    Zuiderveld, Contrast limited adaptive histogram equalization, Graphics Gems IV, 1994, as
    OpenCV computes it. Tiles are shares of the picture, so that its size in pixels hardly matters.

    Args:
      image: (h, w, 3) uint8, RGB.

    Returns:
      (h, w, 3) uint8, a new array.
    """
    lab = cv2.cvtColor(image, cv2.COLOR_RGB2LAB)
    # An object of its own: it keeps buffers, and threads call this at the same time.
    clahe = cv2.createCLAHE(CLIP_LIMIT, (TILES, TILES))
    lab[..., 0] = clahe.apply(lab[..., 0])
    return cv2.cvtColor(lab, cv2.COLOR_LAB2RGB)
