"""Finds structures in photographs: masks of any number of them, resumed where it stopped."""

import contextlib
import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from jaxtyping import Float32

from retfm_jax import files
from retfm_jax.config import to_dict
from retfm_jax.data.image_limits import ImageError
from retfm_jax.data.mask_folders import MASKS
from retfm_jax.errors import UserError
from retfm_jax.experiments import areas
from retfm_jax.experiments.in_parts import complete, refuse_shared_stream, run_of
from retfm_jax.experiments.mask_files import (
    OVERLAYS,
    PROBABILITIES,
    FileNames,
    Found,
    MaskFiles,
    folders_of,
    palette,
)
from retfm_jax.experiments.mask_page import page_of
from retfm_jax.experiments.photograph_list import Listed, PhotographList, photograph_list
from retfm_jax.experiments.photograph_rows import (
    FLAGS,
    KNOWN,
    Seen,
    Summary,
    look,
    refuse,
    unreadable,
)
from retfm_jax.experiments.prediction_files import Columns, Parts, Row, join
from retfm_jax.files import Path, PathLike, as_path, atomic_write, check_writable, write_json
from retfm_jax.mask_decisions import MaskDecisions
from retfm_jax.model import RetinalModel, load
from retfm_jax.runtime.signals import StopSignal
from retfm_jax.runtime.threads import cores, in_threads

#: Files of the folder, the last one last.
PAGE, SUMMARY, TABLE = "index.html", "segmented.json", "areas.csv"

#: Photographs of a part: what a killed process has to do again, at most.
PART_SIZE = 16
#: Photographs whose masks are written while the next one is segmented: each holds its
#: probabilities, some hundred MB of a large one.
_WRITERS = 2
#: Rows of pixels that are compared with thresholds at once.
_BLOCK = 256

_CAVEAT = (
    "Masks are what a network finds, not what is there. Lengths and areas are in pixels of the "
    "photograph, as its scale is not known. Research only."
)
_FITTED = "Thresholds were fitted on a validation split."
_DEFAULT = "Thresholds are 0.5: none were fitted for this network."


def segment(
    workdir: PathLike,
    images: PathLike,
    out: PathLike,
    *,
    probabilities: bool = False,
    overlays: bool = False,
    on_error: str = "skip",
) -> Summary | None:
    """Writes masks of every photograph, and a row of areas, in the order of the list.

    Memory does not grow with the number of photographs. All local devices share the windows of a
    photograph; of several hosts each makes every so-manieth part, and process 0 joins them.

    Args:
      workdir: of the network, or its checkpoint folder, or weights, as `load` reads them.
      images: a folder, a CSV with a column `image`, one photograph, or "-", a list of paths on
        standard input.
      out: a new folder: masks (see `mask_files`), `areas.csv` (see `columns_of`), `index.html` and
        `segmented.json`. It is complete when `areas.csv` is there.
      probabilities: whether they are written as well.
      overlays: whether the masks on the photographs are written as well.
      on_error: "skip" gives photographs that cannot be used a row that says so, "refuse" ends at
        the first one.

    Returns:
      the summary; None on other hosts than that of process 0.

    Raises:
      Stopped: a signal ended it; the same command resumes.
      UserError: the network finds no structures, there is no photograph, another process writes the
        same folder, or what is there is not an earlier command's, or was made of something else.
    """
    out = as_path(out)
    refuse_shared_stream(images)
    parts = Parts(out / TABLE, forgets=False)
    _check_folder(out, parts, images)
    model = load(workdir)
    model.require_structures()
    decisions = _decisions(model)
    written = MaskFiles(
        out, folders_of(decisions.structures), decisions.thresholds, probabilities, overlays
    )
    with photograph_list(images, PART_SIZE) as listed:
        names = FileNames(listed)
        decided = {
            "decisions": decisions.to_json(),
            "masks": to_dict(model.data_config.masks),
            "written": [PROBABILITIES] * probabilities + [OVERLAYS] * overlays,
        }

        def finish(rows: Iterator[Any]) -> None:
            said = _said(model, written, listed)
            facts = {"checkpoint": workdir, "photographs": "" if str(images) == "-" else images}
            with atomic_write(out / PAGE) as file:
                file.write(page_of(said, written, listed, parts, facts))
            write_json(out / SUMMARY, said)
            join(out / TABLE, columns_of(model), rows)

        return complete(
            parts,
            listed,
            run_of(model, listed, decided),
            lambda items, stop: rows_of(model, written, names, items, on_error, stop),
            finish,
            doing="segmenting",
        )


def _decisions(model: RetinalModel) -> MaskDecisions:
    assert model.mask_decisions is not None, "the model has structures"
    return model.mask_decisions


