"""Zero-shot classification: images against the weighted mean embedding of each class's prompts."""

import abc
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

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


@runtime_checkable
class ImageTextModel(Protocol):
    """The part of a model that evaluation needs; `retfm_jax.RetinalModel` has it.

    Every embedding is a unit-norm float32 vector, but for those of `image_features`. A call takes
    any number of images or texts.
    """

    @property
    @abc.abstractmethod
    def method(self) -> Method:
        """The method that it was trained with, which tells how it is asked."""

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
        """Embeds single photographs, comparable with `encode_texts`.

        Args:
          images: encoded bytes, paths, or RGB pixels (h, w, 3) uint8.
        """

    @abc.abstractmethod
    def image_features(self, images: Sequence[Image]) -> Embedding:
        """Computes features of single photographs before any projection, vectors of any norm.

        Args:
          images: encoded bytes, paths, or RGB pixels (h, w, 3) uint8.
        """

    @abc.abstractmethod
    def encode_texts(self, texts: Sequence[str]) -> Embedding:
        """Embeds texts, comparable with `encode_images`.

        Args:
          texts: reports, captions or class prompts in a language of the model.
        """

    @abc.abstractmethod
    def encode_patients(
        self, left: Sequence[Image | None], right: Sequence[Image | None]
    ) -> Mapping[str, Embedding]:
        """Embeds pairs of eyes; called only where `trains_on_patients`.

        Args:
          left, right: each patient's eyes, as `encode_images` takes them, in the same order; None
            marks a missing one.

        Returns:
          embeddings (n, d) by the names image_patient, image_left, image_right.
        """

    @abc.abstractmethod
    def encode_patient_texts(self, texts: Sequence[str]) -> Mapping[str, Embedding]:
        """Embeds texts of patients; called only where `trains_on_patients`.

        Args:
          texts: reports or class prompts in a language of the model.

        Returns:
          embeddings (n, d) by the names text_patient, text_left, text_right.
        """


def unit(rows: Float[np.ndarray, "*n d"]) -> Float[np.ndarray, "*n d"]:
    """Scales vectors to norm 1; zero vectors stay.

    Args:
      rows: vectors along the last axis, (..., d) floats.
    """
    length = np.linalg.norm(rows, axis=-1, keepdims=True)
    return np.divide(rows, length, out=np.zeros_like(rows), where=length > 0)


def encode_texts(
    model: ImageTextModel, texts: Sequence[str], views: Sequence[str]
) -> dict[str, Embedding]:
    """Embeds texts so that they compare with the images of each view.

    Args:
      model: whose text tower embeds.
      texts: reports, captions or class prompts.
      views: names of views: "patient", "left", "right" or "image".

    Returns:
      unit-norm embeddings (n, d) by view.
    """
    if model.trains_on_patients and "image" not in views:
        features = model.encode_patient_texts(texts)
        return {view: np.asarray(features[f"text_{view}"]) for view in views}
    rows = np.asarray(model.encode_texts(texts))
    return dict.fromkeys(views, rows)


def weighted(prompts: Sequence[str | WeightedPrompt]) -> tuple[WeightedPrompt, ...]:
    """Scales the weights of prompts to sum to 1.

    Args:
      prompts: of one class, at least one; a plain text has weight 1.
    """
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
    """Embeds each class for each view: the weighted mean of its prompts' embeddings, at norm 1.

    Averaging over templates, synonyms and descriptions is KeepFIT's "domain knowledge". The views
    "left" and "right" ask for prompts that name the eye.

    Args:
      model: whose text tower embeds.
      names: of the classes.
      language: of the prompts, "en" or "zh".
      prompts: from a class, a language and an eye (or None) to the class's prompts.
      views: names of views: "patient", "left", "right" or "image".

    Returns:
      embeddings (classes, d) float32 by view.

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
        position = {text: index for index, text in enumerate(distinct)}
        means = [
            np.average(
                rows[[position[prompt.text] for prompt in group]],
                axis=0,
                weights=[prompt.weight for prompt in group],
            )
            for group in groups
        ]
        result[view] = unit(np.stack(means)).astype(np.float32)
    return result


def check_finite(rows: Float[np.ndarray, "n d"], names: Sequence[str], what: str) -> None:
    """Checks that embeddings hold neither NaN nor infinity.

    Args:
      rows: embeddings (n, d) floats.
      names: of what each one embeds, for the message.
      what: they are, such as "the image of", for the message.

    Raises:
      UserError: one of them does; the message names the first.
    """
    broken = np.flatnonzero(~np.isfinite(rows).all(-1))
    if len(broken):
        raise UserError(
            f"the network's embedding of {what} {names[broken[0]]!r} is no finite number (and of "
            f"{len(broken) - 1} more): its weights hold NaN or infinity, or the text or image does"
        )


def own_style(model: ImageTextModel) -> str:
    """The style of prompts that a model was trained with: of categories, or else of reports.

    Args:
      model: whose method decides.
    """
    return get_kind(model.method.sample_kind).texts or "report"


def model_prompts(
    model: ImageTextModel, style: str | None = None, modality: str | None = None
) -> Prompts:
    """Chooses the prompts for a model: in its own style and, of reports, in their words.

    Args:
      model: that is asked; without a `wording` of its training reports templates are taken.
      style: see `knowledge.prompts.prompts_of`; None: as the model was trained.
      modality: of the images, one of `knowledge.prompts.MODALITIES`, or "mixed"; None: that of the
        images which the model was made for.
    """
    data = getattr(model, "data_config", None)
    own = "cfp" if data is None else data.image.modality
    return prompts_of(style or own_style(model), modality or own, getattr(model, "wording", None))


def class_probabilities(
    model: ImageTextModel,
    images: Embedding,
    names: Sequence[str],
    language: str,
    prompts: Prompts,
) -> Float[np.ndarray, "n classes"]:
    """Probabilities of classes that exclude each other, of single images.

    Args:
      model: whose text tower embeds the prompts, and whose logit scale is used.
      images: unit-norm embeddings (n, d) float32 of `encode_images`.
      names: of the classes.
      language: of the prompts, "en" or "zh".
      prompts: from a class, a language and an eye (or None) to the class's prompts.

    Returns:
      the softmax over classes (n, classes) of scale * cosine with the class's embedding.

    Raises:
      UserError: a text has no finite embedding.
    """
    classes = class_embeddings(model, names, language, prompts, ("image",))["image"]
    return softmax(model.logit_scale * images @ classes.T, axis=-1)


def finding_directions(classes: Embedding, normal: int | None) -> Float[np.ndarray, "classes d"]:
    """Directions that score findings which may occur together: each class against a normal eye.

    With c_k the class embeddings, the logit of finding k for an image x is s x.(c_k - c_normal),
    the log-odds of its prompts against those of a normal eye: the difference removes what an image
    has in common with every text. "Normal" itself is scored against the mean of the findings.
    Without a normal class the cosine stays.

    Args:
      classes: unit-norm text embedding of every class, (classes, d) float32.
      normal: index of the class "normal"; None where there is none.

    Returns:
      directions (classes, d), of any norm.
    """
    if normal is None or len(classes) < 2:
        return classes
    directions = classes - classes[normal]
    directions[normal] = classes[normal] - np.delete(classes, normal, axis=0).mean(0)
    return directions


def normal_class(names: Sequence[str]) -> int | None:
    """Index of the class of healthy eyes, "normal"; None where there is none.

    Args:
      names: of the classes.
    """
    return names.index("normal") if "normal" in names else None
