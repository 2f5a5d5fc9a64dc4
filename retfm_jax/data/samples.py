"""Records -> samples: what one row of a batch holds. What kinds of samples have in common."""

import abc
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import cv2
import numpy as np

from retfm_jax.config import AugmentConfig, DataConfig
from retfm_jax.data.images import ImageError, training_image
from retfm_jax.data.text import Tokenizer
from retfm_jax.knowledge.laterality import exchange_sides
from retfm_jax.knowledge.vocabulary import LANGUAGES

if TYPE_CHECKING:
    from retfm_jax.data.records import ImageRecord, PatientRecord

Sample = dict[str, Any]
#: The record that a sample is made of.
Source = TypeVar("Source", bound="ImageRecord | PatientRecord", contravariant=True)

#: Key of a sample's host-only entry: names of its eyes that could not be decoded.
DAMAGED = "damaged"


class Unusable(Exception):
    """A record without any image that can be decoded."""


class SampleMaker(abc.ABC, Generic[Source]):
    """Turns records of one dataset into samples of one kind.

    A sample holds the arrays that the method's `encode` takes, images as uint8 (see
    `data.device`), and `DAMAGED`. Picklable, for worker processes.
    """

    def __init__(self, config: DataConfig):
        self.config = config
        self._tokenizer = Tokenizer(config.text)
        _leave_threads_to_the_pipeline()

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        _leave_threads_to_the_pipeline()

    @property
    def identity(self) -> dict[str, Any]:
        """JSON values that fix the arrays of the samples, beside their texts and images."""
        return {"tokenizer": self._tokenizer.digest}

    @abc.abstractmethod
    def training(self, record: Source, rng: np.random.Generator) -> Sample:
        """An augmented sample; every random choice comes from `rng`.

        Raises:
          Unusable: no image of the record can be decoded.
        """

    def tokens(self, text: str) -> np.ndarray:
        """Token ids of a text, int32 (context_length,)."""
        return self._tokenizer.row(text)

    def image(
        self, data: bytes, name: str, rng: np.random.Generator, *, mirror: bool
    ) -> np.ndarray:
        """An augmented image, uint8 (height, width, 3).

        Raises:
          ImageError: it cannot be decoded.
        """
        image, augment = self.config.image, self.config.augment
        return training_image(data, name, image, augment, rng, mirror=mirror)

    def pair(
        self, record: "ImageRecord", text: str, targets: Sample, rng: np.random.Generator
    ) -> Sample:
        """A single image with a text, mirrored together, and what the objective needs beside.

        Raises:
          Unusable: the image cannot be decoded.
        """
        mirror, text = draw_flip(self.config.augment, text, rng)
        try:
            image = self.image(record.image, record.record_id, rng, mirror=mirror)
        except ImageError as error:
            raise Unusable(record.record_id) from error
        return {"image": image, "tokens": self.tokens(text), DAMAGED: []} | targets


def choose_text(
    texts: Mapping[str, str], language: str, rng: np.random.Generator | None = None
) -> str:
    """The text in a language, or in one that exists where there is none in it.

    Args:
      language: "mixed" samples among the languages that exist, or takes the first without `rng`.
    """
    available = [name for name in LANGUAGES if texts.get(name)]
    if not available:
        return ""
    if language in available:
        return texts[language]
    return texts[draw_language(language, available, rng) if language == "mixed" else available[0]]


def draw_language(language: str, available: Sequence[str], rng: np.random.Generator | None) -> str:
    """The language itself; of "mixed" a random one of those available, the first without `rng`."""
    if language != "mixed":
        return language
    return available[0 if rng is None else int(rng.integers(len(available)))]


def draw_flip(augment: AugmentConfig, text: str, rng: np.random.Generator) -> tuple[bool, str]:
    """Draws whether a sample is mirrored, and gives the text that then belongs to it.

    "exchange" mirrors the anatomy: a mirrored left eye is a right eye, so the text's sides are
    exchanged too, and the sample stays as it is where that cannot be done safely. "independent"
    mirrors the picture alone, as published.
    """
    if augment.flip == "none" or rng.random() >= augment.flip_probability:
        return False, text
    if augment.flip == "independent":
        return True, text
    exchanged = exchange_sides(text)
    return exchanged is not None, text if exchanged is None else exchanged


def _leave_threads_to_the_pipeline() -> None:
    # OpenCV's own threads would compete with the pipeline's for the same cores.
    cv2.setNumThreads(1)
