"""Encoded photographs -> uint8 arrays of the network's size, on the host."""

import io
import math
import struct
from collections.abc import Callable, Sequence

import cv2
import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image

from retfm_jax.config import AugmentConfig, ImageConfig
from retfm_jax.data import dicom
from retfm_jax.data.contrast import CLIP_LIMIT, TILES, equalized
from retfm_jax.data.field_of_view import around_disc
from retfm_jax.data.image_limits import ImageError, check_size, too_large
from retfm_jax.data.rand_augment import rand_augment

_FORMATS = ("JPEG", "PNG", "TIFF", "BMP", "WEBP", "PPM", "GIF", "JPEG2000")
_JPEG_END = b"\xff\xd9"
#: EXIF's tag of how a picture is turned and mirrored.
ORIENTATION_TAG = 0x0112
#: JPEG segments that may stand before the frame header; all of them state their length.
_JPEG_SEGMENTS = {0xC4, 0xDB, 0xDD, 0xFE, *range(0xE0, 0xF0)}
#: Bit depths that cameras and scanners write into 16 bits.
_DEPTHS = (8, 10, 12, 14, 16)
#: Rounding of programs that write 0..1 as floating point.
ROUNDING = 1e-3


def decode(
    data: bytes, name: str, *, min_side: int | None = None
) -> UInt8[np.ndarray, "height width 3"]:
    """Decodes a JPEG, PNG, TIFF, BMP, WebP, PNM, GIF or JPEG 2000 to RGB, upright as its EXIF says.

    DICOM is decoded as `dicom.decode` says.

    What is deeper than 8 bits is scaled by the depth that its largest value needs: 8, 10, 12, 14 or
    16 bits (12-bit scans are often stored in 16), more where it needs more; the highest 8 of these
    bits are kept. Floating point is 0..1 where no value is larger, else taken as whole numbers.
    Negative, infinite and undefined values are refused, and so are floating-point pictures whose
    range could be either. What is transparent lies on black, as the surround of the retina does;
    transparency that hides everything is taken for none. Of several pages or frames the first is
    taken, see `pages`.

    Args:
      data: the encoded bytes.
      name: of the file or record, for the message.
      min_side: decode a JPEG at 1/2, 1/4 or 1/8 of its size as long as both sides keep at least so
        many pixels: several times faster where the network's input is smaller than the picture.
        None decodes exactly.

    Returns:
      (height, width, 3) uint8, RGB.

    Raises:
      ImageError: not an image, truncated, damaged, of values that mean no brightness, or of more
        than `image_limits.MAX_PIXELS`.
    """
    if dicom.is_dicom(data):
        return dicom.decode(data, name)
    return decode_picture(data, name, min_side=min_side)


def decode_picture(
    data: bytes, name: str, *, min_side: int | None = None
) -> UInt8[np.ndarray, "height width 3"]:
    """Decodes as `decode` does, but no DICOM.

    Args:
      data, name, min_side: see `decode`.

    Returns:
      (height, width, 3) uint8, RGB.

    Raises:
      ImageError: see `decode`.
    """
    # OpenCV is faster than Pillow and gives the same bits, but takes a JPEG that was cut short for
    # a good one with a gray rest: it gets only files that are complete.
    size = _jpeg_size(data) if data.endswith(_JPEG_END) else None
    if size is not None:
        check_size(name, *size)
        pixels = _opencv(data, _reduction(min(size), min_side))
        if pixels is not None:
            return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB, dst=pixels)
    image = _open(data, name)
    try:
        # Before pixels are taken out, for then it is gone.
        orientation = image.getexif().get(ORIENTATION_TAG, 1)
        pixels = _rgb(image, data)
        if orientation != 1:
            pixels = upright(pixels, orientation)
    except ImageError as error:
        raise ImageError(f"{name}: {error}") from error
    except Exception as error:  # Pillow's decoders raise many kinds: OSError, SyntaxError, struct
        raise ImageError(f"{name}: the image is truncated or damaged ({error})") from error
    return pixels


