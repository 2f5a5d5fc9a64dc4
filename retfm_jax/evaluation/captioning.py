"""What a network writes of the cases of a split, and what could be copied from its training."""

import collections
import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32

from retfm_jax.captioning import Search, Written, write_reports
from retfm_jax.config import DataConfig
from retfm_jax.data.cases import Cases, as_cases
from retfm_jax.data.class_files import ALL, Reading
from retfm_jax.data.images import ImageError, decode, fit
from retfm_jax.data.kinds import get_kind
from retfm_jax.data.samples import choose_text
from retfm_jax.data.sources import RecordSource, open_dataset
from retfm_jax.data.tasks import counts_by
from retfm_jax.errors import UserError
from retfm_jax.evaluation.embeddings import refuse_unusable
from retfm_jax.evaluation.requirements import was_trained_on
from retfm_jax.progress import progress_bar
from retfm_jax.runtime.threads import cores, in_threads
from retfm_jax.zero_shot import unit

#: Photographs whose features are computed at once.
_AT_ONCE = 32


def open_cases(model: Any, dataset: str, data_dir: str, split: str, reading: Reading) -> Cases:
    """Opens the cases of a split for a network that writes reports.

    Args:
      model: a `RetinalModel`.
      dataset: a built dataset of patients, or of images, with reports.
      data_dir: folder of built datasets.
      split: a TFDS split.
      reading: which records are left out.

    Raises:
      UserError: there is no such dataset or split, or none of its records has an image and a
        report; or the reading is one of files.
    """
    if split == ALL:
        raise UserError(
            f"split {ALL} is of folders, and cases are those of a built dataset: name its splits, "
            "such as train+validation+test"
        )
    if reading.patient_regex is not None:
        raise UserError(
            f"patient_regex reads file names, and {dataset} is a built dataset: give it to `retfm "
            "data import` or `retfm data build`, which store patients"
        )
    return as_cases(
        open_dataset(dataset, split, data_dir or model.data_config.data_dir, reading.exclude)
    )


def cases_by(source: Cases) -> str:
    """The unit that intervals resample: "patient", or "case" where the patients are unknown.

    Args:
      source: the split.
    """
    known = source[0].eyes or counts_by(source) == "patient"
    return "patient" if known else "case"


class WrittenCase(NamedTuple):
    """A case, and what a network writes of it.

    Attributes:
      row: its position in the split.
      case, patient: its id, and its patient's.
      reference: its report as written, in the network's language where there is one in it.
      translated: whether there is none, so that the reference is in another language.
      written: by the network.
    """

    row: int
    case: str
    patient: str
    reference: str
    translated: bool
    written: Written


def written_cases(
    model: Any,
    source: Cases,
    search: Search,
    *,
    unusable: list[str],
    on_error: str = "skip",
    progress: bool = True,
) -> Iterator[WrittenCase]:
    """Writes the reports of a split; the photographs of few cases are in memory at once.

    Args:
      model: a `RetinalModel` that writes reports.
      source: the cases.
      search: how reports are searched for.
      unusable: list that gets the name of every case without a photograph that can be used; they
        are left out.
      on_error: "refuse" ends at the first of these, "skip" leaves them out.
      progress: whether a progress bar is shown.

    Raises:
      UserError: the network writes no reports, or a case cannot be used and none may be left out.
    """
    seen: collections.deque[WrittenCase] = collections.deque()
    language = model.data_config.language

    def images() -> Iterator[Sequence[bytes]]:
        for row in range(len(source)):
            record = source[row]
            text = choose_text(record.report, language)
            other = language != "mixed" and not record.report.get(language)
            seen.append(
                WrittenCase(row, record.record_id, record.patient_id, text, other, Written((), 0.0))
            )
            yield record.images

    damaged: list[tuple[int, str]] = []
    found = write_reports(
        model, images(), search, count=len(source), unusable=damaged, progress=progress
    )
    for written in found:
        case = seen.popleft()
        if written is None:
            unusable.append(case.case)
            refuse_unusable(unusable, on_error)
        else:
            yield case._replace(written=written)


