"""BERT (Devlin et al. 2019) without its pooler: the text tower."""

import dataclasses
from collections.abc import Mapping
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Bool, Float, Int, Key

from retfm_jax.models.activations import gelu
from retfm_jax.models.attention import attention
from retfm_jax.models.layers import (
    LayerNorm,
    Linear,
    Remat,
    Tower,
    count_layers,
    drop,
    dropout,
    dropout_masks,
    majority,
    pad_tokens,
    scan_layers,
    split,
    stack_layers,
)
from retfm_jax.ranges import Positive, Rate, Section

_LAYER = (
    ("attention.self.query", "query"),
    ("attention.self.key", "key"),
    ("attention.self.value", "value"),
    ("attention.output.dense", "out"),
    ("intermediate.dense", "fc"),
    ("output.dense", "proj"),
)
_LAYER_NORMS = (("attention.output.LayerNorm", "ln_1"), ("output.LayerNorm", "ln_2"))

#: Rows of (published name, our path, transform), relative to the tower: Hugging Face's naming.
NAMES = (
    ("embeddings.word_embeddings.weight", "words/embedding", "copy"),
    ("embeddings.position_embeddings.weight", "positions/embedding", "copy"),
    ("embeddings.token_type_embeddings.weight", "types/embedding", "copy"),
    ("embeddings.LayerNorm.weight", "ln/scale", "copy"),
    ("embeddings.LayerNorm.bias", "ln/bias", "copy"),
    *(
        row
        for theirs, ours in _LAYER
        for row in (
            (f"encoder.layer.{{n}}.{theirs}.weight", f"blocks/{ours}/kernel", "linear"),
            (f"encoder.layer.{{n}}.{theirs}.bias", f"blocks/{ours}/bias", "copy"),
        )
    ),
    *(
        row
        for theirs, ours in _LAYER_NORMS
        for row in (
            (f"encoder.layer.{{n}}.{theirs}.weight", f"blocks/{ours}/scale", "copy"),
            (f"encoder.layer.{{n}}.{theirs}.bias", f"blocks/{ours}/bias", "copy"),
        )
    ),
)


