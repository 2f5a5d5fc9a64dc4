"""Zero-shot classification: images against the weighted mean embedding of each class's prompts."""

import abc
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from jaxtyping import Float, UInt8
from scipy.special import softmax

from retfm_jax.data.kinds import get_kind
from retfm_jax.errors import UserError
from retfm_jax.knowledge.laterality import SIDES
from retfm_jax.knowledge.prompts import Prompts, WeightedPrompt, prompts_of
from retfm_jax.methods.base import Method

Image = bytes | str | Path | UInt8[np.ndarray, "h w 3"]
Embedding = Float[np.ndarray, "n d"]


class ImageTextModel(Protocol):
    """What evaluation needs of a model; `retfm_jax.RetinalModel` has it.

    Every embedding is a unit-norm float32 vector. Any number of rows is allowed in a call.
    """

    @property
    @abc.abstractmethod
    def method(self) -> Method:
        """What it was trained with, which tells how it is asked."""

    @property
    @abc.abstractmethod
    def trains_on_patients(self) -> bool:
        """Whether the model has a patient level beside single images."""

    @property
    @abc.abstractmethod
    def logit_scale(self) -> float:
        """The learned scale that multiplies cosines before a softmax over texts."""

    @abc.abstractmethod
    def encode_images(self, images: Sequence[Image]) -> Embedding:
        """Single photographs, comparable with `encode_texts`."""

    @abc.abstractmethod
    def image_features(self, images: Sequence[Image]) -> Embedding:
        """Single photographs before any projection, rows of any length."""

    @abc.abstractmethod
    def encode_texts(self, texts: Sequence[str]) -> Embedding:
        """Texts, comparable with `encode_images`."""

    @abc.abstractmethod
    def encode_patients(
        self, left: Sequence[Image | None], right: Sequence[Image | None]
    ) -> Mapping[str, Embedding]:
        """image_patient, image_left, image_right of pairs of eyes; None marks a missing one.

        Called only where `trains_on_patients`.
        """

    @abc.abstractmethod
    def encode_patient_texts(self, texts: Sequence[str]) -> Mapping[str, Embedding]:
        """text_patient, text_left, text_right; called only where `trains_on_patients`."""


def unit(rows: Float[np.ndarray, "*n d"]) -> Float[np.ndarray, "*n d"]:
    """Rows scaled to length 1; rows of zeros stay."""
    length = np.linalg.norm(rows, axis=-1, keepdims=True)
    return np.divide(rows, length, out=np.zeros_like(rows), where=length > 0)


def encode_texts(
    model: ImageTextModel, texts: Sequence[str], views: Sequence[str]
) -> dict[str, Embedding]:
    """Texts as they compare with the images of each view."""
    if model.trains_on_patients and "image" not in views:
        features = model.encode_patient_texts(texts)
        return {view: np.asarray(features[f"text_{view}"]) for view in views}
    rows = np.asarray(model.encode_texts(texts))
    return dict.fromkeys(views, rows)


def weighted(prompts: Sequence[str | WeightedPrompt]) -> tuple[WeightedPrompt, ...]:
    """Prompts with weights that sum to 1."""
    given = [p if isinstance(p, WeightedPrompt) else WeightedPrompt(p, 1.0) for p in prompts]
    total = sum(prompt.weight for prompt in given)
    return tuple(WeightedPrompt(prompt.text, prompt.weight / total) for prompt in given)


def class_embeddings(
    model: ImageTextModel,
    names: Sequence[str],
    language: str,
    prompts: Prompts,
    views: Sequence[str],
) -> dict[str, Embedding]:
    """One unit row for every class and view: the weighted mean of the class's prompt embeddings.

    Averaging over templates, synonyms and descriptions is KeepFIT's "domain knowledge". The views
    "left" and "right" ask for prompts that name the eye.

    Raises:
      UserError: a text has no finite embedding.
    """
    result = {}
    for view in views:
        eye = view if view in SIDES else None
        groups = [weighted(prompts(name, language, eye)) for name in names]
        distinct = sorted({prompt.text for group in groups for prompt in group})
        rows = np.concatenate(
            [
                encode_texts(model, distinct[start : start + 64], [view])[view]
                for start in range(0, len(distinct), 64)
            ]
        )
        check_finite(rows, distinct, "the text")
        place = {text: index for index, text in enumerate(distinct)}
        means = [
            np.average(
                rows[[place[prompt.text] for prompt in group]],
                axis=0,
                weights=[prompt.weight for prompt in group],
            )
            for group in groups
        ]
        result[view] = unit(np.stack(means)).astype(np.float32)
    return result


def check_finite(rows: Float[np.ndarray, "n d"], names: Sequence[str], what: str) -> None:
    """Raises a `UserError` that names the first row with a NaN or an infinite number."""
    broken = np.flatnonzero(~np.isfinite(rows).all(-1))
    if len(broken):
        raise UserError(
            f"the network's embedding of {what} {names[broken[0]]!r} is no finite number (and of "
            f"{len(broken) - 1} more): its weights hold NaN or infinity, or the text or image does"
        )


def own_style(model: ImageTextModel) -> str:
    """The style of prompts that a model was trained with: of categories or of reports."""
    return get_kind(model.method.sample_kind).texts


def model_prompts(
    model: ImageTextModel, style: str | None = None, modality: str = "cfp"
) -> Prompts:
    """The prompts that a model is asked with: in its own style and, of reports, in their words.

    Args:
      style: see `knowledge.prompts.prompts_of`; None: as the model was trained.
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
    return softmax(model.logit_scale * images @ classes.T, axis=-1)


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
