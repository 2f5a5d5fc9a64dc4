"""A photograph alone: what methods without texts learn from."""

from typing import TYPE_CHECKING, ClassVar

import numpy as np

from retfm_jax.config import DataConfig, ExperimentConfig
from retfm_jax.data.images import ImageError
from retfm_jax.data.kinds.base import ArraySpec, SampleKind, image_spec
from retfm_jax.data.samples import DAMAGED, Sample, SampleMaker, Unusable, draw_flip

if TYPE_CHECKING:
    from retfm_jax.data.records import ImageRecord
    from retfm_jax.data.sources import RecordSource


class PhotographKind(SampleKind):
    """Array `image`; `noise` decides which patches are hidden, where it is given."""

    name = "photograph"
    unit = "photographs"
    roles: ClassVar = {"image": "image", "noise": "noise"}
    required = ("image",)
    texts = None

    def arrays(self, config: ExperimentConfig) -> dict[str, ArraySpec]:
        """See `SampleKind.arrays`."""
        return {"image": image_spec(config)}

    def open(self, config: DataConfig) -> "tuple[RecordSource, None]":
        """See `SampleKind.open`: all images, or all eyes of patients that have one."""
        from retfm_jax.data.mixing import with_mix
        from retfm_jax.data.sources import as_images, open_training_split

        return with_mix(config, lambda one: as_images(open_training_split(one))), None

    def maker(self, config: DataConfig, label_names: tuple[str, ...]) -> SampleMaker:
        """See `SampleKind.maker`."""
        return PhotographMaker(config)


class PhotographMaker(SampleMaker["ImageRecord"]):
    """Maker of augmented photographs, mirrored as `augment` says."""

    def training(self, record: "ImageRecord", rng: np.random.Generator) -> Sample:
        """Makes an augmented photograph; see `SampleMaker.training`."""
        mirror, _ = draw_flip(self.config.augment, "", rng)
        try:
            image = self.image(record.image, record.record_id, rng, mirror=mirror)
        except ImageError as error:
            raise Unusable(record.record_id) from error
        return {"image": image, DAMAGED: []}


KIND = PhotographKind()
