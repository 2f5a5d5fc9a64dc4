"""Records -> samples (what one row of a batch holds): what all kinds of samples share."""

import abc
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import cv2
import numpy as np

from retfm_jax.config import AugmentConfig, DataConfig
from retfm_jax.data.images import ImageError, training_images
from retfm_jax.data.text import Tokenizer
from retfm_jax.knowledge.laterality import exchange_sides
from retfm_jax.knowledge.vocabulary import LANGUAGES

if TYPE_CHECKING:
    from retfm_jax.data.records import CaseRecord, ImageRecord, PatientRecord

Sample = dict[str, Any]
#: The record that a sample is made of.
Source = TypeVar("Source", bound="ImageRecord | PatientRecord | CaseRecord", contravariant=True)

#: Key of a sample's host-only entry: names of its eyes that could not be decoded.
DAMAGED = "damaged"


class Unusable(Exception):
    """A record without any image that can be decoded."""


class SampleMaker(abc.ABC, Generic[Source]):
    """Turns records of one dataset into samples of one kind.

    A sample holds the arrays that the method takes, images as uint8 (see `data.device_augment`),
    and `DAMAGED`. Picklable, for worker processes.

    Args:
      config: of the data; gives image size and augmentation.
    """

    def __init__(self, config: DataConfig):
        self.config = config
        _leave_threads_to_the_pipeline()

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        _leave_threads_to_the_pipeline()

    @property
    def identity(self) -> dict[str, Any]:
        """JSON values that fix the arrays of the samples, beside their texts and images."""
        return {}

    @abc.abstractmethod
    def training(self, record: Source, rng: np.random.Generator) -> Sample:
        """Makes an augmented sample of a record.

        Args:
          record: of the dataset, its images still encoded.
          rng: the source of every random choice.

        Returns:
          the arrays of one sample, by name, and under `DAMAGED` the names of its undecodable
          images.

        Raises:
          Unusable: no image of the record can be decoded.
        """

    def image(
        self, data: bytes, name: str, rng: np.random.Generator, *, mirror: bool
    ) -> np.ndarray:
        """Makes an augmented image, uint8 (size, size, 3), of an encoded one.

        Args:
          data: the encoded photograph.
          name: of the record, for the message.
          rng: the source of crop and affine change.
          mirror: whether to exchange the picture's left and right.

        Raises:
          ImageError: it cannot be decoded.
        """
        return self.images(data, name, rng, mirrors=(mirror,))[0]

    def images(
        self, data: bytes, name: str, rng: np.random.Generator, *, mirrors: Sequence[bool]
    ) -> list[np.ndarray]:
        """Makes augmented images of an encoded one, which is decoded once.

        Args:
          data, name, rng: as in `image`.
          mirrors: for each image, whether to exchange the picture's left and right.

        Returns:
          the images, each uint8 (size, size, 3).

        Raises:
          ImageError: it cannot be decoded.
        """
        image, augment = self.config.image, self.config.augment
        return training_images(data, name, image, augment, rng, mirrors=mirrors)


class TextSampleMaker(SampleMaker[Source]):
    """Maker of samples with a text.

    Args:
      config: of the data; gives tokenizer and language as well.

    Raises:
      UserError: see `Tokenizer`.
    """

    def __init__(self, config: DataConfig):
        super().__init__(config)
        self._tokenizer = Tokenizer(config.text)

    @property
    def identity(self) -> dict[str, Any]:
        """See `SampleMaker.identity`; the tokenizer."""
        return super().identity | {"tokenizer": self._tokenizer.digest}

    def tokens(self, text: str) -> np.ndarray:
        """Encodes a text as token ids, int32 (context_length,).

        Args:
          text: a report or prompt; cut where it is longer than the context.
        """
        return self._tokenizer.row(text)

    def pair(
        self, record: "ImageRecord", text: str, targets: Sample, rng: np.random.Generator
    ) -> Sample:
        """Makes a sample of one image and one text, which are mirrored together.

        Args:
          record: of one image.
          text: its text, in one language.
          targets: arrays that the objective needs beside, by name; added as they are.
          rng: the source of every random choice.

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
    """Chooses the text in a language, or in one that exists where there is none in it.

    Args:
      texts: text by language, "" or no entry where there is none.
      language: "en", "zh" or "mixed"; "mixed" samples among the languages that exist, or takes the
        first without `rng`.
      rng: of that choice; None samples nothing.

    Returns:
      the text; "" where there is none in any language.
    """
    available = [name for name in LANGUAGES if texts.get(name)]
    if not available:
        return ""
    if language in available:
        return texts[language]
    return texts[draw_language(language, available, rng) if language == "mixed" else available[0]]


def draw_language(language: str, available: Sequence[str], rng: np.random.Generator | None) -> str:
    """Gives the language itself, or samples one of those available where it is "mixed".

    Args:
      language: "en", "zh" or "mixed".
      available: languages to choose from, at least one where `language` is "mixed".
      rng: of the choice; None takes the first.
    """
    if language != "mixed":
        return language
    return available[0 if rng is None else int(rng.integers(len(available)))]


def draw_flip(augment: AugmentConfig, text: str, rng: np.random.Generator) -> tuple[bool, str]:
    """Samples whether a sample is mirrored, and gives the text that then belongs to it.

    "exchange" mirrors the anatomy: a mirrored left eye is a right eye, so the text's sides are
    exchanged too, and the sample stays as it is where that cannot be done safely. "independent"
    mirrors the picture alone, as published.

    Args:
      augment: its `flip` and `flip_probability`.
      text: the sample's text before mirroring.
      rng: of the choice; not used where `flip` is "none".

    Returns:
      whether to mirror, and the text.
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
