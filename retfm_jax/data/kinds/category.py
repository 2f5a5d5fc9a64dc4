"""A category-labeled image with a prompt for its text, and an expert image-text pair beside it."""

import zlib
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from retfm_jax.config import DataConfig, ExperimentConfig
from retfm_jax.data.kinds.base import ArraySpec, SampleKind, image_spec, tokens_spec
from retfm_jax.data.kinds.pair import PairMaker
from retfm_jax.data.samples import Sample, SampleMaker, TextSampleMaker, choose_text, draw_language
from retfm_jax.knowledge.prompts import training_prompt
from retfm_jax.knowledge.vocabulary import LANGUAGES

if TYPE_CHECKING:
    from retfm_jax.data.records import ImageRecord
    from retfm_jax.data.sources import RecordSource


class CategoryKind(SampleKind):
    """Arrays `image`, `tokens`, `category`, `epoch`, and those of experts where there are some."""

    name = "category"
    unit = "pairs"
    roles: ClassVar = {
        "image": "image",
        "tokens": "tokens",
        "attention_mask": "mask",
        "category": "category",
        "epoch": "epoch",
        "expert_image": "image",
        "expert_tokens": "tokens",
        "expert_attention_mask": "mask",
    }
    required = ("image", "tokens")
    targets = ("category",)
    second = "expert_"
    texts = "knowledge"

    def arrays(self, config: ExperimentConfig) -> dict[str, ArraySpec]:
        """See `SampleKind.arrays`."""
        image, tokens = image_spec(config), tokens_spec(config)
        categories = max(2, config.train.batch_size // 2)
        found = {
            "image": image,
            "tokens": tokens,
            "category": ArraySpec("category", (), np.int32, categories),
            "epoch": ArraySpec("epoch", (), np.int32),
        }
        if config.data.expert is not None:
            found |= {"expert_image": image, "expert_tokens": tokens}
        return found

    def open(self, config: DataConfig) -> "tuple[RecordSource, RecordSource | None]":
        """See `SampleKind.open`; without experts where `config.expert` names none."""
        from retfm_jax.data.mixing import with_mix
        from retfm_jax.data.sources import as_images, open_dataset

        images = with_mix(config, _open_categories)
        if config.expert is None:
            return images, None
        expert = open_dataset(
            config.expert.dataset, config.expert.split, config.data_dir, config.exclude
        )
        return images, as_images(expert, "caption")

    def maker(self, config: DataConfig, label_names: tuple[str, ...]) -> SampleMaker:
        """See `SampleKind.maker`."""
        return _CategoryMaker(config, label_names)

    def second_maker(self, config: DataConfig, label_names: tuple[str, ...]) -> SampleMaker:
        """See `SampleKind.second_maker`."""
        return PairMaker(config)


def _open_categories(config: DataConfig) -> "RecordSource":
    from retfm_jax.data.sources import as_images, balanced, open_training_split, with_category

    images = as_images(open_training_split(config), "category")
    images = with_category(images, banned=config.banned_categories)
    return balanced(images) if config.balance_sets else images


class _CategoryMaker(TextSampleMaker["ImageRecord"]):
    def __init__(self, config: DataConfig, label_names: tuple[str, ...]):
        super().__init__(config)
        self._label_names = label_names

    def training(self, record: "ImageRecord", rng: np.random.Generator) -> Sample:
        shown = record.shows(self._label_names)
        if not shown:  # a description, which is a category of its own
            text = choose_text(record.caption, self.config.language, rng)
            return self.pair(record, text, {"category": category_id(text)}, rng)
        prompt = training_prompt(
            shown,
            record.attributes,
            rng,
            # Categories beside a caption were cut from it: they are the source's own words.
            domain_knowledge=not (record.categories and any(record.caption.values())),
            language=draw_language(self.config.language, LANGUAGES, rng),
        )
        return self.pair(record, prompt.text, {"category": category_id(prompt.category)}, rng)


def category_id(name: str) -> np.int32:
    """Number that is equal for equal categories of all datasets, and different otherwise.

    The objective only compares categories, so a checksum serves: it needs no list of all categories
    beforehand. Among 1,000 names the chance that two collide is 1 in 4,000.

    Args:
      name: of a category.

    Returns:
      31 bits of the CRC-32 of the name, int32, not negative.
    """
    return np.int32(zlib.crc32(name.encode()) & 0x7FFFFFFF)


KIND = CategoryKind()
