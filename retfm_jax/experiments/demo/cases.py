"""Cases of a built dataset beside a photograph: those nearest to it, and the nearest reports."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image

from retfm_jax.data.field_of_view import around_disc
from retfm_jax.data.images import decode
from retfm_jax.data.records import ImageRecord, PatientRecord
from retfm_jax.data.sources import RecordSource, Subset, open_dataset
from retfm_jax.evaluation.embeddings import EmbeddedSplit, embed_split
from retfm_jax.experiments.demo.words import Words, class_name
from retfm_jax.files import PathLike
from retfm_jax.knowledge.vocabulary import LANGUAGES
from retfm_jax.zero_shot import ImageTextModel

#: Side of a case's photograph on the page, pixels.
_SIDE = 192
#: Decoded no larger than this before the disc is looked for.
_DECODED = 2 * _SIDE


class Case(NamedTuple):
    """A case of the dataset, without anything that names a person.

    Attributes:
      photographs: its eyes, right one first, or its one image; RGB (h, w, 3) uint8.
      labels: what it is labeled as; None where nobody has labeled it.
      cosine: with the photograph that was asked about.
    """

    photographs: tuple[UInt8[np.ndarray, "h w 3"], ...]
    labels: tuple[Words, ...] | None
    cosine: float


class Report(NamedTuple):
    """A report of the dataset.

    Attributes:
      text: as it was written.
      cosine: with the photograph that was asked about.
    """

    text: str
    cosine: float


class Cases:
    """A split with its embeddings.

    Args:
      embedded: the split.
      dataset, split: their names.
      available: records that the split has, of which those in `embedded` are a part.

    Attributes:
      dataset, split, available: as given.
    """

    def __init__(self, embedded: EmbeddedSplit, dataset: str, split: str, available: int):
        self.dataset, self.split, self.available = dataset, split, available
        self._embedded = embedded
        self._view = embedded.views[embedded.main_view]

    def __len__(self) -> int:
        return int(self._view.seen.sum())

    @property
    def of_patients(self) -> bool:
        """Whether a case is a patient; else it is a single image."""
        return self._embedded.main_view == "patient"

    @property
    def label_names(self) -> tuple[str, ...]:
        """Classes of the cases' labels."""
        return self._embedded.label_names

    def nearest(self, query: Float32[np.ndarray, " d"], count: int) -> tuple[Case, ...]:
        """Finds the cases whose images are nearest.

        Args:
          query: unit-norm embedding of a patient or an image, as the cases are.
          count: how many at most.
        """
        cosines = np.where(self._view.seen, self._view.images @ query, -np.inf)
        return tuple(
            Case(self._photographs(index), self._labels(index), float(cosines[index]))
            for index in _largest(cosines, count)
        )

    def reports(
        self, query: Float32[np.ndarray, " d"], count: int
    ) -> Mapping[str, tuple[Report, ...]]:
        """Finds the reports that are nearest, in every language that there are reports in.

        Args:
          query: as for `nearest`.
          count: how many at most; equal texts are one.
        """
        found = {}
        for language, rows in self._view.texts.items():
            first: dict[str, int] = {}
            for index, text in enumerate(self._embedded.reports[language]):
                if text.strip():
                    first.setdefault(text.strip(), index)
            cosines = rows[list(first.values())] @ query
            texts = list(first)
            found[language] = tuple(
                Report(texts[index], float(cosines[index])) for index in _largest(cosines, count)
            )
        return found

    def _photographs(self, index: int) -> tuple[UInt8[np.ndarray, "h w 3"], ...]:
        record = self._embedded.records[index]
        if isinstance(record, PatientRecord):
            eyes = (record.right, record.left)
        else:
            assert isinstance(record, ImageRecord)
            eyes = (record.image,)
        return tuple(_thumbnail(data) for data in eyes if data)

    def _labels(self, index: int) -> tuple[Words, ...] | None:
        labels = self._view.labels[index]
        if not (labels >= 0).any():
            return None
        return tuple(class_name(self.label_names[label]) for label in np.flatnonzero(labels > 0))


def open_cases(
    model: ImageTextModel,
    dataset: str,
    split: str,
    data_dir: PathLike,
    most: int,
    *,
    progress: bool = True,
) -> Cases:
    """Embeds the cases of a split.

    Args:
      model: whose image tower embeds, and whose text tower, where it has one, embeds the reports.
      dataset: name or folder of a built dataset.
      split: one of its splits.
      data_dir: where named datasets are.
      most: how many are embedded; of more, some that are evenly spaced.
      progress: whether a progress bar is shown.

    Raises:
      UserError: there is no such dataset or split, or none of its images can be used.
    """
    source: RecordSource = open_dataset(dataset, split, data_dir)
    available = len(source)
    if available > most:
        kept = np.linspace(0, available - 1, most).astype(np.int64)
        source = Subset(source, kept, f"{most} of them")
    languages = LANGUAGES if model.method.text is not None else ()
    embedded = embed_split(model, source, source.label_names, languages, progress=progress)
    return Cases(embedded, source.name, source.split, available)


def _largest(values: np.ndarray, count: int) -> list[int]:
    """Positions of the largest finite values, the largest first, of equal ones the first."""
    order = np.argsort(-values, kind="stable")[:count].tolist()
    return [index for index in order if np.isfinite(values[index])]


def _thumbnail(data: bytes) -> UInt8[np.ndarray, "h w 3"]:
    """A small photograph of the lit disc alone: names and dates stand in the dark around it."""
    picture = Image.fromarray(around_disc(decode(data, "case", min_side=_DECODED)))
    picture.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    return np.asarray(picture)
