"""TFDS builder of MM-Retinal: expert captions, one configuration a modality."""

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import tensorflow_datasets as tfds
from etils import epath

from retfm_jax.data.building.builder import RowsBuilder
from retfm_jax.data.building.rows import ImageRow, Row
from retfm_jax.data.importing import releases
from retfm_jax.errors import UserError

_MODALITIES = {
    "cfp": "color fundus photographs",
    "ffa": "fluorescein angiograms",
    "oct": "optical coherence tomography",
}


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
    that holds its CSV files (image, caption) and its images.
    """

    def label_names(self) -> Sequence[str]:
        return ()

    def read_rows(self, source: Path) -> list[Row]:
        rows = releases.read(source, ["image", "caption|caption_en"], self.problems)
        assert self.builder_config is not None  # one of BUILDER_CONFIGS
        wanted = self.builder_config.name
        mine: dict[str, ImageRow] = {}
        for row in rows:
            if releases.modality(row) != wanted:
                continue
            path = PurePosixPath(row.record_id)
            # figure02-30A and figure02-30B are views of one case.
            figure = str(path.with_name(re.sub(r"(?<=\d)[A-Za-z]$", "", path.stem)))
            row = dataclasses.replace(row, group=row.group or figure, attributes=(wanted,))
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
        if not mine:
            raise UserError(
                f"no image of {source} lies in a folder {wanted.upper()}; the modalities are "
                "told apart by the folders in the image paths"
            )
        return list(mine.values())
