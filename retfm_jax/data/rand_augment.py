"""RandAugment on the host: a few random changes of a photograph, each of about the same strength.

Cubuk et al., RandAugment: Practical automated data augmentation with a reduced search space,
CVPR workshops 2020, as timm's "rand-m9-mstd0.5-inc1" has it, which RETFound is fine-tuned with: the
operations are drawn with replacement, each is applied to every second image, the strength of each
is sampled around the magnitude, and a larger one always changes more ("inc1"). The same rules as
Pillow's, which timm calls, in NumPy and OpenCV.
"""

from collections.abc import Callable

import cv2
import numpy as np
from jaxtyping import UInt8

#: Chance that an operation that was drawn is applied, and the spread of its magnitude.
_PROBABILITY, _SPREAD = 0.5, 0.5
_LARGEST = 10.0
#: At the largest magnitude: degrees, shear, shift as a share of the width, change of a color.
_DEGREES, _SHEAR, _SHIFT, _COLOR = 30.0, 0.3, 0.45, 0.9

#: RGB, (h, w, 3) uint8.
Pixels = UInt8[np.ndarray, "h w 3"]
#: (pixels, share of the largest magnitude 0..1, a random sign, color of what comes into view).
Operation = Callable[[Pixels, float, int, tuple[int, int, int]], Pixels]


def rand_augment(
    image: UInt8[np.ndarray, "h w 3"],
    count: int,
    magnitude: float,
    fill: tuple[int, int, int],
    rng: np.random.Generator,
) -> UInt8[np.ndarray, "h w 3"]:
    """Applies random operations to a photograph, one after the other.

    Args:
      image: (h, w, 3) uint8, RGB.
      count: of operations that are drawn, each of which is applied with probability one half.
      magnitude: mean strength, from 0 to 10; that of an operation is normal around it, with a
        standard deviation of 0.5.
      fill: color of what a geometric operation brings into view, 0..255.
      rng: the source of every random choice.

    Returns:
      (h, w, 3) uint8.
    """
    names = list(OPERATIONS)
    for chosen in rng.integers(len(names), size=count):
        applied, sign = rng.random(2) < (_PROBABILITY, 0.5)
        strength = float(np.clip(rng.normal(magnitude, _SPREAD), 0, _LARGEST)) / _LARGEST
        if applied:
            image = OPERATIONS[names[chosen]](image, strength, 1 if sign else -1, fill)
    return image


def auto_contrast(image: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w 3"]:
    """Stretches every channel to 0..255.

    Args:
      image: (h, w, 3) uint8.
    """
    tables = []
    for channel in range(3):
        low, high = int(image[..., channel].min()), int(image[..., channel].max())
        scale = 255 / (high - low) if high > low else 1.0
        offset = -low * scale if high > low else 0.0
        tables.append(np.clip(np.arange(256) * scale + offset, 0, 255).astype(np.uint8))
    return _looked_up(image, np.stack(tables, 1))


def equalize(image: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w 3"]:
    """Gives every channel a flat histogram.

    Args:
      image: (h, w, 3) uint8.
    """
    tables = []
    for channel in range(3):
        counts = np.bincount(image[..., channel].ravel(), minlength=256)
        step = (counts.sum() - counts[counts > 0][-1]) // 255
        before = step // 2 + np.concatenate([[0], np.cumsum(counts)[:-1]])
        table = np.arange(256) if step == 0 else np.minimum(before // max(step, 1), 255)
        tables.append(table.astype(np.uint8))
    return _looked_up(image, np.stack(tables, 1))


def posterize(image: UInt8[np.ndarray, "h w 3"], bits: int) -> UInt8[np.ndarray, "h w 3"]:
    """Keeps the upper bits of every value.

    Args:
      image: (h, w, 3) uint8.
      bits: from 0 to 8.
    """
    return image & np.uint8(256 - (1 << (8 - bits)))


def solarize(image: UInt8[np.ndarray, "h w 3"], threshold: int) -> UInt8[np.ndarray, "h w 3"]:
    """Inverts values from a threshold on.

    Args:
      image: (h, w, 3) uint8.
      threshold: from 0, where everything is inverted, to 256.
    """
    values = np.arange(256)
    return _looked_up(image, np.where(values < threshold, values, 255 - values).astype(np.uint8))


def solarize_add(image: UInt8[np.ndarray, "h w 3"], added: int) -> UInt8[np.ndarray, "h w 3"]:
    """Brightens values below 128.

    Args:
      image: (h, w, 3) uint8.
      added: to them, from 0 to 127.
    """
    values = np.arange(256)
    return _looked_up(image, np.where(values < 128, values + added, values).astype(np.uint8))


def brightness(image: UInt8[np.ndarray, "h w 3"], factor: float) -> UInt8[np.ndarray, "h w 3"]:
    """Scales brightness: `factor * x`.

    Args:
      image: (h, w, 3) uint8.
      factor: at least 0; 1 changes nothing.
    """
    return _blended(image, np.zeros((1, 1, 1), np.uint8), factor)


def contrast(image: UInt8[np.ndarray, "h w 3"], factor: float) -> UInt8[np.ndarray, "h w 3"]:
    """Scales contrast: `factor * x + (1 - factor) * (mean gray of the image)`.

    Args:
      image: (h, w, 3) uint8.
      factor: at least 0; 1 changes nothing.
    """
    mean = int(_gray(image).mean() + 0.5)
    return _blended(image, np.full((1, 1, 1), mean, np.uint8), factor)


def color(image: UInt8[np.ndarray, "h w 3"], factor: float) -> UInt8[np.ndarray, "h w 3"]:
    """Scales saturation: `factor * x + (1 - factor) * (gray of the pixel)`.

    Args:
      image: (h, w, 3) uint8.
      factor: at least 0; 1 changes nothing.
    """
    return _blended(image, _gray(image)[..., None], factor)


def sharpness(image: UInt8[np.ndarray, "h w 3"], factor: float) -> UInt8[np.ndarray, "h w 3"]:
    """Sharpens or smooths: `factor * x + (1 - factor) * (x smoothed over its neighbors)`.

    Args:
      image: (h, w, 3) uint8.
      factor: at least 0; 1 changes nothing.
    """
    kernel = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]], np.float32) / 13
    smooth = cv2.filter2D(image, -1, kernel)
    # As Pillow's filter leaves it, the edge stays.
    smooth[[0, -1]], smooth[:, [0, -1]] = image[[0, -1]], image[:, [0, -1]]
    return _blended(image, smooth, factor)


