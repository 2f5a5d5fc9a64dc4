"""Zero-shot classification: images against the mean embedding of each class's prompts."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

from retfm_jax.errors import UserError
from retfm_jax.evaluation.embeddings import (
    EYES,
    EmbeddedSplit,
    Embedding,
    ImageTextModel,
    Prompts,
    class_embeddings,
)
from retfm_jax.evaluation.predictions import Predictions, is_exclusive, softmax


@dataclasses.dataclass(frozen=True)
class ZeroShot:
    """Scores of a split in one language.

    Attributes:
      levels: "patient" and "eye" for patients, "image" for single images; a level without any
        label is absent.
      left_out: classes that were skipped.
    """

    language: str
    levels: Mapping[str, Predictions]
    left_out: tuple[str, ...]


def finding_scores(
    images: Embedding, classes: Embedding, normal: int | None, scale: float
) -> Float[np.ndarray, "n classes"]:
    """Scores of findings that may occur together.

    With c_k the class embeddings, x an image and s the model's scale, a finding's score is the
    probability of its prompts against those of a normal eye, sigmoid(s (x.c_k - x.c_normal)): the
    difference removes what an image has in common with every text. "Normal" itself is scored
    against the mean of the findings. Without a normal class the score is the cosine.
    """
    cosine = images @ classes.T  # (n, d) . (d, classes)
    if normal is None or len(classes) < 2:
        return cosine
    findings = np.delete(cosine, normal, axis=1)
    reference = np.repeat(cosine[:, [normal]], cosine.shape[1], axis=1)
    reference[:, normal] = findings.mean(1)
    return 1 / (1 + np.exp(-scale * (cosine - reference)))


def zero_shot(
    model: ImageTextModel,
    split: EmbeddedSplit,
    language: str,
    prompts: Prompts,
    skip: Sequence[str] = (),
) -> ZeroShot:
    """Scores every labelled sample of a split for its classes.

    Args:
      skip: classes of which nobody could say in words what they are ("other").

    Raises:
      UserError: no class is left, or nothing is labelled.
    """
    columns = [index for index, name in enumerate(split.label_names) if name not in skip]
    names = tuple(split.label_names[index] for index in columns)
    left_out = tuple(name for name in split.label_names if name not in names)
    if not names:
        raise UserError(
            f"no label of the dataset is known (labels: {', '.join(split.label_names) or 'none'}); "
            "zero-shot needs classes that are named after conditions of the vocabulary"
        )
    classes = class_embeddings(model, names, language, prompts, tuple(split.views))
    levels = {}
    groups = {"patient": ("patient",), "eye": EYES} if "patient" in split.views else {}
    for level, views in (groups or {"image": ("image",)}).items():
        predictions = _level(split, views, columns, names, classes, model.logit_scale)
        if predictions is not None:
            levels[level] = predictions
    if not levels:
        raise UserError("no sample of the split has a label to compare zero-shot scores with")
    return ZeroShot(language, levels, left_out)


def _level(
    split: EmbeddedSplit,
    views: Sequence[str],
    columns: Sequence[int],
    names: tuple[str, ...],
    classes: Mapping[str, Embedding],
    scale: float,
) -> Predictions | None:
    normal = names.index("normal") if "normal" in names else None
    labels, cosines, scores, patients, samples = [], [], [], [], []
    for name in views:
        view = split.views[name]
        rows = np.flatnonzero(view.seen & (view.labels[:, columns] >= 0).any(1))
        images = view.images[rows]
        labels.append(view.labels[rows][:, columns])
        cosines.append(images @ classes[name].T)
        scores.append(finding_scores(images, classes[name], normal, scale))
        patients += [split.patient_ids[row] for row in rows]
        samples += [(int(row), name if name in EYES else None) for row in rows]
    if not samples:
        return None
    truth = np.concatenate(labels)
    exclusive = is_exclusive(truth)
    return Predictions(
        names=names,
        labels=truth,
        scores=softmax(scale * np.concatenate(cosines)) if exclusive else np.concatenate(scores),
        patients=tuple(patients),
        samples=tuple(samples),
        exclusive=exclusive,
    )
