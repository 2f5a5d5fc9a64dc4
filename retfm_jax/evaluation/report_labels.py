"""Labels for records that have none: read out of their reports by the labeler."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int8

from retfm_jax.data.records import ImageRecord, PatientRecord
from retfm_jax.data.sources import RecordSource
from retfm_jax.errors import UserError
from retfm_jax.evaluation.requirements import is_labeled, texts
from retfm_jax.knowledge.labeler import ABSENT, PATIENT, PRESENT, UNCERTAIN, Labeler
from retfm_jax.knowledge.laterality import SIDES
from retfm_jax.knowledge.vocabulary import LANGUAGES
from retfm_jax.progress import progress_bar

#: What is said wherever such labels are used.
SAID = (
    "the dataset has no labels: labels are read from the reports by the labeler of this project "
    "(what a report does not mention counts as absent, what it suspects as unknown)"
)
_SCOPES = (PATIENT, *SIDES)


class LabeledByReports(RecordSource):
    """A source whose labels are what its reports say.

    A condition that a report affirms is present, one that it only suspects is unknown, every other
    is absent. A report that says nothing of an eye, or nothing at all, leaves that eye, or the
    patient, unlabeled; what it says of no side is unknown for both eyes.

    Args:
      source: what is labeled.
      labels: of each record for the patient, the left and the right eye: 1, 0, or -1 where unknown;
        (n, 3, classes) int8.
      label_names: of the classes.
    """

    def __init__(
        self,
        source: RecordSource,
        labels: Int8[np.ndarray, "records scopes classes"],
        label_names: Sequence[str],
    ):
        self._source, self._labels = source, labels
        self.name, self.split, self.kind = source.name, source.split, source.kind
        self.label_names = tuple(label_names)

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> PatientRecord | ImageRecord:
        record, (whole, left, right) = self._source[index], self._labels[index]
        if isinstance(record, PatientRecord):
            return dataclasses.replace(record, labels=whole, left_labels=left, right_labels=right)
        return dataclasses.replace(record, labels=whole)

    def __getattr__(self, name: str) -> Any:
        # What a source says of itself beside the contract, such as how it was read.
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._source, name)

    @property
    def identity(self) -> dict[str, Any]:
        return {**self._source.identity, "labels": "of the reports", "names": self.label_names}


def label_by_reports(sources: Sequence[RecordSource], labeler: Labeler) -> list[RecordSource]:
    """Labels sources by their reports; the classes are what any report of them affirms.

    Args:
      sources: splits of one dataset.
      labeler: reads the reports.

    Raises:
      UserError: no report says anything that the vocabulary knows.
    """
    said = [[_statuses(source[i], labeler) for i in _progress(source)] for source in sources]
    affirmed = {
        name
        for statuses in (record for source in said for record in source)
        for name, status in statuses[PATIENT].items()
        if status == PRESENT
    }
    if not affirmed:
        source = sources[0]
        raise UserError(
            f"{source.name}, split {source.split}, has no label, and no report says anything that "
            "the vocabulary knows: give labels when the dataset is imported"
        )
    names = [name for name in labeler.vocabulary.ids if name in affirmed]
    return [
        LabeledByReports(source, np.stack([_hot(statuses, names) for statuses in of]), names)
        for source, of in zip(sources, said, strict=True)
    ]


def with_labels(source: RecordSource, labeler: Labeler) -> RecordSource:
    """A source with labels of its own, or of its reports; unlabeled where these say nothing.

    Args:
      source: a split of a dataset.
      labeler: reads the reports where the source has no labels.
    """
    if is_labeled(source):
        return source
    try:
        return label_by_reports([source], labeler)[0]
    except UserError:
        return source


def _hot(
    statuses: Mapping[str, Mapping[str, str]], names: Sequence[str]
) -> Int8[np.ndarray, "scopes classes"]:
    """What one report says of the patient and of the eyes: 1, 0, or -1 where it is unknown."""
    labels = np.full((len(_SCOPES), len(names)), -1, np.int8)
    eyes = [statuses[scope] for scope in _SCOPES[1:]]
    for row, scope in zip(labels, _SCOPES, strict=True):
        found = statuses[scope]
        if not found:
            continue
        for position, name in enumerate(names):
            status = found.get(name, ABSENT)
            # Affirmed without a side: nobody knows which eye has it.
            without_side = name not in found and not any(name in eye for eye in eyes)
            if scope != PATIENT and without_side:
                denied = statuses[PATIENT].get(name, ABSENT) == ABSENT
                status = ABSENT if denied else UNCERTAIN
            row[position] = {PRESENT: 1, ABSENT: 0, UNCERTAIN: -1}[status]
    return labels


def _progress(source: RecordSource) -> Iterable[int]:
    return progress_bar(range(len(source)), f"labels of reports, {source.split}", unit="record")


def _statuses(
    record: PatientRecord | ImageRecord, labeler: Labeler
) -> Mapping[str, Mapping[str, str]]:
    for language in LANGUAGES:
        said = {"report": texts(record).get(language, "")}
        if isinstance(record, PatientRecord):
            said["left"] = record.left_report.get(language, "")
            said["right"] = record.right_report.get(language, "")
        if any(text.strip() for text in said.values()):
            return labeler.label_sides(**said).statuses
    return {scope: {} for scope in _SCOPES}