@dataclasses.dataclass(frozen=True)
class TrainingReports:
    """Reports of the training split that a program without a network could give.

    Attributes:
      cases: number of cases that were looked at.
      of: number of cases of the split.
      texts: their reports, as written.
      rows: their positions in `source`.
      source: the training split.
    """

    cases: int
    of: int
    texts: tuple[str, ...]
    rows: tuple[int, ...]
    source: RecordSource[Any]

    @property
    def most_frequent(self) -> tuple[str, int]:
        """The report that stands there most often, the first of several, and how often."""
        counts = collections.Counter(" ".join(text.split()) for text in self.texts)
        return counts.most_common(1)[0]


def training_reports(
    model: Any, dataset: str, data_dir: str, split: str, most: int
) -> TrainingReports:
    """Reads reports of a network's training split.

    Args:
      model: a `RetinalModel` that writes reports.
      dataset, data_dir, split: what is evaluated; the data that the network was trained on may lie
        in that folder now.
      most: cases that are read at most, evenly over the split.

    Raises:
      UserError: they cannot be read, or they are what is evaluated.
    """
    config: DataConfig = model.data_config
    if was_trained_on(config, dataset):
        if split == config.train_split:
            raise UserError("what is evaluated is the training split itself")
        config = dataclasses.replace(config, dataset=dataset, data_dir=data_dir or config.data_dir)
    source: Any = get_kind(model.method.sample_kind).open(config)[0]
    count = len(source)
    rows = np.unique(np.linspace(0, count - 1, min(count, most)).astype(np.int64)).tolist()
    texts = tuple(choose_text(source.report(row), config.language) for row in rows)
    return TrainingReports(len(rows), count, texts, tuple(rows), source)


def nearest_reports(
    model: Any, source: RecordSource[Any], rows: Sequence[int], training: TrainingReports
) -> list[str]:
    """Finds the report of the training case that looks most alike to the network's image tower.

    Likeness is the cosine of the mean features of the patches of all photographs of a case, as the
    transformer gets them.

    Args:
      model: a `RetinalModel` that writes reports.
      source: the cases that are evaluated.
      rows: positions of those, each of which has a photograph that can be used.
      training: the reports to choose from.
    """
    theirs = case_features(model, training.source, training.rows)
    ours = case_features(model, source, rows)
    nearest = [int((theirs @ each).argmax()) for each in ours]
    return [training.texts[index] for index in nearest]


def case_features(
    model: Any, source: RecordSource[Any], rows: Sequence[int]
) -> Float32[np.ndarray, "n width"]:
    """Features of cases: the mean over patches and photographs, of unit norm.

    Args:
      model: a `RetinalModel` that writes reports.
      source: the cases.
      rows: positions of those that are wanted.

    Returns:
      (n, width) float32; zeros of a case without a photograph that can be used.
    """
    config = model.data_config.image

    def read(row: int) -> list[np.ndarray]:
        record, pixels = source[row], []
        for image, name in zip(record.images, record.names, strict=True):
            with contextlib.suppress(ImageError):
                pixels += [fit(decode(image, name), config)] if image else []
        return pixels

    totals: list[np.ndarray | float] = [0.0] * len(rows)
    waiting: list[tuple[int, np.ndarray]] = []

    def finish() -> None:
        if not waiting:
            return
        pixels = np.stack([each for _, each in waiting])
        for (position, _), means in zip(waiting, model.patch_means(pixels), strict=True):
            totals[position] = totals[position] + means
        waiting.clear()

    bar = progress_bar(total=len(rows), desc="comparing", unit="case")
    with bar, in_threads(read, rows, threads=cores(), ahead=2 * _AT_ONCE) as photographs:
        for position, some in enumerate(photographs):
            for pixels in some:
                waiting.append((position, pixels))
                if len(waiting) == _AT_ONCE:
                    finish()
            bar.update(1)
    finish()
    width = next((total.shape[0] for total in totals if isinstance(total, np.ndarray)), 1)
    found = np.zeros((len(rows), width), np.float32)
    for position, total in enumerate(totals):
        found[position] = total
    return unit(found)
