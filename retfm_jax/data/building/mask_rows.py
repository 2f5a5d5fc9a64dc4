"""Masks of a row -> what is stored of them; every fault is named, and the rest is kept."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from jaxtyping import UInt8

from retfm_jax.data import masks, records
from retfm_jax.data.building.rows import ImageRow, MaskPicture
from retfm_jax.data.field_of_view import FIELD_SHARES, lit_field
from retfm_jax.data.masks import MaskError
from retfm_jax.errors import Unusable

#: Takes kind, what and remedy of a fault.
Note = Callable[[str, str, str], None]


def prepare_masks(
    row: ImageRow,
    drawn: Mapping[str, MaskPicture],
    image: UInt8[np.ndarray, "h w 3"],
    short_side: int,
    note: Note,
) -> dict[str, Any]:
    """Reads and checks the masks of a photograph, and scales them as it is scaled: nearest pixel.

    Args:
      row: of the photograph.
      drawn: its masks, of all structures.
      image: the photograph as it came, RGB.
      short_side: see `validation.prepare_image`.
      note: takes the faults.

    Returns:
      fields of the example, see `records.mask_fields`.
    """
    height, width = image.shape[:2]
    scale = short_side / min(height, width)
    if short_side and scale < 1:
        height, width = max(1, round(height * scale)), max(1, round(width * scale))

    def stored(mask: UInt8[np.ndarray, "h w"]) -> bytes:
        return masks.encode(masks.resized(mask, height, width)) if mask.any() else b""

    found: dict[str, bytes | None] = {}
    for structure, each in drawn.items():
        if each.picture is None:
            found[structure] = b"" if each.known else None
            continue
        try:
            found[structure] = stored(_pixels(each, row, image))
        except MaskError as error:
            note(error.kind, f"{structure}: {error}", f"{structure} taken as unknown")
            found[structure] = None
    field = _field(row, image, note)
    if any(mask is not None for mask in found.values()):
        _check_share(field, row, note)
    return records.mask_fields(found, stored(field))


def _pixels(
    mask: MaskPicture, row: ImageRow, image: UInt8[np.ndarray, "h w 3"]
) -> UInt8[np.ndarray, "h w"]:
    """A mask of the photograph's size.

    Raises:
      MaskError: it cannot be read or decoded, or does not fit.
    """
    assert mask.picture is not None
    try:
        data = mask.picture.read()
    except Unusable as error:
        kind = "missing_mask" if error.kind == "missing_image" else "broken_mask"
        raise MaskError(kind, str(error)) from error
    encoded = masks.EncodedMask(data, mask.codes, mask.picture.name)
    return masks.pixels(encoded, (image.shape[0], image.shape[1]), row.image.name)


def _field(
    row: ImageRow, image: UInt8[np.ndarray, "h w 3"], note: Note
) -> UInt8[np.ndarray, "h w"]:
    """The field of view, as it is given or as it is found."""
    field = None
    if row.field is not None:
        try:
            field = _pixels(row.field, row, image)
            masks.require_field(field, row.field.picture.name if row.field.picture else "")
        except MaskError as error:
            note(error.kind, f"field of view: {error}", "found on the photograph")
            field = None
    return lit_field(image) if field is None else field


def _check_share(field: UInt8[np.ndarray, "h w"], row: ImageRow, note: Note) -> None:
    """Notes a field of view that covers hardly any or all of its photograph."""
    share = float((field == 1).mean())
    low, high = FIELD_SHARES
    if not low <= share <= high:
        what = f"the field of view of {row.image.name} covers {100 * share:.1f} % of it"
        note("field_of_view", what, "kept")
