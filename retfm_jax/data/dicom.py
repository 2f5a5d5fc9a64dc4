"""DICOM files: pixels as RGB and the side of the eye. Nothing else is read from them.

pydicom reads them (the extra `dicom`). Only the tags named here are parsed: names, birth dates,
identifiers and whatever else tells a person are skipped, so that they come into no dataset, table,
message or log.
"""

import functools
import io
import logging
import struct
import warnings
from typing import Any

import numpy as np
from jaxtyping import UInt8

from retfm_jax import extras
from retfm_jax.data.image_limits import ImageError, check_size
from retfm_jax.knowledge.laterality import LEFT, RIGHT, Side

_PREAMBLE = 128
_PIXEL_TAGS = [
    "Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration",
    "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "NumberOfFrames",
    "RescaleSlope", "RescaleIntercept", "WindowCenter", "WindowWidth", "VOILUTFunction",
    "RedPaletteColorLookupTableDescriptor", "GreenPaletteColorLookupTableDescriptor",
    "BluePaletteColorLookupTableDescriptor", "RedPaletteColorLookupTableData",
    "GreenPaletteColorLookupTableData", "BluePaletteColorLookupTableData",
    "SegmentedRedPaletteColorLookupTableData", "SegmentedGreenPaletteColorLookupTableData",
    "SegmentedBluePaletteColorLookupTableData", "PaletteColorLookupTableUID",
    "ExtendedOffsetTable", "ExtendedOffsetTableLengths", "PixelData",
]  # fmt: skip
_SIDE_TAGS = ["ImageLaterality", "Laterality", "SharedFunctionalGroupsSequence"]
_SIDES: dict[str, Side] = {"L": LEFT, "R": RIGHT}

#: The whole file behind its header is compressed: how large it becomes is not known before.
_DEFLATED = "1.2.840.10008.1.2.1.99"
_RLE = "1.2.840.10008.1.2.5"
#: Beginnings of transfer syntaxes -> the package that decodes them where Pillow does not.
_DECODERS = (
    ("1.2.840.10008.1.2.4.9", "pylibjpeg-openjpeg"),  # JPEG 2000
    ("1.2.840.10008.1.2.4.20", "pylibjpeg-openjpeg"),  # high-throughput JPEG 2000
    ("1.2.840.10008.1.2.4.", "pylibjpeg-libjpeg"),  # JPEG, JPEG-LS
)
_LONG_VALUES = (b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"UC", b"UN", b"UR", b"UT")


def is_dicom(data: bytes) -> bool:
    """Tells whether a file is DICOM by its first 132 bytes.

    Args:
      data: the file, or its beginning.
    """
    return data[_PREAMBLE : _PREAMBLE + 4] == b"DICM"


def decode(data: bytes, name: str) -> UInt8[np.ndarray, "height width 3"]:
    """Decodes the picture of a DICOM file, of several frames the first one, to RGB.

    Color has the upper 8 of its stored bits. Gray goes through the file's rescaling and its first
    linear window, where it has one, else from 0 to the largest value that its stored bits can hold;
    MONOCHROME1 is inverted. Color profiles, overlays and lookup tables for display are not applied.

    Args:
      data: the file.
      name: of the file or record, for messages.

    Raises:
      ImageError: pydicom or what decodes the file's compression is not installed; it holds no
        picture, or a damaged one, or one of more than `image_limits.MAX_PIXELS`.
    """
    dataset = _read(data, name, _PIXEL_TAGS)
    try:
        return _picture(dataset, _require_decoder(dataset, name), name)
    except ImageError:
        raise
    except Exception as error:  # decoders raise many kinds, with the file's values in their texts
        raise ImageError(
            f"{name}: the picture of this DICOM file cannot be decoded ({type(error).__name__}): "
            "it is truncated, damaged or of a kind that is not known"
        ) from error


def frames(data: bytes) -> int:
    """Counts the frames of a DICOM file; 1 where they cannot be counted.

    Args:
      data: the file.
    """
    try:
        return max(1, int(_read(data, "", ["NumberOfFrames"]).get("NumberOfFrames") or 1))
    except (ImageError, ValueError, TypeError):  # whoever decodes it says what is wrong
        return 1