def rotate(
    image: UInt8[np.ndarray, "h w 3"], degrees: float, fill: tuple[int, int, int]
) -> UInt8[np.ndarray, "h w 3"]:
    """Rotates counterclockwise around the center.

    Args:
      image: (h, w, 3) uint8.
      degrees: of the rotation.
      fill: color of the corners that come into view.
    """
    height, width = image.shape[:2]
    center = ((width - 1) / 2, (height - 1) / 2)
    return _warped(image, cv2.getRotationMatrix2D(center, degrees, 1), fill, inverse=False)


def affine(
    image: UInt8[np.ndarray, "h w 3"],
    matrix: tuple[float, float, float, float, float, float],
    fill: tuple[int, int, int],
) -> UInt8[np.ndarray, "h w 3"]:
    """Shows at (x, y) what was at (a x + b y + c, d x + e y + f), x and y at centers of pixels.

    Args:
      image: (h, w, 3) uint8.
      matrix: a to f, in pixels, as Pillow's `Image.transform` takes them.
      fill: color of what comes into view.
    """
    a, b, c, d, e, f = matrix
    # OpenCV has centers of pixels at whole numbers.
    c, f = c + (a + b - 1) / 2, f + (d + e - 1) / 2
    return _warped(image, np.array([[a, b, c], [d, e, f]]), fill, inverse=True)


def _warped(image: Pixels, matrix: np.ndarray, fill: tuple[int, int, int], inverse: bool) -> Pixels:
    flags = cv2.INTER_CUBIC | (cv2.WARP_INVERSE_MAP if inverse else 0)
    size = (image.shape[1], image.shape[0])
    return cv2.warpAffine(
        image, matrix, size, flags=flags, borderMode=cv2.BORDER_CONSTANT, borderValue=fill
    )


def _looked_up(image: Pixels, table: UInt8[np.ndarray, "256 ..."]) -> Pixels:
    channels = table if table.ndim == 2 else np.repeat(table[:, None], 3, 1)
    return cv2.LUT(image, np.ascontiguousarray(channels[None]))


def _gray(image: Pixels) -> UInt8[np.ndarray, "h w"]:
    """Luma of ITU-R 601-2 in whole numbers, as Pillow computes it."""
    weighted = image.astype(np.uint32) @ np.array([19595, 38470, 7471], np.uint32)
    return ((weighted + 0x8000) >> 16).astype(np.uint8)


def _blended(image: Pixels, other: np.ndarray, factor: float) -> Pixels:
    """`other + factor * (image - other)`, cut to whole numbers as Pillow does."""
    base = other.astype(np.float32)
    return np.clip(base + np.float32(factor) * (image - base), 0, 255).astype(np.uint8)


def _factor(strength: float, sign: int) -> float:
    return max(0.1, 1 + sign * _COLOR * strength)


#: The fifteen operations by timm's names for them.
OPERATIONS: dict[str, Operation] = {
    "AutoContrast": lambda x, strength, sign, fill: auto_contrast(x),
    "Equalize": lambda x, strength, sign, fill: equalize(x),
    "Invert": lambda x, strength, sign, fill: 255 - x,
    "Rotate": lambda x, strength, sign, fill: rotate(x, sign * _DEGREES * strength, fill),
    "PosterizeIncreasing": lambda x, strength, sign, fill: posterize(x, 4 - int(4 * strength)),
    "SolarizeIncreasing": lambda x, strength, sign, fill: solarize(x, 256 - int(256 * strength)),
    "SolarizeAdd": lambda x, strength, sign, fill: solarize_add(x, int(110 * strength)),
    "ColorIncreasing": lambda x, strength, sign, fill: color(x, _factor(strength, sign)),
    "ContrastIncreasing": lambda x, strength, sign, fill: contrast(x, _factor(strength, sign)),
    "BrightnessIncreasing": lambda x, strength, sign, fill: brightness(x, _factor(strength, sign)),
    "SharpnessIncreasing": lambda x, strength, sign, fill: sharpness(x, _factor(strength, sign)),
    "ShearX": lambda x, strength, sign, fill: affine(
        x, (1, sign * _SHEAR * strength, 0, 0, 1, 0), fill
    ),
    "ShearY": lambda x, strength, sign, fill: affine(
        x, (1, 0, 0, sign * _SHEAR * strength, 1, 0), fill
    ),
    "TranslateXRel": lambda x, strength, sign, fill: affine(
        x, (1, 0, sign * _SHIFT * strength * x.shape[1], 0, 1, 0), fill
    ),
    "TranslateYRel": lambda x, strength, sign, fill: affine(
        x, (1, 0, 0, 0, 1, sign * _SHIFT * strength * x.shape[0]), fill
    ),
}
