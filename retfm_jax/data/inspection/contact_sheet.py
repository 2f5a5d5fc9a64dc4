"""Records of a split with their texts and labels, as one picture and as one HTML page."""

import contextlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8

from retfm_jax import extras
from retfm_jax.data import images, masks
from retfm_jax.data.records import ImageRecord, PatientRecord, SegmentedRecord
from retfm_jax.data.sources import DamagedRecord, RecordSource
from retfm_jax.dataset_folders import is_synthetic
from retfm_jax.errors import UserError
from retfm_jax.files import Path, atomic_write
from retfm_jax.knowledge.vocabulary import LANGUAGES
from retfm_jax.rendering import markup
from retfm_jax.rendering.figures import new_figure, plain_style, save, words, wrapped
from retfm_jax.rendering.overlays import STRUCTURE_COLORS, masks_over

with extras.needed("data"):
    from matplotlib.figure import Figure

#: Records on a contact sheet, evenly spaced through the split.
_SHOWN = 24


def write_contact_sheet(source: RecordSource, folder: Path) -> None:
    """Writes `<split>.png` and `<split>.html`; the page has every text in full.

    Records that cannot be read are left out; nothing is written where none can be read.

    Args:
      source: a split of patients or of single images; at most 24 records, evenly spaced, are shown.
      folder: of both files; made where it is missing.

    Raises:
      UserError: the split holds no record.
    """
    if not len(source):
        raise UserError(f"{source.name}, split {source.split}, holds no record")
    rows = np.unique(np.linspace(0, len(source) - 1, min(_SHOWN, len(source))).astype(int))
    records = []
    for row in rows:
        with contextlib.suppress(DamagedRecord):  # those are counted and named elsewhere
            records.append(source[int(row)])
    if not records:
        return
    stem = "".join(c if c.isalnum() or c in "-_" else "_" for c in source.split)
    layout = "; right eye, left eye" if source.kind == "patient" else ""
    if source.structures:
        layout = f"; {_legend(source.structures)}"
    title = f"{source.name}, {source.split}: {len(records)} of {len(source)} records{layout}"
    save(_picture(records, source.label_names, title), folder / f"{stem}.png", dpi=80)
    page = _page(records, source, title)
    with atomic_write(folder / f"{stem}.html") as file:
        file.write(page)


@plain_style()
def _picture(
    records: Sequence[PatientRecord | ImageRecord], label_names: Sequence[str], title: str
) -> Figure:
    pairs = isinstance(records[0], (PatientRecord, SegmentedRecord))
    columns, width, height = (4, 62, 2.9) if pairs else (6, 40, 3.6)
    rows = -(-len(records) // columns)
    figure = new_figure(16, 0.5 + height * rows)
    figure.suptitle(words(title, 150), x=0.01, ha="left", fontsize=12)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid:
        axes.axis("off")
    for axes, record in zip(grid, records, strict=False):
        axes.imshow(_tile(record))
        axes.set_title(words(record.record_id), fontsize=9, loc="left")
        text = next(filter(None, _texts(record).values()), "")
        labels = ", ".join(_labels(record, label_names)) or "-"
        below = [*wrapped(text, width, 4), *wrapped(f"[{labels}]", width, 2)]
        # The last lines keep the height of all texts equal, and so the rows even.
        below += [""] * (6 - len(below))
        axes.text(0, -0.03, "\n".join(below), transform=axes.transAxes, va="top", fontsize=7.5)
    return figure


def _page(records: Sequence[PatientRecord | ImageRecord], source: RecordSource, title: str) -> str:
    return markup.page(
        title,
        [
            '<div class="gallery broad">',
            *(_figure(record, source.label_names) for record in records),
            "</div>",
        ],
        {"dataset": source.name, "split": source.split, "records": f"{len(source):,}"},
        is_synthetic(source.name),
    )


def _figure(record: PatientRecord | ImageRecord, label_names: Sequence[str]) -> str:
    texts = "".join(
        f"<p>{markup.own(text, 'report')}</p>" for text in _texts(record).values() if text
    )
    labels = ", ".join(map(markup.own, _labels(record, label_names)))
    return (
        f'<figure><div class="eyes">{markup.photograph(_tile(record))}</div><figcaption>'
        f"{markup.own(record.record_id)}<small>{labels or 'no label'}</small>{texts}"
        "</figcaption></figure>"
    )


def _texts(record: PatientRecord | ImageRecord) -> dict[str, str]:
    texts = record.report if isinstance(record, PatientRecord) else record.caption
    return {language: texts.get(language, "") for language in LANGUAGES}


def _labels(record: PatientRecord | ImageRecord, names: Sequence[str]) -> list[str]:
    found = [names[index] for index in np.flatnonzero(record.labels > 0).tolist()]
    return found or list(getattr(record, "categories", ()))


def _tile(record: PatientRecord | ImageRecord) -> UInt8[np.ndarray, "side width 3"]:
    if isinstance(record, SegmentedRecord):
        return _with_masks(record)
    if isinstance(record, ImageRecord):
        return _square(record.image)
    # The patient's right eye stands on the left, as facing the patient.
    return np.concatenate([_square(record.right), _square(record.left)], axis=1)


def _legend(structures: Sequence[str]) -> str:
    """Which color is which structure."""
    return ", ".join(
        f"{name} {STRUCTURE_COLORS[number % len(STRUCTURE_COLORS)][0]}"
        for number, name in enumerate(structures)
    )


def _with_masks(record: SegmentedRecord, side: int = 224) -> UInt8[np.ndarray, "side width 3"]:
    """A photograph, and beside it the same with its masks."""
    plain = _square(record.image)
    try:
        small = images.thumbnail(record.image, "thumbnail", side)
        image = images.decode(record.image, record.record_id)
        shape, (height, width) = (image.shape[0], image.shape[1]), small.shape[:2]
        drawn = [
            masks.resized(masks.pixels(mask, shape, record.record_id), height, width, "area")
            for mask in record.masks
        ]
        field = masks.field_pixels(record.field, image, shape, record.record_id)
        colored = masks_over(small, np.stack(drawn, axis=-1), masks.resized(field, height, width))
    except UserError:  # such masks are counted and named elsewhere
        return np.concatenate([plain, plain], axis=1)
    top, left = (side - height) // 2, (side - width) // 2
    over = plain.copy()
    over[top : top + height, left : left + width] = colored
    return np.concatenate([plain, over], axis=1)


def _square(data: bytes, side: int = 224) -> UInt8[np.ndarray, "side side 3"]:
    import cv2

    tile = np.full((side, side, 3), 235, np.uint8)
    try:
        small = images.thumbnail(data, "thumbnail", side) if data else None
    except UserError:
        small = None
    if small is None:
        text = "no image" if not data else "undecodable"
        cv2.putText(tile, text, (40, side // 2), cv2.FONT_HERSHEY_SIMPLEX, 0.7, (90, 90, 90), 1)
        return tile
    top, left = (side - small.shape[0]) // 2, (side - small.shape[1]) // 2
    tile[top : top + small.shape[0], left : left + small.shape[1]] = small
    return tile
