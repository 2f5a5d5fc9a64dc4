"""TFDS builder of a FLAIR-style collection: categories and attributes from any number of sets."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from etils import epath

from retfm_jax.data.building.builder import RowsBuilder
from retfm_jax.data.building.rows import ImageRow, Row, by_language
from retfm_jax.data.importing import releases
from retfm_jax.knowledge.prompts import split_modality

#: Sets of the published collection whose categories are what their sources wrote of each image.
_ORIGINAL_TEXT = ("06_DEN", "06_EYENET", "08_ODIR-5K", "11_STARE", "31_JICHI")


class Builder(RowsBuilder):
    """Single photographs with categories; see README.md beside this file."""

    pkg_dir_path = epath.Path(__file__).parent
    kind = "image"
    MANUAL_DOWNLOAD_INSTRUCTIONS = """
    Give the folder that holds the CSV files of the sets (image, atributes, categories; directly or
    in "dataframes") and the images by the paths that the CSV files name.
    """

    def label_names(self) -> Sequence[str]:
        return ()

    def read_rows(self, source: Path) -> list[Row]:
        columns = ["image", "categories"]
        rows = releases.read(source, columns, self.problems, levels=self.levels)
        return [_with_text(_with_modality(row)) for row in rows]


def _with_modality(row: ImageRow) -> ImageRow:
    """The same row with its modality as the first attribute, where row or path name one."""
    modality, attributes = split_modality(row.attributes)
    if len(attributes) == len(row.attributes):
        modality = releases.modality(row)
    return dataclasses.replace(row, attributes=(*filter(None, [modality]), *attributes))


def _with_text(row: ImageRow) -> ImageRow:
    """The same row with its categories as its caption, where they are original text."""
    if row.caption or row.record_id.partition("/")[0] not in _ORIGINAL_TEXT:
        return row
    return dataclasses.replace(row, caption=by_language("; ".join(row.categories)))
