"""An image-text pair, with the conditions that the labeler finds in the text."""

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from retfm_jax.config import DataConfig, ExperimentConfig
from retfm_jax.data.kinds.base import ArraySpec, SampleKind, image_spec, tokens_spec
from retfm_jax.data.samples import Sample, SampleMaker, choose_text
from retfm_jax.knowledge.labels import label_reports, shared_labeler
from retfm_jax.knowledge.vocabulary import load_vocabulary

if TYPE_CHECKING:
    from retfm_jax.data.records import ImageRecord
    from retfm_jax.data.sources import RecordSource


class ImageKind(SampleKind):
    """Arrays `image`, `tokens`, `labels`.

    The labels are what the text says of the vocabulary's conditions: float multi-hot, uncertain
    ones included, all 0 where it says nothing.
    """

    name = "image"
    unit = "pairs"
    roles: ClassVar = {"image": "image", "tokens": "tokens", "labels": "labels"}
    required = ("image", "tokens")

    def arrays(self, config: ExperimentConfig) -> dict[str, ArraySpec]:
        """See `SampleKind.arrays`."""
        labels = getattr(config.model, "num_labels", None) or len(
            load_vocabulary(config.data.vocabulary, config.data.extend)
        )
        return {
            "image": image_spec(config),
            "tokens": tokens_spec(config),
            "labels": ArraySpec("labels", (labels,), np.float32),
        }

    def open(self, config: DataConfig) -> "tuple[RecordSource, None]":
        """See `SampleKind.open`."""
        from retfm_jax.data.sources import as_images, open_dataset

        source = open_dataset(config.dataset, config.train_split, config.data_dir)
        return as_images(source, "caption"), None

    def maker(self, config: DataConfig, label_names: tuple[str, ...]) -> SampleMaker:
        """See `SampleKind.maker`."""
        return _LabeledPairMaker(config)


class PairMaker(SampleMaker):
    """Image and text alone, as an expert pair is."""

    def training(self, record: "ImageRecord", rng: np.random.Generator) -> Sample:
        """An augmented pair."""
        text = choose_text(record.caption, self.config.language, rng)
        return self.pair(record, text, self.targets(text), rng)

    def targets(self, text: str) -> Sample:
        """What else the objective needs."""
        return {}


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
