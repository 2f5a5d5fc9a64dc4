"""CLIP's vision transformer (Radford et al. 2021; Dosovitskiy et al. 2021)."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Key

from retfm_jax.models.layers import (
    LayerNorm,
    Linear,
    Remat,
    attention,
    count_layers,
    majority,
    scan_layers,
    split,
    stack_layers,
)
from retfm_jax.ranges import Positive, Rate, Section

#: Rows of (published name, our path, transform), relative to the tower.
NAMES = (
    ("class_embedding", "class_embedding", "copy"),
    ("positional_embedding", "position_embedding", "copy"),
    ("proj", "projection", "copy"),
    ("conv1.weight", "patch/kernel", "conv"),
    ("ln_pre.weight", "ln_pre/scale", "copy"),
    ("ln_pre.bias", "ln_pre/bias", "copy"),
    ("transformer.resblocks.{n}.attn.in_proj_weight", "blocks/qkv/kernel", "linear"),
    ("transformer.resblocks.{n}.attn.in_proj_bias", "blocks/qkv/bias", "copy"),
    ("transformer.resblocks.{n}.attn.out_proj.weight", "blocks/out/kernel", "linear"),
    ("transformer.resblocks.{n}.attn.out_proj.bias", "blocks/out/bias", "copy"),
    ("transformer.resblocks.{n}.ln_1.weight", "blocks/ln_1/scale", "copy"),
    ("transformer.resblocks.{n}.ln_1.bias", "blocks/ln_1/bias", "copy"),
    ("transformer.resblocks.{n}.mlp.c_fc.weight", "blocks/fc/kernel", "linear"),
    ("transformer.resblocks.{n}.mlp.c_fc.bias", "blocks/fc/bias", "copy"),
    ("transformer.resblocks.{n}.mlp.c_proj.weight", "blocks/proj/kernel", "linear"),
    ("transformer.resblocks.{n}.mlp.c_proj.bias", "blocks/proj/bias", "copy"),
    ("transformer.resblocks.{n}.ln_2.weight", "blocks/ln_2/scale", "copy"),
    ("transformer.resblocks.{n}.ln_2.bias", "blocks/ln_2/bias", "copy"),
    ("ln_post.weight", "ln_post/scale", "copy"),
    ("ln_post.bias", "ln_post/bias", "copy"),
)


@dataclasses.dataclass(frozen=True)
class ViTConfig(Section):
    """Sizes of the tower; the defaults are ViT-B/16 at 224 px.

    Attributes:
      image_size: height and width of the images in pixels.
      patch_size: height and width of a patch; divides the image's.
      width: of the tokens.
      layers: transformer blocks.
      heads: attention heads; None means one for every 64 of the width.
      patch_dropout: share of the patch tokens dropped in training (FLIP, Li et al. 2023).
      remat: what the backward pass computes again to save memory.
    """

    kind: ClassVar[str] = "vit"
    sizes: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "ViT-S/16": {"width": 384},
        "ViT-B/32": {"patch_size": 32},
        "ViT-B/16": {},
        "ViT-L/16": {"width": 1024, "layers": 24},
        "ViT-L/14": {"width": 1024, "layers": 24, "patch_size": 14},
        "ViT-L/14@336px": {"width": 1024, "layers": 24, "patch_size": 14, "image_size": 336},
        "ViT-H/14": {"width": 1280, "layers": 32, "patch_size": 14, "heads": 16},
    }

    image_size: Positive = 224
    patch_size: Positive = 16
    width: Positive = 768
    layers: Positive = 12
    heads: Positive | None = None
    patch_dropout: Rate = 0.0
    remat: Remat = "none"

    def __post_init__(self):
        super().__post_init__()
        if self.image_size % self.patch_size:
            raise ValueError(
                f"image_size {self.image_size} is no multiple of patch_size {self.patch_size}"
            )
        if self.width % self.num_heads:
            raise ValueError(f"width {self.width} does not divide into {self.num_heads} heads")

    @property
    def num_heads(self) -> int:
        return self.heads or max(self.width // 64, 1)

    @property
    def num_patches(self) -> int:
        return (self.image_size // self.patch_size) ** 2


#: The published sizes.
SIZES = {
    "ViT-S/8": ViTConfig(patch_size=8, width=384),
    "ViT-B/16": ViTConfig(),
    "ViT-B/32": ViTConfig(patch_size=32),
    "ViT-L/14": ViTConfig(patch_size=14, width=1024, layers=24),
    "ViT-L/14-336": ViTConfig(image_size=336, patch_size=14, width=1024, layers=24),
    "ViT-H/14": ViTConfig(patch_size=14, width=1280, layers=32, heads=16),
}


def infer_config(shapes: Mapping[str, tuple[int, ...]]) -> ViTConfig:
    """Infers sizes from published tensors, by majority where they contradict each other.

    Args:
      shapes: of the tower's tensors, by name relative to the tower.
    """
    width = majority(shapes, (("class_embedding", 0), ("ln_*", 0), ("*.ln_?.weight", 0)), 768)
    patch = majority(shapes, (("conv1.weight", 3), ("conv1.weight", 2)), 16)
    tokens = majority(shapes, (("positional_embedding", 0),), 197)
    layers = count_layers(shapes, "transformer.resblocks.") or 12
    # H/14 is the one published tower whose heads are not 64 wide.
    heads = 16 if width == 1280 else None if width % 64 == 0 else 1
    return ViTConfig(
        image_size=patch * math.isqrt(max(tokens - 1, 1)),
        patch_size=patch,
        width=width,
        layers=layers,
        heads=heads,
    )


class Block(nnx.Module):
    """A pre-norm transformer block with QuickGELU, `x * sigmoid(1.702 x)`.

    Args:
      config: sizes of the network.
      rngs: streams of random numbers for the initial parameters.
    """

    def __init__(self, config: ViTConfig, *, rngs: nnx.Rngs):
        width = config.width
        residual_std = width**-0.5 * (2 * config.layers) ** -0.5
        self.heads = config.num_heads
        self.ln_1 = LayerNorm(width, eps=1e-5)
        self.qkv = Linear(width, 3 * width, std=width**-0.5, bias=True, rngs=rngs)
        self.out = Linear(width, width, std=residual_std, bias=True, rngs=rngs)
        self.ln_2 = LayerNorm(width, eps=1e-5)
        self.fc = Linear(width, 4 * width, std=(2 * width) ** -0.5, bias=True, rngs=rngs)
        self.proj = Linear(4 * width, width, std=residual_std, bias=True, rngs=rngs)

    def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
        b, n, d = x.shape
        qkv = self.qkv(self.ln_1(x)).reshape(b, n, 3, self.heads, d // self.heads)
        x = x + self.out(attention(*jnp.moveaxis(qkv, 2, 0)).reshape(b, n, d))
        hidden = self.fc(self.ln_2(x))
        return x + self.proj(hidden * jax.nn.sigmoid(1.702 * hidden))


class ViT(nnx.Module):
    """The image tower: patches -> class token -> embedding.

    Args:
      config: sizes of the network.
      embed_dim: width of the embedding.
      dtype: compute type; parameters stay float32.
      rngs: streams of random numbers for the initial parameters.
    """

    def __init__(
        self,
        config: ViTConfig,
        embed_dim: int,
        *,
        dtype: Literal["float32", "bfloat16"] = "float32",
        rngs: nnx.Rngs,
    ):
        self.config, self.dtype = config, dtype
        width, patch = config.width, config.patch_size
        std = width**-0.5

        def normal(*shape):
            return nnx.Param(std * jax.random.normal(rngs.params(), shape))

        fan_in = 3 * patch * patch
        kernel = fan_in**-0.5 * jax.random.normal(rngs.params(), (patch, patch, 3, width))
        self.patch = nnx.Dict(kernel=nnx.Param(kernel))
        self.class_embedding = normal(width)
        self.position_embedding = normal(config.num_patches + 1, width)
        self.ln_pre = LayerNorm(width, eps=1e-5)
        self.blocks = stack_layers(lambda rngs: Block(config, rngs=rngs), config.layers, rngs)
        self.ln_post = LayerNorm(width, eps=1e-5)
        self.projection = normal(width, embed_dim)

    def __call__(
        self,
        images: Float[Array, "b h w 3"],
        *,
        keys: Key[Array, " b"] | None = None,
        train: bool = False,
        views: int = 1,
    ) -> tuple[Float[Array, "b e"], Float[Array, "b d"]]:
        """Embeds normalized images.

        Args:
          images: normalized, NHWC float32, height and width as configured.
          keys: randomness of patch dropping, one for each image; None keeps every patch.
          train, views: of no effect here; image towers with batch norms take them.

        Returns:
          the projected embedding (b, embed_dim), not normalized, and the class token after the last
          norm (b, width), both float32.

        Raises:
          ValueError: the images have another size than configured.
        """
        config = self.config
        if images.shape[1:] != (config.image_size, config.image_size, 3):
            raise ValueError(
                f"the network takes images of {config.image_size} x {config.image_size} x 3, "
                f"not {images.shape[1:]}"
            )
        b, patch = len(images), config.patch_size
        grid = config.image_size // patch
        # A convolution whose stride is its kernel is a matrix product over patches:
        # (b, gg, pp3) . (pp3, d) -> (b, gg, d)
        patches = images.astype(self.dtype).reshape(b, grid, patch, grid, patch, 3)
        patches = patches.transpose(0, 1, 3, 2, 4, 5).reshape(b, grid * grid, -1)
        kernel = self.patch["kernel"].reshape(-1, config.width)
        positions = self.position_embedding.astype(self.dtype)
        x = patches @ kernel.astype(self.dtype) + positions[1:]
        drop_keys, layer_keys = split(keys, 2)
        if config.patch_dropout and drop_keys is not None:
            x = _drop_patches(x, config.patch_dropout, drop_keys)
        first = self.class_embedding.astype(self.dtype) + positions[0]
        x = jnp.concatenate([jnp.broadcast_to(first, (b, 1, config.width)), x], axis=1)
        x, _ = scan_layers(
            self.blocks,
            self.ln_pre(x),
            lambda block, x, keys: block(x),
            layers=config.layers,
            keys=layer_keys,
            remat=config.remat,
        )
        pooled = self.ln_post(x[:, 0].astype(jnp.float32))
        return pooled @ self.projection[...], pooled


def _drop_patches(
    x: Float[Array, "b n d"], rate: float, keys: Key[Array, " b"]
) -> Float[Array, "b k d"]:
    """Keeps a random subset of each image's patches, in order."""
    n = x.shape[1]
    kept = max(1, int(n * (1 - rate)))
    order = jnp.argsort(jax.vmap(lambda key: jax.random.uniform(key, (n,)))(keys), axis=1)
    return jnp.take_along_axis(x, jnp.sort(order[:, :kept], axis=1)[..., None], axis=1)
