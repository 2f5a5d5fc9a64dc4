"""Vision transformers (Dosovitskiy et al., ICLR 2021) of every form in use for the retina."""

import dataclasses
import operator
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float, Int, Key

from retfm_jax.models.activations import ACTIVATIONS
from retfm_jax.models.attention import attention
from retfm_jax.models.layers import (
    LayerNorm,
    Linear,
    Remat,
    Tower,
    drop_path,
    pad_tokens,
    scan_layers,
    slice_layers,
    split,
    stack_layers,
)
from retfm_jax.models.positions import resize_grid
from retfm_jax.models.taps import Tap, Taps, tapped
from retfm_jax.ranges import Count, Positive, PositiveFloat, Rate, Section

#: What makes tokens of images, before the first block.
_BEFORE = ("patch", "class_embedding", "position_embedding", "registers", "ln_pre")

#: What self-supervised towers have in common, from which forms below differ.
_PLAIN = {"activation": "gelu", "norm_eps": 1e-6, "pre_norm": False, "patch_bias": True}
_DINOV2 = {**_PLAIN, "patch_size": 14, "layer_scale": True}
_DINOV3 = {
    **_PLAIN, "norm_eps": 1e-5, "layer_scale": True, "registers": 4, "qkv_bias": False,
    "positions": "rope",
}  # fmt: skip
_SIGLIP = {
    **_PLAIN, "activation": "gelu_tanh", "class_token": False, "pooling": "attention",
}  # fmt: skip
_SMALL = {"width": 384}
_LARGE = {"width": 1024, "layers": 24}
_HUGE = {"width": 1280, "layers": 32}
_GIANT = {"width": 1536, "layers": 40, "activation": "swiglu", "mlp_width": 4096}


