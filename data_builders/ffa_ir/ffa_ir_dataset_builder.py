"""TFDS builder of FFA-IR: angiograms of cases with reports in English and Chinese."""

import collections
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from etils import epath

from retfm_jax.data import cells
from retfm_jax.data.building import splits
from retfm_jax.data.building.builder import RowsBuilder
from retfm_jax.data.building.rows import FilePicture, ImageRow, Row
from retfm_jax.data.importing import manifest, releases, tables
from retfm_jax.errors import UserError
from retfm_jax.parsing import parse_json

_IMAGES = "Image_path"
#: Key of a case -> language of the report that stands there.
_REPORTS = {"En_Report": "en", "Ch_Report": "zh"}
_OTHER_REPORT = re.compile(r"\w+_Report")
#: Where the annotations lie, below the folder that a user gives.
_FILES = ("*.json", "data/*.json", "*/*.json")


class Builder(RowsBuilder):
    """Images of cases with the case's report; see README.md beside this file."""

    pkg_dir_path = epath.Path(__file__).parent
    kind = "image"
    MANUAL_DOWNLOAD_INSTRUCTIONS = """
    Get FFA-IR from PhysioNet (https://physionet.org/content/ffa-ir-medical-report), unpack its
    images, and give the folder that holds them and ffair_annotation.json.
    """

    def label_names(self) -> Sequence[str]:
        return ()

    @property
    def names_cases(self) -> bool:
        return True

    def read_rows(self, source: Path) -> list[Row]:
        path, annotations = _annotations(source)
        rows: list[ImageRow] = []
        self._others: collections.Counter[str] = collections.Counter()
        for number, (split, case, said) in enumerate(_cases(path, annotations), 1):
            try:
                rows += self._rows_of(str(path), number, split, case, said)
            except ValueError as error:
                self.problems.unreadable(path, number, f"case {case!r}: {error}", case)
        if self._others:
            named = ", ".join(f"{name} ({count})" for name, count in self._others.items())
            self.problems.notes.append(
                f"reports in languages that are not known here are passed over: {named}"
            )
        if not rows:
            raise UserError(f"{path} names no image of any case")
        root = releases.image_root(source, rows)
        return [manifest.under(root, row) for row in rows]

    def _rows_of(
        self, file: str, number: int, split: str, case: str, said: Any
    ) -> Iterator[ImageRow]:
        """The images of a case.

        Raises:
          ValueError: it is no object, or holds something else than texts.
        """
        if not isinstance(said, Mapping):
            raise ValueError("is no object with a report and images")
        report = {}
        for key, value in said.items():
            if key in _REPORTS:
                if text := cells.text(value):
                    report[_REPORTS[key]] = text
            elif _OTHER_REPORT.fullmatch(key):
                self._others[key] += 1
        paths = cells.names(said.get(_IMAGES), _IMAGES, known=lambda name: True)
        if not paths:
            self.problems.note(
                "no_image", file, number, f"case {case!r} has no image", "case left out", case
            )
        for name in paths or ():
            yield ImageRow(
                record_id=name,
                file=file,
                row=number,
                image=FilePicture("", name),
                caption=report,
                attributes=("ffa",),
                split=split,
                wants_report=True,
                case=case,
            )


def _annotations(source: Path) -> tuple[Path, Mapping[str, Any]]:
    """The one JSON file of cases by split.

    Raises:
      UserError: there is none, or there are several.
    """
    found: dict[Path, Mapping[str, Any]] = {}
    looked_at = sorted({path for pattern in _FILES for path in source.glob(pattern)})
    faults = []
    for path in looked_at:
        try:
            read = parse_json(tables.read_text(path))
        except ValueError as error:
            faults.append(f"{path}: {error}")
            continue
        if isinstance(read, dict) and any(_has_cases(part) for part in read.values()):
            found[path] = read
    if not found:
        why = f"; {faults[0]}" if faults else ""
        raise UserError(
            f"no JSON file of cases by split (reports and {_IMAGES}) in {source} "
            f"({len(looked_at)} JSON files looked at{why})"
        )
    if len(found) > 1:
        raise UserError(
            f"several files hold cases by split: {' and '.join(map(str, found))}; leave one of them"
        )
    return next(iter(found.items()))


def _has_cases(part: Any) -> bool:
    if not isinstance(part, dict):
        return False
    return any(isinstance(case, dict) and _IMAGES in case for case in part.values())


def _cases(path: Path, annotations: Mapping[str, Any]) -> Iterator[tuple[str, str, Any]]:
    """Split, name and content of every case, in the order of the file."""
    for name, cases in annotations.items():
        split = splits.split_name(name)
        if split is None or not isinstance(cases, dict):
            raise UserError(
                f"{path}: {name!r} is no split of cases; there are {', '.join(splits.SPLITS)}"
            )
        for case, said in cases.items():
            yield split, cells.strip(case), said
