"""Vision transformers in PyTorch, of the forms that `models.vit` has."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from retfm_jax.interop.parts.torch_layers import ACTIVATIONS, attend, heads_first


class ViTBlock(nn.Module):
    """A pre-norm transformer block: attention, then two linear maps, each added to its input.

    Args:
      width, heads, hidden: of the tokens, of the attention, between the linear maps.
      activation: a key of `ACTIVATIONS`.
      eps: what norms add to the variance.
      qkv_bias: whether queries, keys and values have a bias.
      layer_scale: whether each branch is scaled by channel.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        hidden: int,
        activation: str,
        eps: float,
        qkv_bias: bool,
        layer_scale: bool,
    ):
        super().__init__()
        inner = 2 * hidden if activation == "swiglu" else hidden
        self.heads = heads
        self.ln_1 = nn.LayerNorm(width, eps=eps)
        self.qkv = nn.Linear(width, 3 * width, bias=qkv_bias)
        self.out = nn.Linear(width, width)
        self.scale_1 = nn.Parameter(torch.ones(width)) if layer_scale else None
        self.ln_2 = nn.LayerNorm(width, eps=eps)
        self.fc = nn.Linear(width, inner)
        self.activation = ACTIVATIONS[activation]()
        self.proj = nn.Linear(hidden, width)
        self.scale_2 = nn.Parameter(torch.ones(width)) if layer_scale else None

    def forward(self, x: Tensor, rotation: tuple[Tensor, Tensor] | None) -> Tensor:
        """Runs the block.

        Args:
          x: tokens (n, tokens, d).
          rotation: sine and cosine for queries and keys, (tokens, w / 2) each; None: none.
        """
        query, key, value = (
            heads_first(each, self.heads) for each in self.qkv(self.ln_1(x)).chunk(3, dim=-1)
        )
        if rotation is not None:
            query, key = rotate(query, *rotation), rotate(key, *rotation)
        y = self.out(attend(query, key, value))
        x = x + (y if self.scale_1 is None else y * self.scale_1)
        y = self.proj(self.activation(self.fc(self.ln_2(x))))
        return x + (y if self.scale_2 is None else y * self.scale_2)


def rotate(x: Tensor, sine: Tensor, cosine: Tensor) -> Tensor:
    """Rotates pairs of channels, i and i + w / 2 (Su et al. 2021).

    Args:
      x: queries or keys (n, heads, tokens, w).
      sine, cosine: of the angles, (tokens, w / 2).
    """
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cosine - second * sine, second * cosine + first * sine], dim=-1)


