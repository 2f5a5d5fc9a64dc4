"""Fingerprints of photographs: what copies of one photograph have in common.

All photographs of an eye show a disc on black, so that hashes of whole pictures say "the same" of
any two. Here the square around the lit disc is taken, its green channel is high-passed and divided
by its local contrast, which leaves vessels and lesions: the plane of a photograph. The signs of its
cosine coefficients of middle frequencies are the bits of the hash. A copy that was cropped shows a
window of the original: the original is looked up by the hash of every window of a grid, and a
cropped copy is near one of them. The hash of the mirror image needs no pixels: cosines of odd
horizontal frequency change their sign.
"""

import functools
import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Float32, Int8, UInt8, UInt64

from retfm_jax.data import images
from retfm_jax.data.field_of_view import around_disc, brightness_of
from retfm_jax.errors import UserError

#: Long side of the decoded copy, and side of the plane, pixels.
_DECODED, SIDE = 256, 96
#: Steps of a plane for a value of 1, the greatest value, and what stands for pixels that are dark.
_STEPS, _MOST, UNLIT = 50, 2.5, -128
#: Frequencies of the bits, half-cycles a side: up to, exclusive, and at least.
_FREQUENCIES, _LEAST = 24, 4.0
#: Bits and 64-bit words of a hash, from the lowest frequency on.
BITS = 448
WORDS = BITS // 64
#: Standard deviations of the high-pass and of the local contrast, in shares of the side.
_DETAIL, _CONTRAST = 4 / 128, 12 / 128
#: Values below this, of 255, are noise of the sensor or of compression: contrast is not raised
#: above it.
_NOISE = 2.0
#: Share of the plane that has to be lit, and the mean of its absolute values there: those of a
#: photograph are about 0.7.
_LIT, _DETAILED = 0.05, 0.1


class Window(NamedTuple):
    """Part of the square around the disc that a copy may show.

    Attributes:
      scale: its side, of the square's.
      down, across: of its center from the square's, in sides of the square.
    """

    scale: float
    down: float
    across: float


#: By scale, the shifts of windows on either axis.
_SHIFTS = {
    1.0: (-0.025, 0.0, 0.025),
    0.975: (-0.0125, 0.0125),
    0.95: (-0.025, 0.0, 0.025),
    0.925: (-0.025, 0.0, 0.025),
    0.9: (-0.05, -0.025, 0.0, 0.025, 0.05),
}
#: All windows.
WINDOWS = tuple(
    Window(scale, down, across)
    for scale, shifts in _SHIFTS.items()
    for down in shifts
    for across in shifts
)


def _bits() -> tuple[np.ndarray, np.ndarray]:
    """Vertical and horizontal frequencies of the bits, from the lowest on."""
    down, across = np.mgrid[:_FREQUENCIES, :_FREQUENCIES]
    radius = np.hypot(down, across).ravel()
    order = np.argsort(radius, kind="stable")
    chosen = order[radius[order] >= _LEAST][:BITS]
    return down.ravel()[chosen], across.ravel()[chosen]


_DOWN, _ACROSS = _bits()


class Fingerprint(NamedTuple):
    """Fingerprint of a photograph.

    Attributes:
      digest: of its bytes, 16 of them.
      plane: see `plane`; None where it cannot be decoded or shows nothing that could be told apart.
      error: why it cannot be decoded; "" where it can.
    """

    digest: bytes
    plane: Int8[np.ndarray, "side side"] | None
    error: str = ""


def fingerprint(data: bytes, name: str) -> Fingerprint:
    """Makes the fingerprint of a photograph.

    Args:
      data: the encoded bytes.
      name: of the record, for the message.
    """
    digest = hashlib.blake2b(data, digest_size=16).digest()
    try:
        image = images.thumbnail(data, name, _DECODED)
    except UserError as error:
        return Fingerprint(digest, None, str(error))
    found = plane(image)
    lit = found != UNLIT
    if lit.mean() < _LIT or np.abs(found[lit].astype(np.float32)).mean() < _DETAILED * _STEPS:
        return Fingerprint(digest, None)
    return Fingerprint(digest, found)


