"""A case: images, of which some may be missing, and one report in ids of whole words."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from jaxtyping import UInt8

from retfm_jax.config import DataConfig, ExperimentConfig
from retfm_jax.data.images import ImageError
from retfm_jax.data.kinds.base import ArraySpec, SampleKind
from retfm_jax.data.samples import DAMAGED, Sample, SampleMaker, Unusable, choose_text, draw_flip
from retfm_jax.data.words import WordTokenizer

if TYPE_CHECKING:
    from retfm_jax.data.records import CaseRecord
    from retfm_jax.data.sources import RecordSource


class CaseKind(SampleKind):
    """Arrays `image`, (images, size, size, 3) uint8, `has_image`, (images,) bool, and `tokens`.

    A batch may say by `mask` which tokens count, where it is not the words and their end.
    There is at least one image; see `CaseMaker` for where each stands.
    """

    name = "case"
    unit = "cases"
    roles: ClassVar = {"image": "image", "has_image": "flag", "tokens": "tokens", "mask": "mask"}
    required = ("image",)
    targets = ("tokens",)
    texts = None
    several = True
    told = "reports"

    def arrays(self, config: ExperimentConfig) -> dict[str, ArraySpec]:
        """See `SampleKind.arrays`."""
        size, images = config.data.image.size, config.data.case_images
        length = config.data.text.context_length
        return {
            "image": ArraySpec("image", (images, size, size, 3), np.uint8),
            "has_image": ArraySpec("flag", (images,), np.bool_),
            "tokens": ArraySpec("tokens", (length,), np.int32, config.model.vocabulary),
        }

    def open(self, config: DataConfig) -> "tuple[RecordSource, None]":
        """See `SampleKind.open`: the cases of images, or of patients, that have a report."""
        from retfm_jax.data.cases import open_cases

        return open_cases(config, ("train",)).sources["train"], None

    def maker(self, config: DataConfig, label_names: tuple[str, ...]) -> SampleMaker:
        """See `SampleKind.maker`."""
        return CaseMaker(config)


class CaseMaker(SampleMaker["CaseRecord"]):
    """Maker of cases, whose images are mirrored together with their report.

    An image stands at its own place in the case, so that one that is missing moves no other, and a
    mirrored left eye is a right one. Of more images than a sample has, random ones stand there in
    their order.

    Args:
      config: of the data; gives image size, augmentation, number of images, words and language.

    Raises:
      UserError: see `WordTokenizer`.
    """

    def __init__(self, config: DataConfig):
        super().__init__(config)
        self._tokenizer = WordTokenizer(config.text)

    @property
    def identity(self) -> dict[str, str]:
        """See `SampleMaker.identity`; the words."""
        return super().identity | {"words": self._tokenizer.digest}

    def training(self, record: "CaseRecord", rng: np.random.Generator) -> Sample:
        """Makes an augmented case; see `SampleMaker.training`."""
        text = choose_text(record.report, self.config.language, rng)
        mirror, text = draw_flip(self.config.augment, text, rng)
        order = rng.permutation(len(record.images))
        images: dict[int, np.ndarray] = {}
        damaged: list[str] = []
        for index in map(int, order):
            if len(images) == self.config.case_images:
                break
            image = record.images[index]
            if not image:
                continue
            name = record.names[index]
            try:
                images[index] = self.image(image, name, rng, mirror=mirror)
            except ImageError:
                damaged.append(name)
        if not images:
            raise Unusable(record.record_id)
        count = len(record.images)
        if mirror and record.eyes and self.config.augment.flip == "exchange":
            images = {count - 1 - index: image for index, image in images.items()}
        return {
            **placed(images, count, self.config),
            "tokens": self._tokenizer.row(text),
            DAMAGED: damaged,
        }


def placed(
    images: Mapping[int, UInt8[np.ndarray, "size size 3"]], count: int, config: DataConfig
) -> dict[str, np.ndarray]:
    """Puts the images of a case where the network expects them.

    Args:
      images: (size, size, 3) uint8, by their index in the case; `config.case_images` at most.
      count: images of the case, the missing ones among them.
      config: of the data; gives number and size of the images.

    Returns:
      `image`, (images, size, size, 3) uint8, zeros where there is none, and `has_image`,
      (images,) bool.
    """
    size, places = config.image.size, config.case_images
    pixels, there = np.zeros((places, size, size, 3), np.uint8), np.zeros(places, np.bool_)
    for index, place in places_of(images, count, places).items():
        pixels[place], there[place] = images[index], True
    return {"image": pixels, "has_image": there}


def places_of(indices: Iterable[int], count: int, most: int) -> dict[int, int]:
    """Finds the place in a sample of each image of a case, by its index in the case, in order.

    Args:
      indices: of the images that there are.
      count: images of the case, the missing ones among them.
      most: places of a sample. Where the case has no more images, each has its own place.
    """
    own = sorted(indices)
    return {index: index if count <= most else rank for rank, index in enumerate(own)}


def evenly_first(count: int, first: int) -> list[int]:
    """Orders the images of a case, so that those come first that lie evenly over it.

    Args:
      count: images of the case.
      first: how many lie evenly from the first to the last one; the others follow in order.
    """
    evenly = np.linspace(0, count - 1, min(first, count)).round().astype(int).tolist()
    return [*evenly, *(index for index in range(count) if index not in evenly)]


KIND = CaseKind()
