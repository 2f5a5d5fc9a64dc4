"""An eye as a photograph: the layers from the choroid to the camera, in the order of light."""

from collections.abc import Mapping

import cv2
import numpy as np
from jaxtyping import Bool, UInt8

from retfm_jax.data_builders.synthetic_fundus import anatomy, findings
from retfm_jax.data_builders.synthetic_fundus.canvas import Canvas, Color, Mask
from retfm_jax.data_builders.synthetic_fundus.population import LABELS, Eye, Look

JPEG_QUALITY = 92

#: Share of light that a finding must change for a pixel to belong to it.
_CHANGED = 0.2


def anatomy_of(eye: Eye) -> anatomy.Anatomy:
    """Where things are in the eye as a right one; a left eye's photograph mirrors it."""
    return anatomy.draw_anatomy(np.random.default_rng((eye.seed, len(LABELS))))


def draw_eye(eye: Eye, look: Look, size: int) -> UInt8[np.ndarray, "size size 3"]:
    """Draws a photograph, RGB; the same eye at another size is the same picture, resampled."""
    # A generator a layer: a finding added or taken away leaves every other layer as it was.
    layers = iter(np.random.default_rng(eye.seed).spawn(4))
    layout = anatomy_of(eye)
    canvas = Canvas(size)

    def paint(painters: Mapping[str, findings.Painter]) -> None:
        for name, painter in painters.items():
            if name in eye.findings:
                rng = np.random.default_rng((eye.seed, LABELS.index(name)))
                painter(canvas, rng, layout, eye.findings[name])

    anatomy.paint_background(canvas, next(layers), layout, look)
    paint(findings.DEEP)
    anatomy.paint_disc(canvas, next(layers), layout, eye.cup_ratio)
    anatomy.paint_vessels(canvas, next(layers), layout)
    paint(findings.SUPERFICIAL)
    paint(findings.MEDIA)
    anatomy.shade(canvas, next(layers), look, eye.exposure)
    anatomy.mask_field(canvas, look)
    picture = canvas.picture()
    return picture if eye.side == "right" else np.ascontiguousarray(picture[:, ::-1])


class _Places(Canvas):
    """Takes down where something is painted, instead of painting it."""

    def __init__(self, size: int):
        super().__init__(size)
        self.covered: Mask = np.zeros((size, size), np.float32)

    def paint(self, mask: Mask, color: Color, opacity: float = 1.0) -> None:
        del color
        self.covered = np.maximum(self.covered, mask * np.float32(opacity))

    def filter(self, mask: Mask, transmission: Color) -> None:
        self.covered = np.maximum(self.covered, mask * np.float32(1 - min(transmission)))

    def blur(self, sigma: float) -> None:
        del sigma
        self.covered = np.ones_like(self.covered)


def places_of(eye: Eye, look: Look, size: int) -> dict[str, Bool[np.ndarray, "size size"]]:
    """Where the findings of an eye are in its photograph, by label; findings with no place lack.

    A large cup's place is the optic disc. What opaque media blur has the whole field.
    """
    layout, found = anatomy_of(eye), {}
    field = Canvas(size)
    field.planes[:] = 1
    anatomy.mask_field(field, look)
    inside = field.planes[0] > 0.5
    disc = field.distance(layout.disc, tuple(layout.disc_radii)) <= 1
    for painters in (findings.DEEP, findings.SUPERFICIAL, findings.MEDIA):
        for name, painter in painters.items():
            if name in eye.findings:
                canvas = _Places(size)
                rng = np.random.default_rng((eye.seed, LABELS.index(name)))
                painter(canvas, rng, layout, eye.findings[name])
                place = (canvas.covered > _CHANGED) & inside
                found[name] = place & ~disc if painters is findings.DEEP else place
    if "large_cup" in eye.findings:
        found["large_cup"] = disc & inside
    right = eye.side == "right"
    return {name: place if right else place[:, ::-1].copy() for name, place in found.items()}


def encode(picture: UInt8[np.ndarray, "size size 3"]) -> bytes:
    """The picture as JPEG, its colors at full resolution for the sake of the smallest lesions."""
    quality = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
    sampling = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    bgr = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
    return cv2.imencode(".jpg", bgr, quality + sampling)[1].tobytes()