@dataclasses.dataclass(frozen=True)
class ViTConfig(Section):
    """Sizes and form of the tower; the defaults are CLIP's ViT-B/16 at 224 px.

    Attributes:
      image_size: height and width of the images in pixels.
      patch_size: height and width of a patch; divides the image's.
      width: of the tokens.
      layers: transformer blocks.
      heads: attention heads; None means one for every 64 of the width.
      mlp_width: of a block's hidden layer; None means four times the width.
      activation: between a block's linear maps; "gelu" is exact, "quick_gelu" x sigmoid(1.702 x).
      norm_eps: what layer norms add to the variance.
      pre_norm: whether tokens are normalized before the first block, as in CLIP.
      patch_bias, qkv_bias: whether patches and the attention's inputs have a bias.
      layer_scale: whether each branch is scaled by channel (Touvron et al., ICCV 2021).
      class_token: whether a learned token stands before the patches.
      registers: further learned tokens (Darcet et al., ICLR 2024), behind the class token.
      positions: "learned" embeddings are added to the patches; "rope" rotates queries and keys of
        patches by their row and column (Simeoni et al. 2025, DINOv3).
      class_position: whether the class token has a learned position, too.
      pooling: what the image's features are: the "class" token after the last norm; the "mean" of
        the normalized patches; "mean_norm", the norm of the mean of the patches; "attention" of a
        learned query (Zhai et al., ICCV 2023).
      drop_path: probability that the last block leaves out a branch in training; grows linearly
        from 0 at the first (Huang et al., ECCV 2016).
      patch_dropout: share of the patch tokens dropped in training (FLIP, Li et al. 2023).
      remat: what the backward pass computes again to save memory.
    """

    kind: ClassVar[str] = "vit"
    sizes: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "ViT-S/16": _SMALL,
        "ViT-B/32": {"patch_size": 32},
        "ViT-B/16": {},
        "ViT-L/16": _LARGE,
        "ViT-L/14": {**_LARGE, "patch_size": 14},
        "ViT-L/14@336px": {**_LARGE, "patch_size": 14, "image_size": 336},
        "ViT-H/14": {**_HUGE, "patch_size": 14, "heads": 16},
        "MAE-B/16": {**_PLAIN, "pooling": "mean_norm"},
        "MAE-L/16": {**_PLAIN, **_LARGE, "pooling": "mean_norm"},
        "MAE-H/14": {**_PLAIN, **_HUGE, "heads": 16, "patch_size": 14, "pooling": "mean_norm"},
        "DINOv2-S/14": {**_DINOV2, **_SMALL},
        "DINOv2-B/14": _DINOV2,
        "DINOv2-L/14": {**_DINOV2, **_LARGE},
        "DINOv2-g/14": {**_DINOV2, **_GIANT},
        "DINOv2-S/14-reg4": {**_DINOV2, **_SMALL, "registers": 4},
        "DINOv2-B/14-reg4": {**_DINOV2, "registers": 4},
        "DINOv2-L/14-reg4": {**_DINOV2, **_LARGE, "registers": 4},
        "DINOv3-S/16": {**_DINOV3, **_SMALL},
        "DINOv3-B/16": _DINOV3,
        "DINOv3-L/16": {**_DINOV3, **_LARGE},
        "SigLIP-B/16": _SIGLIP,
        "SigLIP-L/16": {**_SIGLIP, **_LARGE},
    }

    image_size: Positive = 224
    patch_size: Positive = 16
    width: Positive = 768
    layers: Positive = 12
    heads: Positive | None = None
    mlp_width: Positive | None = None
    activation: Literal["quick_gelu", "gelu", "gelu_tanh", "swiglu"] = "quick_gelu"
    norm_eps: PositiveFloat = 1e-5
    pre_norm: bool = True
    patch_bias: bool = False
    qkv_bias: bool = True
    layer_scale: bool = False
    class_token: bool = True
    registers: Count = 0
    positions: Literal["learned", "rope"] = "learned"
    class_position: bool = True
    pooling: Literal["class", "mean", "mean_norm", "attention"] = "class"
    drop_path: Rate = 0.0
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
        if self.positions == "rope" and self.width // self.num_heads % 4:
            raise ValueError(
                f"positions rope needs heads whose width is a multiple of 4, not "
                f"{self.width // self.num_heads}"
            )
        if self.pooling == "class" and not self.class_token:
            raise ValueError("pooling class needs class_token")
        if self.pooling == "attention" and self.activation == "swiglu":
            raise ValueError("pooling attention has an MLP of its own, which knows no swiglu")

    @property
    def num_heads(self) -> int:
        return self.heads or max(self.width // 64, 1)

    @property
    def hidden_width(self) -> int:
        return self.mlp_width or 4 * self.width

    @property
    def grid(self) -> int:
        """Patches along a side of the image."""
        return self.image_size // self.patch_size

    @property
    def num_patches(self) -> int:
        return self.grid**2

    @property
    def prefix_tokens(self) -> int:
        """Tokens before the patches: the class token and registers."""
        return self.class_token + self.registers

    @property
    def position_rows(self) -> int:
        """Rows of the learned positions; 0 without."""
        if self.positions == "rope":
            return 0
        return self.num_patches + (self.class_token and self.class_position)

    @property
    def map_levels(self) -> tuple[int, ...]:
        """Blocks, from 0, whose outputs are feature maps by default: the ends of four quarters.

        Of 12 blocks they are 3, 5, 7 and 11, as in VisionFM and RET-CLIP+.
        """
        if self.layers == 12:
            return (3, 5, 7, 11)
        return tuple(-(-self.layers * quarter // 4) - 1 for quarter in (1, 2, 3, 4))


class Block(nnx.Module):
    """A pre-norm transformer block: attention, then two linear maps, each added to its input.

    Args:
      config: sizes and form of the network.
      rngs: streams of random numbers for the initial parameters.
    """

    def __init__(self, config: ViTConfig, *, rngs: nnx.Rngs):
        width, hidden, eps = config.width, config.hidden_width, config.norm_eps
        residual_std = width**-0.5 * (2 * config.layers) ** -0.5
        inner = 2 * hidden if config.activation == "swiglu" else hidden
        scale = 1e-5 * jnp.ones(width)
        self.heads, self.activation = config.num_heads, ACTIVATIONS[config.activation]
        self.ln_1 = LayerNorm(width, eps=eps)
        self.qkv = Linear(width, 3 * width, std=width**-0.5, bias=config.qkv_bias, rngs=rngs)
        self.out = Linear(width, width, std=residual_std, bias=True, rngs=rngs)
        self.scale_1 = nnx.Param(scale) if config.layer_scale else None
        self.ln_2 = LayerNorm(width, eps=eps)
        self.fc = Linear(width, inner, std=(2 * width) ** -0.5, bias=True, rngs=rngs)
        self.proj = Linear(hidden, width, std=residual_std, bias=True, rngs=rngs)
        self.scale_2 = nnx.Param(scale) if config.layer_scale else None

    def __call__(
        self,
        x: Float[Array, "b n d"],
        angles: Float[Array, "b n a"] | None = None,
        keys: Key[Array, " b"] | None = None,
        rate: Float[Array, ""] | float = 0.0,
        tap: Tap | None = None,
        *,
        seen: int | None = None,
    ) -> Float[Array, "b n d"]:
        """Runs the block.

        Args:
          x: tokens (b, n, d).
          angles: rotations of queries and keys in radians, of half a head's width; None: none.
          keys: randomness of dropped branches, one for each sample; None drops nothing.
          rate: probability that a sample leaves out a branch.
          tap: observes the attention probabilities; None: they are not looked at.
          seen: the first so many tokens are attended to, as others are padding; None: all.
        """
        first, second = split(keys, 2)
        query, key, value = (
            checkpoint_name(part, "qkv").reshape(*x.shape[:2], self.heads, -1)
            for part in self.qkv.parts(self.ln_1(x), 3)
        )
        if angles is not None:
            query, key = rotate(query, angles), rotate(key, angles)
        attended = attention(query, key, value, seen, tap=tap).reshape(x.shape)
        attended = self.out(checkpoint_name(attended, "attended"))
        x = x + drop_path(_scaled(attended, self.scale_1), rate, first)
        x = checkpoint_name(x, "summed")
        hidden = checkpoint_name(self.fc(self.ln_2(x)), "hidden")
        hidden = self.proj(self.activation(hidden))
        return x + drop_path(_scaled(hidden, self.scale_2), rate, second)


def _scaled(x: Float[Array, "b n d"], scale: nnx.Param | None) -> Float[Array, "b n d"]:
    return x if scale is None else x * scale.astype(x.dtype)


class AttentionPooling(nnx.Module):
    """Attention of one learned query over the tokens, and a residual MLP (Zhai et al. 2023).

    Args:
      config: sizes and form of the network.
      rngs: streams of random numbers for the initial parameters.
    """

    def __init__(self, config: ViTConfig, *, rngs: nnx.Rngs):
        width, hidden = config.width, config.hidden_width
        self.heads, self.activation = config.num_heads, ACTIVATIONS[config.activation]
        self.query = nnx.Param(width**-0.5 * jax.random.normal(rngs.params(), (width,)))
        self.qkv = Linear(width, 3 * width, std=width**-0.5, bias=True, rngs=rngs)
        self.out = Linear(width, width, std=width**-0.5, bias=True, rngs=rngs)
        self.norm = LayerNorm(width, eps=config.norm_eps)
        self.fc = Linear(width, hidden, std=(2 * width) ** -0.5, bias=True, rngs=rngs)
        self.proj = Linear(hidden, width, std=hidden**-0.5, bias=True, rngs=rngs)

    def __call__(
        self, tokens: Float[Array, "b n d"], tap: Tap | None = None
    ) -> Float[Array, "b d"]:
        """Pools tokens (b, n, d) into (b, d); `tap` observes the attention probabilities."""
        b, _, d = tokens.shape
        kernels, bias = jnp.split(self.qkv.kernel[...], 3, axis=1), self.qkv.bias
        assert bias is not None
        biases = jnp.split(bias[...], 3)
        query = jnp.broadcast_to(self.query[...], (b, 1, d))
        query, key, value = (
            (x @ kernel + bias).reshape(b, -1, self.heads, d // self.heads)
            for x, kernel, bias in zip((query, tokens, tokens), kernels, biases, strict=True)
        )
        x = self.out(attention(query, key, value, tap=tap).reshape(b, d))
        return x + self.proj(self.activation(self.fc(self.norm(x))))


class ViT(Tower):
    """The image tower: patches -> tokens -> features -> embedding.

    Args:
      config: sizes and form of the network.
      embed_dim: width of the embedding; None: features are not projected.
      dtype: compute type; parameters stay float32.
      rngs: streams of random numbers for the initial parameters.

    Attributes:
      taps: observe the attention probabilities, "blocks" of the stacked blocks and "pool" of what
        becomes the features; None: nothing is looked at.
    """

    def __init__(
        self,
        config: ViTConfig,
        embed_dim: int | None,
        *,
        dtype: Literal["float32", "bfloat16"] = "float32",
        rngs: nnx.Rngs,
    ):
        self.config, self.dtype = config, dtype
        self.taps: Taps | None = nnx.data(None)
        width, patch, eps = config.width, config.patch_size, config.norm_eps
        std = width**-0.5

        def normal(*shape):
            return nnx.Param(std * jax.random.normal(rngs.params(), shape))

        fan_in = 3 * patch * patch
        kernel = fan_in**-0.5 * jax.random.normal(rngs.params(), (patch, patch, 3, width))
        self.patch = nnx.Dict(kernel=nnx.Param(kernel))
        if config.patch_bias:
            self.patch["bias"] = nnx.Param(jnp.zeros(width))
        self.class_embedding = normal(width) if config.class_token else None
        rows = config.position_rows
        self.position_embedding = normal(rows, width) if rows else None
        self.registers = normal(config.registers, width) if config.registers else None
        self.ln_pre = LayerNorm(width, eps=eps) if config.pre_norm else None
        self.blocks = stack_layers(lambda rngs: Block(config, rngs=rngs), config.layers, rngs)
        self.ln_post = LayerNorm(width, eps=eps)
        pooled = config.pooling == "attention"
        self.pooling = AttentionPooling(config, rngs=rngs) if pooled else None
        self.projection = None if embed_dim is None else normal(width, embed_dim)

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
          keys: randomness of dropped patches and branches, one for each image; None drops none.
          train, views: of no effect here; image towers with batch norms take them.

        Returns:
          the projected embedding (b, embed_dim), not normalized, which is the features themselves
          without a projection; and the features (b, width), pooled after the last norm as
          configured. Both are float32.

        Raises:
          ValueError: the images have another size than configured.
        """
        drop_keys, layer_keys = split(keys, 2)
        patches, kept = self.patches(images), None
        if self.config.patch_dropout and drop_keys is not None:
            kept = _kept(self.config, drop_keys)
        pooled = self.pool(self.tokens(patches, kept, keys=layer_keys))
        return pooled if self.projection is None else pooled @ self.projection[...], pooled

    def layers_above(self, path: str) -> int | Int[np.ndarray, " layers"]:
        """See `Tower.layers_above`; the layers are the blocks."""
        part, layers = path.partition("/")[0], self.config.layers
        if part == "blocks":
            return np.arange(layers, 0, -1)
        return layers + 1 if part in _BEFORE else 0

    def maps(
        self,
        images: Float[Array, "b h w 3"],
        levels: Sequence[int] | None = None,
        *,
        keys: Key[Array, " b"] | None = None,
        train: bool = False,
        views: int = 1,
    ) -> tuple[Float[Array, "b _h _w d"], ...]:
        """Computes feature maps: the patches of chosen blocks' outputs, each after the last norm.

        Learned positions are resized bicubically to the images' grid: with corners aligned as in
        Chinese-CLIP where tokens are normalized before the first block, else as in MAE and timm.
        No patches are dropped.

        Args:
          images: normalized, NHWC float32; height and width are multiples of the patch's.
          levels: numbers of the blocks, from 0; None: `ViTConfig.map_levels`.
          keys: randomness of dropped branches, one for each image; None drops none.
          train, views: of no effect here; image towers with batch norms take them.

        Returns:
          a map (b, h / patch, w / patch, width) of each level, in the compute type.

        Raises:
          ValueError: the images are no whole number of patches, or there is no such block.
        """
        levels = self.config.map_levels if levels is None else levels
        patch, (h, w) = self.config.patch_size, images.shape[1:3]
        if h % patch or w % patch:
            raise ValueError(f"images of {h} x {w} are no multiple of the patches of {patch}")
        _, layer_keys = split(keys, 2)
        grid = (h // patch, w // patch)
        found = self.tokens_of(levels, self._embed(images), grid=grid, keys=layer_keys)
        first = self.config.prefix_tokens
        return tuple(self.ln_post(x[:, first:]).reshape(x.shape[0], *grid, -1) for x in found)

    def patches(self, images: Float[Array, "b h w 3"]) -> Float[Array, "b n d"]:
        """Embeds patches and adds learned positions.

        Args:
          images: normalized, NHWC float32, height and width as configured.

        Returns:
          patch tokens (b, n, d) in the compute type, row by row.

        Raises:
          ValueError: the images have another size than configured.
        """
        size = self.config.image_size
        if images.shape[1:] != (size, size, 3):
            raise ValueError(
                f"the network takes images of {size} x {size} x 3, not {images.shape[1:]}"
            )
        return self._embed(images)

    def _embed(self, images: Float[Array, "b h w 3"]) -> Float[Array, "b n d"]:
        """Patch tokens of images of any whole number of patches."""
        config, patch = self.config, self.config.patch_size
        b, rows, columns = images.shape[0], images.shape[1] // patch, images.shape[2] // patch
        # A convolution whose stride is its kernel is a matrix product over patches:
        # (b, n, pp3) . (pp3, d) -> (b, n, d)
        pixels = images.astype(self.dtype).reshape(b, rows, patch, columns, patch, 3)
        pixels = pixels.transpose(0, 1, 3, 2, 4, 5).reshape(b, rows * columns, -1)
        x = pixels @ self.patch["kernel"].reshape(-1, config.width).astype(self.dtype)
        if config.patch_bias:
            x = x + self.patch["bias"].astype(self.dtype)
        if self.position_embedding is not None:
            positions = self.position_embedding[-config.num_patches :]
            if (rows, columns) != (config.grid, config.grid):
                positions = positions.reshape(config.grid, config.grid, -1)
                positions = resize_grid(positions, (rows, columns), aligned=config.pre_norm)
                positions = positions.reshape(rows * columns, -1)
            x = x + positions.astype(self.dtype)
        return x

    def tokens(
        self,
        patches: Float[Array, "b n d"],
        kept: Int[Array, "b k"] | None = None,
        *,
        keys: Key[Array, " b"] | None = None,
    ) -> Float[Array, "b m d"]:
        """Runs the blocks.

        Args:
          patches: what `patches` returned.
          kept: indices (b, k) int32 of the patches that take part; None: all.
          keys: randomness of dropped branches, one for each image; None drops none.

        Returns:
          the last block's tokens (b, m, d), before the last norm: class token, registers, patches.
        """
        return self.tokens_of((self.config.layers - 1,), patches, kept, keys=keys)[0]

    def tokens_of(
        self,
        levels: Sequence[int],
        patches: Float[Array, "b n d"],
        kept: Int[Array, "b k"] | None = None,
        *,
        grid: tuple[int, int] | None = None,
        keys: Key[Array, " b"] | None = None,
    ) -> tuple[Float[Array, "b m d"], ...]:
        """Runs the blocks up to the last one that is asked for, and returns the tokens of some.

        Args:
          levels: numbers of the blocks, from 0.
          patches: tokens of the patches, row by row.
          kept: indices (b, k) int32 of the patches that take part; None: all.
          grid: rows and columns of patches; None: those of the configured size.
          keys: randomness of dropped branches, one for each image; None drops none.

        Returns:
          tokens (b, m, d) of each level, before the last norm: class token, registers, patches.

        Raises:
          ValueError: there is no such block.
        """
        config, b = self.config, patches.shape[0]
        unknown = [level for level in levels if not 0 <= level < config.layers]
        if unknown or not levels:
            raise ValueError(
                f"levels {list(levels)} are none of the blocks 0 to {config.layers - 1}"
            )
        angles = None
        if config.positions == "rope":
            turned = _angles(config, grid or (config.grid, config.grid))
            angles = jnp.broadcast_to(turned, (b, *turned.shape))
        if kept is not None:
            patches = jnp.take_along_axis(patches, kept[..., None], axis=1)
            angles = None if angles is None else jnp.take_along_axis(angles, kept[..., None], 1)
        if angles is not None:
            angles = jnp.pad(angles, ((0, 0), (config.prefix_tokens, 0), (0, 0)))
        before = []
        if self.class_embedding is not None:
            first = self.class_embedding.astype(self.dtype)
            if self.position_embedding is not None and config.class_position:
                first = first + self.position_embedding[0].astype(self.dtype)
            before.append(first[None])
        if self.registers is not None:
            before.append(self.registers.astype(self.dtype))
        before = [jnp.broadcast_to(x, (b, *x.shape)) for x in before]
        x = jnp.concatenate([*before, patches], axis=1)
        if self.ln_pre is not None:
            x = self.ln_pre(x)
        tap = None if self.taps is None else self.taps["blocks"]
        count = x.shape[1]
        if tap is None:
            x = pad_tokens(x)
        if angles is not None:
            angles = jnp.pad(angles, ((0, 0), (0, x.shape[1] - count), (0, 0)))
        rates = None
        if keys is not None and config.drop_path:
            rates = jnp.linspace(0, config.drop_path, config.layers), split(keys, config.layers)

        def run(block, x, each):
            rates, tap = each
            rate, keys = (0.0, None) if rates is None else rates
            return block(x, angles, keys, rate, tap, seen=count)

        # One scan from level to level keeps what is asked for, not the outputs of all blocks.
        found, start = {}, 0
        for level in sorted(set(levels)):
            part = slice(start, level + 1)
            x, _ = scan_layers(
                slice_layers(self.blocks, part),
                x,
                run,
                layers=level + 1 - start,
                each=jax.tree.map(operator.itemgetter(part), (rates, tap)),
                # What is looked into is differentiated for its slots alone: memory is what counts.
                remat=config.remat if tap is None else "full",
            )
            found[level], start = x[:, :count], level + 1
        return tuple(found[level] for level in levels)

    def pool(self, tokens: Float[Array, "b n d"]) -> Float[Array, "b d"]:
        """Pools the last block's tokens into the image's features, as configured.

        Args:
          tokens: what `tokens` returned.

        Returns:
          features (b, d) float32.
        """
        first = self.config.prefix_tokens
        match self.config.pooling:
            case "class":
                return self.ln_post(tokens[:, 0].astype(jnp.float32))
            case "mean":
                return self.mean(self.ln_post(tokens[:, first:].astype(jnp.float32)))
            case "mean_norm":
                return self.ln_post(self.mean(tokens[:, first:].astype(jnp.float32)))
        assert self.pooling is not None
        tap = None if self.taps is None else self.taps["pool"]
        return self.pooling(self.ln_post(tokens.astype(jnp.float32)), tap)

    def mean(self, patches: Float[Array, "b n d"]) -> Float[Array, "b d"]:
        """Computes the mean of patch tokens; where it is observed, as attention of equal parts.

        Args:
          patches: tokens (b, n, d) without class token and registers.
        """
        if self.taps is None:
            return patches.mean(1)
        b, n, _ = patches.shape
        weights = tapped(self.taps, "pool", jnp.full((b, 1, 1, n), 1 / n))
        return jnp.einsum("bhqn,bnd->bd", weights, patches)


def _kept(config: ViTConfig, keys: Key[Array, " b"]) -> Int[Array, "b k"]:
    """Indices of the patches that stay, in order; a random subset for each image."""
    n = config.num_patches
    kept = max(1, int(n * (1 - config.patch_dropout)))
    order = jnp.argsort(jax.vmap(lambda key: jax.random.uniform(key, (n,)))(keys), axis=1)
    return jnp.sort(order[:, :kept], axis=1)


def _angles(config: ViTConfig, grid: tuple[int, int]) -> Float[np.ndarray, "n a"]:
    """Rotations of each patch in radians, half a head's width of them: first rows, then columns.

    2 pi y / 100^(4 i / d) for y in (-1, 1), the patch's center, and head width d (DINOv3).
    """
    head = config.width // config.num_heads
    frequencies = 100.0 ** -(4 * np.arange(head // 4) / head)
    centers = [(np.arange(side) + 0.5) / side * 2 - 1 for side in grid]
    turns = [2 * np.pi * center[:, None] * frequencies for center in centers]  # (side, d / 4)
    rows, columns = np.broadcast_arrays(turns[0][:, None], turns[1][None])
    return np.concatenate([rows, columns], -1).reshape(-1, head // 2).astype(np.float32)


def rotate(x: Float[Array, "b n h w"], angles: Float[Array, "b n a"]) -> Float[Array, "b n h w"]:
    """Rotates pairs of channels, i and i + w / 2, by angles (Su et al. 2021).

    Args:
      x: queries or keys (b, n, heads, w).
      angles: in radians, (b, n, w / 2); zeros where nothing is rotated.
    """
    sine, cosine = jnp.sin(angles)[:, :, None], jnp.cos(angles)[:, :, None]
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    rotated = [first * cosine - second * sine, second * cosine + first * sine]
    return jnp.concatenate(rotated, -1).astype(x.dtype)


def sine_cosine_positions(grid: int, width: int, class_row: bool) -> Float[np.ndarray, "n d"]:
    """Fixed positions of MAE (He et al., CVPR 2022): half the width tells columns, half rows.

    Each half holds sines, then cosines, of position / 10000^(2 i / (width / 2)).

    Args:
      grid: patches along a side.
      width: of the tokens; a multiple of 4.
      class_row: whether a row of zeros for the class token stands first.

    Returns:
      (grid * grid, width) float32, with a row more for the class token.
    """
    frequencies = 1 / 10000 ** (np.arange(width // 4) / (width / 4))
    turns = np.arange(grid)[:, None] * frequencies
    half = np.concatenate([np.sin(turns), np.cos(turns)], -1)  # (grid, width / 2)
    columns, rows = np.broadcast_arrays(half[None], half[:, None])
    table = np.concatenate([columns, rows], -1).reshape(grid * grid, width)
    return np.pad(table, ((int(class_row), 0), (0, 0))).astype(np.float32)
