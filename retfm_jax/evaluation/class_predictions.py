"""What a network with classes says of a split, beside the truth."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float32, Int

from retfm_jax.data.records import ImageRecord
from retfm_jax.data.sources import RecordSource, as_images
from retfm_jax.errors import UserError, did_you_mean, first_of
from retfm_jax.evaluation.embeddings import refuse_unusable
from retfm_jax.progress import progress_bar

#: Photographs that are in memory at once.
_CHUNK = 256


@dataclasses.dataclass(frozen=True)
class ClassPredictions:
    """Logits of the labeled photographs of a split.

    Attributes:
      source: of single images: the split, or the eyes of its patients.
      rows: positions of the photographs in it (n).
      logits: (n, classes) float32.
      labels: multi-hot (n, classes), -1 where unknown; of classes that exclude each other exactly
        one 1.
      patients: of every photograph.
      unusable: names of labeled photographs that cannot be decoded; they are left out.
      left_out: number of photographs without a label, or without exactly one of the classes.
    """

    source: RecordSource[ImageRecord]
    rows: tuple[int, ...]
    logits: Float32[np.ndarray, "n classes"]
    labels: Int[np.ndarray, "n classes"]
    patients: tuple[str, ...]
    unusable: tuple[str, ...]
    left_out: int


def class_columns(
    label_names: Sequence[str], classes: Sequence[str], where: str
) -> Int[np.ndarray, " classes"]:
    """Finds a network's classes among the labels of a split.

    Args:
      label_names: of the split's label vectors.
      classes: of the network.
      where: the split, for the message.

    Returns:
      positions in `label_names`, -1 for a class that the split does not know.

    Raises:
      UserError: the split knows none of them, or one alone, where there are several.
    """
    columns = np.array(
        [label_names.index(name) if name in label_names else -1 for name in classes], np.int64
    )
    if (columns >= 0).sum() < min(2, len(classes)):
        missing = next(name for name, column in zip(classes, columns, strict=True) if column < 0)
        raise UserError(
            f"{where} has labels of {first_of(list(label_names), 8)}, and the network tells "
            f"{first_of(list(classes), 8)} apart: name the labels as its classes"
            + did_you_mean(missing, label_names)
        )
    return columns


def labels_of(
    labels: Int[np.ndarray, " labels"], columns: Int[np.ndarray, " classes"], findings: bool
) -> Int[np.ndarray, " classes"] | None:
    """Reads a photograph's classes from its labels; None where they say nothing of them.

    Args:
      labels: multi-hot over the split's label names, -1 where unknown.
      columns: see `class_columns`.
      findings: whether classes hold independently of each other; else exactly one must be there.

    Returns:
      1 present, 0 absent, -1 unknown.
    """
    found = np.where(columns >= 0, labels[columns], -1).astype(np.int64)
    if findings:
        return found if (found >= 0).any() else None
    return (found == 1).astype(np.int64) if (found == 1).sum() == 1 else None


def predict_classes(
    model: Any, source: RecordSource, *, on_error: str = "skip", progress: bool = True
) -> ClassPredictions:
    """Computes the logits of every labeled photograph of a split, some at a time.

    Args:
      model: a `RetinalModel` with classes.
      source: of single images, or of patients, whose eyes are taken with their own labels.
      on_error: "refuse" ends at images that cannot be decoded, "skip" leaves them out.
      progress: whether a progress bar is shown.

    Raises:
      UserError: the network has no classes; the split does not know them, or has no photograph of
        theirs that can be decoded.
    """
    decisions = model.decisions
    if decisions is None:
        raise UserError(f"a {model.method.name} network has no classes of its own")
    where, findings = f"{source.name}, split {source.split}", decisions.outcome == "findings"
    columns = class_columns(source.label_names, decisions.classes, where)
    images = as_images(source)
    rows: list[int] = []
    logits, labels, patients = [np.zeros((0, len(columns)), np.float32)], [], []
    unusable: list[str] = []
    left_out = 0
    bar = progress_bar(total=len(images), desc="predicting", unit="image", disable=not progress)
    with bar:
        for start in range(0, len(images), _CHUNK):
            chunk = [images[row] for row in range(start, min(start + _CHUNK, len(images)))]
            found = [labels_of(record.labels, columns, findings) for record in chunk]
            known = [index for index, each in enumerate(found) if each is not None]
            left_out += len(chunk) - len(known)
            damaged: list[tuple[int, str]] = []
            if known:
                asked = [chunk[index].image for index in known]
                scores = model.class_logits(asked, unusable=damaged)
                broken = {known[position] for position, _ in damaged}
                unusable += [chunk[index].record_id for index in sorted(broken)]
                refuse_unusable(unusable, on_error)
                kept = [index for index in known if index not in broken]
                rows += [start + index for index in kept]
                logits.append(scores[[index not in broken for index in known]])
                labels += [found[index] for index in kept]
                patients += [chunk[index].patient_id for index in kept]
            bar.update(len(chunk))
    if not rows:
        raise UserError(
            f"{where} has no photograph with {'a finding' if findings else 'exactly one'} of the "
            f"network's classes ({first_of(list(decisions.classes), 8)}) that can be decoded: "
            f"{left_out} have no such label, {len(unusable)} cannot be decoded"
        )
    both = np.concatenate(logits)
    if not np.isfinite(both).all():
        raise UserError(
            f"the logits of {int((~np.isfinite(both)).any(1).sum())} of {len(both)} photographs "
            "are no finite numbers: the network's weights hold NaN or infinity, or its training "
            "diverged"
        )
    return ClassPredictions(
        source=images,
        rows=tuple(rows),
        logits=both,
        labels=np.stack(labels),
        patients=tuple(patients),
        unusable=tuple(unusable),
        left_out=left_out,
    )
