"""UNETR's head for vision transformers, as VisionFM has it (ABILab-CUHK/VisionFM).

Four maps of a transformer, all of one resolution, and the image are brought to 1/8, 1/4, 1/2 and
1/1 of the image's resolution and joined from the coarsest to the finest (Hatamizadeh et al., WACV
2022, in two dimensions).
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Key

from retfm_jax.models.decoding import (
    ConvBlock,
    Upsample,
    block_names,
    resize_maps,
    upsample_names,
)
from retfm_jax.models.layers import dropout
from retfm_jax.models.resnet import Conv, Groups, Names
from retfm_jax.ranges import Positive, Rate, Section

#: Joins from 1/8 to 1/1 of the image's resolution.
_JOINS = (1, 2, 3, 4)
#: The maps' resolution is this many times coarser than the image's.
_PATCH = 16


@dataclasses.dataclass(frozen=True)
class UnetrConfig(Section):
    """Sizes of the head; the defaults are the published ones.

    Attributes:
      channels: at half of the image's resolution; an even number.
      dropout: share of the channels of the last map that is zeroed in training.
    """

    kind: ClassVar[str] = "unetr"
    sizes: ClassVar[Mapping[str, Mapping[str, Any]]] = {}

    channels: Positive = 32
    dropout: Rate = 0.3

    def __post_init__(self):
        super().__post_init__()
        if self.channels % 2:
            raise ValueError(f"channels {self.channels} must be even: the last map has half of it")


class Lift(nnx.Module):
    """Doubles the resolution of a map several times, a block behind each.

    Args:
      inputs, outputs: channels.
      times: how often, 1 to 3.
      rngs: streams of random numbers for the initial parameters.
    """

    def __init__(self, inputs: int, outputs: int, times: int, *, rngs: nnx.Rngs):
        self.times = times
        for number in range(1, times + 1):
            width = inputs if number == 1 else outputs
            setattr(self, f"up{number}", Upsample(width, outputs, rngs=rngs))
            setattr(self, f"block{number}", ConvBlock(outputs, outputs, rngs=rngs))

    def __call__(
        self, x: Float[Array, "b h w i"], *, groups: Groups | None
    ) -> Float[Array, "b _h _w o"]:
        for number in range(1, self.times + 1):
            x = getattr(self, f"block{number}")(getattr(self, f"up{number}")(x), groups=groups)
        return x


class Pair(nnx.Module):
    """Two blocks, one behind the other.

    Args:
      inputs, outputs: channels.
      rngs: streams of random numbers for the initial parameters.
    """

    def __init__(self, inputs: int, outputs: int, *, rngs: nnx.Rngs):
        self.block1 = ConvBlock(inputs, outputs, rngs=rngs)
        self.block2 = ConvBlock(outputs, outputs, rngs=rngs)

    def __call__(
        self, x: Float[Array, "b h w i"], *, groups: Groups | None
    ) -> Float[Array, "b h w o"]:
        return self.block2(self.block1(x, groups=groups), groups=groups)


class UnetrHead(nnx.Module):
    """The head: four maps of a vision transformer and the image -> logits of every pixel.

    Args:
      config: its sizes.
      width: channels of the maps.
      outputs: logits of a pixel.
      dtype: compute type; parameters stay float32.
      rngs: streams of random numbers for the initial parameters.
    """

    def __init__(
        self,
        config: UnetrConfig,
        width: int,
        outputs: int,
        *,
        dtype: Literal["float32", "bfloat16"] = "float32",
        rngs: nnx.Rngs,
    ):
        self.config, self.dtype = config, dtype
        channels = [4 * config.channels, 2 * config.channels, config.channels, config.channels // 2]
        inputs = width
        for number, here in zip(_JOINS, channels, strict=True):
            setattr(self, f"d{number}", Upsample(inputs, here, rngs=rngs))
            skip = Pair(3, here, rngs=rngs) if number == 4 else Lift(width, here, number, rngs=rngs)
            setattr(self, f"s{number}", skip)
            setattr(self, f"c{number}", Pair(2 * here, here, rngs=rngs))
            inputs = here
        self.cls = Conv(inputs, outputs, 1, bias=True, rngs=rngs)

    def __call__(
        self,
        maps: Sequence[Float[Array, "b _h _w d"]],
        images: Float[Array, "b h w 3"],
        *,
        groups: Groups | None = None,
        keys: Key[Array, " b"] | None = None,
    ) -> Float[Array, "b h w outputs"]:
        """Computes the logits of every pixel, float32.

        Args:
          maps: four of the tower, the first block's first; see `ViT.maps`.
          images: what the maps are of, normalized, NHWC float32. Where their sides are no multiple
            of 16, or the tower's patches are not of 16 pixels, maps and images are resized to the
            nearest ones, and the logits back.
          groups: rows that batch norms normalize together; None: by their running statistics.
          keys: randomness of dropped channels, one for each image; None drops none.
        """
        size = (images.shape[1], images.shape[2])
        grid = max(1, round(size[0] / _PATCH)), max(1, round(size[1] / _PATCH))
        first, second, third, x = (resize_maps(z.astype(self.dtype), grid) for z in maps)
        fine = resize_maps(images.astype(self.dtype), (_PATCH * grid[0], _PATCH * grid[1]))
        for number, skip in zip(_JOINS, (third, second, first, fine), strict=True):
            x = getattr(self, f"d{number}")(x)
            other = getattr(self, f"s{number}")(skip, groups=groups)
            joined = jnp.concatenate([x, other], axis=-1)
            x = getattr(self, f"c{number}")(joined, groups=groups)
        whole = jnp.ones((x.shape[0], 1, 1, x.shape[-1]), x.dtype)
        x = x * dropout(whole, self.config.dropout, keys)
        return resize_maps(self.cls(x.astype(jnp.float32)), size)


def names() -> Names:
    """Rows of (published name, our path, transform) of the head, relative to it."""
    rows = []
    for number in _JOINS:
        rows += upsample_names(f"d{number}.deconv", f"d{number}")
        for index in range(number if number < 4 else 0):
            path = f"s{number}"
            rows += upsample_names(f"{path}.{2 * index}.deconv", f"{path}/up{index + 1}")
            rows += _block_names(f"{path}.{2 * index + 1}", f"{path}/block{index + 1}")
        for index in (0, 1):
            rows += _block_names(f"c{number}.{index}", f"c{number}/block{index + 1}")
    for index in (0, 1):
        rows += _block_names(f"s4.{index}", f"s4/block{index + 1}")
    return (*rows, ("cls.weight", "cls/kernel", "conv"), ("cls.bias", "cls/bias", "copy"))


def _block_names(published: str, path: str) -> Names:
    return block_names(f"{published}.layers.0", f"{published}.layers.1", path)
