"""Writes heat maps of photographs: overlays, a table, and one page."""

import csv
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path as LocalPath
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image
from scipy.special import expit

from retfm_jax.console import say
from retfm_jax.data import image_files
from retfm_jax.data.images import thumbnail
from retfm_jax.errors import UserError
from retfm_jax.evaluation.embeddings import refuse_unusable
from retfm_jax.evaluation.metrics.saliency import peak
from retfm_jax.experiments.embedding import as_written
from retfm_jax.experiments.photograph_list import photographs_of
from retfm_jax.files import Path, PathLike, as_path, whole_folder, write_json
from retfm_jax.heatmaps import HeatMap, Targets, choose_way, heat_maps, read_targets
from retfm_jax.model import RetinalModel, load
from retfm_jax.progress import progress_bar
from retfm_jax.rendering import markup
from retfm_jax.rendering.overlays import beside, overlay

#: Files of the folder, the last one last.
TABLE, PAGE, SUMMARY, OVERLAYS = "explained.csv", "explained.html", "explained.json", "overlays"

#: Longer side of a photograph in an overlay, and on the page, in pixels.
_OVERLAY_SIDE, _PAGE_SIDE = 640, 320
#: Photographs that the page shows; the folder has all.
_SHOWN = 60
#: Characters of a photograph's and of a target's name in the name of an overlay.
_NAME = 40

_CAVEAT = (
    "A map shows where the network looks, by a method with limits of its own. It is no evidence of "
    "disease and no proof of what a decision rests on. Research only."
)


@dataclasses.dataclass(frozen=True)
class Explained:
    """Summary of a folder of heat maps.

    Attributes:
      count: photographs that were explained.
      targets: number of maps of each.
      method: title of the way they were made.
      left_out: a sentence for every image that is not among them.
    """

    count: int
    targets: int
    method: str
    left_out: tuple[str, ...]


class _Shown(NamedTuple):
    """A photograph on the page."""

    name: str
    pictures: tuple[UInt8[np.ndarray, "h w 3"], ...]
    scores: tuple[float, ...]


def explain(
    workdir: PathLike,
    images: PathLike,
    targets: Sequence[str],
    out: PathLike,
    *,
    method: str | None = None,
    language: str = "en",
    on_error: str = "skip",
) -> Explained:
    """Writes a folder of heat maps.

    Args:
      workdir: of the network, or its checkpoint folder.
      images: a folder, a CSV with a column `image`, one photograph, or "-", a list of paths on
        standard input.
      targets: classes of the network, or conditions or texts, see `RetinalModel.heatmap`; none for
        maps of the tower alone.
      out: a new folder: overlays beside their photographs (PNG), `explained.csv` with a row for
        each photograph and target (its score is what the map explains, of a class the logarithm of
        its odds), `explained.html`, and `explained.json`.
      method: of the heat maps; None: the tower's default.
      language: of the prompts of conditions, "en" or "zh".
      on_error: "skip" leaves out what cannot be used, "refuse" ends at it.

    Raises:
      UserError: no image can be used, a target or the method cannot, or the folder is not empty or
        cannot be written.
    """
    out = as_path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"out {out} is not empty: give a new folder")
    paths, unusable = photographs_of(images)
    refuse_unusable(unusable, on_error)
    model = load(workdir)
    asked = read_targets(model, list(targets) or None, language)
    name, way = choose_way(model.method.config.image, method, bool(targets))
    if targets and not way.needs_target:
        say(f"{name} does not depend on a target: all maps of a photograph are the same")
    if asked.hints:
        say(*asked.hints)
    damaged: list[tuple[int, str]] = []
    maps = heat_maps(model, paths, asked, way, unusable=None if on_error == "refuse" else damaged)
    bar = progress_bar(maps, desc="explaining", unit="image", total=len(paths))
    names = as_written([str(path) for path in paths])
    shown: list[_Shown] = []
    with whole_folder(out, SUMMARY) as folder:
        (folder / OVERLAYS).mkdir()
        with (folder / TABLE).open("w", newline="", encoding="utf-8") as file:
            table = csv.writer(file)
            table.writerow(("image", "target", "kind", "score", "peak_x", "peak_y", "overlay"))
            for position, heat in enumerate(bar):
                if heat is not None:
                    rows = _write(folder, model, asked, paths[position], position, heat, shown)
                    table.writerows((names[position], *row) for row in rows)
        unusable += [said for _, said in damaged]
        count = len(paths) - len(damaged)
        if not count:
            first = f": {unusable[0]}" if unusable else ""
            raise UserError(f"images {images}: none of its images can be used{first}")
        settings = {
            "workdir": str(workdir),
            "images": str(images),
            "method": name,
            "method_title": way.title,
            "language": language,
            "targets": dict(zip(asked.names, asked.kinds, strict=True)),
            "explained": count,
            "left_out": unusable,
            "caveat": _CAVEAT,
        }
        (folder / PAGE).write_text(_page(settings, asked, shown), encoding="utf-8")
        write_json(folder / SUMMARY, settings)
    return Explained(count, len(asked.names), way.title, tuple(unusable))