def _check_folder(out: Path, parts: Parts, images: PathLike) -> None:
    """Refuses a folder that holds anything but what an earlier command left unfinished."""
    source = as_path(images)
    remote = files.is_remote(out) or files.is_remote(source)
    if not remote and out.resolve().is_relative_to(source.resolve()):
        raise UserError(
            f"out {out} lies in images {images}, and masks would be taken for photographs: give a "
            "folder elsewhere"
        )
    check_writable(out / TABLE)
    if not out.is_dir() or parts.begun():
        return
    try:
        names = {path.name for path in out.iterdir()}
    except files.errors() as error:
        raise UserError(f"cannot read {out}: {files.reason(error)}") from error
    if TABLE in names:
        raise UserError(f"out {out} holds finished masks: give a new folder")
    if names - {parts.folder.name}:
        raise UserError(f"out {out} is not empty: give a new folder")


def _said(model: RetinalModel, written: MaskFiles, listed: PhotographList) -> dict[str, Any]:
    """What the folder's JSON file says: how its files are to be read."""
    decisions = _decisions(model)
    colors = palette(len(written.folders))[1:]
    structures = [
        {"name": name, "number": number, "color": list(color), "folder": folder, "threshold": p}
        for number, (name, color, folder, p) in enumerate(
            zip(decisions.structures, colors, written.folders, decisions.thresholds, strict=True), 1
        )
    ]
    return {
        "photographs": listed.count,
        "table": TABLE,
        "structures": structures,
        "exclusive": model.method.exclusive_structures,
        "thresholds": _FITTED if decisions.fitted_on else _DEFAULT,
        "fitted_on": dict(decisions.fitted_on),
        "units": "pixels of the photograph, upright",
        "probabilities": written.probabilities,
        "overlays": written.overlays,
        "caveat": _CAVEAT,
    }


def columns_of(model: RetinalModel) -> Columns:
    """Columns of a table of areas, and what each holds.

    - `image`: as the list has it.
    - `mask`: its masks, below the folder; nothing of a photograph that cannot be used.
    - what is measured, see `areas.columns_of`.
    - `thresholds`: "fitted" on a validation split, or "default", 0.5.
    - flags and what else is known of a photograph, as of predictions.

    Args:
      model: with structures.
    """
    return {
        "image": str,
        "mask": str,
        **areas.columns_of(model.structures),
        "thresholds": str,
        **FLAGS,
        **KNOWN,
    }


@dataclasses.dataclass(frozen=True, slots=True)
class _Segmented:
    """A photograph that was looked at; without probabilities where it cannot be used."""

    photograph: Listed
    seen: Seen
    probabilities: Float32[np.ndarray, "h w c"] | None


@contextlib.contextmanager
def rows_of(
    model: RetinalModel,
    written: MaskFiles,
    names: FileNames,
    photographs: Iterable[Listed],
    on_error: str,
    stop: StopSignal,
) -> Iterator[Iterator[Row]]:
    """Makes rows of photographs and writes their masks: threads decode and encode meanwhile.

    Args:
      model: with structures.
      written: the files.
      names: of the files.
      photographs: any number, taken as they are needed.
      on_error: "refuse" raises at the first photograph that cannot be used.
      stop: a signal that it got ends the rows.

    Yields:
      an iterator of rows, in order.
    """
    nothing: Row = dict.fromkeys(columns_of(model))

    def seen(photograph: Listed) -> tuple[Listed, Seen]:
        return photograph, look(photograph, model.data_config.image.modality)

    def segmented(looked: Iterator[tuple[Listed, Seen]]) -> Iterator[_Segmented]:
        for photograph, each in looked:
            if stop.received is not None:
                return
            found = _segmented(model, photograph, each)
            if on_error == "refuse":
                refuse([found.seen.row])
            yield found

    def row(found: _Segmented) -> Row:
        return nothing | _row(model, written, names, found)

    with (
        in_threads(seen, photographs, threads=cores(), ahead=cores()) as looked,
        in_threads(row, segmented(looked), threads=_WRITERS, ahead=_WRITERS) as rows,
    ):
        yield rows


def _segmented(model: RetinalModel, photograph: Listed, seen: Seen) -> _Segmented:
    if seen.image is None:
        return _Segmented(photograph, seen, None)
    try:
        return _Segmented(photograph, seen, model.segment(seen.image, photograph.name))
    except ImageError as error:  # of one that is too long
        row = unreadable(photograph, ImageError(f"{photograph.name}: {error}"))
        return _Segmented(photograph, Seen(None, row), None)


def _row(model: RetinalModel, written: MaskFiles, names: FileNames, found: _Segmented) -> Row:
    """Writes the files of a photograph, in a thread; returns its row."""
    image, p = found.seen.image, found.probabilities
    if image is None or p is None:
        return found.seen.row
    field, field_found = areas.field_of(image)
    p[field == 0] = 0
    decisions = _decisions(model)
    masks = np.concatenate(
        [decisions.masks(p[start : start + _BLOCK]) for start in range(0, len(p), _BLOCK)]
    )
    masks &= field[..., None] > 0
    shown = Found(image, p, masks, field)
    name = names.of(found.photograph.name, found.photograph.position)
    written.write(name, shown)
    return {
        **found.seen.row,
        "mask": f"{MASKS}/{name}.png",
        **areas.measured(decisions.structures, shown, model.method.exclusive_structures),
        "fov_found": field_found,
        "thresholds": "fitted" if decisions.fitted_on else "default",
    }
