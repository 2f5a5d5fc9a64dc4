"""A picture under construction, in the units of the eye instead of pixels.

The field of view is a disc of radius 1 about the origin, x to the right and y downwards. Shapes
are rasterised as 8-bit coverage on a finer grid and averaged down, which anti-aliases them at any
size; colour is mixed once a layer on the final grid.
"""

import functools
from collections.abc import Iterable

import cv2
import numpy as np
from jaxtyping import Float, Float32

#: Radius of the field of view as a share of the picture's side.
FIELD_RADIUS = 0.48

_SHIFT = 4  # fractional bits of OpenCV's integer coordinates

Mask = Float32[np.ndarray, "size size"]
Colour = tuple[float, float, float]


@functools.lru_cache(maxsize=4)
def _grid(size: int) -> tuple[Mask, Mask]:
    axis = ((np.arange(size, dtype=np.float32) + 0.5) / size - 0.5) / FIELD_RADIUS
    x, y = np.meshgrid(axis, axis)
    x.flags.writeable = y.flags.writeable = False
    return x, y


class Canvas:
    """Pixels, RGB in 0..1, and the ways to put something on them.

    Attributes:
      size: pixels a side.
      x, y: coordinates of the pixels' centres.
      pixels: the picture so far.
    """

    def __init__(self, size: int):
        self.size = size
        self.x, self.y = _grid(size)
        self.pixels: Float32[np.ndarray, "size size 3"] = np.zeros((size, size, 3), np.float32)
        self._fine = 4 if size <= 160 else 2

    def unit(self, pixels: float) -> float:
        """The length in eye units of so many pixels: a floor under the size of small lesions."""
        return pixels / (FIELD_RADIUS * self.size)

    def noise(self, rng: np.random.Generator, cells: int) -> Mask:
        """Smooth noise of zero mean and about unit variance, `cells` bumps across the picture.

        The draw does not depend on the picture's size.
        """
        coarse = rng.standard_normal((cells, cells)).astype(np.float32)
        return cv2.resize(coarse, (self.size, self.size), interpolation=cv2.INTER_CUBIC) * 1.4

    def spots(
        self,
        centres: Float[np.ndarray, "n 2"],
        radii: Float[np.ndarray, " n"],
        soft: float = 0.0,
    ) -> Mask:
        """Coverage of round spots; `soft` is the standard deviation of their blurred edge."""
        fine = self._blank()
        scale = FIELD_RADIUS * len(fine) * 2**_SHIFT
        places = self._to_fine(centres)
        for (x, y), radius in zip(places, np.rint(radii * scale).astype(int), strict=True):
            cv2.circle(fine, (int(x), int(y)), int(radius), 255, -1, cv2.LINE_8, _SHIFT)
        return self._average(fine, soft)

    def polygons(self, outlines: Iterable[Float[np.ndarray, "n 2"]], soft: float = 0.0) -> Mask:
        """Coverage of the union of filled polygons."""
        fine = self._blank()
        for outline in outlines:
            cv2.fillPoly(fine, [self._to_fine(outline)], 255, cv2.LINE_8, _SHIFT)
        return self._average(fine, soft)

    def strokes(
        self,
        paths: Iterable[Float[np.ndarray, "n 2"]],
        widths: Iterable[Float[np.ndarray, " n"]],
    ) -> Mask:
        """Coverage of lines whose width (a diameter) changes from point to point."""
        return self.polygons(_outline(path, width) for path, width in zip(paths, widths))  # noqa: B905

    def paint(self, mask: Mask, colour: Colour, opacity: float = 1.0) -> None:
        """Mixes a colour in where the mask covers."""
        cover = (mask * np.float32(opacity))[..., None]
        self.pixels += cover * (np.asarray(colour, np.float32) - self.pixels)

    def filter(self, mask: Mask, transmission: Colour) -> None:
        """Lets through a share of each channel where the mask covers, as blood and pigment do."""
        self.pixels *= 1 - mask[..., None] * (1 - np.asarray(transmission, np.float32))

    def blur(self, sigma: float) -> None:
        """Blurs the whole picture by a Gaussian of standard deviation `sigma`."""
        self.pixels = cv2.GaussianBlur(self.pixels, (0, 0), sigma / self.unit(1))

    def _blank(self) -> np.ndarray:
        return np.zeros((self.size * self._fine,) * 2, np.uint8)

    def _to_fine(self, points: np.ndarray) -> np.ndarray:
        fine = self.size * self._fine
        # OpenCV's integer coordinates are pixel centres, hence the half.
        return np.rint(((points * FIELD_RADIUS + 0.5) * fine - 0.5) * 2**_SHIFT).astype(np.int32)

    def _average(self, fine: np.ndarray, soft: float) -> Mask:
        mask = cv2.resize(fine, (self.size, self.size), interpolation=cv2.INTER_AREA)
        mask = mask.astype(np.float32) * np.float32(1 / 255)
        sigma = soft / self.unit(1)
        return cv2.GaussianBlur(mask, (0, 0), sigma) if sigma > 0.2 else mask


def _outline(
    path: Float[np.ndarray, "n 2"], width: Float[np.ndarray, " n"]
) -> Float[np.ndarray, "2n 2"]:
    tangent = np.gradient(path, axis=0)
    tangent /= np.hypot(tangent[:, :1], tangent[:, 1:]) + 1e-9
    offset = tangent[:, ::-1] * (0.5, -0.5) * width[:, None]
    return np.concatenate([path + offset, (path - offset)[::-1]])
