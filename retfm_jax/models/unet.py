"""FLAIR's U-Net decoder for residual networks (jusiro/FLAIR, Apache-2.0, after GLoRIA's).

Five maps go in: of the stem and the four stages. Each of five steps doubles the resolution and sees
the next finer map, the last one the image itself (Ronneberger et al., MICCAI 2015).
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from retfm_jax.models import resnet
from retfm_jax.models.decoding import (
    ConvBlock,
    Upsample,
    block_names,
    resize_maps,
    upsample_names,
)
from retfm_jax.models.resnet import Conv, Groups, Names
from retfm_jax.ranges import Section

#: Steps from the coarsest map to the image.
_STEPS = (1, 2, 3, 4, 5)
#: Inside, a narrow bridge has this share of the coarsest map's channels.
_NARROW = 4


@dataclasses.dataclass(frozen=True)
class UnetConfig(Section):
    """Form of the decoder.

    Attributes:
      bridge: what stands on the coarsest map: "published" keeps its channels, which with ResNet-50
        are 75.5 of the network's 147.8 million parameters; "narrow" has a quarter of them inside,
        18.9 million.
    """

    kind: ClassVar[str] = "unet"
    sizes: ClassVar[Mapping[str, Mapping[str, Any]]] = {}

    bridge: Literal["published", "narrow"] = "published"


class UpStep(nnx.Module):
    """Doubles the resolution, halves the channels, and adds a finer map.

    Args:
      inputs: channels of the coarser map; the output has half of them.
      skip: channels of the finer map.
      rngs: streams of random numbers for the initial parameters.
    """

    def __init__(self, inputs: int, skip: int, *, rngs: nnx.Rngs):
        outputs = inputs // 2
        self.upsample = Upsample(inputs, outputs, rngs=rngs)
        self.block1 = ConvBlock(outputs + skip, outputs, rngs=rngs)
        self.block2 = ConvBlock(outputs, outputs, rngs=rngs)

    def __call__(
        self,
        x: Float[Array, "b h w i"],
        skip: Float[Array, "b _h _w s"],
        *,
        groups: Groups | None,
    ) -> Float[Array, "b _h _w o"]:
        """Runs the step.

        Args:
          x: the coarser map, NHWC.
          skip: the finer map, whose size the output has.
          groups: see `ConvBlock`.
        """
        x = resize_maps(self.upsample(x), (skip.shape[1], skip.shape[2]))
        x = self.block1(jnp.concatenate([x, skip], axis=-1), groups=groups)
        return self.block2(x, groups=groups)


class Unet(nnx.Module):
    """The decoder: five feature maps and the image -> logits at the image's resolution.

    Args:
      config: its form.
      widths: channels of the maps, the finest first; see `ResNetConfig.map_widths`.
      outputs: logits of a pixel.
      dtype: compute type; parameters stay float32.
      rngs: streams of random numbers for the initial parameters.
    """

    def __init__(
        self,
        config: UnetConfig,
        widths: Sequence[int],
        outputs: int,
        *,
        dtype: Literal["float32", "bfloat16"] = "float32",
        rngs: nnx.Rngs,
    ):
        self.dtype = dtype
        width = widths[-1]
        inside = width if config.bridge == "published" else width // _NARROW
        self.bridge1 = ConvBlock(width, inside, rngs=rngs)
        self.bridge2 = ConvBlock(inside, width, rngs=rngs)
        for number, skip in zip(_STEPS, (*widths[-2::-1], 3), strict=True):
            setattr(self, f"up{number}", UpStep(width, skip, rngs=rngs))
            width //= 2
        self.head = Conv(width, outputs, 1, bias=True, rngs=rngs)

    def __call__(
        self,
        maps: Sequence[Float[Array, "b _h _w _d"]],
        images: Float[Array, "b h w 3"],
        *,
        groups: Groups | None = None,
    ) -> Float[Array, "b h w outputs"]:
        """Computes the logits of every pixel, float32.

        Args:
          maps: of the tower, the finest first; see `ResNet.maps`.
          images: what the maps are of, normalized, NHWC float32. Sides that are multiples of 32
            need no resizing of maps.
          groups: rows that batch norms normalize together; None: by their running statistics.
        """
        x = self.decode(maps, images, groups=groups)
        return self.head(x.astype(jnp.float32))

    def decode(
        self,
        maps: Sequence[Float[Array, "b _h _w _d"]],
        images: Float[Array, "b h w 3"],
        *,
        groups: Groups | None = None,
    ) -> Float[Array, "b h w d"]:
        """Computes the last map, from which the logits are, in the compute type.

        Args:
          maps, images, groups: as of a call.
        """
        x = self.bridge1(maps[-1].astype(self.dtype), groups=groups)
        x = self.bridge2(x, groups=groups)
        for number, skip in zip(_STEPS, (*maps[-2::-1], images), strict=True):
            x = getattr(self, f"up{number}")(x, skip.astype(self.dtype), groups=groups)
        return x


def names() -> Names:
    """Rows of (published name, our path, transform) of the decoder, relative to the network."""
    rows = []
    for number in (1, 2):
        block = f"vision_model.bridge.bridge.{number - 1}"
        rows += block_names(f"{block}.conv", f"{block}.bn", f"bridge{number}")
    for number in _STEPS:
        step = f"vision_model.up_blocks.{number - 1}"
        rows += upsample_names(f"{step}.upsample", f"up{number}/upsample")
        for block in (1, 2):
            name = f"{step}.conv_block_{block}"
            rows += block_names(f"{name}.conv", f"{name}.bn", f"up{number}/block{block}")
    return (
        *rows,
        ("classifier.weight", "head/kernel", "conv"),
        ("classifier.bias", "head/bias", "copy"),
    )


def tower_names(config: resnet.ResNetConfig) -> Names:
    """Rows of (published name, our path, transform) of FLAIR's encoder below the decoder.

    They are torchvision's, with the stem and the stages numbered as lists.

    Args:
      config: sizes of the tower.
    """
    return tuple(
        (f"vision_model.{_listed(name)}", path, rule) for name, path, rule in resnet.names(config)
    )


def _listed(name: str) -> str:
    """The name of torchvision's tensor in FLAIR's U-Net."""
    part, _, rest = name.partition(".")
    if part.startswith("layer"):
        return f"down_blocks.{int(part.removeprefix('layer')) - 1}.{rest}"
    return f"input_block.{('conv1', 'bn1').index(part)}.{rest}"


def torchvision_name(name: str) -> str:
    """Finds torchvision's name of a tensor of FLAIR's encoder below the decoder.

    Args:
      name: published name, without "vision_model.".

    Returns:
      the name that `resnet.infer_config` reads; `name` itself where it is none of the encoder.
    """
    part, _, rest = name.partition(".")
    number, _, tail = rest.partition(".")
    if part == "down_blocks" and number.isdecimal():
        return f"layer{int(number) + 1}.{tail}"
    if part == "input_block" and number in ("0", "1"):
        return f"{('conv1', 'bn1')[int(number)]}.{tail}"
    return name
