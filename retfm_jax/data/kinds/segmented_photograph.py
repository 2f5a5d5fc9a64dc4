"""A photograph and the masks of its structures: what segmentation learns from."""

import math
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from retfm_jax.config import DataConfig, ExperimentConfig
from retfm_jax.data import geometry, masks
from retfm_jax.data.geometry import Map
from retfm_jax.data.images import ImageError, decode_reduced, least_side
from retfm_jax.data.kinds.base import ArraySpec, SampleKind, image_spec
from retfm_jax.data.samples import DAMAGED, Sample, SampleMaker, Unusable, draw_flip
from retfm_jax.errors import UserError

if TYPE_CHECKING:
    from retfm_jax.data.records import SegmentedRecord
    from retfm_jax.data.sources import RecordSource


class SegmentedPhotographKind(SampleKind):
    """Arrays `image`, `masks` and `fov`, whose pixels lie on each other.

    `masks`, (size, size, structures) uint8, hold 1 where a structure is present, 0 where it is
    absent and 255 where nobody knows; `fov`, (size, size) uint8, 1 inside the field of view.
    """

    name = "segmented_photograph"
    unit = "photographs"
    roles: ClassVar = {"image": "image", "masks": "structures", "fov": "field"}
    required = ("image",)
    targets = ("masks", "fov")
    texts = None
    told = "structures"

    def arrays(self, config: ExperimentConfig) -> dict[str, ArraySpec]:
        """See `SampleKind.arrays`."""
        size, structures = config.data.image.size, config.model.outputs
        return {
            "image": image_spec(config),
            "masks": ArraySpec("structures", (size, size, structures), np.uint8),
            "fov": ArraySpec("field", (size, size), np.uint8),
        }

    def open(self, config: DataConfig) -> "tuple[RecordSource, None]":
        """See `SampleKind.open`: the photographs of the training split that have masks."""
        from retfm_jax.data.segmented import open_segmented

        return open_segmented(config).sources["train"], None

    def maker(self, config: DataConfig, label_names: tuple[str, ...]) -> SampleMaker:
        """See `SampleKind.maker`."""
        return SegmentedPhotographMaker(config)


class SegmentedPhotographMaker(SampleMaker["SegmentedRecord"]):
    """Maker of augmented photographs with their masks, all through one affine map.

    Of a photograph one mask is decoded at a time, at the photograph's size, beside the photograph,
    which is decoded at the size that is needed.

    Args:
      config: of the data; gives image size, augmentation and geometry.

    Raises:
      UserError: an augmentation is on that would move the photograph and not its masks.
    """

    def __init__(self, config: DataConfig):
        super().__init__(config)
        if config.augment.rand_augment:
            raise UserError(
                "config.data.augment.rand_augment moves photographs and not their masks; set it to "
                "0, and use affine_probability and crop_area, which move both"
            )

    def training(self, record: "SegmentedRecord", rng: np.random.Generator) -> Sample:
        """Makes an augmented photograph and its masks; see `SampleMaker.training`.

        Raises:
          MaskError: a mask cannot be decoded, or is of another size.
        """
        config, size = self.config, self.config.image.size
        how, name = config.masks.resizing, record.record_id
        try:
            image, shape = decode_reduced(record.image, name, self._least_side)
        except ImageError as error:
            raise Unusable(name) from error
        factor = _factor(image, shape)
        field = masks.field_pixels(record.field, image, shape, name)
        mirror, _ = draw_flip(config.augment, "", rng)
        seen, to_seen, high, wide = geometry.seen(image, config.image, shape)
        if config.masks.geometry == "whole":
            area, resize = config.augment.crop_area, config.image.resize
            base = geometry.cropped(high, wide, size, resize, area, rng)
        else:
            base = self._window(record, shape, to_seen, (high, wide), rng)
        matrix = geometry.augmented(base, size, config.augment, rng, mirror=mirror)
        to_source = to_seen @ matrix
        reduced = geometry.scaled(1 / factor, 1 / factor) @ matrix
        drawn = np.empty((size, size, len(record.masks)), np.uint8)
        for column, mask in enumerate(record.masks):
            if mask is None or not mask.data:
                drawn[..., column] = masks.pixels(mask, (size, size), name)
                continue
            pixels = masks.pixels(mask, shape, name)
            drawn[..., column] = geometry.warp_mask(pixels, to_source, size, how)
        return {
            "image": geometry.warp_image(seen, reduced, size),
            "masks": drawn,
            "fov": geometry.warp_mask(field, to_source, size),
            DAMAGED: [],
        }

    def _least_side(self, long_side: int) -> int:
        """The shorter side from which a photograph is still scaled down."""
        config = self.config
        if config.masks.geometry == "whole":
            return least_side(config.image, config.augment)
        return math.ceil((config.masks.working_size or long_side) * config.masks.scale[1])

    def _window(
        self,
        record: "SegmentedRecord",
        shape: tuple[int, int],
        to_seen: Map,
        seen: tuple[int, int],
        rng: np.random.Generator,
    ) -> Map:
        """A random window, which holds a structure as often as the configuration asks."""
        chosen, size = self.config.masks, self.config.image.size
        low, high = (math.log(factor) for factor in chosen.scale)
        factor = math.exp(rng.uniform(low, high))
        step = max(shape) / (chosen.working_size or max(shape)) / factor
        point = None
        if rng.random() < chosen.holding:
            point = _point(record, shape, rng)
        if point is not None:
            point = (point[0] - to_seen[1, 2], point[1] - to_seen[0, 2])
        return geometry.window(*seen, size, step, rng, point)


def _factor(image: np.ndarray, shape: tuple[int, int]) -> int:
    """How much smaller a photograph was decoded than it is: 1, 2, 4 or 8 times."""
    return round(max(shape) / max(image.shape[:2]))


def _point(
    record: "SegmentedRecord", shape: tuple[int, int], rng: np.random.Generator
) -> tuple[float, float] | None:
    """Y and x of a random pixel of a random structure of a photograph; None where it shows none."""
    there = [mask for mask in record.masks if mask is not None and mask.data]
    for index in rng.permutation(len(there)).tolist():
        shown = masks.pixels(there[index], shape, record.record_id) == 1
        rows = np.cumsum(shown.sum(axis=1))
        if not rows[-1]:
            continue
        # Row by row: a list of all pixels would be larger than the photograph.
        row = int(np.searchsorted(rows, rng.integers(rows[-1]), side="right"))
        columns = np.flatnonzero(shown[row])
        return row + 0.5, float(columns[rng.integers(len(columns))]) + 0.5
    return None


KIND = SegmentedPhotographKind()
