"""Bounds of pictures, which are held before a pixel is decoded, whatever their format."""

from retfm_jax.errors import UserError

#: Larger pictures are refused (Pillow's own limit against decompression bombs; the largest fundus
#: cameras stay below 50 megapixels).
MAX_PIXELS = 89_478_485


class ImageError(UserError):
    """Bytes that are no usable photograph."""


def check_size(name: str, width: int, height: int) -> None:
    """Refuses a picture of too many pixels, or of none.

    Args:
      name: of the file or record, for the message.
      width, height: in pixels, as the file states them.

    Raises:
      ImageError: there are more than `MAX_PIXELS`, or none.
    """
    if width < 1 or height < 1:
        raise ImageError(f"{name}: {width} x {height} pixels")
    if width * height > MAX_PIXELS:
        raise ImageError(f"{name}: {width} x {height} pixels; {too_large()}")


def too_large() -> str:
    """Says what size is accepted, for messages."""
    return f"at most {MAX_PIXELS // 10**6} megapixels are accepted; scale the picture down first"