def laterality(data: bytes) -> Side | None:
    """Reads the side of the eye from a DICOM header.

    Args:
      data: the file.

    Returns:
      "left" or "right", of Image Laterality (0020,0062), else Laterality (0020,0060), else Frame
      Laterality (0020,9072) of the shared functional groups; None where none of them says it, or
      where the file cannot be read.
    """
    try:
        dataset = _read(data, "", _SIDE_TAGS)
    except ImageError:
        return None
    said = [dataset.get("ImageLaterality"), dataset.get("Laterality")]
    try:
        for group in dataset.get("SharedFunctionalGroupsSequence") or ():
            said += [each.get("FrameLaterality") for each in group.get("FrameAnatomySequence", ())]
    except Exception:  # a sequence that is damaged says nothing
        pass
    return next((_SIDES[side] for side in map(str, said) if side in _SIDES), None)


def _read(data: bytes, name: str, tags: list[str]) -> Any:
    """The named elements of a file."""
    try:
        pydicom = _reader()
    except ImportError as error:
        raise ImageError(f"{name}: DICOM files want `{extras.install('dicom')}`") from error
    if not is_dicom(data):
        raise ImageError(f"{name}: no DICOM file")
    if _transfer_syntax(data) == _DEFLATED:
        raise ImageError(
            f"{name}: a DICOM file that is deflated as a whole is not read; save it uncompressed"
        )
    wants_pixels = "PixelData" in tags
    try:
        return pydicom.dcmread(
            io.BytesIO(data), specific_tags=tags, stop_before_pixels=not wants_pixels
        )
    except Exception as error:  # pydicom raises many kinds
        raise ImageError(
            f"{name}: this DICOM file cannot be read ({type(error).__name__}): it is truncated or "
            "damaged"
        ) from error


@functools.cache
def _reader() -> Any:
    """pydicom, which is not to print or log what it thinks of a file: it may quote from it."""
    import pydicom

    logging.getLogger("pydicom").setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", module="pydicom")
    return pydicom


def _transfer_syntax(data: bytes) -> str:
    """The transfer syntax in a file's meta header, "" where it states none."""
    position = _PREAMBLE + 4
    while position + 12 <= len(data):
        group, element, kind, length = struct.unpack_from("<HH2sH", data, position)
        position += 8
        if group != 2:
            break
        if kind in _LONG_VALUES:
            (length,) = struct.unpack_from("<I", data, position)
            position += 4
        if element == 0x10:
            return data[position : position + length].decode("ascii", "replace").rstrip("\0 ")
        position += length
    return ""


def _require_decoder(dataset: Any, name: str) -> str:
    """The transfer syntax of a file whose picture can be decoded here."""
    from pydicom.pixels.decoders.base import get_decoder

    if "PixelData" not in dataset or not dataset.get("Rows"):
        raise ImageError(f"{name}: this DICOM file holds no picture")
    syntax = dataset.file_meta.get("TransferSyntaxUID") if hasattr(dataset, "file_meta") else None
    if syntax is None:
        raise ImageError(f"{name}: this DICOM file does not state its transfer syntax")
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError as error:
        raise ImageError(
            f"{name}: a DICOM file compressed as {syntax.name}, which is not read"
        ) from error
    if not decoder.is_available:
        package = next(each for start, each in _DECODERS if syntax.startswith(start))
        raise ImageError(
            f"{name}: a DICOM file compressed as {syntax.name}, which wants `pip install {package}`"
        )
    return str(syntax)


def _picture(dataset: Any, syntax: str, name: str) -> UInt8[np.ndarray, "h w 3"]:
    from pydicom.pixels.processing import apply_color_lut
    from pydicom.pixels.utils import pixel_array

    height, width = int(dataset.Rows), int(dataset.Columns)
    check_size(name, width, height)
    samples = int(dataset.get("SamplesPerPixel", 1))
    bits = int(dataset.BitsStored)
    if samples not in (1, 3) or not 1 <= bits <= 32:
        raise ImageError(f"{name}: {samples} samples of {bits} bits a pixel are no picture")
    if dataset.file_meta.TransferSyntaxUID.is_encapsulated:
        _check_frame(dataset, syntax, height * width * samples, name)
    pixels = pixel_array(dataset, index=0)
    kind = str(dataset.PhotometricInterpretation)
    if kind == "PALETTE COLOR":
        pixels = apply_color_lut(pixels, dataset)
        bits = 8 * pixels.dtype.itemsize
    if pixels.ndim == 3:
        return np.ascontiguousarray(_upper_bits(pixels, bits)[..., :3])
    gray = _gray(pixels, dataset, bits)
    return np.stack([255 - gray if kind == "MONOCHROME1" else gray] * 3, axis=-1)