def decode_reduced(
    data: bytes, name: str, min_side: Callable[[int], int]
) -> tuple[UInt8[np.ndarray, "height width 3"], tuple[int, int]]:
    """Decodes as `decode` does with a `min_side`, and tells how large the photograph really is.

    Args:
      data, name: see `decode`.
      min_side: from the photograph's long side, pixels, to `min_side` of `decode`.

    Returns:
      (height, width, 3) uint8, RGB; and the height and width of the photograph, of which those of
      the array are 1, 1/2, 1/4 or 1/8, rounded up.

    Raises:
      ImageError: see `decode`.
    """
    size = _jpeg_size(data) if data.endswith(_JPEG_END) else None
    pixels = decode(data, name, min_side=None if size is None else min_side(max(size)))
    if size is None or {*pixels.shape[:2]} == {*size}:
        return pixels, (pixels.shape[0], pixels.shape[1])
    width, height = size
    factor = round(max(size) / max(pixels.shape[:2]))
    # EXIF may have exchanged height and width.
    upright = (-(-height // factor), -(-width // factor)) == pixels.shape[:2]
    return pixels, (height, width) if upright else (width, height)


def pages(data: bytes) -> int:
    """Counts the pages or frames of a file; 1 where they cannot be counted.

    Args:
      data: the encoded bytes.
    """
    if dicom.is_dicom(data):
        return dicom.frames(data)
    if data[:3] == b"\xff\xd8\xff":
        return 1  # a JPEG of several (MPO) holds previews
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            return getattr(image, "n_frames", 1)
    except Exception:  # whoever decodes it says what is wrong
        return 1


def is_flat(image: UInt8[np.ndarray, "h w 3"]) -> bool:
    """Tells whether a picture shows one value everywhere, so that nothing can be seen on it.

    Args:
      image: (h, w, 3) uint8, RGB.
    """
    some = image[:: max(1, len(image) // 16)]
    return bool((some == image[0, 0]).all() and (image == image[0, 0]).all())


def flat_rest(image: UInt8[np.ndarray, "h w 3"]) -> int:
    """Counts the rows at the bottom that show one value, neither dark nor white.

    Decoders fill in such rows where a JPEG was cut short but has its end marker.

    Args:
      image: (h, w, 3) uint8, RGB.

    Returns:
      rows; 0 also where the whole picture shows one value.
    """
    value = image[-1, 0]
    if value.max() < 40 or value.min() > 230:
        return 0
    rows = np.flatnonzero((image != value).any(axis=(1, 2)))
    return len(image) - 1 - int(rows[-1]) if len(rows) else 0


def _opencv(data: bytes, flags: int) -> np.ndarray | None:
    """What OpenCV makes of a file, None where it cannot read it."""
    try:
        return cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:
        return None


def _open(data: bytes, name: str) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(data), formats=_FORMATS)
    except Image.DecompressionBombError as error:
        raise ImageError(f"{name}: {too_large()} ({error})") from error
    except Exception as error:
        raise ImageError(
            f"{name}: not a readable image ({len(data)} bytes; JPEG, PNG, TIFF, BMP, WebP, PNM, "
            "GIF, JPEG 2000 or DICOM wanted)"
        ) from error
    check_size(name, *image.size)
    return image


def _rgb(image: Image.Image, data: bytes) -> UInt8[np.ndarray, "h w 3"]:
    """An opened picture as 8-bit RGB."""
    if image.mode.startswith(("I", "F")):
        gray = _eight_bits(np.asarray(image))
        return np.stack([gray] * 3, axis=-1)
    if _is_deep(image, data):
        deep = None if image.format == "TIFF" else _opencv(data, cv2.IMREAD_UNCHANGED)
        if deep is not None and deep.dtype == np.uint16 and deep.ndim == 3:
            color = _eight_bits(deep)[..., [2, 1, 0, *range(3, deep.shape[2])]]
            if color.shape[2] == 4:
                # The depth of a color is not that of its transparency.
                color[..., :3] = _eight_bits(deep[..., :3])[..., ::-1]
                alpha = (deep[..., 3] >> 8).astype(np.uint8)
                return _on_black(Image.fromarray(np.dstack([color[..., :3], alpha])))
            return np.ascontiguousarray(color)
        image.load()
        if image.format == "TIFF" and np.asarray(image.convert("RGB")).max() < 64:
            raise ImageError(
                "16-bit color whose values need fewer bits; save it as a 16-bit PNG or with 8 bits"
            )
    if "A" in image.getbands() or "transparency" in image.info:
        return _on_black(image.convert("RGBA"))
    return np.array(image.convert("RGB"))


def _is_deep(image: Image.Image, data: bytes) -> bool:
    """Whether a color picture has 16 bits a channel, of which Pillow keeps the upper 8."""
    if image.format == "PNG":
        return data[24] == 16 and data[25] in (2, 4, 6)
    if image.format == "JPEG2000":
        return True  # OpenCV says whether it is
    tiles = getattr(image, "tile", [])  # of files, not of every picture
    if image.format == "PPM":  # with another largest value than 65535, that value is white
        return bool(tiles) and tiles[0][0] == "ppm" and tiles[0][3][-1] == 65535
    raw = tiles[0][3] if tiles else ""
    return image.format == "TIFF" and "16" in str(raw)


def _on_black(image: Image.Image) -> UInt8[np.ndarray, "h w 3"]:
    values = np.array(image)
    alpha = values[..., 3:].astype(np.uint16)
    if alpha.any() and (alpha < 255).any():
        return ((values[..., :3] * alpha + 127) // 255).astype(np.uint8)
    return np.ascontiguousarray(values[..., :3])


def _eight_bits(values: np.ndarray) -> UInt8[np.ndarray, "..."]:
    """Deep values as 8 bits, by the rule of `decode`.

    Raises:
      ImageError: they mean no brightness.
    """
    if values.dtype.kind == "f":
        if not np.isfinite(values).all():
            count = int((~np.isfinite(values)).sum())
            raise ImageError(f"{count} pixels are infinite or not a number; save it with 8 bits")
        low, high = float(values.min()), float(values.max())
        if low < -ROUNDING:
            raise ImageError(f"it has negative values ({low:g}); save it with 8 bits")
        if high <= 1 + ROUNDING:
            return np.rint(values.clip(0, 1) * 255).astype(np.uint8)
        if high < 16 or high >= 2**32:
            raise ImageError(
                f"its values go from {low:g} to {high:g}, neither 0 to 1 nor a camera's; save it "
                "with 8 bits"
            )
        values = np.rint(values.clip(0)).astype(np.int64)
    if values.min() < 0:
        raise ImageError(f"it has negative values ({values.min()}); save it with 8 bits")
    needed = int(values.max()).bit_length()
    depth = next((depth for depth in _DEPTHS if depth >= needed), needed)
    return (values >> (depth - 8)).astype(np.uint8)


def upright(image: UInt8[np.ndarray, "h w *c"], orientation: int) -> UInt8[np.ndarray, "_h _w *c"]:
    """Turns and mirrors a picture as EXIF's orientation says.

    Args:
      image: (h, w, 3) or (h, w) uint8.
      orientation: of its file, 1 where nothing is to be done.
    """
    method = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }.get(orientation)
    return image if method is None else np.array(Image.fromarray(image).transpose(method))


def _jpeg_size(data: bytes) -> tuple[int, int] | None:
    """Width and height of an 8-bit gray or color JPEG from its frame header; None of all else.

    Only what every reader reads alike is read: segments that follow each other without a gap, from
    the first byte to the first frame header. Anything else goes the slow way, for a picture must
    not have one size here and another in the decoder. Pillow's header parser takes a fifth of the
    time that decoding a small photograph takes.
    """
    if not data.startswith(b"\xff\xd8"):
        return None
    position = 2
    while position + 10 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        length = int.from_bytes(data[position + 2 : position + 4], "big")
        if 0xC0 <= marker <= 0xC2:
            precision, height, width, components = struct.unpack_from(">BHHB", data, position + 4)
            return (width, height) if precision == 8 and components in (1, 3) else None
        if marker not in _JPEG_SEGMENTS or length < 2:
            return None
        position += 2 + length
    return None


def _reduction(shorter_side: int, min_side: int | None) -> int:
    if min_side is not None:
        for flag, factor in (
            (cv2.IMREAD_REDUCED_COLOR_8, 8),
            (cv2.IMREAD_REDUCED_COLOR_4, 4),
            (cv2.IMREAD_REDUCED_COLOR_2, 2),
        ):
            if shorter_side // factor >= min_side:
                return flag
    return cv2.IMREAD_COLOR


def squash(
    image: UInt8[np.ndarray, "h w 3"],
    size: int,
    resampling: Image.Resampling = Image.Resampling.BICUBIC,
) -> UInt8[np.ndarray, "size size 3"]:
    """Scales to (size, size) with one of Pillow's antialiased filters; the aspect is not kept.

    Args:
      image: (h, w, 3) uint8, RGB.
      size: height and width of the result, pixels.
      resampling: the filter.

    Returns:
      (size, size, 3) uint8.
    """
    return np.asarray(Image.fromarray(image).resize((size, size), resampling))


def center_crop(image: UInt8[np.ndarray, "h w 3"], size: int) -> UInt8[np.ndarray, "size size 3"]:
    """Scales the short side to size * 256 / 224 (bicubic) and crops the center, as for ImageNet.

    What lies within the margins of a photograph is lost; RETFound and most tools of ImageNet do so.

    Args:
      image: (h, w, 3) uint8, RGB.
      size: height and width of the result, pixels.

    Returns:
      (size, size, 3) uint8.
    """
    height, width = image.shape[:2]
    (high, wide), (top, left) = center_frame(height, width, size)
    scaled = np.asarray(Image.fromarray(image).resize((wide, high), Image.Resampling.BICUBIC))
    return scaled[top : top + size, left : left + size]


def center_frame(height: int, width: int, size: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Computes what `center_crop` scales a photograph to, and where it crops that.

    Args:
      height, width: of the photograph, pixels.
      size: height and width of the crop, pixels.

    Returns:
      (height, width) of the scaled photograph, and (top, left) of the crop in it, pixels.
    """
    short, shorter = short_side(size), min(height, width)
    # torchvision's Resize and CenterCrop: the long side is cut to whole pixels, the crop rounded.
    high, wide = int(short * height / shorter), int(short * width / shorter)
    return (high, wide), (round((high - size) / 2), round((wide - size) / 2))


def short_side(size: int) -> int:
    """Computes to what "crop" scales the short side before it takes the central square.

    Args:
      size: height and width of the network's input, pixels.

    Returns:
      pixels.
    """
    return int(size * 256 / 224)


def resize_pad(image: UInt8[np.ndarray, "h w 3"], size: int) -> Float32[np.ndarray, "size size 3"]:
    """Scales the long side to `size` (antialiased bilinear, in float) and pads with zeros.

    Args:
      image: (h, w, 3) uint8, RGB.
      size: height and width of the result, pixels.

    Returns:
      (size, size, 3) float32, values 0..1, the picture in the upper left corner.
    """
    height, width = image.shape[:2]
    height, width = padded_frame(height, width, size)
    padded = np.zeros((size, size, 3), np.float32)
    for channel in range(3):
        plane = Image.fromarray(image[..., channel].astype(np.float32))
        scaled = plane.resize((width, height), Image.Resampling.BILINEAR)
        padded[:height, :width, channel] = np.asarray(scaled)
    return padded / np.float32(255)


def _seen(image: np.ndarray, config: ImageConfig) -> np.ndarray:
    """What a network sees of a photograph, before it is scaled."""
    image = around_disc(image) if config.field_of_view == "crop" else image
    return equalized(image) if config.contrast == "clahe" else image


def padded_frame(height: int, width: int, size: int) -> tuple[int, int]:
    """Computes to what `resize_pad` scales a photograph, (height, width) in pixels.

    Args:
      height, width: of the photograph, pixels.
      size: of the long side, pixels.
    """
    scale = max(height, width) / size
    return max(1, int(height / scale)), max(1, int(width / scale))


def fit(image: UInt8[np.ndarray, "h w 3"], config: ImageConfig) -> UInt8[np.ndarray, "size size 3"]:
    """Makes the exact, unaugmented input for evaluation of a decoded image.

    Args:
      image: (h, w, 3) uint8, RGB, decoded exactly.
      config: its `size`, `resize`, `field_of_view` and `contrast`.

    Returns:
      (size, size, 3) uint8.
    """
    image = _seen(image, config)
    if config.resize == "squash":
        return squash(image, config.size)
    if config.resize == "squash_bilinear":
        return squash(image, config.size, Image.Resampling.BILINEAR)
    if config.resize == "crop":
        return center_crop(image, config.size)
    return np.rint(resize_pad(image, config.size) * 255).astype(np.uint8)


#: The rules of `config.data.image.resize` in words; {side} and {short} are pixels.
_RULES = {
    "squash": "squashed to {side} x {side} px (bicubic)",
    "squash_bilinear": "squashed to {side} x {side} px (bilinear, antialiased)",
    "pad": "long side to {side} px (bilinear, antialiased), zeros at right and bottom",
    "crop": "short side to {short} px (bicubic), central {side} x {side} px",
}


def describe(config: ImageConfig) -> str:
    """Describes how a photograph becomes the network's input, in one line.

    Args:
      config: the whole of it.
    """
    rule = _RULES[config.resize].format(side=config.size, short=short_side(config.size))
    crop = "cropped to the lit disc, " if config.field_of_view == "crop" else ""
    clahe = f"CLAHE of L* ({TILES} x {TILES} tiles, clip limit {CLIP_LIMIT:g}), "
    clahe = clahe if config.contrast == "clahe" else ""
    mean, std = (", ".join(f"{x:.4g}" for x in each) for each in (config.mean, config.std))
    return f"RGB, {crop}{clahe}{rule}, (x / 255 - ({mean})) / ({std})"


def training_image(
    data: bytes,
    name: str,
    config: ImageConfig,
    augment: AugmentConfig,
    rng: np.random.Generator,
    *,
    mirror: bool,
) -> UInt8[np.ndarray, "size size 3"]:
    """Crops (aspect 3/4 to 4/3), resizes, mirrors and transforms one photograph randomly.

    Color and erasing follow on the device (`data.device_augment`).

    Args:
      data: the encoded bytes.
      name: of the record, for the message.
      config: its `size`, `resize`, `field_of_view` and `contrast`.
      augment: its crop, affine and RandAugment entries; color and flip entries are not read.
      rng: the source of every random choice.
      mirror: whether to exchange the picture's left and right.

    Returns:
      (size, size, 3) uint8.

    Raises:
      ImageError: see `decode`.
    """
    return training_images(data, name, config, augment, rng, mirrors=(mirror,))[0]


def training_images(
    data: bytes,
    name: str,
    config: ImageConfig,
    augment: AugmentConfig,
    rng: np.random.Generator,
    *,
    mirrors: Sequence[bool],
) -> list[UInt8[np.ndarray, "size size 3"]]:
    """Makes several images of one photograph, as `training_image` makes one; decodes it once.

    Args:
      data, name, config, augment, rng: as in `training_image`.
      mirrors: for each image, whether to exchange the picture's left and right.

    Returns:
      the images, each (size, size, 3) uint8.

    Raises:
      ImageError: see `decode`.
    """
    image = decode(data, name, min_side=least_side(config, augment))
    return [augmented(image, config, augment, rng, mirror=mirror) for mirror in mirrors]


def least_side(config: ImageConfig, augment: AugmentConfig) -> int:
    """Computes the shorter side from which a crop of the smallest area is still scaled down.

    A disc that is looked for is taken to span half of the shorter side or more.

    Args:
      config: gives the size of the network's input, pixels, and whether the disc is looked for.
      augment: gives the smallest share of the area that a crop keeps.

    Returns:
      pixels.
    """
    disc = 2 if config.field_of_view == "crop" else 1
    return math.ceil(disc * config.size / math.sqrt(augment.crop_area[0]))


def augmented(
    image: UInt8[np.ndarray, "h w 3"],
    config: ImageConfig,
    augment: AugmentConfig,
    rng: np.random.Generator,
    *,
    mirror: bool,
) -> UInt8[np.ndarray, "size size 3"]:
    """Augments a decoded photograph as `training_image` does an encoded one.

    Args:
      image: (h, w, 3) uint8, RGB.
      config: its `size`, `resize`, `field_of_view` and `contrast`.
      augment: its crop, affine and RandAugment entries; color and flip entries are not read.
      rng: the source of every random choice.
      mirror: whether to exchange the picture's left and right.

    Returns:
      (size, size, 3) uint8.
    """
    image = _seen(image, config)
    if augment.crop_area != (1.0, 1.0):
        height, width = image.shape[:2]
        top, left, high, wide = crop_box(height, width, augment.crop_area, rng)
        image = image[top : top + high, left : left + wide]
    if config.resize != "pad":  # a random crop takes the place of the central one
        image = _scale(image, config.size, config.size)
    else:
        height, width = image.shape[:2]
        height, width = padded_frame(height, width, config.size)
        scaled = _scale(image, height, width)
        image = np.zeros((config.size, config.size, 3), np.uint8)
        image[:height, :width] = scaled
    if mirror:
        image = cv2.flip(image, 1)
    if augment.affine_probability and rng.random() < augment.affine_probability:
        degrees = rng.uniform(-augment.affine_degrees, augment.affine_degrees)
        factor = rng.uniform(*augment.affine_scale)
        center = ((config.size - 1) / 2, (config.size - 1) / 2)
        matrix = cv2.getRotationMatrix2D(center, degrees, factor)
        image = cv2.warpAffine(image, matrix, (config.size, config.size), flags=cv2.INTER_LINEAR)
    if augment.rand_augment:
        red, green, blue = (min(255, round(255 * each)) for each in config.mean)
        image = rand_augment(
            image, augment.rand_augment, augment.rand_augment_magnitude, (red, green, blue), rng
        )
    return image


def crop_box(
    height: int, width: int, area: tuple[float, float], rng: np.random.Generator
) -> tuple[int, int, int, int]:
    """Samples a crop as torchvision's RandomResizedCrop does: aspect 3/4 to 4/3.

    After ten tries it is the largest crop of such an aspect around the center.

    Args:
      height, width: of the photograph, pixels.
      area: smallest and largest share of its area that the crop keeps.
      rng: of the choice.

    Returns:
      top, left, height and width of the crop, pixels.
    """
    for _ in range(10):
        share, shape, down, across = rng.random(4)
        target = (area[0] + share * (area[1] - area[0])) * height * width
        aspect = (3 / 4) ** (1 - 2 * shape)
        crop_width = round(math.sqrt(target * aspect))
        crop_height = round(math.sqrt(target / aspect))
        if 0 < crop_width <= width and 0 < crop_height <= height:
            top = int(down * (height - crop_height + 1))
            left = int(across * (width - crop_width + 1))
            return top, left, crop_height, crop_width
    crop_width = min(width, round(height * 4 / 3))
    crop_height = min(height, round(width * 4 / 3))
    top, left = (height - crop_height) // 2, (width - crop_width) // 2
    return top, left, crop_height, crop_width


def _scale(image: np.ndarray, height: int, width: int) -> np.ndarray:
    # Near the same size a plain bicubic filter does not alias and is three times faster than
    # averaging areas, which a real reduction needs.
    reduction = max(image.shape[0] / height, image.shape[1] / width)
    method = cv2.INTER_CUBIC if reduction < 1.3 else cv2.INTER_AREA
    return cv2.resize(image, (width, height), interpolation=method)


def thumbnail(data: bytes, name: str, size: int = 224) -> UInt8[np.ndarray, "h w 3"]:
    """Decodes a photograph and scales its long side to `size` pixels.

    Args:
      data: the encoded bytes.
      name: of the record, for the message.
      size: of the long side, pixels, of small photographs as well.

    Returns:
      (h, w, 3) uint8, RGB.

    Raises:
      ImageError: see `decode`.
    """
    picture = Image.fromarray(decode(data, name, min_side=size))
    scale = size / max(picture.size)
    if scale > 1:
        larger = [max(1, round(side * scale)) for side in picture.size]
        return np.asarray(picture.resize((larger[0], larger[1]), Image.Resampling.LANCZOS))
    picture.thumbnail((size, size), Image.Resampling.LANCZOS)
    return np.asarray(picture)
