"""R2Gen's start-up transformer, which writes a report of feature maps (MM-Retinal, FFA-IR).

Chen et al., EMNLP 2020; Li et al., NeurIPS 2021; Wu et al., MICCAI 2024. Encoder and decoder
normalize before each part, by a norm of their own (`Norm`), and the patches have no positions.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Generic, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Key

from retfm_jax.models.attention import attention
from retfm_jax.models.layers import (
    Block,
    Linear,
    all_gather_params,
    dropout,
    scan_layers,
    split,
    stack_layers,
)
from retfm_jax.models.word_search import Found, search
from retfm_jax.ranges import Positive, Rate, Section

Names = tuple[tuple[str, str, str], ...]

#: Added to the standard deviation.
_EPS = 1e-6
#: Of the wavelengths of positions.
_LONGEST_WAVE = 10000.0


@dataclasses.dataclass(frozen=True)
class CaptionerConfig(Section):
    """Sizes of the transformer; the defaults are the published ones.

    Attributes:
      width: of the tokens, a multiple of the heads and of 2.
      mlp_width: inside of a layer's feed-forward part.
      layers: of the encoder, and as many of the decoder.
      heads: attention heads.
      dropout: rate on embeddings, attention probabilities and branches in training.
      feature_dropout: rate on the embedded features in training.
      positions: longest report in words, with its beginning.
    """

    width: Positive = 512
    mlp_width: Positive = 512
    layers: Positive = 3
    heads: Positive = 8
    dropout: Rate = 0.1
    feature_dropout: Rate = 0.5
    positions: Positive = 5000

    def __post_init__(self):
        super().__post_init__()
        if self.width % self.heads or self.width % 2:
            raise ValueError(
                f"width {self.width} is no multiple of its {self.heads} heads and of 2"
            )


class Norm(nnx.Module):
    """`scale (x - mean) / (std + 1e-6) + bias` with the unbiased standard deviation, in float32.

    Args:
      width: of the last axis, above 1.
    """

    def __init__(self, width: int):
        self.scale = nnx.Param(jnp.ones(width))
        self.bias = nnx.Param(jnp.zeros(width))

    def __call__(self, x: Float[Array, "... d"]) -> Float[Array, "... d"]:
        y = x.astype(jnp.float32)
        y = y - y.mean(-1, keepdims=True)
        variance = jnp.square(y).sum(-1, keepdims=True) / (y.shape[-1] - 1)
        # The root's slope at 0 is infinite, and there is nothing to be scaled.
        std = jnp.sqrt(jnp.maximum(variance, jnp.finfo(jnp.float32).tiny))
        return (y / (std + _EPS) * self.scale[...] + self.bias[...]).astype(x.dtype)


def _linear(inputs: int, outputs: int, limit: float, rngs: nnx.Rngs) -> Linear:
    """Linear map with uniform initial values, the bias's as PyTorch's."""
    linear = Linear(inputs, outputs, std=0.0, bias=True, rngs=rngs)
    linear.kernel = nnx.Param(_uniform((inputs, outputs), limit, rngs))
    linear.bias = nnx.Param(_uniform((outputs,), inputs**-0.5, rngs))
    return linear


def _uniform(shape: tuple[int, ...], limit: float, rngs: nnx.Rngs) -> Float[Array, "..."]:
    return jax.random.uniform(rngs.params(), shape, minval=-limit, maxval=limit)


def _xavier(inputs: int, outputs: int, rngs: nnx.Rngs) -> Linear:
    return _linear(inputs, outputs, math.sqrt(6 / (inputs + outputs)), rngs)


class Attention(nnx.Module):
    """Multi-head attention with four linear maps.

    Args:
      config: sizes of the transformer.
      rngs: streams of random numbers for the initial parameters.
    """

    def __init__(self, config: CaptionerConfig, *, rngs: nnx.Rngs):
        width = config.width
        self.heads, self.rate = config.heads, config.dropout
        self.query = _xavier(width, width, rngs)
        self.key = _xavier(width, width, rngs)
        self.value = _xavier(width, width, rngs)
        self.out = _xavier(width, width, rngs)

    def pairs(
        self, x: Float[Array, "b m d"]
    ) -> tuple[Float[Array, "b m h c"], Float[Array, "b m h c"]]:
        """Computes the keys and the values of tokens, each (b, m, heads, width / heads).

        Args:
          x: tokens, (b, m, d).
        """
        return self._divided(self.key(x)), self._divided(self.value(x))

    def __call__(
        self,
        x: Float[Array, "b n d"],
        keys: Float[Array, "b m h c"],
        values: Float[Array, "b m h c"],
        mask: Bool[Array, "b m"] | Bool[Array, "b n m"] | None = None,
        *,
        rngs: Key[Array, " b"] | None = None,
    ) -> Float[Array, "b n d"]:
        """Attends.

        Args:
          x: tokens that ask, (b, n, d).
          keys, values: see `pairs`.
          mask: which of them may be seen, by all tokens or by each; None: all.
          rngs: randomness of dropout, one for each sample; None drops nothing.
        """
        query = self._divided(self.query(x))
        found = attention(query, keys, values, mask, rate=self.rate, rngs=rngs)
        return self.out(found.reshape(x.shape))

    def _divided(self, x: Float[Array, "b n d"]) -> Float[Array, "b n h c"]:
        return x.reshape(*x.shape[:2], self.heads, -1)


class FeedForward(nnx.Module):
    """Linear map, ReLU, linear map.

    Args:
      config: sizes of the transformer.
      rngs: streams of random numbers for the initial parameters.
    """

    def __init__(self, config: CaptionerConfig, *, rngs: nnx.Rngs):
        self.rate = config.dropout
        self.fc = _xavier(config.width, config.mlp_width, rngs)
        self.proj = _xavier(config.mlp_width, config.width, rngs)

    def __call__(
        self, x: Float[Array, "b n d"], *, keys: Key[Array, " b"] | None = None
    ) -> Float[Array, "b n d"]:
        return self.proj(dropout(jax.nn.relu(self.fc(x)), self.rate, keys))


class EncoderBlock(nnx.Module):
    """Attention among patches, and a feed-forward part.

    Args:
      config: sizes of the transformer.
      rngs: streams of random numbers for the initial parameters.
    """

    def __init__(self, config: CaptionerConfig, *, rngs: nnx.Rngs):
        self.rate = config.dropout
        self.ln_1, self.ln_2 = Norm(config.width), Norm(config.width)
        self.attention = Attention(config, rngs=rngs)
        self.mlp = FeedForward(config, rngs=rngs)

    def __call__(
        self,
        x: Float[Array, "b m d"],
        mask: Bool[Array, "b m"] | None,
        keys: Key[Array, " b"] | None = None,
    ) -> Float[Array, "b m d"]:
        weights, first, inside, second = split(keys, 4)
        y = self.ln_1(x)
        y = self.attention(y, *self.attention.pairs(y), mask, rngs=weights)
        x = x + dropout(y, self.rate, first)
        return x + dropout(self.mlp(self.ln_2(x), keys=inside), self.rate, second)


class DecoderBlock(nnx.Module):
    """Attention among words and to the patches, and a feed-forward part.

    Args:
      config: sizes of the transformer.
      rngs: streams of random numbers for the initial parameters.
    """

    def __init__(self, config: CaptionerConfig, *, rngs: nnx.Rngs):
        self.rate = config.dropout
        self.ln_1, self.ln_2, self.ln_3 = (Norm(config.width) for _ in range(3))
        self.attention = Attention(config, rngs=rngs)
        self.source = Attention(config, rngs=rngs)
        self.mlp = FeedForward(config, rngs=rngs)

    def __call__(
        self,
        x: Float[Array, "b n d"],
        seen: Bool[Array, "b n n"],
        memory: Float[Array, "b m d"],
        mask: Bool[Array, "b m"] | None,
        keys: Key[Array, " b"] | None = None,
    ) -> Float[Array, "b n d"]:
        weights, first, source, second, inside, third = split(keys, 6)
        y = self.ln_1(x)
        y = self.attention(y, *self.attention.pairs(y), seen, rngs=weights)
        x = x + dropout(y, self.rate, first)
        y = self.source(self.ln_2(x), *self.source.pairs(memory), mask, rngs=source)
        x = x + dropout(y, self.rate, second)
        return x + dropout(self.mlp(self.ln_3(x), keys=inside), self.rate, third)

    def next(
        self,
        x: Float[Array, "b k d"],
        position: Int[Array, ""],
        words: tuple[Float[Array, "b k n h c"], Float[Array, "b k n h c"]],
        memory: tuple[Float[Array, "b m h c"], Float[Array, "b m h c"]],
        mask: Bool[Array, "b m"] | None,
    ) -> tuple[Float[Array, "b k d"], tuple[Float[Array, "b k n h c"], Float[Array, "b k n h c"]]]:
        """Computes one word of each beam.

        Args:
          x: the words' tokens, (b, k, d).
          position: at which they stand, from 0.
          words: keys and values of the words before, which those of this one join.
          memory: keys and values of the patches, which all beams of a sample share.
          mask: which patches there are; None: all.

        Returns:
          the tokens behind the block, and `words` with this one.
        """
        b, k, d = x.shape
        y = self.ln_1(x).reshape(b * k, 1, d)
        added = (pair.reshape(b, k, 1, *pair.shape[2:]) for pair in self.attention.pairs(y))
        known_keys, known_values = (
            jax.lax.dynamic_update_slice_in_dim(old, new, position, axis=2)
            for old, new in zip(words, added, strict=True)
        )
        known = known_keys, known_values
        keys, values = (pair.reshape(b * k, *pair.shape[2:]) for pair in known)
        seen = jnp.broadcast_to(jnp.arange(keys.shape[1]) <= position, keys.shape[:2])
        x = x + self.attention(y, keys, values, seen).reshape(b, k, d)
        x = x + self.source(self.ln_2(x), *memory, mask)
        return x + self.mlp(self.ln_3(x)), known


class Stack(nnx.Module, Generic[Block]):
    """Blocks and the norm behind them.

    Args:
      make: makes one block from streams of random numbers.
      layers: number of blocks.
      width: of the tokens.
      rngs: streams of random numbers for the initial parameters.
    """

    def __init__(self, make: Callable[[nnx.Rngs], Block], layers: int, width: int, rngs: nnx.Rngs):
        self.blocks = stack_layers(make, layers, rngs)
        self.norm = Norm(width)


class Cache(NamedTuple):
    """What decoding computes once.

    Attributes:
      words: keys and values of the words so far, by layer and beam.
      memory: keys and values of the patches, by layer.
      mask: which patches there are; None: all.
    """

    words: tuple[Float[Array, "l b k n h c"], Float[Array, "l b k n h c"]]
    memory: tuple[Float[Array, "l b m h c"], Float[Array, "l b m h c"]]
    mask: Bool[Array, "b m"] | None


class Captioner(nnx.Module):
    """Transformer from patch features to words.

    Args:
      config: sizes of the transformer.
      features: width of the patch features.
      vocabulary: number of ids: words and 0, which begins, ends and pads a report.
      dtype: compute type; parameters stay float32.
      rngs: streams of random numbers for the initial parameters.
    """

    def __init__(
        self,
        config: CaptionerConfig,
        features: int,
        vocabulary: int,
        *,
        dtype: Literal["float32", "bfloat16"] = "float32",
        rngs: nnx.Rngs,
    ):
        self.config, self.dtype = config, dtype
        width, layers = config.width, config.layers
        self.embed = _linear(features, width, features**-0.5, rngs)
        self.encoder = Stack(lambda rngs: EncoderBlock(config, rngs=rngs), layers, width, rngs)
        limit = math.sqrt(6 / (vocabulary + width))
        self.words = nnx.Param(_uniform((vocabulary, width), limit, rngs))
        self.positions = nnx.Param(jnp.asarray(sine_positions(config.positions, width)))
        self.decoder = Stack(lambda rngs: DecoderBlock(config, rngs=rngs), layers, width, rngs)
        self.logit = _linear(width, vocabulary, width**-0.5, rngs)

    def encode(
        self,
        features: Float[Array, "b m f"],
        mask: Bool[Array, "b m"] | None = None,
        *,
        keys: Key[Array, " b"] | None = None,
    ) -> Float[Array, "b m d"]:
        """Encodes patch features into the memory that words attend to, (b, m, width).

        Args:
          features: of m patches, (b, m, f).
          mask: which of them there are, of each sample the first ones, (b, m) bool; None: all.
          keys: randomness of dropout, one for each sample; None drops nothing.
        """
        feature_keys, layer_keys = split(keys, 2)
        x = jax.nn.relu(self.embed(features.astype(self.dtype)))
        x = dropout(x, self.config.feature_dropout, feature_keys)
        x, _ = scan_layers(
            self.encoder.blocks,
            x,
            lambda block, x, keys: block(x, mask, keys),
            layers=self.config.layers,
            each=None if layer_keys is None else split(layer_keys, self.config.layers),
            remat="none",
        )
        return self.encoder.norm(x)

    def log_probabilities(
        self,
        tokens: Int[Array, "b n"],
        memory: Float[Array, "b m d"],
        mask: Bool[Array, "b m"] | None = None,
        *,
        keys: Key[Array, " b"] | None = None,
    ) -> Float[Array, "b n v"]:
        """Computes the log-probabilities of the word after each word, (b, n, vocabulary) float32.

        Args:
          tokens: ids (b, n) int32; the first one, 0, begins the report, and any other 0 is not
            seen by the words behind it.
          memory: see `encode`.
          mask: which patches there are; None: all.
          keys: randomness of dropout, one for each sample; None drops nothing.

        Raises:
          ValueError: the reports are longer than `positions`.
        """
        n = tokens.shape[1]
        if n > self.config.positions:
            raise ValueError(f"{n} words are more than the {self.config.positions} positions")
        embedding_keys, layer_keys = split(keys, 2)
        x = self._embedded(tokens, self.positions[:n])
        x = dropout(x, self.config.dropout, embedding_keys)
        # (b, 1, n) words that are there, (n, n) words that stand before
        there = ((tokens > 0) | (jnp.arange(n) == 0))[:, None]
        seen = there & jnp.tril(jnp.ones((n, n), bool))
        x, _ = scan_layers(
            self.decoder.blocks,
            x,
            lambda block, x, keys: block(x, seen, memory, mask, keys),
            layers=self.config.layers,
            each=None if layer_keys is None else split(layer_keys, self.config.layers),
            remat="none",
        )
        return self._words(x)

    def begin(
        self,
        memory: Float[Array, "b m d"],
        mask: Bool[Array, "b m"] | None = None,
        *,
        beams: int,
        length: int,
    ) -> Cache:
        """Makes the cache of an empty report.

        Args:
          memory: see `encode`.
          mask: which patches there are; None: all.
          beams: reports of a sample that are written side by side.
          length: words of a report at most.

        Raises:
          ValueError: such reports are longer than `positions`.
        """
        if length > self.config.positions:
            raise ValueError(f"{length} words are more than the {self.config.positions} positions")
        graphdef, stacked = nnx.split(self.decoder.blocks)

        def pairs(_, params):
            return None, nnx.merge(graphdef, all_gather_params(params)).source.pairs(memory)

        _, of_memory = jax.lax.scan(pairs, None, stacked, length=self.config.layers)
        layers, b, _, heads, width = of_memory[0].shape
        empty = jnp.zeros((layers, b, beams, length, heads, width), memory.dtype)
        return Cache((empty, empty), of_memory, mask)

    def next(
        self, last: Int[Array, "b k"], position: Int[Array, ""], cache: Cache
    ) -> tuple[Float[Array, "b k v"], Cache]:
        """Computes the log-probabilities of the word after the last one of each beam.

        Args:
          last: ids of the last words, 0 at the beginning, (b, k) int32.
          position: at which they stand, from 0.
          cache: of the words before.

        Returns:
          the log-probabilities (b, k, vocabulary) float32, and the cache with the last words.
        """
        graphdef, stacked = nnx.split(self.decoder.blocks)

        def body(x, layer):
            params, words, memory = layer
            block = nnx.merge(graphdef, all_gather_params(params))
            return block.next(x, position, words, memory, cache.mask)

        x = self._embedded(last, self.positions[position])
        x, words = jax.lax.scan(body, x, (stacked, cache.words, cache.memory))
        return self._words(x), cache._replace(words=words)

    def write(
        self,
        memory: Float[Array, "b m d"],
        mask: Bool[Array, "b m"] | None = None,
        *,
        beams: int = 3,
        length: int = 90,
        length_penalty: float = 0.0,
        block_trigrams: bool = False,
    ) -> Found:
        """Writes reports; see `word_search.search`.

        Args:
          memory: see `encode`.
          mask: which patches there are; None: all.
          beams, length, length_penalty, block_trigrams: as there.
        """

        def reordered(cache: Cache, parents: Int[Array, "b k"]) -> Cache:
            index = parents[None, :, :, None, None, None]
            keys, values = (jnp.take_along_axis(x, index, axis=2) for x in cache.words)
            return cache._replace(words=(keys, values))

        return search(
            self.next,
            reordered,
            self.begin(memory, mask, beams=beams, length=length),
            len(memory),
            beams=beams,
            length=length,
            length_penalty=length_penalty,
            block_trigrams=block_trigrams,
        )

    def _embedded(
        self, tokens: Int[Array, "b n"], positions: Float[Array, "*n d"]
    ) -> Float[Array, "b n d"]:
        x = self.words[tokens] * math.sqrt(self.config.width) + positions
        return x.astype(self.dtype)

    def _words(self, x: Float[Array, "b n d"]) -> Float[Array, "b n v"]:
        return jax.nn.log_softmax(self.logit(self.decoder.norm(x).astype(jnp.float32)))


def sine_positions(count: int, width: int) -> Float[np.ndarray, "n d"]:
    """Computes Vaswani's positions in float32: sines in even columns, cosines in odd ones.

    Args:
      count: of positions.
      width: of each; an even number. The wavelengths are 2 pi 10000^(2 i / width).
    """
    rate = np.float32(-math.log(_LONGEST_WAVE) / width)
    # Angles of thousands keep four digits in float32, in which the published ones are computed.
    angles = np.arange(count, dtype="f4")[:, None] * np.exp(
        np.arange(0, width, 2, dtype="f4") * rate
    )
    return np.stack([np.sin(angles), np.cos(angles)], axis=2).reshape(count, width)


_ATTENTION = ("query", "key", "value", "out")
_MLP = (("w_1", "fc"), ("w_2", "proj"))


def names() -> Names:
    """Rows of (published name, our path, transform) of a `Captioner`."""
    stack = "model.{}.layers.{{n}}."
    encoder = (("self_attn", "attention"),)
    decoder = (*encoder, ("src_attn", "source"))
    return (
        *_linear_names("att_embed.0", "embed"),
        *_block_names(stack.format("encoder"), "encoder", encoder),
        *_norm_names("model.encoder.norm", "encoder/norm"),
        ("model.tgt_embed.0.lut.weight", "words", "copy"),
        ("model.tgt_embed.1.pe", "positions", "tokens"),
        *_block_names(stack.format("decoder"), "decoder", decoder),
        *_norm_names("model.decoder.norm", "decoder/norm"),
        *_linear_names("logit", "logit"),
    )


def _block_names(theirs: str, ours: str, attentions: tuple[tuple[str, str], ...]) -> Names:
    rows: list[tuple[str, str, str]] = []
    for published, path in attentions:
        for number, part in enumerate(_ATTENTION):
            rows += _linear_names(
                f"{theirs}{published}.linears.{number}", f"{ours}/blocks/{path}/{part}"
            )
    for published, path in _MLP:
        rows += _linear_names(f"{theirs}feed_forward.{published}", f"{ours}/blocks/mlp/{path}")
    for number in range(len(attentions) + 1):
        rows += _norm_names(f"{theirs}sublayer.{number}.norm", f"{ours}/blocks/ln_{number + 1}")
    return tuple(rows)


def _linear_names(theirs: str, ours: str) -> Names:
    return (
        (f"{theirs}.weight", f"{ours}/kernel", "linear"),
        (f"{theirs}.bias", f"{ours}/bias", "copy"),
    )


def _norm_names(theirs: str, ours: str) -> Names:
    return (
        (f"{theirs}.gamma", f"{ours}/scale", "copy"),
        (f"{theirs}.beta", f"{ours}/bias", "copy"),
    )
