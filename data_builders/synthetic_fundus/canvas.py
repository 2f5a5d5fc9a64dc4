"""A picture under construction, in the units of the eye instead of pixels.

The field of view is a disc of radius 1 about the origin, x to the right and y downwards. Shapes
are rasterized as 8-bit coverage on a finer grid and averaged down, which anti-aliases them at any
size; color is mixed once a layer on the final grid.
"""

import functools

import cv2
import numpy as np
from jaxtyping import Float, Float32, Int32, UInt8

#: Radius of the field of view as a share of the picture's side.
FIELD_RADIUS = 0.48

_SHIFT = 4  # fractional bits of OpenCV's integer coordinates

Mask = Float32[np.ndarray, "size size"]
Color = tuple[float, float, float]


@functools.lru_cache(maxsize=4)
def _grid(size: int) -> tuple[Mask, Mask]:
    axis = ((np.arange(size, dtype=np.float32) + 0.5) / size - 0.5) / FIELD_RADIUS
    x, y = np.meshgrid(axis, axis)
    x.flags.writeable = y.flags.writeable = False
    return x, y


class Canvas:
    """Pixels and the ways to put something on them.

    Attributes:
      size: pixels a side.
      x, y: coordinates of the pixels' centers.
      planes: red, green and blue of the picture so far, 0 to 1.
    """

    def __init__(self, size: int):
        self.size = size
        self.x, self.y = _grid(size)
        self.planes: Float32[np.ndarray, "3 size size"] = np.zeros((3, size, size), np.float32)
        self._fine = size * (4 if size <= 160 else 2)

    def unit(self, pixels: float) -> float:
        """The length in eye units of so many pixels: a floor under the size of small lesions."""
        return pixels / (FIELD_RADIUS * self.size)

    def distance(
        self, center: Float[np.ndarray, " 2"], radii: tuple[float, float] = (1.0, 1.0)
    ) -> Mask:
        """Distance of every pixel from a point, each axis in units of its radius."""
        x = (self.x - np.float32(center[0])) / np.float32(radii[0])
        y = (self.y - np.float32(center[1])) / np.float32(radii[1])
        return np.sqrt(x * x + y * y)

    def noise(self, rng: np.random.Generator, cells: int) -> Mask:
        """Smooth noise of zero mean and about unit variance, `cells` bumps across the picture.

        The draw does not depend on the picture's size.
        """
        coarse = rng.standard_normal((cells, cells)).astype(np.float32) * np.float32(1.4)
        return cv2.resize(coarse, (self.size, self.size), interpolation=cv2.INTER_CUBIC)

    def spots(
        self,
        centers: Float[np.ndarray, "n 2"],
        radii: Float[np.ndarray, " n"],
        soft: float = 0.0,
    ) -> Mask:
        """Coverage of round spots; `soft` is the standard deviation of their blurred edge."""
        fine = self._blank()
        sizes = np.rint(radii * (FIELD_RADIUS * self._fine * 2**_SHIFT)).astype(int).tolist()
        for center, size in zip(self._to_fine(centers).tolist(), sizes, strict=True):
            cv2.circle(fine, center, size, 255, -1, cv2.LINE_8, _SHIFT)
        return self._average(fine, soft)

    def polygons(self, outlines: Float[np.ndarray, "n points 2"], soft: float = 0.0) -> Mask:
        """Coverage of the union of filled polygons; `soft` as for spots."""
        fine = self._blank()
        for outline in self._to_fine(outlines):
            cv2.fillPoly(fine, [outline], 255, cv2.LINE_8, _SHIFT)
        return self._average(fine, soft)

    def strokes(
        self,
        paths: Float[np.ndarray, "n points 2"],
        widths: Float[np.ndarray, "n points"],
    ) -> Mask:
        """Coverage of lines whose width (a diameter) changes from point to point."""
        tangent = np.gradient(paths, axis=1)
        tangent /= np.linalg.norm(tangent, axis=-1, keepdims=True) + 1e-9
        offset = tangent[..., ::-1] * (0.5, -0.5) * widths[..., None]
        return self.polygons(np.concatenate([paths + offset, (paths - offset)[:, ::-1]], 1))

    def paint(self, mask: Mask, color: Color, opacity: float = 1.0) -> None:
        """Mixes a color in where the mask covers."""
        cover = mask * np.float32(opacity)
        for plane, value in zip(self.planes, color, strict=True):
            plane += cover * (value - plane)

    def filter(self, mask: Mask, transmission: Color) -> None:
        """Lets through a share of each channel where the mask covers, as blood and pigment do."""
        for plane, share in zip(self.planes, transmission, strict=True):
            plane *= 1 - mask * np.float32(1 - share)

    def scale(self, factor: Mask, gains: Color = (1.0, 1.0, 1.0)) -> None:
        """Multiplies every pixel by a factor, and every channel by a gain."""
        for plane, gain in zip(self.planes, gains, strict=True):
            plane *= factor * np.float32(gain)

    def blur(self, sigma: float) -> None:
        """Blurs the whole picture by a Gaussian of standard deviation `sigma`."""
        for plane in self.planes:
            cv2.GaussianBlur(plane, (0, 0), sigma / self.unit(1), dst=plane)

    def picture(self) -> UInt8[np.ndarray, "size size 3"]:
        """What has been painted, as RGB bytes."""
        return cv2.merge([cv2.convertScaleAbs(plane, alpha=255) for plane in self.planes])

    def _blank(self) -> UInt8[np.ndarray, "fine fine"]:
        return np.zeros((self._fine, self._fine), np.uint8)

    def _to_fine(self, points: Float[np.ndarray, "... 2"]) -> Int32[np.ndarray, "... 2"]:
        # OpenCV's integer coordinates are pixel centers, hence the half.
        positions = (points * FIELD_RADIUS + 0.5) * self._fine - 0.5
        return np.rint(positions * 2**_SHIFT).astype(np.int32)

    def _average(self, fine: UInt8[np.ndarray, "fine fine"], soft: float) -> Mask:
        mask = cv2.resize(fine, (self.size, self.size), interpolation=cv2.INTER_AREA)
        mask = mask.astype(np.float32) * np.float32(1 / 255)
        sigma = soft / self.unit(1)
        return cv2.GaussianBlur(mask, (0, 0), sigma) if sigma > 0.2 else mask