class AttentionPooling(nn.Module):
    """Attention of one learned query over the tokens, and a residual MLP (Zhai et al. 2023).

    Args:
      width, heads, hidden: of the tokens, of the attention, between the linear maps.
      activation: a key of `ACTIVATIONS`.
      eps: what norms add to the variance.
    """

    def __init__(self, width: int, heads: int, hidden: int, activation: str, eps: float):
        super().__init__()
        self.heads = heads
        self.query = nn.Parameter(torch.zeros(width))
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width, eps=eps)
        self.fc = nn.Linear(width, hidden)
        self.activation = ACTIVATIONS[activation]()
        self.proj = nn.Linear(hidden, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Pools tokens.

        Args:
          tokens: (n, tokens, d).

        Returns:
          (n, d).
        """
        weights, biases = self.qkv.weight.chunk(3), self.qkv.bias.chunk(3)
        first = self.query.expand(tokens.shape[0], 1, -1)
        query, key, value = (
            heads_first(nn.functional.linear(x, weight, bias), self.heads)
            for x, weight, bias in zip((first, tokens, tokens), weights, biases, strict=True)
        )
        x = self.out(attend(query, key, value))[:, 0]
        return x + self.proj(self.activation(self.fc(self.norm(x))))


class ViT(nn.Module):
    """A vision transformer: normalized images -> (embedding, features).

    Args:
      image_size, patch_size: in pixels.
      width, layers, heads, hidden: of the blocks.
      activation: a key of `ACTIVATIONS`.
      eps: what norms add to the variance.
      pre_norm: whether tokens are normalized before the first block.
      patch_bias, qkv_bias: whether patches, and queries, keys and values, have a bias.
      layer_scale: whether each branch is scaled by channel.
      class_token: whether a learned token stands before the patches.
      registers: further learned tokens behind it.
      rope: whether patches are told apart by rotations, else by learned positions.
      class_position: whether the class token has a learned position, too.
      pooling: "class", "mean", "mean_norm" or "attention".
      embed_dim: width of the embedding; None: it is the features.
    """

    def __init__(
        self,
        *,
        image_size: int,
        patch_size: int,
        width: int,
        layers: int,
        heads: int,
        hidden: int,
        activation: str,
        eps: float,
        pre_norm: bool,
        patch_bias: bool,
        qkv_bias: bool,
        layer_scale: bool,
        class_token: bool,
        registers: int,
        rope: bool,
        class_position: bool,
        pooling: str,
        embed_dim: int | None,
    ):
        super().__init__()
        grid = image_size // patch_size
        rows = 0 if rope else grid * grid + (class_token and class_position)
        self.pool, self.prefix, self.class_position = (
            pooling,
            class_token + registers,
            class_position,
        )
        self.patch = nn.Conv2d(3, width, patch_size, stride=patch_size, bias=patch_bias)
        self.class_embedding = nn.Parameter(torch.zeros(width)) if class_token else None
        self.position_embedding = nn.Parameter(torch.zeros(rows, width)) if rows else None
        self.registers = nn.Parameter(torch.zeros(registers, width)) if registers else None
        self.ln_pre = nn.LayerNorm(width, eps=eps) if pre_norm else None
        form = (width, heads, hidden, activation, eps, qkv_bias, layer_scale)
        self.blocks = nn.ModuleList(ViTBlock(*form) for _ in range(layers))
        self.ln_post = nn.LayerNorm(width, eps=eps)
        pooled = pooling == "attention"
        self.pooling = AttentionPooling(*form[:5]) if pooled else None
        self.projection = nn.Parameter(torch.zeros(width, embed_dim)) if embed_dim else None
        angles = rope_angles(grid, width // heads, self.prefix) if rope else torch.zeros(0)
        self.register_buffer("sine", angles.sin(), persistent=False)
        self.register_buffer("cosine", angles.cos(), persistent=False)
        self.rope = rope

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Embeds images.

        Args:
          images: normalized, (n, 3, h, w) float32.

        Returns:
          the embedding (n, e), not normalized, and the features (n, d).
        """
        (x,) = self.tokens(images, (len(self.blocks) - 1,))
        if self.pool == "class":
            features = self.ln_post(x[:, 0])
        elif self.pool == "mean":
            features = self.ln_post(x[:, self.prefix :]).mean(1)
        elif self.pool == "mean_norm":
            features = self.ln_post(x[:, self.prefix :].mean(1))
        else:
            assert self.pooling is not None
            features = self.pooling(self.ln_post(x))
        return (features if self.projection is None else features @ self.projection), features

    def maps(self, images: Tensor, levels: Sequence[int]) -> list[Tensor]:
        """Computes feature maps (n, d, rows, columns): patches of blocks behind the last norm.

        Args:
          images: normalized, (n, 3, h, w) float32.
          levels: numbers of the blocks, from 0.
        """
        n, side = images.shape[0], images.shape[2] // self.patch.stride[0]
        return [
            self.ln_post(x[:, self.prefix :]).transpose(1, 2).reshape(n, -1, side, side)
            for x in self.tokens(images, levels)
        ]

    def tokens(self, images: Tensor, levels: Sequence[int]) -> list[Tensor]:
        """Computes the outputs of blocks (n, tokens, d), before the last norm.

        Args:
          images: normalized, (n, 3, h, w) float32.
          levels: numbers of the blocks, from 0.
        """
        n = images.shape[0]
        patches = self.patch(images).flatten(2).transpose(1, 2)
        positions = self.position_embedding
        if positions is not None:
            patches = patches + positions[-patches.shape[1] :]
        before = []
        if self.class_embedding is not None:
            first = self.class_embedding
            if positions is not None and self.class_position:
                first = first + positions[0]
            before.append(first.expand(n, 1, -1))
        if self.registers is not None:
            before.append(self.registers.expand(n, -1, -1))
        x = torch.cat([*before, patches], dim=1)
        if self.ln_pre is not None:
            x = self.ln_pre(x)
        rotation = (self.sine, self.cosine) if self.rope else None
        found = {}
        for number, block in enumerate(self.blocks):
            x = block(x, rotation)
            if number in levels:
                found[number] = x
        return [found[level] for level in levels]


def rope_angles(grid: int, head: int, prefix: int) -> Tensor:
    """Computes rotations of tokens in radians, (prefix + grid grid, head / 2).

    2 pi y / 100^(4 i / head) for y in (-1, 1), the patch's center: first rows, then columns
    (DINOv3); 0 for the tokens before the patches.

    Args:
      grid: patches along a side.
      head: width of an attention head.
      prefix: tokens before the patches.
    """
    center = (torch.arange(grid, dtype=torch.float64) + 0.5) / grid * 2 - 1
    exponents = 4 * torch.arange(head // 4, dtype=torch.float64) / head
    turns = 2 * torch.pi * center[:, None] * 100.0**-exponents
    rows = turns[:, None].expand(grid, grid, -1)
    columns = turns[None].expand(grid, grid, -1)
    patches = torch.cat([rows, columns], dim=-1).reshape(grid * grid, head // 2)
    return torch.cat([torch.zeros(prefix, head // 2), patches.float()])