def plane(image: UInt8[np.ndarray, "h w 3"]) -> Int8[np.ndarray, "side side"]:
    """Takes the vessels and lesions of a photograph: high-passed, of even contrast.

    With g the green channel, m the lit pixels and B a Gaussian blur,
    v = (g - B(g m) / B(m)) m and the result is v / (sqrt(B(v^2) / B(m)) + noise), clipped at 2.5.

    Args:
      image: (h, w, 3) uint8, RGB.

    Returns:
      (96, 96) int8 of the square around the disc, in steps of 1/50; `UNLIT` where it is dark.
    """
    square = _square(around_disc(image))
    shrinks = square.shape[0] >= SIDE
    square = cv2.resize(
        square, (SIDE, SIDE), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    )
    lit = _lit(square)
    green = square[:, :, 1].astype(np.float32)
    around = _blurred(green * lit, _DETAIL) / (_blurred(lit, _DETAIL) + 1e-6)
    detail = (_blurred(green, 1 / 128) - around) * lit
    power = _blurred(detail * detail, _CONTRAST) / (_blurred(lit, _CONTRAST) + 1e-6)
    even = np.clip(detail / (np.sqrt(power) + _NOISE), -_MOST, _MOST)
    return np.where(lit > 0, np.round(even * _STEPS), UNLIT).astype(np.int8)


def _blurred(values: np.ndarray, deviation: float) -> np.ndarray:
    return cv2.GaussianBlur(values, (0, 0), deviation * SIDE)


def _square(image: np.ndarray) -> np.ndarray:
    """The picture in the middle of a black square."""
    height, width = image.shape[:2]
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    return cv2.copyMakeBorder(
        image, top, side - height - top, left, side - width - left, cv2.BORDER_CONSTANT, value=0
    )


def _lit(square: np.ndarray) -> Float32[np.ndarray, "side side"]:
    """What the camera lit, without the rim, whose contrast would outdo that of all vessels."""
    bright = brightness_of(square)
    lit = (bright > max(12.0, 0.12 * float(np.quantile(bright, 0.9)))).astype(np.uint8)
    # Beyond the picture it is dark, so that strips at its edge stay dark and its rim is eroded.
    lit = cv2.copyMakeBorder(lit, 3, 3, 3, 3, cv2.BORDER_CONSTANT, value=0)
    lit = cv2.morphologyEx(lit, cv2.MORPH_CLOSE, np.ones((7, 7), np.uint8))
    lit = cv2.erode(lit, np.ones((5, 5), np.uint8))
    return lit[3:-3, 3:-3].astype(np.float32)


def detail(of: Int8[np.ndarray, "side side"]) -> Float32[np.ndarray, "side side"]:
    """The values of a plane, zero where it is dark.

    Args:
      of: the plane.
    """
    return np.where(of == UNLIT, 0, of).astype(np.float32)


@functools.cache
def _cosines(scale: float, shift: float) -> Float32[np.ndarray, "frequencies side"]:
    """Cosines over a window of the plane, zero outside of it."""
    position = ((np.arange(SIDE) + 0.5) / SIDE - (0.5 + shift - scale / 2)) / scale
    inside = (position >= 0) & (position < 1)
    frequency = np.arange(_FREQUENCIES)[:, None]
    return (np.cos(np.pi * frequency * position) * inside).astype(np.float32)


def hashes(of: Int8[np.ndarray, "side side"]) -> UInt64[np.ndarray, "windows words"]:
    """Hashes every window of a plane: the signs of its cosine coefficients.

    Args:
      of: the plane.
    """
    values = detail(of)
    return np.concatenate([_hashed(values, scale, shifts) for scale, shifts in _SHIFTS.items()])


def hash_of(of: Int8[np.ndarray, "side side"]) -> UInt64[np.ndarray, " words"]:
    """Hashes a whole plane.

    Args:
      of: the plane.
    """
    return _hashed(detail(of), 1.0, (0.0,))[0]


def _hashed(
    values: Float32[np.ndarray, "side side"], scale: float, shifts: Sequence[float]
) -> UInt64[np.ndarray, "n words"]:
    basis = np.concatenate([_cosines(scale, shift) for shift in shifts])
    # (n f, side) . (side, side) . (side, n f) -> (n, f, n, f)
    found = (basis @ values @ basis.T).reshape(len(shifts), _FREQUENCIES, len(shifts), -1)
    return packed(found.transpose(0, 2, 1, 3)[:, :, _DOWN, _ACROSS].reshape(-1, BITS) > 0)


def packed(bits: Bool[np.ndarray, "n bits"]) -> UInt64[np.ndarray, "n words"]:
    """Packs bits into words.

    Args:
      bits: (n, 448).
    """
    return np.packbits(np.ascontiguousarray(bits), axis=1, bitorder="little").view(np.uint64)


#: Bits that the hash of the mirror image has the other way round.
_MIRROR = packed((_ACROSS % 2 == 1)[None])[0]


def mirrored(found: UInt64[np.ndarray, "*n words"]) -> UInt64[np.ndarray, "*n words"]:
    """Hashes of the mirror images: left and right are exchanged.

    A window's mirror image is that of the window on the other side.

    Args:
      found: any hashes.
    """
    return found ^ _MIRROR
