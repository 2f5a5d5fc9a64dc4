"""Quality of a photograph from its pixels, and whether it is a color fundus photograph at all.

The thresholds were set by eye on public photographs, of which few are bad. **They are not
validated**: nobody has compared them with graders. Whoever relies on the flags validates them on
photographs of their own, by the numbers that stand beside the flags.
"""

import dataclasses

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

from retfm_jax.data.field_of_view import around_disc, brightness_of

#: Below these a photograph is called of low quality. Not validated.
LEAST_SHARPNESS, LEAST_ILLUMINATION, LEAST_FIELD = 0.28, 0.6, 0.75
#: What good photographs have, for the score. Not validated.
_USUAL_SHARPNESS, _USUAL_ILLUMINATION, _USUAL_FIELD = 0.5, 1.0, 0.9
#: A color fundus photograph has at least this share of reddish pixels, more of them the more pixels
#: lie on hard edges, and this contrast at least, in gray values. Not validated.
_LEAST_RED, _RED_FOR_EDGES, _LEAST_CONTRAST = 0.4, 1.5, 0.1

#: Long side of the copy that is looked at, in pixels.
_SIDE = 256
#: Brighter pixels than this are lit, of 255.
_LIT = 20
#: Standard deviations of the Gaussians whose differences are bands of fine and of coarse
#: structures, in pixels of the copy, and of the one that smooths the illumination, in sides.
_FINE, _COARSE, _SMOOTH = (0.7, 1.4), (2.8, 5.6), 1 / 16
#: Radius that is looked at, of the disc's; what lies by this share of the side near to the dark is
#: left out, for its edge is no structure of the retina.
_INNER, _RIM = 0.85, 0.05
#: Smoothed brightness between these is neither too dark nor burnt out, of 1.
_DARKEST, _BRIGHTEST = 0.16, 0.97
#: Gradient (Sobel) of an edge that hardly any retina has, in gray values at 256 pixels.
_HARD = 120


@dataclasses.dataclass(frozen=True)
class Quality:
    """Measures of a photograph.

    Attributes:
      sharpness: standard deviation of fine structures by that of coarse ones, in the green channel.
      illumination: share of the disc that is neither too dark nor burnt out.
      field: share of a round field of view that is lit.
      red: share of the lit pixels that are red before green before blue.
      edges: share of the lit pixels on edges that hardly any retina has.
      contrast: standard deviation of coarse structures, in gray values.
    """

    sharpness: float
    illumination: float
    field: float
    red: float
    edges: float
    contrast: float

    @property
    def score(self) -> float:
        """Geometric mean of sharpness, illumination and field, each by its usual value, 0 to 1."""
        shares = (
            self.sharpness / _USUAL_SHARPNESS,
            self.illumination / _USUAL_ILLUMINATION,
            self.field / _USUAL_FIELD,
        )
        return float(np.prod([min(1.0, share) for share in shares]) ** (1 / 3))

    @property
    def is_low(self) -> bool:
        """Tells whether one of the three is below its threshold, which is not validated."""
        return (
            self.sharpness < LEAST_SHARPNESS
            or self.illumination < LEAST_ILLUMINATION
            or self.field < LEAST_FIELD
        )

    @property
    def is_fundus(self) -> bool:
        """Tells whether it looks like a color photograph of a fundus, by rules not validated."""
        wanted = _LEAST_RED + _RED_FOR_EDGES * self.edges
        return self.red >= wanted and self.contrast >= _LEAST_CONTRAST


def quality(image: UInt8[np.ndarray, "h w 3"]) -> Quality:
    """Measures a photograph inside of its field of view, at 256 pixels or less.

    Args:
      image: (h, w, 3) uint8, RGB, as decoded.
    """
    small = small_disc(image)
    height, width = small.shape[:2]
    side = max(height, width)
    brightness = brightness_of(small)
    lit = brightness > _LIT
    radius = _radius(height, width)
    rim = 2 * round(_RIM * side) + 1
    away = cv2.erode(lit.astype(np.uint8), np.ones((rim, rim), np.uint8), borderValue=1) > 0
    inner = away & (radius < _INNER)
    field = float(lit[radius < 1].mean())
    if not inner.any():
        return Quality(0.0, 0.0, field, 0.0, 0.0, 0.0)
    green = small[..., 1].astype(np.float32)
    fine, coarse = (
        float((_blurred(green, low) - _blurred(green, high))[inner].std())
        for low, high in (_FINE, _COARSE)
    )
    smooth = _smooth(brightness)
    seen = smooth[_radius(*smooth.shape) < _INNER]
    r, g, b = (small[..., channel][inner].astype(np.float32) for channel in range(3))
    gradient = np.hypot(*(cv2.Sobel(green, cv2.CV_32F, *order) for order in ((1, 0), (0, 1))))
    return Quality(
        sharpness=fine / coarse if coarse else 0.0,
        illumination=float(((seen > _DARKEST) & (seen < _BRIGHTEST)).mean()),
        field=field,
        red=float(((r > 1.05 * g) & (g >= 0.9 * b) & (r > b + 15)).mean()),
        edges=float((gradient[inner] > _HARD * _SIDE / side).mean()),
        contrast=coarse,
    )


def small_disc(image: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "_ _ 3"]:
    """Crops a photograph to its lit disc and shrinks it to the copy that is looked at.

    Whoever looks at a photograph twice hands this copy over: it is its own copy.

    Args:
      image: (h, w, 3) uint8, RGB, as decoded.

    Returns:
      uint8, at most 256 pixels high and wide.
    """
    image = around_disc(image)
    scale = _SIDE / max(image.shape[:2])
    if scale >= 1:
        return image
    size = [max(1, round(side * scale)) for side in image.shape[1::-1]]
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def _radius(height: int, width: int) -> Float32[np.ndarray, "height width"]:
    """Distance from the center, 1 on the ellipse that touches the sides."""
    down = (np.arange(height, dtype=np.float32) + 0.5) / height * 2 - 1
    across = (np.arange(width, dtype=np.float32) + 0.5) / width * 2 - 1
    return np.hypot(down[:, None], across)


def _smooth(brightness: UInt8[np.ndarray, "h w"]) -> Float32[np.ndarray, "_ _"]:
    """Brightness from 0 to 1 without structures, on a grid of a quarter of the side."""
    size = [-(-side // 4) for side in brightness.shape[::-1]]
    coarse = cv2.resize(brightness, size, interpolation=cv2.INTER_AREA)
    return _blurred(coarse.astype(np.float32) / 255, _SMOOTH * max(size))


def _blurred(values: Float32[np.ndarray, "h w"], sigma: float) -> Float32[np.ndarray, "h w"]:
    return cv2.GaussianBlur(values, (0, 0), sigma)
