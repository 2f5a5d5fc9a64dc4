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


#: Structure -> the finding that it is a mask of.
LESIONS = {
    "hard_exudates": "hard_exudates",
    "soft_exudates": "cotton_wool_spots",
    "hemorrhages": "retinal_haemorrhage",
    "microaneurysms": "microaneurysms",
}
#: Structures that have masks, in the order of these.
STRUCTURES = ("vessels", "optic_disc", "optic_cup", *LESIONS)


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


def _inside(look: Look, size: int) -> Bool[np.ndarray, "size size"]:
    """What is in the field of view."""
    field = Canvas(size)
    field.planes[:] = 1
    anatomy.mask_field(field, look)
    return field.planes[0] > 0.5


class _Places(Canvas):
    """Takes down where something is painted, instead of painting it."""

    def __init__(self, size: int):
        super().__init__(size)
        self.covered: Mask = np.zeros((size, size), np.float32)
        self.drawn: Mask = np.zeros((size, size), np.float32)

    def paint(self, mask: Mask, color: Color, opacity: float = 1.0) -> None:
        del color
        self.drawn = np.maximum(self.drawn, mask)
        self.covered = np.maximum(self.covered, mask * np.float32(opacity))

    def filter(self, mask: Mask, transmission: Color) -> None:
        self.drawn = np.maximum(self.drawn, mask)
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
    inside = _inside(look, size)
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


def structures_of(
    eye: Eye, look: Look, size: int
) -> tuple[dict[str, UInt8[np.ndarray, "size size"]], UInt8[np.ndarray, "size size"]]:
    """Masks of the structures of an eye in its photograph, and its field of view, 1 inside.

    A pixel shows what covers at least half of it. What opaque media blur is where it would be
    without them.
    """
    layout, inside = anatomy_of(eye), _inside(look, size)
    canvas = Canvas(size)
    shift = anatomy.cup_shift(layout, eye.cup_ratio)
    cup_radii = tuple(layout.disc_radii * eye.cup_ratio)
    vessels = _Places(size)
    *_, rng, _ = np.random.default_rng(eye.seed).spawn(4)  # as `draw_eye` takes them
    anatomy.paint_vessels(vessels, rng, layout)
    found = {
        "vessels": vessels.drawn >= 0.5,
        "optic_disc": canvas.distance(layout.disc, tuple(layout.disc_radii)) <= 1,
        "optic_cup": canvas.distance(layout.disc + shift, cup_radii) <= 1,
    }
    for structure, name in LESIONS.items():
        places = _Places(size)
        if name in eye.findings:
            rng = np.random.default_rng((eye.seed, LABELS.index(name)))
            findings.SUPERFICIAL[name](places, rng, layout, eye.findings[name])
        found[structure] = places.drawn >= 0.5
    masks = {name: (mask & inside).astype(np.uint8) for name, mask in found.items()}
    field = inside.astype(np.uint8)
    if eye.side == "right":
        return masks, field
    return {name: mask[:, ::-1].copy() for name, mask in masks.items()}, field[:, ::-1].copy()


def encode(picture: UInt8[np.ndarray, "size size 3"]) -> bytes:
    """The picture as JPEG, its colors at full resolution for the sake of the smallest lesions."""
    quality = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
    sampling = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    bgr = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
    return cv2.imencode(".jpg", bgr, quality + sampling)[1].tobytes()