@dataclasses.dataclass(frozen=True)
class BertConfig(Section):
    """Sizes of the tower; the defaults are RoBERTa-wwm-ext-base-chinese.

    Attributes:
      vocab_size: rows of the table of words, at least as many as the tokenizer has tokens.
      width: of the tokens.
      layers: transformer blocks.
      mlp_width: inside of a block's MLP.
      types: rows of the table of segments, of which the first one is used.
      heads: attention heads; None means one for every 64 of the width.
      positions: longest text in tokens.
      dropout: rate on hidden states and attention probabilities in training.
      remat: what the backward pass computes again to save memory.
    """

    vocab_size: Positive = 21128
    width: Positive = 768
    layers: Positive = 12
    heads: Positive | None = None
    mlp_width: Positive = 3072
    positions: Positive = 512
    types: Positive = 2
    dropout: Rate = 0.1
    remat: Remat = "none"

    def __post_init__(self):
        super().__post_init__()
        if self.width % self.num_heads:
            raise ValueError(f"width {self.width} does not divide into {self.num_heads} heads")

    @property
    def num_heads(self) -> int:
        return self.heads or max(self.width // 64, 1)


#: The published sizes, all with the Chinese vocabulary.
SIZES = {
    "RoBERTa-wwm-ext-base-chinese": BertConfig(),
    "RoBERTa-wwm-ext-large-chinese": BertConfig(width=1024, layers=24, mlp_width=4096),
    "RBT3-chinese": BertConfig(layers=3),
}


def infer_config(shapes: Mapping[str, tuple[int, ...]], num_heads: int | None) -> BertConfig:
    """Infers sizes from published tensors, by majority where they contradict each other.

    Args:
      shapes: of the tower's tensors, by name relative to the tower.
      num_heads: attention heads, which no tensor tells; None means one for every 64 of the width.
    """

    def size(name: str, axis: int, default: int) -> int:
        return majority(shapes, ((name, axis),), default)

    return BertConfig(
        vocab_size=size("embeddings.word_embeddings.weight", 0, 21128),
        width=size("*LayerNorm.weight", 0, 768),
        layers=count_layers(shapes, "encoder.layer.") or 12,
        heads=num_heads,
        mlp_width=size("encoder.layer.*.intermediate.dense.bias", 0, 3072),
        positions=size("embeddings.position_embeddings.weight", 0, 512),
        types=size("embeddings.token_type_embeddings.weight", 0, 2),
    )


class Embedding(nnx.Module):
    """A table of vectors.

    Args:
      entries: number of vectors.
      width: of a vector.
      rngs: streams of random numbers for the initial parameters.
    """

    def __init__(self, entries: int, width: int, *, rngs: nnx.Rngs):
        self.embedding = nnx.Param(0.02 * jax.random.normal(rngs.params(), (entries, width)))


class Block(nnx.Module):
    """A post-norm transformer block with the exact (erf) GELU.

    Args:
      config: sizes of the network.
      rngs: streams of random numbers for the initial parameters.
    """

    def __init__(self, config: BertConfig, *, rngs: nnx.Rngs):
        self.heads, self.rate = config.num_heads, config.dropout
        width = config.width

        # BERT's 0.02 belongs to its width of 768: at a smaller width the first layers would hardly
        # hear one another.
        std = 0.02 * (768 / width) ** 0.5

        def linear(inputs, outputs):
            return Linear(inputs, outputs, std=std, bias=True, rngs=rngs)

        self.query = linear(width, width)
        self.key = linear(width, width)
        self.value = linear(width, width)
        self.out = linear(width, width)
        self.ln_1 = LayerNorm(width, eps=1e-12)
        self.fc = linear(width, config.mlp_width)
        self.proj = linear(config.mlp_width, width)
        self.ln_2 = LayerNorm(width, eps=1e-12)

    def __call__(
        self, x: Float[Array, "b n d"], mask: Bool[Array, "b n"], keys: Key[Array, " b"] | None
    ) -> Float[Array, "b n d"]:
        weights_keys, mask_keys = split(keys, 2)
        first, second = dropout_masks(mask_keys, self.rate, x.shape[1:], 2)

        def heads(linear):
            y = checkpoint_name(linear(x), "qkv")
            return y.reshape(*x.shape[:2], self.heads, -1)

        query, key, value = heads(self.query), heads(self.key), heads(self.value)
        attended = attention(query, key, value, mask, rate=self.rate, rngs=weights_keys)
        attended = self.out(checkpoint_name(attended.reshape(x.shape), "attended"))
        x = self.ln_1(checkpoint_name(x + drop(attended, self.rate, first), "summed"))
        hidden = checkpoint_name(self.fc(x), "hidden")
        x = x + drop(self.proj(gelu(hidden)), self.rate, second)
        return self.ln_2(checkpoint_name(x, "summed"))


class Bert(Tower):
    """The text tower: token ids -> hidden states.

    Args:
      config: sizes of the network.
      dtype: compute type; parameters stay float32.
      rngs: streams of random numbers for the initial parameters.
    """

    def __init__(
        self,
        config: BertConfig,
        *,
        dtype: Literal["float32", "bfloat16"] = "float32",
        rngs: nnx.Rngs,
    ):
        self.config, self.dtype = config, dtype
        self.words = Embedding(config.vocab_size, config.width, rngs=rngs)
        self.positions = Embedding(config.positions, config.width, rngs=rngs)
        self.types = Embedding(config.types, config.width, rngs=rngs)
        self.ln = LayerNorm(config.width, eps=1e-12)
        self.blocks = stack_layers(lambda rngs: Block(config, rngs=rngs), config.layers, rngs)

    def layers_above(self, path: str) -> int | Int[np.ndarray, " layers"]:
        """See `Tower.layers_above`; the layers are the blocks, all else makes their input."""
        layers = self.config.layers
        return np.arange(layers, 0, -1) if path.startswith("blocks/") else layers + 1

    def __call__(
        self,
        tokens: Int[Array, "b n"],
        mask: Bool[Array, "b n"] | None = None,
        *,
        keys: Key[Array, " b"] | None = None,
    ) -> tuple[Float[Array, "b n d"], Float[Array, "l b n d"]]:
        """Reads texts.

        Args:
          tokens: ids (b, n) int32, 0 is padding; n is at most `positions`.
          mask: which tokens may be seen, (b, n) bool, of each text the first ones; None: those that
            are not 0.
          keys: randomness of dropout, one for each text; None drops nothing.

        Returns:
          the last hidden state (b, n, d), and the hidden states after the embeddings and after
          every layer (layers + 1, b, n, d), in the compute type.

        Raises:
          ValueError: the texts are longer than `positions`.
        """
        if tokens.shape[1] > self.config.positions:
            raise ValueError(
                f"{tokens.shape[1]} tokens are more than the {self.config.positions} positions"
            )
        mask = tokens != 0 if mask is None else mask.astype(bool)
        words = self.words.embedding[tokens]
        # As published, padding's vector is not learned, though a mean over all positions sees it.
        words = jnp.where((tokens == 0)[..., None], jax.lax.stop_gradient(words), words)
        embeddings = (
            words + self.positions.embedding[: tokens.shape[1]] + self.types.embedding[0]
        ).astype(self.dtype)
        embedding_keys, layer_keys = split(keys, 2)
        first = dropout(self.ln(embeddings), self.config.dropout, embedding_keys)
        length, padded = tokens.shape[1], pad_tokens(first)
        mask = jnp.pad(mask, ((0, 0), (0, padded.shape[1] - length)))
        last, outputs = scan_layers(
            self.blocks,
            padded,
            lambda block, x, keys: block(x, mask, keys),
            layers=self.config.layers,
            each=None if layer_keys is None else split(layer_keys, self.config.layers),
            remat=self.config.remat,
        )
        return last[:, :length], jnp.concatenate([first[None], outputs[:, :, :length]])
