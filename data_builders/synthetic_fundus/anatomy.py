"""The normal fundus: choroid, macula, disc and cup, the vascular tree, the field of view.

Everything is drawn as a right eye seen by the camera: nose to the right, so the disc stands at
positive x and the macula temporal (to the left) and slightly below it. A left eye is the mirror
image, made at the end.
"""

import dataclasses

import numpy as np
from jaxtyping import Float

from retfm_jax.data_builders.synthetic_fundus.canvas import Canvas, Color, Mask
from retfm_jax.data_builders.synthetic_fundus.population import Look

FAIR: Color = (0.84, 0.46, 0.23)
DARK: Color = (0.60, 0.27, 0.12)
VEIN: Color = (0.66, 0.36, 0.42)
ARTERY: Color = (0.95, 0.66, 0.60)

_POINTS = 20  # along a vessel


@dataclasses.dataclass(frozen=True)
class Anatomy:
    """Where things are in this eye.

    Attributes:
      disc: center of the optic disc.
      disc_radii: its horizontal and vertical radius.
      fovea: the macula's center.
      arcade: how far the temporal arcades open, y² = arcade² * distance temporal of the disc.
    """

    disc: Float[np.ndarray, " 2"]
    disc_radii: Float[np.ndarray, " 2"]
    fovea: Float[np.ndarray, " 2"]
    arcade: float

    def on_arcade(self, along: np.ndarray, upper: np.ndarray) -> Float[np.ndarray, "n 2"]:
        """Points on the temporal arcades, `along` being the distance temporal of the disc."""
        rise = self.arcade * np.sqrt(along) * (1 - 0.14 * along)
        return np.stack([self.disc[0] - along, self.disc[1] + np.where(upper, -rise, rise)], -1)


def draw_anatomy(rng: np.random.Generator) -> Anatomy:
    """Draws the proportions of one eye."""
    disc = np.array((rng.uniform(0.38, 0.5), rng.uniform(-0.08, 0.03)))
    radius = rng.uniform(0.145, 0.17)
    fovea = disc + np.array((-rng.uniform(0.58, 0.66), rng.uniform(0.05, 0.1)))
    return Anatomy(
        disc, np.array((radius * rng.uniform(0.88, 0.95), radius)), fovea, rng.uniform(0.56, 0.66)
    )


def paint_background(
    canvas: Canvas, rng: np.random.Generator, anatomy: Anatomy, look: Look
) -> None:
    """Pigment epithelium and choroid, darker at the macula."""
    texture = 0.035 * canvas.noise(rng, 7) + 0.03 * canvas.noise(rng, 22)
    for plane, fair, dark, contrast in zip(canvas.planes, FAIR, DARK, (0.7, 1.0, 1.2), strict=True):
        plane[:] = (fair + look.pigment * (dark - fair)) * (1 + contrast * texture)
    distance = canvas.distance(anatomy.fovea)
    canvas.filter(np.exp(-((distance / 0.2) ** 2)), (0.74, 0.62, 0.6))
    canvas.filter(np.exp(-((distance / 0.06) ** 2)), (0.86, 0.76, 0.76))


def paint_disc(
    canvas: Canvas, rng: np.random.Generator, anatomy: Anatomy, cup_ratio: float
) -> None:
    """The optic disc, and in it a paler cup of the given vertical cup-to-disc ratio."""
    edge = canvas.unit(0.6)
    halo = _ellipse(canvas, anatomy.disc, anatomy.disc_radii * 1.12, 0.02)
    canvas.paint(halo, (0.9, 0.62, 0.36), 0.5)
    rim = (0.94, 0.56 + float(rng.uniform(-0.03, 0.03)), 0.33)
    canvas.paint(_ellipse(canvas, anatomy.disc, anatomy.disc_radii, edge), rim, 0.93)
    center = anatomy.disc + cup_shift(anatomy, cup_ratio)
    cup = _ellipse(canvas, center, anatomy.disc_radii * cup_ratio, edge)
    canvas.paint(cup, (1.0, 0.95, 0.78), 0.95)


def cup_shift(anatomy: Anatomy, cup_ratio: float) -> Float[np.ndarray, " 2"]:
    """How far the cup's center is from the disc's: temporal, as long as it leaves a rim."""
    return np.array((-0.12 * (1 - cup_ratio) * anatomy.disc_radii[0], 0.0))


def _ellipse(canvas: Canvas, center: np.ndarray, radii: np.ndarray, soft: float) -> Mask:
    turn = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    outline = center + radii * np.stack([np.cos(turn), np.sin(turn)], -1)
    return canvas.polygons(outline[None], soft)


def paint_vessels(canvas: Canvas, rng: np.random.Generator, anatomy: Anatomy) -> None:
    """Four arcades, each an artery and a vein, with two generations of branches."""
    for width, transmission in ((0.036, VEIN), (0.026, ARTERY)):
        paths, widths = _vessel_tree(rng, anatomy, width)
        canvas.filter(canvas.strokes(paths, widths), transmission)


