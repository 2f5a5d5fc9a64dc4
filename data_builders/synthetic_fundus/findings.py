"""Findings, each drawn where it occurs and as it looks.

Every painter takes the canvas, a generator of its own, the anatomy and the finding. Lesions have
a floor under their size in pixels, so that they are still there in a 64-pixel picture.
"""

from collections.abc import Callable, Mapping

import cv2
import numpy as np
from jaxtyping import Float

from retfm_jax.data_builders.synthetic_fundus.anatomy import Anatomy, wander
from retfm_jax.data_builders.synthetic_fundus.canvas import Canvas
from retfm_jax.data_builders.synthetic_fundus.population import Finding

Painter = Callable[[Canvas, np.random.Generator, Anatomy, Finding], None]

_BLOOD = (0.50, 0.12, 0.16)


def _count(rng: np.random.Generator, finding: Finding, low: int, high: int) -> int:
    return round(low + (high - low) * finding.severity * rng.uniform(0.8, 1.0))


def _around(
    rng: np.random.Generator, center: np.ndarray, count: int, inner: float, outer: float
) -> Float[np.ndarray, "count 2"]:
    """Points spread evenly over a ring."""
    radius = np.sqrt(rng.uniform(inner**2, outer**2, count))
    turn = rng.uniform(0, 2 * np.pi, count)
    return center + radius[:, None] * np.stack([np.cos(turn), np.sin(turn)], -1)


def _off_disc(points: np.ndarray, anatomy: Anatomy, margin: float = 1.25) -> np.ndarray:
    """Which points lie off the optic disc and inside the field of view."""
    from_disc = np.linalg.norm((points - anatomy.disc) / anatomy.disc_radii, axis=-1)
    return (from_disc > margin) & (np.linalg.norm(points, axis=-1) < 0.93)


def _blobs(
    rng: np.random.Generator,
    centers: Float[np.ndarray, "n 2"],
    radii: Float[np.ndarray, " n"],
    roughness: float,
    stretch: float = 1.0,
    angle: np.ndarray | float = 0.0,
) -> Float[np.ndarray, "n 16 2"]:
    """Outlines of irregular round shapes, stretched by a factor along an angle."""
    turn = np.linspace(0, 2 * np.pi, 16, endpoint=False)
    radius = radii[:, None] * (1 + roughness * rng.uniform(-1, 1, (len(centers), 16)))
    along, across = radius * np.cos(turn) * stretch, radius * np.sin(turn)
    cos, sin = np.cos(angle)[..., None], np.sin(angle)[..., None]
    shape = np.stack([along * cos - across * sin, along * sin + across * cos], -1)
    return centers[:, None] + shape


def paint_microaneurysms(
    canvas: Canvas, rng: np.random.Generator, anatomy: Anatomy, finding: Finding
) -> None:
    """Small sharp red dots, scattered over the posterior pole."""
    centers = _around(rng, anatomy.fovea, _count(rng, finding, 18, 40), 0.08, 0.62)
    centers = centers[_off_disc(centers, anatomy)]
    radii = np.maximum(rng.uniform(0.011, 0.017, len(centers)), canvas.unit(0.85))
    canvas.filter(canvas.spots(centers, radii), _BLOOD)


def paint_haemorrhages(
    canvas: Canvas, rng: np.random.Generator, anatomy: Anatomy, finding: Finding
) -> None:
    """Blots anywhere in the posterior fundus, or flames along the fibres of one quadrant."""
    if finding.variant == "blot":
        centers = _around(rng, anatomy.fovea, _count(rng, finding, 7, 14), 0.14, 0.8)
        centers = centers[_off_disc(centers, anatomy, 1.4)]
        radii = np.maximum(rng.uniform(0.035, 0.075, len(centers)), canvas.unit(1.8))
        outlines = _blobs(rng, centers, radii, 0.3, 1.25, rng.uniform(0, np.pi, len(centers)))
    else:
        upper = np.full(_count(rng, finding, 12, 24), rng.random() < 0.5)
        along = rng.uniform(0.12, 1.0, len(upper))
        step = anatomy.on_arcade(along + 0.02, upper) - anatomy.on_arcade(along, upper)
        centers = anatomy.on_arcade(along, upper) + rng.normal(0, 0.075, (len(upper), 2))
        keep = _off_disc(centers, anatomy, 1.2)
        angle = np.arctan2(step[:, 1], step[:, 0]) + rng.normal(0, 0.2, len(upper))
        radii = np.maximum(rng.uniform(0.022, 0.04, len(upper)), canvas.unit(1.1))
        outlines = _blobs(rng, centers[keep], radii[keep], 0.35, 2.6, angle[keep])
    canvas.filter(canvas.polygons(outlines, 0.006), (0.48, 0.12, 0.16))


