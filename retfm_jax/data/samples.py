"""Records -> samples: what one row of a batch holds, with or without augmentation."""

import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import cv2
import numpy as np

from retfm_jax.config import AugmentConfig, DataConfig
from retfm_jax.data.images import ImageError, training_image
from retfm_jax.data.records import LANGUAGES, ImageRecord, PatientRecord
from retfm_jax.data.sources import Record, categories
from retfm_jax.data.text import Tokenizer
from retfm_jax.knowledge.labels import label_reports, shared_labeler
from retfm_jax.knowledge.laterality import exchange_sides
from retfm_jax.knowledge.prompts import training_prompt

SampleKind = Literal["patient", "image", "category", "expert"]
Sample = dict[str, Any]

#: Key of a sample's host-only entry: names of its eyes that could not be decoded.
DAMAGED = "damaged"

_SIDES = ("left", "right")
# Which stored eye stands at which side of a sample.
_IN_PLACE = {"left": "left", "right": "right"}
_EXCHANGED = {"left": "right", "right": "left"}


class Unusable(Exception):
    """A record without any image that can be decoded."""


class SampleMaker:
    """Turns records of one dataset into samples of one kind.

    A sample holds the arrays that the method's `encode` takes, images as uint8 (see
    `data.device`), and `DAMAGED`:
      patient: image_left, image_right, tokens, has_left, has_right
      image: image, tokens, labels (what the text says of the vocabulary's conditions: float
        multi-hot, uncertain ones included, all 0 where it says nothing)
      category: image, tokens, category (see `category_id`)
      expert: image, tokens
    """

    def __init__(self, kind: SampleKind, config: DataConfig, label_names: tuple[str, ...]):
        self._kind, self._config, self._label_names = kind, config, label_names
        self._tokenizer = Tokenizer(config.text)
        self._labeler = None
        if kind == "image":
            self._labeler = shared_labeler(config.vocabulary, config.extend)
        self._nothing = np.zeros((config.image.size, config.image.size, 3), np.uint8)
        _leave_threads_to_the_pipeline()

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        _leave_threads_to_the_pipeline()

    @property
    def identity(self) -> dict[str, str]:
        """JSON values that fix the tokens and labels of the samples, beside their texts."""
        found = {"tokenizer": self._tokenizer.digest}
        if self._labeler is not None:
            found["vocabulary"] = self._labeler.vocabulary.digest
        return found

    def training(self, record: Record, rng: np.random.Generator) -> Sample:
        """An augmented sample; every random choice comes from `rng`.

        Raises:
          Unusable: no image of the record can be decoded.
        """
        if isinstance(record, PatientRecord):
            return self._training_patient(record, rng)
        language = self._config.language
        if self._kind == "category":
            prompt = training_prompt(
                categories(record, self._label_names),
                record.attributes,
                rng,
                # Categories beside a caption were cut from it: they are the source's own words.
                domain_knowledge=not (record.categories and any(record.caption.values())),
                language=_draw_language(language, LANGUAGES, rng),
            )
            text, target = prompt.text, {"category": category_id(prompt.category)}
        else:
            text = choose_text(record.caption, language, rng)
            target = self._labels(text)
        mirror, text = draw_flip(self._config.augment, text, rng)

        def load(data: bytes, name: str) -> np.ndarray:
            return training_image(
                data, name, self._config.image, self._config.augment, rng, mirror=mirror
            )

        return self._image(record, text, target, load)

    def _training_patient(self, record: PatientRecord, rng: np.random.Generator) -> Sample:
        augment = self._config.augment
        text = choose_text(record.report, self._config.language, rng)
        eyes = _IN_PLACE
        if augment.flip == "independent":
            mirrored = {side: rng.random() < augment.flip_probability for side in _SIDES}
        else:
            mirror, text = draw_flip(augment, text, rng)
            mirrored = dict.fromkeys(_SIDES, mirror)
            if mirror:
                eyes = _EXCHANGED

        def load(data: bytes, name: str, side: str) -> np.ndarray:
            return training_image(
                data, name, self._config.image, augment, rng, mirror=mirrored[side]
            )

        return self._patient(record, eyes, text, load)

    def _labels(self, text: str) -> Sample:
        if self._labeler is None:
            return {}
        return {"labels": label_reports([text], labeler=self._labeler)[0]}

    def _patient(
        self,
        record: PatientRecord,
        eyes: Mapping[str, bytes],
        text: str,
        load: Callable[[bytes, str, str], np.ndarray],
    ) -> Sample:
        sample = {"tokens": self._tokenizer.row(text), DAMAGED: []}
        for side in _SIDES:
            sample |= {f"image_{side}": self._nothing, f"has_{side}": np.bool_(False)}
        images = {"left": record.left, "right": record.right}
        for side, stored in eyes.items():
            if images[stored]:
                name = f"{record.record_id}/{stored}"
                try:
                    sample[f"image_{side}"] = load(images[stored], name, side)
                    sample[f"has_{side}"] = np.bool_(True)
                except ImageError:
                    sample[DAMAGED].append(name)
        if not (sample["has_left"] or sample["has_right"]):
            raise Unusable(record.record_id)
        return sample

    def _image(
        self,
        record: ImageRecord,
        text: str,
        target: Sample,
        load: Callable[[bytes, str], np.ndarray],
    ) -> Sample:
        try:
            image = load(record.image, record.record_id)
        except ImageError as error:
            raise Unusable(record.record_id) from error
        return {"image": image, "tokens": self._tokenizer.row(text), DAMAGED: []} | target


def category_id(name: str) -> np.int32:
    """A number that is equal for equal categories, over all datasets, and different otherwise.

    The objective only compares categories, so a checksum serves: it needs no list of all
    categories beforehand. Among 1,000 names the chance that two collide is 1 in 4,000.
    """
    return np.int32(zlib.crc32(name.encode()) & 0x7FFFFFFF)


def choose_text(
    texts: Mapping[str, str], language: str, rng: np.random.Generator | None = None
) -> str:
    """The text in a language, or in one that exists where there is none in it.

    Args:
      language: "mixed" draws among the languages that exist, or takes the first without `rng`.
    """
    available = [name for name in LANGUAGES if texts.get(name)]
    if not available:
        return ""
    if language in available:
        return texts[language]
    return texts[_draw_language(language, available, rng) if language == "mixed" else available[0]]


def _draw_language(language: str, available: Sequence[str], rng: np.random.Generator | None) -> str:
    if language != "mixed":
        return language
    return available[0 if rng is None else rng.integers(len(available))]


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
