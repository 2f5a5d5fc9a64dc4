"""An image-text pair, with the conditions that the labeler finds in the text."""

from typing import Any, ClassVar

import numpy as np

from retfm_jax.config import DataConfig, ExperimentConfig
from retfm_jax.data.kinds.base import ArraySpec
from retfm_jax.data.kinds.pair import PairKind, PairMaker
from retfm_jax.data.samples import Sample, SampleMaker
from retfm_jax.knowledge.labels import label_reports, shared_labeler
from retfm_jax.knowledge.vocabulary import load_vocabulary


class ImageKind(PairKind):
    """Arrays `image`, `tokens`, `labels`.

    The labels, (conditions,) float32 multi-hot, are the vocabulary's conditions that the text
    states, uncertain ones included; all 0 where it states none.
    """

    name = "image"
    roles: ClassVar = {**PairKind.roles, "labels": "labels"}

    def arrays(self, config: ExperimentConfig) -> dict[str, ArraySpec]:
        """See `SampleKind.arrays`."""
        labels = getattr(config.model, "num_labels", None) or len(
            load_vocabulary(config.data.vocabulary, config.data.extend)
        )
        return super().arrays(config) | {"labels": ArraySpec("labels", (labels,), np.float32)}

    def maker(self, config: DataConfig, label_names: tuple[str, ...]) -> SampleMaker:
        """See `SampleKind.maker`."""
        return _LabeledPairMaker(config)


class _LabeledPairMaker(PairMaker):
    def __init__(self, config: DataConfig):
        super().__init__(config)
        self._labeler = shared_labeler(config.vocabulary, config.extend)

    @property
    def identity(self) -> dict[str, Any]:
        return super().identity | {"vocabulary": self._labeler.vocabulary.digest}

    def targets(self, text: str) -> Sample:
        return {"labels": label_reports([text], labeler=self._labeler)[0]}


KIND = ImageKind()
