"""Builder of any public set that a description describes: see `data.public_sets.description`."""

import collections
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from etils import epath

from retfm_jax import extras
from retfm_jax.data import cells, datasets, photographs, record_features
from retfm_jax.data.building.builder import RowsBuilder
from retfm_jax.data.building.patients import apart_said, identity, read_pairs, to_leave_out
from retfm_jax.data.building.rows import FilePicture, ImageRow, MaskPicture, Row
from retfm_jax.data.public_sets import reading
from retfm_jax.data.public_sets.counts import counted, differences
from retfm_jax.data.public_sets.description import PublicSet
from retfm_jax.data.public_sets.mask_files import FIELD
from retfm_jax.errors import Unusable
from retfm_jax.files import atomic_write

with extras.needed("data"):
    import tensorflow_datasets as tfds

#: Beside the shards: what the source says of every image, as it writes it.
SOURCE_LABELS_FILE = "source_labels.csv"


class PublicSetBuilder(RowsBuilder, skip_registration=True):
    """Writes the images of a public set with the conditions that its labels mean."""

    pkg_dir_path = epath.Path(__file__).parent
    kind = "image"
    MANUAL_DOWNLOAD_INSTRUCTIONS = "Its description says where the release is to be had."

    def __init__(self, *, described: PublicSet, **kwargs: Any) -> None:
        """Prepares the builder.

        Args:
          described: the set.
          kwargs: see `RowsBuilder`.
        """
        # TFDS names classes; this one writes sets of many names.
        self.name = described.name  # pyright: ignore[reportAttributeAccessIssue]
        self.described = described
        self._codes: list[list[str]] = []
        self.layout = ""
        super().__init__(**kwargs)

    @property
    def default_shares(self) -> dict[str, float]:
        """Shares of the splits where the release has none: as its tasks have it."""
        return dict(self.described.shares)

    @property
    def _partly(self) -> bool:
        """Whether there are labels of several kinds, so that one may be known without the other."""
        return len(self.described.labels) > 1

    def label_names(self) -> Sequence[str]:
        return self.described.label_names

    def structures(self) -> Sequence[str]:
        return tuple(self.described.masks)

    def _info(self) -> tfds.core.DatasetInfo:
        info = tfds.core.DatasetInfo(
            builder=self,
            description=f"{self.described.title}\n\nLicence: {self.described.licence}",
            features=record_features.image_features(
                self.label_names(), self.structures(), partly=self._partly
            ),
            homepage=self.described.url,
            citation=self.described.source,
        )
        return datasets.without_bucket(info)

    def read_rows(self, source: Path) -> list[Row]:
        described, problems = self.described, self.problems
        release = reading.read(described, source, follow_links=self.options.follow_links)
        problems.extend(release.problems.problems)
        problems.notes += [*release.problems.notes, *release.sentences]
        for file, row, what in release.faults:
            problems.unreadable(file, row, what)
        self._note_masks(release)
        over = photographs.sentence(release.passed_over)
        problems.notes += [over] if over else []
        pairs = _pairs(described, Path(release.folder), problems.notes)
        rows: list[ImageRow] = []
        here: dict[str, ImageRow] = {}
        unknown, partly = 0, 0
        self.layout = release.layout
        for each in release.photographs:
            name = reading.record_id(described, each)
            try:
                said = [reading.labels_of(label, each.cells) for label in described.labels.values()]
            except ValueError as error:
                problems.unreadable(each.file, each.row, str(error), name)
                continue
            known = {
                label.name: names
                for label, names in zip(described.labels.values(), said, strict=True)
                if names is not None
            }
            unknown += not known
            partly += 0 < len(known) < len(said)
            row = ImageRow(
                record_id=name,
                file=each.file,
                row=each.row,
                image=FilePicture(str(release.folder), each.relative),
                attributes=(described.modality,),
                labels=tuple(name for names in known.values() for name in names) if known else None,
                unknown=_unknown(described, known) if self._partly else None,
                split=each.split,
                group=each.patient or pairs.get(identity(each.relative).rpartition("/")[2], ""),
                **self._masks(release, each),
            )
            rows.append(row)
            if each.found:
                here.setdefault(name, row)
            self._codes.append([name, *reading.codes_of(described, each.cells).values()])
        if unknown and described.labels:
            problems.notes.append(
                f"{unknown} images lack a label: they are kept without labels, and what the source "
                f"says of them is in {SOURCE_LABELS_FILE}"
            )
        if partly:
            problems.notes.append(
                f"{partly} images have some of the labels {', '.join(described.labels)} and not "
                "others: their unknown classes count neither as there nor as absent"
            )
        splits = collections.Counter(row.split for row in here.values())
        problems.notes += differences(described, release.images, splits)
        for label in described.labels.values():
            names = [
                [name for name in row.labels or () if name in label.classes]
                for row in here.values()
            ]
            problems.notes += counted(label, release.images, names)
        return self._without_copies(self._apart(rows) if described.patients_apart else rows)

    def _apart(self, rows: list[ImageRow]) -> list[ImageRow]:
        """Leaves out images of patients who are in the test set or in validation, too."""
        splits: dict[str | None, list[str]] = {}
        for row in rows:
            splits.setdefault(row.split, []).append(row.group or row.record_id)
        left_out = to_leave_out(splits)
        kept = [
            row for row in rows if (row.group or row.record_id) not in left_out.get(row.split, ())
        ]
        gone = collections.Counter(row.split for row in rows)
        gone.subtract(collections.Counter(row.split for row in kept))
        self.problems.notes += [
            apart_said(split, len(who), gone[split]) for split, who in left_out.items()
        ]
        return kept

    def _summary(self) -> dict[str, Any]:
        return super()._summary() | {"layout": self.layout}

    def _masks(self, release: reading.Release, each: reading.Photograph) -> dict[str, Any]:
        """Masks and field of view of a row."""
        described, root = self.described, str(release.folder)
        if not described.masks:
            return {}
        field = None
        if described.field is not None and each.field:
            field = MaskPicture(FilePicture(root, each.field), described.field.codes)
        masks = {}
        for name, files in described.masks.items():
            path = each.masks.get(name)
            picture = FilePicture(root, path) if path else None
            masks[name] = MaskPicture(picture, files.codes, known=path is not None)
        return {"masks": masks, "field": field}

    def _note_masks(self, release: reading.Release) -> None:
        """Notes masks that are missing, or that belong to no image."""
        for fault in release.mask_faults:
            remedy = "mask passed over"
            if fault.kind == "missing_mask":
                of_field = fault.structure == FIELD
                remedy = "found on the photograph" if of_field else "structure taken as unknown"
            self.problems.note(fault.kind, fault.file, 0, fault.what, remedy)

    def _without_copies(self, rows: list[ImageRow]) -> list[Row]:
        """Leaves out images that are images of the official test set, too."""
        paths = {}
        for index, row in enumerate(rows):
            if row.split is not None and isinstance(row.image, FilePicture):
                try:
                    paths[str(index)] = row.image.find().path
                except Unusable:
                    continue  # another problem's matter
        dropped = set()
        for group in photographs.copies(paths):
            members = [rows[int(name)] for name in group]
            test = next((row for row in members if row.split == "test"), None)
            for name, row in zip(group, members, strict=True):
                if test is not None and row.split != "test":
                    dropped.add(int(name))
                    self.problems.add(
                        "image_in_two_splits", row,
                        f"{row.image.name} of {row.split} is {test.image.name} of test",
                        f"left out of {row.split}",
                    )  # fmt: skip
        return [row for index, row in enumerate(rows) if index not in dropped]

    def _download_and_prepare(self, dl_manager: Any, download_config: Any) -> None:
        super()._download_and_prepare(dl_manager, download_config)
        with atomic_write(Path(self.data_dir) / SOURCE_LABELS_FILE) as file:
            columns = ["record_id", *self.described.columns]
            cells.write_csv(file, columns, self._codes)


def _unknown(described: PublicSet, known: Collection[str]) -> tuple[str, ...]:
    """Classes of the labels that nobody knows of an image, those of known labels aside."""
    classes = {name for label in known for name in described.labels[label].classes}
    return tuple(name for name in described.label_names if known and name not in classes)


def _pairs(described: PublicSet, folder: Path, notes: list[str]) -> dict[str, str]:
    """Patients by the release's table of pairs, with a note where it is missing."""
    if not described.pairs:
        return {}
    path = folder / described.pairs["file"]
    if not path.is_file():
        notes.append(f"{path.name}, which pairs the eyes of patients, is not in the release")
        return {}
    return read_pairs(path, described.pairs["left"], described.pairs["right"])
