"""TFDS builder of MM-Retinal: expert captions, one configuration a modality."""

import dataclasses
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath

from etils import epath

from retfm_jax import extras
from retfm_jax.data.building.builder import RowsBuilder
from retfm_jax.data.building.rows import ImageRow, Row
from retfm_jax.data.building.validation import ProblemLog
from retfm_jax.data.importing import releases
from retfm_jax.data.importing.nameless import nameless, redacted
from retfm_jax.errors import UserError

with extras.needed("data"):
    import tensorflow_datasets as tfds

_MODALITIES = {
    "cfp": "color fundus photographs",
    "ffa": "fluorescein angiograms",
    "oct": "optical coherence tomography",
}
#: Behind the name of a modality's folder, that of the copy which the authors train with.
_COPY = "_resized_jpg"
#: figure02-30A and figure02-30B are views of one case, and so are figure04-12DA and figure04-12DB.
_PANEL = re.compile(r"(?<=\d)[A-Za-z]{1,2}$")
#: Tables of OCT are called so.
_OCT = re.compile(r"(?<![A-Za-z])OCT(?!A)", re.IGNORECASE)
#: Groups of a textbook's figures; other file names end with the number of a patient's image.
_FIGURE = re.compile(r"figure[\d-]+$", re.IGNORECASE)
#: "Same patient as Figures 3-9C and D", "see figure13-1-1", "同图1-5"
_OTHER = re.compile(r"(?:\bfig(?:ure)?s?\.?|图)\s*(\d+(?:\s*[-\u2013]\s*\d+)+)", re.IGNORECASE)


class Builder(RowsBuilder):
    """Single images with an expert's caption; see README.md beside this file."""

    pkg_dir_path = epath.Path(__file__).parent
    kind = "image"
    BUILDER_CONFIGS = [  # noqa: RUF012 (TFDS's declaration)
        tfds.core.BuilderConfig(name=name, description=description)
        for name, description in _MODALITIES.items()
    ]
    MANUAL_DOWNLOAD_INSTRUCTIONS = """
    Get MM-Retinal from its authors (https://github.com/lxirich/MM-Retinal) and give the folder
    that holds its CSV files (image, caption; or FFA.csv) and its images.
    """

    def label_names(self) -> Sequence[str]:
        return ()

    def read_rows(self, source: Path) -> list[Row]:
        assert self.builder_config is not None  # one of BUILDER_CONFIGS
        wanted = self.builder_config.name
        if wanted == "oct":
            return self._scans(source)
        rows = self._rows(source, wanted, lambda path: not _OCT.search(path.stem))
        if not rows:
            raise UserError(
                f"no image of {source} lies in a folder {wanted.upper()}; the modalities are "
                "told apart by the folders in the image paths"
            )
        return list(_grouped(rows))

    def _scans(self, source: Path) -> list[Row]:
        """OCT, whose file names are personal in some releases: nothing of a name leaves here."""
        log, named = self.problems, {}
        self.problems = ProblemLog()
        try:
            rows = self._rows(source, "oct", lambda path: True, levels=named)
        except UserError:
            raise UserError(
                f"the OCT tables of {source} cannot be read, or none of their first images is "
                "found below it (no name is repeated here, because they are personal)"
            ) from None
        finally:
            log.extend(redacted(self.problems))
            self.problems = log
        if not rows:
            raise UserError(
                f"no image of {source} lies in a folder OCT, and no table is called so; the "
                "modalities are told apart by them"
            )
        grouped = [
            row if row.group or not _FIGURE.search(other.group) else other
            for row, other in zip(rows, _grouped(rows), strict=True)
        ]
        found = nameless(grouped, follow_links=self.options.follow_links)
        for row, scan in zip(rows, found, strict=True):
            if row.record_id in named:
                self.levels[scan.record_id] = named[row.record_id]
        return list(found)

    def _rows(
        self,
        source: Path,
        wanted: str,
        among: Callable[[Path], bool],
        levels: dict[str, int] | None = None,
    ) -> list[ImageRow]:
        """Rows of a modality, one for each image, with its captions."""
        rows = releases.read(
            source, ["image", "caption|caption_en"], self.problems, captions=True, places=_places,
            among=among, levels=levels,
        )  # fmt: skip
        mine: dict[str, ImageRow] = {}
        for row in rows:
            named = "oct" if _OCT.search(Path(row.file).stem) else None
            if (releases.modality(row) or named) != wanted:
                continue
            row = dataclasses.replace(row, attributes=(wanted,))
            known = mine.setdefault(row.record_id, row)
            if known is row:
                continue
            if any(known.caption.get(code, text) != text for code, text in row.caption.items()):
                self.problems.add(
                    "second_report", row,
                    f"another caption of {row.record_id} than in row {known.row} of {known.file}",
                    "the first caption stays",
                )  # fmt: skip
            both = {**row.caption, **known.caption}
            mine[row.record_id] = dataclasses.replace(known, caption=both)
        return list(mine.values())


def _places(path: str) -> Iterator[str]:
    """Where an image may lie: as it is named, as JPEG, or in the authors' copy of all images."""
    written = PurePosixPath(path)
    jpeg = written.with_suffix(".jpg")
    yield from dict.fromkeys(map(str, (written, jpeg)))
    if folder := written.parent.name:
        yield str(written.parent.with_name(f"{folder}{_COPY}") / jpeg.name)


def _grouped(rows: Sequence[ImageRow]) -> list[ImageRow]:
    """The same rows, those of a figure and of figures that a caption refers to in one group."""
    figures = [_figure(row) for row in rows]
    names = {_numbers(figure): figure for figure in reversed(figures)}
    first: dict[str, str] = {}

    def of(figure: str) -> str:
        while figure in first:
            figure = first[figure]
        return figure

    for row, figure in zip(rows, figures, strict=True):
        for text in row.caption.values():
            for written in _OTHER.findall(text):
                key = (str(PurePosixPath(figure).parent), *map(int, re.findall(r"\d+", written)))
                other = of(names.get(key, figure))
                if (own := of(figure)) != other:
                    first[max(own, other)] = min(own, other)
    return [
        dataclasses.replace(row, group=row.group or of(figure))
        for row, figure in zip(rows, figures, strict=True)
    ]


def _figure(row: ImageRow) -> str:
    """The path of an image without its ending and the letter of its panel."""
    path = PurePosixPath(row.record_id)
    return str(path.with_name(_PANEL.sub("", path.stem)))


def _numbers(figure: str) -> tuple[str | int, ...]:
    """The folder of a figure and its numbers, by which captions refer to it."""
    path = PurePosixPath(figure)
    return (str(path.parent), *map(int, re.findall(r"\d+", path.name)))
