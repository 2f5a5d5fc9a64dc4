"""An image-text pair."""

from typing import TYPE_CHECKING, ClassVar

import numpy as np

from retfm_jax.config import DataConfig, ExperimentConfig
from retfm_jax.data.kinds.base import ArraySpec, SampleKind, image_spec, tokens_spec
from retfm_jax.data.samples import Sample, SampleMaker, TextSampleMaker, choose_text

if TYPE_CHECKING:
    from retfm_jax.data.records import ImageRecord
    from retfm_jax.data.sources import RecordSource


class PairKind(SampleKind):
    """Arrays `image`, `tokens`."""

    name = "pair"
    unit = "pairs"
    roles: ClassVar = {"image": "image", "tokens": "tokens"}
    required = ("image", "tokens")

    def arrays(self, config: ExperimentConfig) -> dict[str, ArraySpec]:
        """See `SampleKind.arrays`."""
        return {"image": image_spec(config), "tokens": tokens_spec(config)}

    def open(self, config: DataConfig) -> "tuple[RecordSource, None]":
        """See `SampleKind.open`: the images, or eyes of patients, that have a text of their own."""
        from retfm_jax.data.mixing import with_mix
        from retfm_jax.data.sources import as_images, open_training_split

        return with_mix(config, lambda one: as_images(open_training_split(one), "caption")), None

    def maker(self, config: DataConfig, label_names: tuple[str, ...]) -> SampleMaker:
        """See `SampleKind.maker`."""
        return PairMaker(config)


class PairMaker(TextSampleMaker["ImageRecord"]):
    """Maker of image-text pairs: an image with its caption."""

    def training(self, record: "ImageRecord", rng: np.random.Generator) -> Sample:
        """Makes an augmented pair; see `SampleMaker.training`."""
        text = choose_text(record.caption, self.config.language, rng)
        return self.pair(record, text, self.targets(text), rng)

    def targets(self, text: str) -> Sample:
        """Makes the arrays that the objective needs beside image and text; none here.

        Args:
          text: the caption as it is stored, not yet mirrored.

        Returns:
          arrays of one sample, by name.
        """
        return {}


KIND = PairKind()
