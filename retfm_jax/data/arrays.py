"""Images that are in memory already, arrays and PIL images, as RGB of 8 bits."""

import io

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

from retfm_jax.data.image_limits import MAX_PIXELS, ImageError
from retfm_jax.data.images import ROUNDING, decode_picture

_CHANNELS = (1, 3, 4)


def array_to_rgb(array: np.ndarray, name: str) -> UInt8[np.ndarray, "h w 3"]:
    """Converts one image in an array to RGB, uint8 (height, width, 3).

    Args:
      array: (height, width) or (height, width, channels) with 1 (gray), 3 (RGB) or 4 channels
        (RGBA, see `decode`); uint8, or float from 0 to 1.
      name: for messages.

    Raises:
      ImageError: another shape, dtype or range, with what was found.
    """
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in _CHANNELS):
        hint = ""
        if array.ndim == 3 and array.shape[0] in _CHANNELS:
            hint = ": transpose(1, 2, 0) brings the channels last"
        elif array.ndim == 3:
            hint = ": several gray images are (n, height, width, 1)"
        raise ImageError(
            f"{name}: an array must be (height, width) or (height, width, 1, 3 or 4), not "
            f"{array.shape}{hint}"
        )
    height, width = array.shape[:2]
    if not height * width or height * width > MAX_PIXELS:
        raise ImageError(
            f"{name}: an array of {height} x {width} pixels; images have 1 to {MAX_PIXELS:,}"
        )
    pixels = _eight_bits(array, name)
    if pixels.ndim == 2 or pixels.shape[2] == 1:
        return np.repeat(pixels.reshape(height, width, 1), 3, axis=2)
    if pixels.shape[2] == 4:
        # Transparency is a matter of `decode`.
        return pil_to_rgb(Image.fromarray(pixels), name)
    return pixels


def _eight_bits(array: np.ndarray, name: str) -> np.ndarray:
    wanted = "an array must be uint8 (0 to 255) or float from 0 to 1"
    if array.dtype == np.uint8:
        if array.max() == 1:
            raise ImageError(
                f"{name}: its values are 0 and 1 in uint8, which is black. {wanted}: floats are "
                "converted by (x * 255).round().astype('uint8')"
            )
        return array
    if array.dtype.kind in "iu":
        low, high = array.min(), array.max()
        hint = (
            ": convert it by .astype('uint8')"
            if low >= 0 and high <= 255
            else ": deep images lose their depth by (x / largest), float from 0 to 1"
        )
        raise ImageError(f"{name}: {wanted}, not {array.dtype} from {low} to {high}{hint}")
    if array.dtype.kind != "f":
        raise ImageError(f"{name}: {wanted}, not {array.dtype}")
    low, high = float(array.min()), float(array.max())
    if not np.isfinite((low, high)).all():
        raise ImageError(f"{name}: the array has values that are not finite (NaN or infinite)")
    # Interpolation and half precision step over the ends a little.
    if low < -ROUNDING or high > 1 + ROUNDING:
        hint = (
            ": divide it by 255"
            if low >= 0 and 1 < high <= 255 and high > 2
            else ": it seems normalized; undo that by x * std + mean"
            if low < 0 and high < 30
            else ""
        )
        raise ImageError(f"{name}: {wanted}, not {array.dtype} from {low:g} to {high:g}{hint}")
    return np.rint(array.astype(np.float32).clip(0, 1) * 255).astype(np.uint8)


def pil_to_rgb(image: Image.Image, name: str) -> UInt8[np.ndarray, "h w 3"]:
    """Converts a PIL image to RGB, uint8 (height, width, 3), turned upright as its EXIF says.

    Depth and transparency are treated as `decode` treats those of a file.

    Args:
      image: in any of Pillow's modes, loaded or not.
      name: for messages.

    Raises:
      ImageError: it cannot be read, or has no or too many pixels.
    """
    if not 0 < image.width * image.height <= MAX_PIXELS:
        raise ImageError(
            f"{name}: {image.width} x {image.height} pixels; images have 1 to {MAX_PIXELS:,}"
        )
    try:
        image = ImageOps.exif_transpose(image)
        if image.mode in ("RGB", "L"):
            return np.array(image.convert("RGB"))
        if image.mode == "La":  # the only way out of it
            image = image.convert("LA")
        if image.mode in ("HSV", "LAB", "YCbCr", "RGBX", "RGBa", "PA"):
            image = image.convert("RGBA" if image.mode in ("RGBa", "PA") else "RGB")
        # Depth and transparency are a matter of `decode`.
        buffer = io.BytesIO()
        image.save(buffer, "TIFF")
    except ImageError:
        raise
    except Exception as error:  # a file that is read only now, and whatever is wrong with it
        raise ImageError(f"{name}: the image is truncated or damaged ({error})") from error
    return decode_picture(buffer.getvalue(), name)
