"""Decoder of masked autoencoders (He et al., CVPR 2022)."""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from retfm_jax.models.layers import (
    LayerNorm,
    Linear,
    Remat,
    pad_tokens,
    scan_layers,
    stack_layers,
)
from retfm_jax.models.vit import Block, ViTConfig, sine_cosine_positions
from retfm_jax.ranges import Positive, Section

Names = tuple[tuple[str, str, str], ...]


@dataclasses.dataclass(frozen=True)
class DecoderConfig(Section):
    """Sizes of the decoder; the defaults are the published ones.

    Attributes:
      width: of the tokens, a multiple of 4.
      layers: transformer blocks.
      heads: attention heads.
      remat: what the backward pass computes again to save memory.
    """

    width: Positive = 512
    layers: Positive = 8
    heads: Positive = 16
    remat: Remat = "none"

    def __post_init__(self):
        super().__post_init__()
        if self.width % 4 or self.width % self.heads:
            raise ValueError(
                f"width {self.width} is no multiple of 4 and of its {self.heads} heads"
            )


class Decoder(nnx.Module):
    """Predicts the pixels of all patches from the tokens of the visible ones.

    Args:
      config: sizes of the decoder.
      image: the encoder's sizes.
      dtype: compute type; parameters stay float32.
      rngs: streams of random numbers for the initial parameters.
    """

    def __init__(
        self,
        config: DecoderConfig,
        image: ViTConfig,
        *,
        dtype: Literal["float32", "bfloat16"] = "float32",
        rngs: nnx.Rngs,
    ):
        self.config, self.dtype = config, dtype
        width, outputs = config.width, 3 * image.patch_size**2
        form = dataclasses.replace(
            image, width=width, layers=config.layers, heads=config.heads, mlp_width=None
        )
        self.embed = Linear(image.width, width, std=image.width**-0.5, bias=True, rngs=rngs)
        self.mask_token = nnx.Param(0.02 * jax.random.normal(rngs.params(), (width,)))
        positions = sine_cosine_positions(image.grid, width, class_row=True)
        self.position_embedding = nnx.Param(jnp.asarray(positions))
        self.blocks = stack_layers(lambda rngs: Block(form, rngs=rngs), config.layers, rngs)
        self.norm = LayerNorm(width, eps=image.norm_eps)
        self.predict = Linear(width, outputs, std=width**-0.5, bias=True, rngs=rngs)

    def __call__(
        self, tokens: Float[Array, "b t d"], restore: Int[Array, "b n"]
    ) -> Float[Array, "b n p"]:
        """Predicts patches.

        Args:
          tokens: of the encoder (b, 1 + k, d): the class token and the k visible patches.
          restore: where each patch stands when the visible ones are followed by the hidden ones,
            (b, n) int32.

        Returns:
          a flat patch of pixels for each, (b, n, p) float32; see `losses.masked_image.patchify`.
        """
        x = self.embed(tokens.astype(self.dtype))
        b, seen, width = x.shape
        missing = restore.shape[1] + 1 - seen
        hidden = jnp.broadcast_to(self.mask_token.astype(x.dtype), (b, missing, width))
        patches = jnp.concatenate([x[:, 1:], hidden], axis=1)
        patches = jnp.take_along_axis(patches, restore[..., None], axis=1)
        x = jnp.concatenate([x[:, :1], patches], axis=1) + self.position_embedding.astype(x.dtype)
        count, x = x.shape[1], pad_tokens(x)
        x, _ = scan_layers(
            self.blocks,
            x,
            lambda block, x, _: block(x, seen=count),
            layers=self.config.layers,
            each=None,
            remat=self.config.remat,
        )
        return self.predict(self.norm(x[:, :count].astype(jnp.float32)))[:, 1:]
