"""A case: images, of which some may be missing, and one report in ids of whole words."""

from typing import TYPE_CHECKING, ClassVar

import numpy as np

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

    There is at least one image, and those that are there come first.
    """

    name = "case"
    unit = "cases"
    roles: ClassVar = {"image": "image", "has_image": "flag", "tokens": "tokens"}
    required = ("image",)
    targets = ("tokens",)
    texts = None

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
        from retfm_jax.data.cases import as_cases
        from retfm_jax.data.sources import open_dataset

        source = open_dataset(config.dataset, config.train_split, config.data_dir, config.exclude)
        return as_cases(source), None

    def maker(self, config: DataConfig, label_names: tuple[str, ...]) -> SampleMaker:
        """See `SampleKind.maker`."""
        return CaseMaker(config)


class CaseMaker(SampleMaker["CaseRecord"]):
    """Maker of cases, whose images are mirrored together with their report.

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
        """Makes an augmented case; see `SampleMaker.training`.

        Of more images than a sample has, it has random ones, in their order.
        """
        size, places = self.config.image.size, self.config.case_images
        text = choose_text(record.report, self.config.language, rng)
        mirror, text = draw_flip(self.config.augment, text, rng)
        order = rng.permutation(len(record.images)).tolist()
        images: dict[int, np.ndarray] = {}
        damaged: list[str] = []
        while order and len(images) < places:
            index = order.pop()
            name = record.names[index]
            try:
                images[index] = self.image(record.images[index], name, rng, mirror=mirror)
            except ImageError:
                damaged.append(name)
        if not images:
            raise Unusable(record.record_id)
        pixels = np.zeros((places, size, size, 3), np.uint8)
        for place, index in enumerate(sorted(images)):
            pixels[place] = images[index]
        return {
            "image": pixels,
            "has_image": np.arange(places) < len(images),
            "tokens": self._tokenizer.row(text),
            DAMAGED: damaged,
        }


KIND = CaseKind()
