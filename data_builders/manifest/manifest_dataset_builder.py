"""A group's own patients as a TFDS dataset under the group's own name."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from etils import epath

from retfm_jax.data.building.builder import RowsBuilder
from retfm_jax.data.building.rows import ImageRow, PatientRow, Row
from retfm_jax.data.building.validation import ProblemLog


class Builder(RowsBuilder, skip_registration=True):
    """Writes rows that an importer has read already; see `retfm_jax.data.importing.importers`."""

    pkg_dir_path = epath.Path(__file__).parent

    def __init__(
        self, *, name: str, rows: Sequence[Row], problems: ProblemLog, **kwargs: Any
    ) -> None:
        # TFDS names classes; the datasets that this one writes have names of their own.
        self.name = name  # pyright: ignore[reportAttributeAccessIssue]
        self._rows = list(rows)
        self.kind = "image" if rows and isinstance(rows[0], ImageRow) else "patient"
        super().__init__(**kwargs)
        self.problems = problems

    def label_names(self) -> Sequence[str]:
        names = set()
        for row in self._rows:
            names.update(row.labels or ())
            if isinstance(row, PatientRow):
                names.update(row.left_labels or (), row.right_labels or ())
        return sorted(names)

    @property
    def names_cases(self) -> bool:
        return any(isinstance(row, ImageRow) and row.case is not None for row in self._rows)

    def rows_of(self, dl_manager: Any) -> list[Row]:
        return self._rows

    def read_rows(self, source: Path | None) -> list[Row]:
        return self._rows