def _upper_bits(values: np.ndarray, bits: int) -> UInt8[np.ndarray, "..."]:
    largest = (1 << bits) - 1
    values = values.astype(np.int64).clip(0, largest)
    return (values >> (bits - 8) if bits > 8 else values * 255 // largest).astype(np.uint8)


def _gray(values: np.ndarray, dataset: Any, bits: int) -> UInt8[np.ndarray, "h w"]:
    """Gray values behind rescaling and window, as 8 bits (PS3.3, C.11.2.1.2)."""
    signed = bool(dataset.get("PixelRepresentation", 0))
    slope = float(_first(dataset.get("RescaleSlope"), 1.0))
    intercept = float(_first(dataset.get("RescaleIntercept"), 0.0))
    center, width = (_first(dataset.get(each), None) for each in ("WindowCenter", "WindowWidth"))
    function = str(dataset.get("VOILUTFunction") or "LINEAR")
    if center is None or width is None or float(width) <= 1 or not function.startswith("LINEAR"):
        low, high = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if signed else (0, (1 << bits) - 1)
        low, high = sorted((low * slope + intercept, high * slope + intercept))
    elif function == "LINEAR_EXACT":
        low, high = float(center) - float(width) / 2, float(center) + float(width) / 2
    else:
        low = float(center) - 0.5 - (float(width) - 1) / 2
        high = low + float(width) - 1
    shares = (values * slope + intercept - low) / (high - low)
    if not np.isfinite(shares).all():
        raise ValueError("rescaled values are not finite")
    return np.rint(shares.clip(0, 1) * 255).astype(np.uint8)


def _first(value: Any, otherwise: Any) -> Any:
    """The first of one or several values of an element."""
    if value is None or value == "":
        return otherwise
    return value if isinstance(value, int | float) else next(iter(value), otherwise)


def _check_frame(dataset: Any, syntax: str, values: int, name: str) -> None:
    """Refuses a compressed frame that becomes another picture than the header states.

    Decoders believe the frame, and would allocate whatever it asks for.
    """
    from pydicom.encaps import get_frame

    count = int(dataset.get("NumberOfFrames") or 1)
    frame = get_frame(dataset.PixelData, 0, number_of_frames=count)
    height, width = int(dataset.Rows), int(dataset.Columns)
    if syntax == _RLE:
        wanted = values * int(dataset.BitsAllocated) // 8
        fits = _rle_length(frame) <= wanted + 64
    else:
        fits = _codestream_size(frame) == (width, height)
    if not fits:
        raise ImageError(
            f"{name}: its compressed picture is not of the {width} x {height} pixels that the "
            "DICOM header states"
        )


def _rle_length(frame: bytes) -> int:
    """Bytes that a frame of PackBits segments becomes."""
    count = struct.unpack_from("<L", frame)[0]
    starts = struct.unpack_from(f"<{min(count, 15)}L", frame, 4)
    total = 0
    for start, end in zip(starts, (*starts[1:], len(frame)), strict=True):
        position = start
        while position < end:
            head = frame[position]
            total += head + 1 if head < 128 else 257 - head if head > 128 else 0
            position += head + 2 if head < 128 else 2 if head > 128 else 1
    return total


def _codestream_size(frame: bytes) -> tuple[int, int] | None:
    """Width and height in the header of a JPEG, JPEG-LS or JPEG 2000 frame."""
    found = frame.find(b"\xff\x4f\xff\x51", 0, 4096)
    if found >= 0:
        x, y, left, top = struct.unpack_from(">4I", frame, found + 8)
        return x - left, y - top
    position = 2
    while position + 9 <= len(frame) and frame[position] == 0xFF:
        marker = frame[position + 1]
        if marker == 0xFF:  # a filling byte
            position += 1
            continue
        if marker == 0xF7 or (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)):
            height, width = struct.unpack_from(">HH", frame, position + 5)
            return width, height
        position += 2 + int.from_bytes(frame[position + 2 : position + 4], "big")
    return None