def paint_hard_exudates(
    canvas: Canvas, rng: np.random.Generator, anatomy: Anatomy, finding: Finding
) -> None:
    """Sharp, waxy, bright yellow deposits: a ring beside the fovea, or clusters about it."""
    count = _count(rng, finding, 28, 60)
    if finding.variant == "circinate":
        center = anatomy.fovea + rng.normal(0, 0.06, 2)
        radius = rng.uniform(0.16, 0.24)
        centers = _around(rng, center, count, radius * 0.85, radius * 1.15)
    else:
        clusters = _around(rng, anatomy.fovea, 4, 0.12, 0.32)
        centers = clusters[rng.integers(0, 4, count)] + rng.normal(0, 0.045, (count, 2))
    centers = centers[_off_disc(centers, anatomy, 1.15)]
    radii = np.maximum(rng.uniform(0.012, 0.028, len(centers)), canvas.unit(0.8))
    outlines = _blobs(rng, centers, radii, 0.3)
    canvas.paint(canvas.polygons(outlines), (1.0, 0.93, 0.42), 0.95)


def paint_cotton_wool_spots(
    canvas: Canvas, rng: np.random.Generator, anatomy: Anatomy, finding: Finding
) -> None:
    """Fluffy grayish-white patches near the arcades and the disc."""
    count = _count(rng, finding, 4, 8)
    along, upper = rng.uniform(0.22, 0.85, count), rng.random(count) < 0.5
    centers = anatomy.on_arcade(along, upper) + rng.normal(0, 0.05, (count, 2))
    centers = centers[_off_disc(centers, anatomy, 1.6)]
    # Each patch is a tuft of overlapping puffs, hence the feathered outline.
    puffs = np.repeat(centers, 5, 0) + rng.normal(0, 0.028, (5 * len(centers), 2))
    radii = np.maximum(rng.uniform(0.028, 0.05, len(puffs)), canvas.unit(1.2))
    canvas.paint(canvas.spots(puffs, radii, 0.016), (0.95, 0.92, 0.86), 0.92)


def paint_neovascularisation(
    canvas: Canvas, rng: np.random.Generator, anatomy: Anatomy, finding: Finding
) -> None:
    """A tangle of fine new vessels that loop back on themselves, on the disc or off an arcade."""
    count = _count(rng, finding, 34, 60)
    if finding.variant == "disc":
        center, spread = anatomy.disc, 0.3
    else:
        along, upper = rng.uniform(0.25, 0.6, 1), rng.random(1) < 0.5
        center, spread = anatomy.on_arcade(along, upper)[0], 0.26
    origin = _around(rng, center, count, 0, 0.35 * spread)
    bend = rng.choice((-1.0, 1.0), count) * rng.uniform(1.0, 4.0, count)
    length = rng.uniform(0.8, 1.7, count) * spread
    paths = wander(rng, origin, rng.uniform(0, 2 * np.pi, count), length, bend, 0.6)
    width = max(0.008, canvas.unit(0.5))
    # The fibrous bed on which the vessels grow.
    canvas.paint(canvas.spots(center[None], np.array([spread * 0.6]), 0.09), (0.86, 0.5, 0.4), 0.35)
    canvas.filter(canvas.strokes(paths, np.full(paths.shape[:2], width)), (0.74, 0.22, 0.26))


def paint_drusen(
    canvas: Canvas, rng: np.random.Generator, anatomy: Anatomy, finding: Finding
) -> None:
    """Soft, round, dull yellow spots under the vessels, gathered at the macula."""
    count = _count(rng, finding, 30, 60)
    centers = anatomy.fovea + rng.normal(0, 0.17, (count, 2))
    centers = centers[_off_disc(centers, anatomy)]
    radii = np.maximum(rng.uniform(0.018, 0.042, len(centers)), canvas.unit(0.9))
    canvas.paint(canvas.spots(centers, radii, 0.009), (0.93, 0.72, 0.36), 0.8)


