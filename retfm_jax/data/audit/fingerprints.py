"""Fingerprints of photographs: what copies of one photograph have in common.

All photographs of an eye show a disc on black, so that hashes of whole pictures say "the same" of
any two. Here the square around the lit disc is taken, its green channel is high-passed and divided
by its local contrast, which leaves vessels and lesions, and the signs of cosine coefficients of
middle frequencies are the bits. A copy that was cropped shows a window of the original: the
original is hashed for every window of a grid as well, and a cropped copy finds one of them. The
hash of the mirror image needs no pixels: cosines of odd horizontal frequency change their sign.
"""

import functools
import hashlib
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Float32, UInt8, UInt64

from retfm_jax.data import images
from retfm_jax.data.field_of_view import around_disc
from retfm_jax.errors import UserError

#: Long side of the decoded copy, and side of the plane that is hashed, pixels.
_DECODED, SIDE = 256, 128
#: Frequencies of the bits, half-cycles a side: up to, exclusive, and at least.
_FREQUENCIES, _LEAST = 16, 4.0
#: Bits and 64-bit words of a hash.
BITS = 192
WORDS = BITS // 64
#: Standard deviations of the high-pass and of the local contrast, in pixels of 128.
_DETAIL, _CONTRAST = 6.0, 12.0
#: Values below this, of 255, are noise of the sensor: contrast is not raised above it.
_NOISE = 1.0
#: Share of the plane that has to be lit, and the mean of its absolute values there: those of a
#: photograph are about 0.7.
_LIT, _DETAILED = 0.05, 0.2


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
#: All windows; `WHOLE` is the position of the square itself.
WINDOWS = tuple(
    Window(scale, down, across)
    for scale, shifts in _SHIFTS.items()
    for down in shifts
    for across in shifts
)
WHOLE = WINDOWS.index(Window(1.0, 0.0, 0.0))


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
      hashes: (windows, words) uint64 of every window; None where it cannot be decoded or shows
        nothing that could be told apart.
      error: why it cannot be decoded; "" where it can.
    """

    digest: bytes
    hashes: UInt64[np.ndarray, "windows words"] | None
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
    detail, lit = plane(image, SIDE)
    if lit.mean() < _LIT or np.abs(detail[lit]).mean() < _DETAILED:
        return Fingerprint(digest, None)
    return Fingerprint(digest, hashes(detail))


def plane(
    image: UInt8[np.ndarray, "h w 3"], side: int
) -> tuple[Float32[np.ndarray, "side side"], Bool[np.ndarray, "side side"]]:
    """Takes the vessels and lesions of a photograph: high-passed, of even contrast.

    With g the green channel, m the lit pixels and B a Gaussian blur,
    v = (g - B(g m) / B(m)) m and the result is v / (sqrt(B(v^2) / B(m)) + noise), clipped at 2.5.

    Args:
      image: (h, w, 3) uint8, RGB.
      side: of the result, pixels.

    Returns:
      (side, side) float32 of the square around the disc, zero where it is not lit; and (side, side)
      bool, what is lit.
    """
    square = _square(around_disc(image))
    shrinks = square.shape[0] >= side
    square = cv2.resize(
        square, (side, side), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    )
    unit = side / 128
    lit = _lit(square, unit).astype(np.float32)
    green = square[:, :, 1].astype(np.float32)
    around = _blurred(green * lit, _DETAIL * unit) / (_blurred(lit, _DETAIL * unit) + 1e-6)
    detail = (cv2.GaussianBlur(green, (0, 0), unit) - around) * lit
    power = _blurred(detail * detail, _CONTRAST * unit) / (_blurred(lit, _CONTRAST * unit) + 1e-6)
    return np.clip(detail / (np.sqrt(power) + _NOISE), -2.5, 2.5) * lit, lit > 0


def _blurred(values: np.ndarray, deviation: float) -> np.ndarray:
    return cv2.GaussianBlur(values, (0, 0), deviation)


def _square(image: np.ndarray) -> np.ndarray:
    """The picture in the middle of a black square."""
    height, width = image.shape[:2]
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    return cv2.copyMakeBorder(
        image, top, side - height - top, left, side - width - left, cv2.BORDER_CONSTANT, value=0
    )


def _lit(square: np.ndarray, unit: float) -> np.ndarray:
    """What the camera lit, without the rim, whose contrast would outdo that of all vessels."""
    bright = square.max(axis=2)
    lit = (bright > max(12.0, 0.12 * float(np.quantile(bright, 0.9)))).astype(np.uint8)
    close, erode = (2 * round(radius * unit) + 1 for radius in (4, 3))
    lit = cv2.morphologyEx(lit, cv2.MORPH_CLOSE, np.ones((close, close), np.uint8))
    return cv2.erode(lit, np.ones((erode, erode), np.uint8))


@functools.cache
def _cosines(scale: float, shift: float) -> Float32[np.ndarray, "frequencies side"]:
    """Cosines over a window of the plane, zero outside of it."""
    position = ((np.arange(SIDE) + 0.5) / SIDE - (0.5 + shift - scale / 2)) / scale
    inside = (position >= 0) & (position < 1)
    frequency = np.arange(_FREQUENCIES)[:, None]
    return (np.cos(np.pi * frequency * position) * inside).astype(np.float32)


def hashes(detail: Float32[np.ndarray, "side side"]) -> UInt64[np.ndarray, "windows words"]:
    """Hashes every window: the signs of its cosine coefficients.

    Args:
      detail: as `plane` makes it, of 128 pixels.
    """
    found = []
    for scale, shifts in _SHIFTS.items():
        basis = np.concatenate([_cosines(scale, shift) for shift in shifts])
        # (n f, side) . (side, side) . (side, n f) -> (n, f, n, f)
        values = (basis @ detail @ basis.T).reshape(len(shifts), _FREQUENCIES, len(shifts), -1)
        chosen = values.transpose(0, 2, 1, 3)[:, :, _DOWN, _ACROSS]
        found.append(chosen.reshape(-1, BITS) > 0)
    return packed(np.concatenate(found))


def packed(bits: Bool[np.ndarray, "n bits"]) -> UInt64[np.ndarray, "n words"]:
    """Packs bits into words.

    Args:
      bits: (n, 192).
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
