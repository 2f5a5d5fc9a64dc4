"""A photograph and its classes: what class heads learn from."""

from typing import TYPE_CHECKING, ClassVar

import numpy as np

from retfm_jax.config import DataConfig, ExperimentConfig
from retfm_jax.data.kinds.base import ArraySpec
from retfm_jax.data.kinds.photograph import PhotographKind, PhotographMaker
from retfm_jax.data.samples import Sample, SampleMaker

if TYPE_CHECKING:
    from retfm_jax.data.records import ImageRecord
    from retfm_jax.data.sources import RecordSource


class LabeledPhotographKind(PhotographKind):
    """Arrays `image`, `labels`: (classes,) float32 multi-hot, -1 where unknown."""

    name = "labeled_photograph"
    roles: ClassVar = {"image": "image", "labels": "labels"}
    targets = ("labels",)
    told = "classes"

    def arrays(self, config: ExperimentConfig) -> dict[str, ArraySpec]:
        """See `SampleKind.arrays`."""
        labels = ArraySpec("labels", (config.model.outputs,), np.float32)
        return super().arrays(config) | {"labels": labels}

    def open(self, config: DataConfig) -> "tuple[RecordSource, None]":
        """See `SampleKind.open`: the photographs of the training split that have labels."""
        from retfm_jax.data.labeled import open_labeled

        return open_labeled(config).sources["train"], None

    def maker(self, config: DataConfig, label_names: tuple[str, ...]) -> SampleMaker:
        """See `SampleKind.maker`."""
        return LabeledPhotographMaker(config)


class LabeledPhotographMaker(PhotographMaker):
    """Maker of augmented photographs with their labels."""

    def training(self, record: "ImageRecord", rng: np.random.Generator) -> Sample:
        """Makes an augmented photograph and its labels; see `SampleMaker.training`."""
        return super().training(record, rng) | {"labels": record.labels.astype(np.float32)}


KIND = LabeledPhotographKind()