def paint_tessellation(
    canvas: Canvas, rng: np.random.Generator, anatomy: Anatomy, finding: Finding
) -> None:
    """Thinned pigment: choroidal vessels as pale orange bands between dark islands."""
    # Choroidal vessels run outwards from the posterior pole, so the pattern lives in polar
    # coordinates: `across` winds once around, `along` goes outwards.
    distance = canvas.distance(anatomy.fovea)
    x, y = anatomy.fovea.astype(np.float32)
    angle = np.arctan2(canvas.y - y, canvas.x - x) + 0.12 * canvas.noise(rng, 7)
    ridges = np.zeros_like(distance)
    for spokes, rings in ((26, 3), (38, 4)):
        coarse = rng.standard_normal((2 * rings, spokes)).astype(np.float32)
        coarse = np.concatenate([coarse, coarse], 1)  # wraps around
        across = (angle / np.float32(2 * np.pi) + np.float32(0.75)) * np.float32(spokes)
        along = distance * np.float32(rings)
        height = cv2.remap(coarse, across, along, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)
        ridges = np.maximum(ridges, np.exp(-((height / np.float32(0.3)) ** 2)))
    strength = 0.6 + 0.4 * finding.severity
    bare = 1 - np.exp(-((distance / 0.22) ** 2))
    canvas.filter((1 - ridges) * bare * strength, (0.84, 0.66, 0.6))
    canvas.paint(ridges * bare, (1.0, 0.68, 0.40), 0.72 * strength)


def paint_peripapillary_atrophy(
    canvas: Canvas, rng: np.random.Generator, anatomy: Anatomy, finding: Finding
) -> None:
    """A pale crescent at the temporal edge of the disc with a pigmented outer border."""
    turn = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    ragged = 1 + 0.04 * rng.standard_normal(40)[:, None]
    circle = np.stack([np.cos(turn), np.sin(turn)], -1) * ragged
    # An ellipse that touches the disc's nasal edge; the disc is painted over it.
    width = 1.35 + 0.3 * finding.severity
    for size, soft in ((width + 0.12, 0.012), (width, 0.006)):
        radii = anatomy.disc_radii * (size, 1.02 + 0.2 * (size - 1))
        center = anatomy.disc - anatomy.disc_radii * (size - 1, 0)
        mask = canvas.polygons((center + circle * radii)[None], soft)
        if size > width:
            canvas.filter(mask, (0.62, 0.5, 0.48))
        else:
            canvas.paint(mask, (0.97, 0.86, 0.68), 0.92)


def paint_laser_scars(
    canvas: Canvas, rng: np.random.Generator, anatomy: Anatomy, finding: Finding
) -> None:
    """Round pale burns in rows over the mid-periphery, many with a pigmented center."""
    pitch = 0.15 - 0.03 * finding.severity
    ticks = np.arange(-1, 1, pitch)
    rows = np.stack(np.meshgrid(ticks, ticks), -1).reshape(-1, 2)
    centers = rows + rng.normal(0, 0.018, rows.shape)
    middle = (anatomy.disc + anatomy.fovea) / 2
    outside = np.hypot(*((centers - middle) / (0.78, 0.56)).T) > 1
    centers = centers[outside & _off_disc(centers, anatomy, 1.8) & (rng.random(len(centers)) < 0.9)]
    radii = np.maximum(rng.uniform(0.03, 0.042, len(centers)), canvas.unit(1.3))
    canvas.paint(canvas.spots(centers, radii, 0.005), (0.95, 0.82, 0.58), 0.88)
    dark = rng.random(len(centers)) < 0.6
    canvas.paint(canvas.spots(centers[dark], radii[dark] * 0.5, 0.004), (0.2, 0.1, 0.06), 0.8)


def paint_haze(
    canvas: Canvas, rng: np.random.Generator, anatomy: Anatomy, finding: Finding
) -> None:
    """Opaque media: a blurred, washed-out view through a gray-yellow veil."""
    canvas.blur(0.018 + 0.018 * finding.severity)
    veil = np.clip(0.46 + 0.16 * finding.severity + 0.06 * canvas.noise(rng, 4), 0, 0.85)
    canvas.paint(veil, (0.66, 0.56, 0.42))


#: Under the vessels and the disc.
DEEP: Mapping[str, Painter] = {
    "tessellation": paint_tessellation,
    "drusen": paint_drusen,
    "peripapillary_atrophy": paint_peripapillary_atrophy,
}

#: Over the vessels.
SUPERFICIAL: Mapping[str, Painter] = {
    "laser_scars": paint_laser_scars,
    "hard_exudates": paint_hard_exudates,
    "cotton_wool_spots": paint_cotton_wool_spots,
    "retinal_haemorrhage": paint_haemorrhages,
    "microaneurysms": paint_microaneurysms,
    "neovascularisation": paint_neovascularisation,
}

#: Between the retina and the camera.
MEDIA: Mapping[str, Painter] = {"hazy_media": paint_haze}