def _vessel_tree(
    rng: np.random.Generator, anatomy: Anatomy, width: float
) -> tuple[Float[np.ndarray, "n points 2"], Float[np.ndarray, "n points"]]:
    trunks = _trunks(rng, anatomy)
    trunk_widths = width * np.linspace(1, 0.35, _POINTS) * np.ones((4, 1))
    branches, branch_widths = _branches(rng, trunks, trunk_widths, each=5, length=(0.3, 0.65))
    twigs, twig_widths = _branches(rng, branches, branch_widths, each=2, length=(0.15, 0.35))
    paths = np.concatenate([trunks, branches, twigs])
    widths = np.concatenate([trunk_widths, branch_widths, twig_widths])
    # The fovea has no vessels: a branch that would enter stays at its edge.
    outside = np.linalg.norm(paths - anatomy.fovea, axis=-1) > 0.16
    last = np.maximum.accumulate(np.where(np.cumprod(outside, 1), np.arange(_POINTS), 0), 1)
    return np.take_along_axis(paths, last[..., None], 1), widths


def _trunks(rng: np.random.Generator, anatomy: Anatomy) -> Float[np.ndarray, "4 points 2"]:
    s = np.linspace(0, 1, _POINTS)
    trunks = []
    for sign in (-1, 1):
        along = 1.45 * s**1.7
        rise = anatomy.arcade * rng.uniform(0.92, 1.1) * np.sqrt(along) * (1 - 0.14 * along)
        temporal = np.stack([-along, sign * rise], -1)
        angle = rng.uniform(0.75, 1.15)
        reach = 0.85 * s
        heading = angle - rng.uniform(0.1, 0.5) * s
        nasal = np.stack([reach * np.cos(heading), sign * reach * np.sin(heading)], -1)
        trunks += [temporal, nasal]
    wave = rng.uniform(1.5, 3.0, (4, 1)) * s * 2 * np.pi + rng.uniform(0, 2 * np.pi, (4, 1))
    wobble = rng.uniform(0.008, 0.02, (4, 1)) * np.sin(wave) * np.minimum(1, 4 * s)
    return anatomy.disc + np.stack(trunks) + wobble[..., None] * (0.6, 1.0)


def _branches(
    rng: np.random.Generator,
    parents: Float[np.ndarray, "parents points 2"],
    parent_widths: Float[np.ndarray, "parents points"],
    each: int,
    length: tuple[float, float],
) -> tuple[Float[np.ndarray, "n points 2"], Float[np.ndarray, "n points"]]:
    """`each` branches a parent, on alternating sides, thinner than the parent where they leave."""
    count = len(parents)
    slots = (np.arange(each) + rng.uniform(0.2, 0.8, (count, each))) / each
    start = np.clip((0.12 + 0.78 * slots) * _POINTS, 1, _POINTS - 2).astype(int)
    row = np.arange(count)[:, None]
    origin = parents[row, start]
    tangent = parents[row, start + 1] - parents[row, start - 1]
    side = np.where((np.arange(each) + rng.integers(0, 2, (count, 1))) % 2, 1.0, -1.0)
    heading = np.arctan2(tangent[..., 1], tangent[..., 0])
    heading = heading + side * rng.uniform(0.45, 0.95, side.shape)
    # Branches bend back towards the parent's direction.
    bend = -side * rng.uniform(0.1, 0.8, side.shape)
    reach = rng.uniform(*length, side.shape) * (1 - 0.4 * slots)
    width = parent_widths[row, start] * rng.uniform(0.5, 0.72, side.shape)
    paths = wander(rng, origin.reshape(-1, 2), heading.ravel(), reach.ravel(), bend.ravel())
    return paths, width.reshape(-1, 1) * np.linspace(1, 0.45, _POINTS)


def wander(
    rng: np.random.Generator,
    origin: Float[np.ndarray, "n 2"],
    heading: Float[np.ndarray, " n"],
    length: Float[np.ndarray, " n"],
    bend: Float[np.ndarray, " n"],
    tortuosity: float = 0.25,
) -> Float[np.ndarray, "n points 2"]:
    """Paths that start along `heading`, turn by `bend` (radians) in all, and waver."""
    s = np.linspace(0, 1, _POINTS)
    phase = rng.uniform(0, 2 * np.pi, (len(origin), 1))
    waves = rng.uniform(1.0, 2.5, (len(origin), 1)) * 2 * np.pi
    turn = (
        heading[:, None]
        + bend[:, None] * s
        + tortuosity * (np.sin(waves * s + phase) - np.sin(phase))
    )
    steps = np.stack([np.cos(turn), np.sin(turn)], -1) * (length[:, None, None] / (_POINTS - 1))
    steps[:, 0] = 0
    return origin[:, None] + np.cumsum(steps, 1)


def shade(canvas: Canvas, rng: np.random.Generator, look: Look, exposure: float) -> None:
    """Uneven illumination, exposure and the camera's color balance."""
    falloff = canvas.distance(rng.uniform(-0.15, 0.15, 2)) ** 2
    canvas.scale(exposure * (1 - look.vignette * falloff), look.gains)


def mask_field(canvas: Canvas, look: Look) -> None:
    """Black outside the field of view, which some cameras cut at top and bottom."""
    softness = canvas.unit(1.2)
    inside = np.clip((1 - canvas.distance(np.zeros(2))) / softness, 0, 1)
    if look.cut:
        inside *= np.clip((1 - look.cut - np.abs(canvas.y)) / softness, 0, 1)
    canvas.scale(inside)
