"""One page of photographs and the masks that were found in them."""

import contextlib
import urllib.parse
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

from retfm_jax.data import image_files, masks
from retfm_jax.data.images import thumbnail
from retfm_jax.data.mask_folders import FIELDS, MASKS
from retfm_jax.errors import UserError
from retfm_jax.experiments.mask_files import OVERLAYS, MaskFiles
from retfm_jax.experiments.photograph_list import PhotographList
from retfm_jax.experiments.prediction_files import Parts, Row
from retfm_jax.files import as_path, read_bytes
from retfm_jax.rendering import markup
from retfm_jax.rendering.overlays import STRUCTURE_COLORS, outlined, shares_over
from retfm_jax.runtime.threads import cores, in_threads

#: Photographs on the page, evenly spaced through the list, and their longer side, in pixels.
_SHOWN, _SIDE = 48, 480
#: Flags -> what the page says of a photograph that has them.
_FLAGS = {"not_fundus": "does not look like a fundus", "low_quality": "low quality"}


class _Shown(NamedTuple):
    """A photograph on the page: its row, its path, and the name of its files."""

    row: Row
    path: str
    name: str


def page_of(
    said: Mapping[str, Any],
    written: MaskFiles,
    listed: PhotographList,
    parts: Parts,
    facts: Mapping[str, object],
) -> str:
    """Makes the page, which holds its pictures.

    Args:
      said: what the folder's JSON file says.
      written: the files of masks.
      listed: the photographs.
      parts: with the rows of all photographs.
      facts: what the page is made from, see `markup.page`.

    Raises:
      UserError: a part is damaged.
    """
    shown = _chosen(listed, parts)
    names = [each["name"] for each in said["structures"]]

    def pictures(each: _Shown) -> str:
        with contextlib.suppress(UserError):  # a file that is gone meanwhile
            return _figure(each, *_pictures(written, each), names, written.overlays)
        return ""

    with in_threads(pictures, shown, threads=cores(), ahead=cores()) as made:
        figures = [figure for figure in made if figure]
    return markup.page(
        "Masks",
        [
            f'<p class="sub">{listed.count} photographs, of which {len(figures)} are shown · '
            f'<a href="{said["table"]}">{said["table"]}</a> has a row for each</p>',
            _legend(said["structures"]),
            f'<p class="note">{markup.text(said["thresholds"])} A pixel shows the color of the '
            "last structure that is there; the white line is the field of view. "
            f"{markup.text(said['caveat'])}</p>",
            f'<div class="gallery pairs">{"".join(figures)}</div>',
        ],
        facts,
    )


def _chosen(listed: PhotographList, parts: Parts) -> list[_Shown]:
    """Photographs evenly spaced through the list, without those that could not be used."""
    spaced = np.linspace(0, listed.count - 1, min(_SHOWN, listed.count)).astype(int).tolist()
    found: list[_Shown] = []
    for part in sorted({position // listed.part_size for position in spaced}):
        rows = parts.read(part, listed.length(part))
        for photograph, row in zip(listed.part(part), rows, strict=True):
            if photograph.position in spaced and row["mask"] is not None:
                name = row["mask"].removeprefix(f"{MASKS}/").removesuffix(".png")
                found.append(_Shown(row, photograph.path, name))
    return found


def _pictures(
    written: MaskFiles, shown: _Shown
) -> tuple[UInt8[np.ndarray, "h w 3"], UInt8[np.ndarray, "h w 3"]]:
    """A small photograph, without and with its masks."""
    small = thumbnail(image_files.read(as_path(shown.path)), shown.path, _SIDE)

    def share(*folders: str) -> Float32[np.ndarray, "h w"]:
        path = written.out.joinpath(*folders, f"{shown.name}.png")
        mask = masks.decode(read_bytes(path), str(path), masks.STORED)
        size = small.shape[1::-1]
        return cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_AREA)

    shares = [share(MASKS, folder) for folder in written.folders]
    laid = shares_over(small, np.stack(shares, axis=-1))
    return small, outlined(laid, (share(FIELDS) > 0.5).astype(np.uint8))


def _figure(
    shown: _Shown,
    small: UInt8[np.ndarray, "h w 3"],
    laid: UInt8[np.ndarray, "h w 3"],
    names: Sequence[str],
    overlays: bool,
) -> str:
    row = shown.row
    flags = [text for flag, text in _FLAGS.items() if row[flag]]
    flags += [] if row["fov_found"] else ["no field of view found: all of it counts"]
    lines = [_of_structure(row, name) for name in names]
    if row.get("vertical_cup_disc_ratio"):  # not of a disc without a cup
        lines.append(f"vertical cup-disc ratio {row['vertical_cup_disc_ratio']:.2f}")
    folder, ending = (OVERLAYS, "jpg") if overlays else (MASKS, "png")
    link = f"{folder}/{urllib.parse.quote(shown.name)}.{ending}"
    marks = f' <b class="wrong">{markup.text("; ".join(flags))}</b>' if flags else ""
    return (
        f'<figure><a href="{link}"><div class="eyes">{markup.photograph(small)}'
        f"{markup.photograph(laid)}</div></a><figcaption>{markup.own(shown.name)}{marks}"
        f"<small>{' · '.join(map(markup.own, lines))}</small></figcaption></figure>"
    )


def _of_structure(row: Row, name: str) -> str:
    if not row[f"pixels_{name}"]:
        return f"{name} none"
    count = row[f"parts_{name}"]
    parts = f"{count} parts" if count > 1 else "1 part"
    return f"{name} {row[f'share_{name}']:.2%}, {parts}"


def _legend(structures: Sequence[Mapping[str, Any]]) -> str:
    """The colors on photographs, which have a black of their own."""
    colors = [color for _, color in STRUCTURE_COLORS]
    spans = "".join(
        f'<span><i class="swatch" style="background: rgb{colors[number % len(colors)]}"></i>'
        f"{markup.own(each['name'])} above {each['threshold']:.3g}</span>"
        for number, each in enumerate(structures)
    )
    return f'<p class="legend">{spans}</p>'