def _write(
    folder: LocalPath,
    model: RetinalModel,
    targets: Targets,
    path: Path,
    position: int,
    heat: HeatMap,
    shown: list[_Shown],
) -> Iterator[tuple[Any, ...]]:
    """Writes the overlays of a photograph; the rows of the table without its name."""
    config = model.data_config.image
    photograph = thumbnail(image_files.read(path), str(path), _OVERLAY_SIDE)
    height, width = photograph.shape[:2]
    laid = heat.onto_photograph(config, (height, width))
    pictures = [overlay(photograph, each) for each in laid]
    for number, (target, kind) in enumerate(zip(targets.names, targets.kinds, strict=True)):
        name = f"{position:06d}_{_plain(path.stem)}_{number:02d}_{_plain(target)}.png"
        Image.fromarray(beside(photograph, pictures[number])).save(folder / OVERLAYS / name)
        place = _place(peak(laid[number]), heat.height / height, heat.width / width)
        score = f"{heat.scores[number]:.6g}"
        yield target, kind, score, *place, f"{OVERLAYS}/{name}"
    if len(shown) < _SHOWN:
        small = tuple(_small(picture) for picture in (photograph, *pictures))
        shown.append(_Shown(path.name, small, tuple(map(float, heat.scores))))


def _place(at: tuple[int, int] | None, down: float, across: float) -> tuple[int | str, int | str]:
    """x and y in the photograph's own pixels, from its upper left corner; empty cells for none."""
    return ("", "") if at is None else (int((at[1] + 0.5) * across), int((at[0] + 0.5) * down))


def _small(picture: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "_ _ 3"]:
    made = Image.fromarray(picture)
    made.thumbnail((_PAGE_SIDE, _PAGE_SIDE))
    return np.asarray(made)


def _plain(name: str) -> str:
    """A name of letters and digits, for a file on any system."""
    plain = "".join(c if c.isascii() and c.isalnum() else "-" for c in name)
    return plain[:_NAME].strip("-") or "x"


def _shown_score(kind: str, score: float) -> str:
    """The score of a target; of a class, whose score is the logarithm of its odds, its probability.

    Both say the same, but one of them to everybody.
    """
    return f"{expit(score):.2f}" if kind == "class" else f"{score:.3f}"


def _page(settings: dict[str, Any], targets: Targets, shown: Sequence[_Shown]) -> str:
    parts = [
        f'<p class="sub">{markup.text(settings["method_title"])} · {settings["explained"]} '
        f"photographs, of which {len(shown)} are shown · line: half of a map's range</p>",
        f'<p class="note">{markup.text(_CAVEAT)}</p>',
    ]
    for each in shown:
        captions = ["photograph"] + [
            f"{target} {_shown_score(kind, score)}"
            for target, kind, score in zip(targets.names, targets.kinds, each.scores, strict=True)
        ]
        figures = "".join(
            f'<figure><div class="eyes">{markup.photograph(picture)}</div>'
            f"<figcaption>{markup.own(caption)}</figcaption></figure>"
            for picture, caption in zip(each.pictures, captions, strict=True)
        )
        parts.append(f'<h3>{markup.own(each.name)}</h3><div class="gallery">{figures}</div>')
    if settings["left_out"]:
        rows = "".join(f"<dd>{markup.own(said)}</dd>" for said in settings["left_out"][:50])
        parts.append(f"<h2>Left out: {len(settings['left_out'])}</h2><dl>{rows}</dl>")
    facts = {"checkpoint": settings["workdir"], "photographs": settings["images"]}
    return markup.page("Heat maps", parts, facts)
