"""TFDS builder of a FLAIR-style collection: categories and attributes from any number of sets."""

from collections.abc import Sequence
from pathlib import Path

from etils import epath

from retfm_jax.data import releases
from retfm_jax.data.rows import Row
from retfm_jax.data.rows_builder import RowsBuilder


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
        rows = releases.read(source, ["image", "categories"], self.problems)
        return list(rows)
