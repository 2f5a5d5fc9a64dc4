"""A patient: a left eye, a right eye, either of which may be missing, and one report."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from retfm_jax.config import DataConfig, ExperimentConfig
from retfm_jax.data.images import ImageError
from retfm_jax.data.kinds.base import ArraySpec, SampleKind, image_spec, tokens_spec
from retfm_jax.data.samples import (
    DAMAGED,
    Sample,
    SampleMaker,
    TextSampleMaker,
    Unusable,
    choose_text,
    draw_flip,
)
from retfm_jax.errors import UserError
from retfm_jax.knowledge.laterality import SIDES, Side

if TYPE_CHECKING:
    from retfm_jax.data.records import PatientRecord
    from retfm_jax.data.sources import RecordSource

# Which stored eye stands at which side of a sample.
_IN_PLACE: dict[Side, Side] = {"left": "left", "right": "right"}
_EXCHANGED: dict[Side, Side] = {"left": "right", "right": "left"}


class PatientKind(SampleKind):
    """Arrays `image_left`, `image_right`, `tokens`, `has_left`, `has_right`."""

    name = "patient"
    unit = "patients"
    roles: ClassVar = {
        "image_left": "image",
        "image_right": "image",
        "tokens": "tokens",
        "has_left": "flag",
        "has_right": "flag",
    }
    required = ("image_left", "image_right", "tokens")
    paired_eyes = True

    def arrays(self, config: ExperimentConfig) -> dict[str, ArraySpec]:
        """See `SampleKind.arrays`."""
        image, present = image_spec(config), ArraySpec("flag", (), np.bool_)
        return {
            "image_left": image,
            "image_right": image,
            "tokens": tokens_spec(config),
            "has_left": present,
            "has_right": present,
        }

    def open(self, config: DataConfig) -> "tuple[RecordSource, None]":
        """See `SampleKind.open`."""
        from retfm_jax.data.mixing import with_mix

        return with_mix(config, _open_patients), None

    def maker(self, config: DataConfig, label_names: tuple[str, ...]) -> SampleMaker:
        """See `SampleKind.maker`."""
        return PatientMaker(config)


def _open_patients(config: DataConfig) -> "RecordSource":
    from retfm_jax.data.sources import open_training_split

    source = open_training_split(config)
    if source.kind != "patient":
        raise UserError(
            f"dataset {source.name} holds single images, but the method learns from patients "
            "with a left and a right eye"
        )
    return source


class PatientMaker(TextSampleMaker["PatientRecord"]):
    """Maker of patients, whose eyes are augmented once or several times.

    All views of a patient are mirrored together where that exchanges the eyes, and each for itself
    where the flip is "independent"; crop and affine change are each view's own.

    Args:
      config: of the data; gives image size, augmentation, tokenizer and language.
      views: prefixes of their arrays.
    """

    def __init__(self, config: DataConfig, views: tuple[str, ...] = ("image",)):
        super().__init__(config)
        self._views = views
        self._nothing = np.zeros((config.image.size, config.image.size, 3), np.uint8)

    def training(self, record: "PatientRecord", rng: np.random.Generator) -> Sample:
        """Makes an augmented patient; see `SampleMaker.training`."""
        augment = self.config.augment
        text = choose_text(record.report, self.config.language, rng)
        eyes = _IN_PLACE
        if augment.flip == "independent":
            drawn = [[rng.random() < augment.flip_probability for _ in SIDES] for _ in self._views]
            mirrors = dict(zip(SIDES, zip(*drawn, strict=True), strict=True))
        else:
            mirror, text = draw_flip(augment, text, rng)
            mirrors = dict.fromkeys(SIDES, (mirror,) * len(self._views))
            if mirror:
                eyes = _EXCHANGED

        def load(data: bytes, name: str, side: Side) -> list[np.ndarray]:
            return self.images(data, name, rng, mirrors=mirrors[side])

        return self._sample(record, eyes, text, load)

    def _sample(
        self,
        record: "PatientRecord",
        eyes: Mapping[Side, Side],
        text: str,
        load: Callable[[bytes, str, Side], list[np.ndarray]],
    ) -> Sample:
        sample: Sample = {"tokens": self.tokens(text), DAMAGED: []}
        for side in SIDES:
            sample |= {f"{view}_{side}": self._nothing for view in self._views}
            sample[f"has_{side}"] = np.bool_(False)
        images = {"left": record.left, "right": record.right}
        for side, stored in eyes.items():
            if images[stored]:
                name = f"{record.record_id}/{stored}"
                try:
                    loaded = load(images[stored], name, side)
                except ImageError:
                    sample[DAMAGED].append(name)
                    continue
                for view, image in zip(self._views, loaded, strict=True):
                    sample[f"{view}_{side}"] = image
                sample[f"has_{side}"] = np.bool_(True)
        if not (sample["has_left"] or sample["has_right"]):
            raise Unusable(record.record_id)
        return sample


KIND = PatientKind()
