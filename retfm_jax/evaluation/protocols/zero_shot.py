"""Zero-shot classification: images against the mean embedding of each class's prompts."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

from retfm_jax.data.kinds import get_kind
from retfm_jax.errors import UserError
from retfm_jax.evaluation.embeddings import (
    EYES,
    EmbeddedSplit,
    Embedding,
    ImageTextModel,
    Prompts,
    class_embeddings,
    weighted,
)
from retfm_jax.evaluation.metrics.predictions import Predictions, is_exclusive, softmax
from retfm_jax.evaluation.tasks import prompts_of
from retfm_jax.knowledge.prompts import WeightedPrompt


@dataclasses.dataclass(frozen=True)
class ZeroShot:
    """Scores of a split in one language.

    Attributes:
      levels: "patient" and "eye" for patients, "image" for single images; a level without any
        label is absent.
      left_out: classes that were skipped.
      prompts: view of the images -> class -> what was asked -> its weight.
    """

    language: str
    levels: Mapping[str, Predictions]
    left_out: tuple[str, ...]
    prompts: Mapping[str, Mapping[str, Mapping[str, float]]]


def own_style(model: ImageTextModel) -> str:
    """The style of prompts that a model was trained with: of categories or of reports."""
    return get_kind(model.method.sample_kind).texts


def model_prompts(
    model: ImageTextModel, style: str | None = None, modality: str = "cfp"
) -> Prompts:
    """The prompts that a model is asked with: in its own style and, of reports, in their words.

    Args:
      style: see `tasks.prompts_of`; None: as the model was trained.
      modality: of the images.
    """
    return prompts_of(style or own_style(model), modality, getattr(model, "wording", None))


def class_probabilities(
    model: ImageTextModel,
    images: Embedding,
    names: Sequence[str],
    language: str,
    prompts: Prompts,
) -> Float[np.ndarray, "n classes"]:
    """Probabilities of classes that exclude each other, of single images.

    Args:
      images: unit-norm rows of `encode_images`.

    Returns:
      the softmax over classes of scale * cosine with the class's embedding.
    """
    classes = class_embeddings(model, names, language, prompts, ("image",))["image"]
    return softmax(model.logit_scale * images @ classes.T)


def check_classes(names: Sequence[str], skip: Sequence[str]) -> None:
    """Raises a `UserError` where no class is left that anybody could ask for in words."""
    if not set(names) - set(skip):
        raise UserError(
            f"no label of the dataset is known (labels: {', '.join(names) or 'none'}); "
            "zero-shot needs classes that are named after conditions of the vocabulary"
        )


def finding_directions(classes: Embedding, normal: int | None) -> Float[np.ndarray, "classes d"]:
    """What findings that may occur together are scored by: each class against a normal eye.

    With c_k the class embeddings, the logit of finding k for an image x is s x.(c_k - c_normal),
    the log-odds of its prompts against those of a normal eye: the difference removes what an image
    has in common with every text. "Normal" itself is scored against the mean of the findings.
    Without a normal class the cosine stays.

    Args:
      normal: index of the class "normal".
    """
    if normal is None or len(classes) < 2:
        return classes
    directions = classes - classes[normal]
    directions[normal] = classes[normal] - np.delete(classes, normal, axis=0).mean(0)
    return directions


def normal_class(names: Sequence[str]) -> int | None:
    """Where the class of healthy eyes is."""
    return names.index("normal") if "normal" in names else None


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
    check_classes(split.label_names, skip)
    classes = class_embeddings(model, names, language, prompts, tuple(split.views))
    levels = {}
    groups = {"patient": ("patient",), "eye": EYES} if "patient" in split.views else {}
    for level, views in (groups or {"image": ("image",)}).items():
        predictions = _level(split, views, columns, names, classes, model.logit_scale)
        if predictions is not None:
            levels[level] = predictions
    if not levels:
        raise UserError("no sample of the split has a label to compare zero-shot scores with")
    asked = {}
    for view in split.views:
        eye = view if view in EYES else None
        asked[view] = {name: _asked(prompts(name, language, eye)) for name in names}
    return ZeroShot(language, levels, left_out, asked)


def _asked(prompts: Sequence[str | WeightedPrompt]) -> dict[str, float]:
    found: dict[str, float] = {}
    for prompt in weighted(prompts):
        found[prompt.text] = found.get(prompt.text, 0.0) + round(prompt.weight, 6)
    return found


def _level(
    split: EmbeddedSplit,
    views: Sequence[str],
    columns: Sequence[int],
    names: tuple[str, ...],
    classes: Mapping[str, Embedding],
    scale: float,
) -> Predictions | None:
    normal = normal_class(names)
    labels, cosines, logits, patients, samples = [], [], [], [], []
    for name in views:
        view = split.views[name]
        rows = np.flatnonzero(view.seen & (view.labels[:, columns] >= 0).any(1))
        images = view.images[rows]
        labels.append(view.labels[rows][:, columns])
        cosines.append(images @ classes[name].T)
        logits.append(images @ finding_directions(classes[name], normal).T)
        patients += [split.patient_ids[row] for row in rows]
        samples += [(int(row), name if name in EYES else None) for row in rows]
    if not samples:
        return None
    truth = np.concatenate(labels)
    exclusive = is_exclusive(truth)
    return Predictions(
        names=names,
        labels=truth,
        scores=(
            softmax(scale * np.concatenate(cosines))
            if exclusive
            else scale * np.concatenate(logits)
        ),
        patients=tuple(patients),
        samples=tuple(samples),
        exclusive=exclusive,
    )
