"""TFDS builder of IDRiD's disease grading, in its official folder layout and split."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from etils import epath

from retfm_jax.data.building.builder import RowsBuilder
from retfm_jax.data.building.rows import FilePicture, ImageRow, Row, Unusable
from retfm_jax.data.cells import same_name, text
from retfm_jax.data.importing import tables
from retfm_jax.errors import UserError
from retfm_jax.files import PathLike

_RETINOPATHY = "Retinopathy grade"
_OEDEMA = "Risk of macular edema"
#: Column -> the condition of each grade.
_GRADES = {
    _RETINOPATHY: ("no_diabetic_retinopathy", "mild_npdr", "moderate_npdr", "severe_npdr", "pdr"),
    _OEDEMA: ("no_macular_oedema_risk", "low_macular_oedema_risk", "high_macular_oedema_risk"),
}
#: Split -> the names of its folder of images and of its table.
_PARTS = {
    "train": ("a. Training Set", "a. IDRiD_Disease Grading_Training Labels.csv"),
    "test": ("b. Testing Set", "b. IDRiD_Disease Grading_Testing Labels.csv"),
}


class Builder(RowsBuilder):
    """Single photographs with two grades each; see README.md beside this file."""

    pkg_dir_path = epath.Path(__file__).parent
    kind = "image"
    MANUAL_DOWNLOAD_INSTRUCTIONS = """
    Download "B. Disease Grading" of IDRiD from
    https://ieee-dataport.org/open-access/indian-diabetic-retinopathy-image-dataset-idrid
    and give the folder that holds "B. Disease Grading".
    """

    def label_names(self) -> Sequence[str]:
        return tuple(name for names in _GRADES.values() for name in names)

    def read_rows(self, source: Path) -> list[Row]:
        grading = next(
            (path for path in (source, *sorted(source.glob("*Disease Grading")))
             if (path / "2. Groundtruths").is_dir()),
            None,
        )  # fmt: skip
        if grading is None:
            raise UserError(
                f'{source} holds no "B. Disease Grading" with "2. Groundtruths" in it; give the '
                "folder of the unpacked IDRiD as source"
            )
        rows: list[ImageRow] = []
        for split, (folder, name) in _PARTS.items():
            table = tables.read_csv(grading / "2. Groundtruths" / name, self.problems)
            tables.require_columns(table, ["Image name", _RETINOPATHY, _OEDEMA])
            root = grading / "1. Original Images" / folder
            for line in table.rows:
                try:
                    rows.append(_row(line.cells, table.path, line.row, root, split))
                except ValueError as error:
                    self.problems.unreadable(
                        table.path, line.row, str(error), line.cells["Image name"]
                    )
        return self._without_test_images(rows)

    def _without_test_images(self, rows: list[ImageRow]) -> list[Row]:
        """Leaves out training photographs that are test photographs, too."""
        test = {_digest(row): row for row in rows if row.split == "test"}
        kept: list[Row] = []
        for row in rows:
            twin = test.get(_digest(row)) if row.split == "train" else None
            if twin is None:
                kept.append(row)
                continue
            self.problems.add(
                "image_in_two_splits", row,
                f"{row.image.name} of the training set is {twin.image.name} of the test set",
                "left out of training",
            )  # fmt: skip
        return kept


def _digest(row: ImageRow) -> str:
    """Of the file; of the row where the file is missing, which is another problem's matter."""
    try:
        return hashlib.sha256(row.image.read()).hexdigest()
    except Unusable:
        return f"{row.file} {row.row}"


def _row(cells: Mapping[str, str], path: PathLike, number: int, root: Path, split: str) -> ImageRow:
    name = text(cells["Image name"])
    if not name:
        raise ValueError("no image name")
    labels = []
    for column, conditions in _GRADES.items():
        grade = same_name(cells[column], [str(number) for number in range(len(conditions))])
        if grade is None:
            raise ValueError(f"{column} is {cells[column]!r}, not 0 to {len(conditions) - 1}")
        labels.append(conditions[int(grade)])
    return ImageRow(
        record_id=f"{split}/{name}",
        file=str(path),
        row=number,
        image=FilePicture(str(root), f"{name}.jpg"),
        labels=tuple(labels),
        split=split,
    )
