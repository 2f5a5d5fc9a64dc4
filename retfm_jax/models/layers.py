"""Layers of the transformer towers: linear maps, norms, dropout, a scan over layers."""

import abc
import collections
import fnmatch
import operator
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, TypeVar, overload

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import PartitionSpec
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from retfm_jax.models import random_bits
from retfm_jax.models.target import parameters_are_sharded, platform

Remat = Literal["none", "dots", "named", "full"]
#: Names of what the backward pass finds again under `remat` "named": the inputs and the result of
#: the attention, what goes into the activation, sums that a norm takes within a layer, and which
#: entries dropout keeps.
NAMED = ("qkv", "attended", "hidden", "summed", "mask")
#: Under this name towers hold their stacked layers: the first axis of each leaf counts them.
STACKED = "blocks"
#: Linear layers that compute several maps of one input side by side, by their names.
FUSED = {"qkv": ("q", "k", "v")}
#: A layer, or layers stacked.
Block = TypeVar("Block", bound=nnx.Module)


class Linear(nnx.Module):
    """`x kernel + bias` with float32 parameters, computed in the type of `x`.

    Args:
      inputs, outputs: widths.
      std: standard deviation of the initial kernel.
      bias: whether there is one.
      rngs: streams of random numbers for the initial parameters.
    """

    def __init__(self, inputs: int, outputs: int, *, std: float, bias: bool, rngs: nnx.Rngs):
        self.kernel = nnx.Param(std * jax.random.normal(rngs.params(), (inputs, outputs)))
        self.bias = nnx.Param(jnp.zeros(outputs)) if bias else None

    def __call__(self, x: Float[Array, "... i"]) -> Float[Array, "... o"]:
        return self.parts(x, 1)[0]

    def parts(self, x: Float[Array, "... i"], count: int) -> list[Float[Array, "... o"]]:
        """Computes several maps of one input that stand side by side in the kernel's columns.

        They are products of their own: one would have to be taken apart, which takes a TPU longer
        than the product.

        Args:
          x: input (..., inputs).
          count: number of maps, of outputs / count columns each.
        """
        kernels = jnp.split(self.kernel.astype(x.dtype), count, axis=1)
        # All rows make one product, however many axes there are.
        rows = x.reshape(-1, x.shape[-1])
        products = [(rows @ kernel).reshape(*x.shape[:-1], -1) for kernel in kernels]
        if self.bias is None:
            return products
        biases = jnp.split(self.bias.astype(x.dtype), count)
        return [product + bias for product, bias in zip(products, biases, strict=True)]


class LayerNorm(nnx.Module):
    """Layer normalization over the last axis, in float32 whatever the type of `x`.

    Args:
      width: of the last axis.
      eps: added to the variance.
    """

    def __init__(self, width: int, *, eps: float):
        self.scale = nnx.Param(jnp.ones(width))
        self.bias = nnx.Param(jnp.zeros(width))
        self.eps = eps

    def __call__(self, x: Float[Array, "... d"]) -> Float[Array, "... d"]:
        y = x.astype(jnp.float32)
        y = y - y.mean(-1, keepdims=True)
        y = y * jax.lax.rsqrt(jnp.square(y).mean(-1, keepdims=True) + self.eps)
        return (y * self.scale[...] + self.bias[...]).astype(x.dtype)


class Tower(nnx.Module, abc.ABC):
    """A network of layers, each the input of the next."""

    @abc.abstractmethod
    def layers_above(self, path: str) -> int | Int[np.ndarray, " layers"]:
        """Numbers the layers from a parameter's to the end of the tower.

        Args:
          path: of the parameter, relative to the tower, such as "blocks/fc/kernel".

        Returns:
          for one of L layers, 1 of the last to L of the first, of stacked ones an array; L + 1 for
          what stands before the first; 0 for what stands behind the last.
        """


def dropout(x: Float[Array, "b ..."], rate: float, keys: Key[Array, " b"] | None) -> Array:
    """Zeroes entries with probability `rate` and scales the rest so that the expectation stays.

    Args:
      x: values (b, ..., d), sample axis first.
      rate: share of the entries that is zeroed, in [0, 1), to 1 / 65536.
      keys: one for each sample; None zeroes nothing. A sample's mask is a function of its key
        alone, so that it does not depend on what else stands in the batch, on its division or on
        the devices.
    """
    return drop(x, rate, dropout_masks(keys, rate, x.shape[1:], 1)[0])


def dropout_masks(
    keys: Key[Array, " b"] | None, rate: float, shape: tuple[int, ...], count: int
) -> tuple[Bool[Array, "b ..."] | None, ...]:
    """Draws the masks of dropouts whose inputs have one shape; two cost as much as one.

    Args:
      keys: one for each sample; None draws nothing.
      rate: share of the entries that is zeroed, in [0, 1).
      shape: of a sample's entries, (..., d).
      count: number of masks, 1 or 2.

    Returns:
      for each dropout which entries stay, (b, ..., d) bool, kept for the backward pass under
      `remat` "named"; None where nothing is dropped.
    """
    if keys is None or rate == 0:
        return (None,) * count
    masks = random_bits.hidden_masks(keys, rate, shape, count)
    return tuple(checkpoint_name(mask, "mask") for mask in masks)


def drop(
    x: Float[Array, "b ..."], rate: float, mask: Bool[Array, "b ..."] | None
) -> Float[Array, "b ..."]:
    """Zeroes what a mask does not keep and scales the rest.

    Args:
      x: values (b, ...).
      rate: of the mask.
      mask: as `dropout_masks` draws it; None: x stays as it is.
    """
    return (
        x if mask is None else jnp.where(mask, x * random_bits.kept_scale(rate), 0).astype(x.dtype)
    )


def drop_path(
    x: Float[Array, "b ..."], rate: Float[Array, ""] | float, keys: Key[Array, " b"] | None
) -> Float[Array, "b ..."]:
    """Zeroes whole samples with probability `rate` and scales the rest by 1 / (1 - rate).

    Args:
      x: a residual branch (b, ...), sample axis first.
      rate: share of the samples that is zeroed, in [0, 1).
      keys: one for each sample; None zeroes nothing.
    """
    if keys is None:
        return x
    keep = jax.vmap(lambda key: jax.random.bernoulli(key, 1 - rate))(keys)
    keep = keep.reshape(-1, *(1,) * (x.ndim - 1))
    return jnp.where(keep, x / (1 - rate), 0).astype(x.dtype)


@overload
def split(keys: Key[Array, " b"], count: int) -> Key[Array, "count b"]: ...
@overload
def split(keys: None, count: int) -> tuple[None, ...]: ...
def split(keys: Key[Array, " b"] | None, count: int) -> Key[Array, "count b"] | tuple[None, ...]:
    """Splits every sample's key into `count` keys, (count, b).

    Args:
      keys: PRNG keys (b,), one for each sample; None gives `count` times None.
      count: keys that are made of each.
    """
    if keys is None:
        return (None,) * count
    return jax.vmap(lambda key: jax.random.split(key, count), out_axes=1)(keys)


_GATHERED = "gathered"


def all_gather_params(parameters: Any) -> Any:
    """All-gathers parameters where the step runs under a mesh that shards them.

    Elsewhere they stay as they are. Left alone, the compiler may move activations to the sharded
    parameters instead, which are much larger. Gradients stay free to be sharded.

    Args:
      parameters: pytree of arrays.
    """
    if not parameters_are_sharded():
        return parameters
    return jax.tree.map(_gather, parameters)


@jax.custom_vjp
def _gather(parameter: Array) -> Array:
    whole = jax.lax.with_sharding_constraint(parameter, PartitionSpec())
    return checkpoint_name(whole, _GATHERED)


_gather.defvjp(lambda parameter: (_gather(parameter), None), lambda _, gradient: (gradient,))


def pad_tokens(x: Float[Array, "b n d"]) -> Float[Array, "b m d"]:
    """Adds tokens of zeros up to a multiple of 8, as accelerators store them.

    Rows of several samples then make one matrix without a copy, and cuDNN's attention finds an even
    number. What is added, no other token sees, and it is cut off behind the last block.

    Args:
      x: tokens (b, n, d).

    Returns:
      tokens (b, m, d); on a CPU x itself.
    """
    missing = 0 if platform() == "cpu" else -x.shape[1] % 8
    return jnp.pad(x, ((0, 0), (0, missing), (0, 0))) if missing else x


def scan_layers(
    blocks: Block,
    x: Float[Array, "b n d"],
    apply: Callable[[Block, Array, Any], Array],
    *,
    layers: int,
    each: PyTree[Array] | None,
    remat: Remat,
) -> tuple[Float[Array, "b n d"], Float[Array, "l b n d"]]:
    """Runs stacked layers one after the other, compiled once.

    Args:
      blocks: a module whose parameters have a leading axis of `layers`.
      x: input of the first layer (b, n, d).
      apply: runs one layer: (layer, input, its part of `each`) -> output.
      layers: their number.
      each: arrays with a leading axis of `layers`, such as keys; None: nothing.
      remat: what the backward pass recomputes: nothing; all but matrix products; all but what has
        a name in `NAMED`; everything.

    Returns:
      the last output (b, n, d), and the outputs of all layers stacked (free where they are not
      used).
    """
    graphdef, stacked = nnx.split(blocks)

    def body(x, layer):
        parameters, own = layer
        y = apply(nnx.merge(graphdef, all_gather_params(parameters)), x, own)
        return y, y

    if remat == "full":
        body = jax.checkpoint(body, prevent_cse=False)
    elif remat == "dots":
        policy = jax.checkpoint_policies.dots_with_no_batch_dims_saveable
        body = jax.checkpoint(body, prevent_cse=False, policy=policy)
    elif remat == "named":
        policy = jax.checkpoint_policies.save_only_these_names(*NAMED)
        body = jax.checkpoint(body, prevent_cse=False, policy=policy)
    elif parameters_are_sharded():
        # What was gathered for a layer is not kept for its backward pass.
        policy = jax.checkpoint_policies.save_anything_except_these_names(_GATHERED)
        body = jax.checkpoint(body, prevent_cse=False, policy=policy)
    return jax.lax.scan(body, x, (stacked, each), length=layers)


def stack_layers(make: Callable[[nnx.Rngs], Block], layers: int, rngs: nnx.Rngs) -> Block:
    """Makes a module of `layers` differently initialized copies, stacked on a leading axis.

    Args:
      make: makes one layer from streams of random numbers.
      layers: number of copies.
      rngs: streams of random numbers, which are split among the copies.
    """
    return nnx.split_rngs(splits=layers)(nnx.vmap(make))(rngs)


def slice_layers(blocks: Block, part: slice) -> Block:
    """Selects stacked layers as a module of their own.

    Args:
      blocks: a module as `stack_layers` makes it.
      part: which layers, by their numbers.
    """
    graphdef, stacked = nnx.split(blocks)
    return nnx.merge(graphdef, jax.tree.map(operator.itemgetter(part), stacked))


def unit(x: Float[Array, "b d"]) -> Float[Array, "b d"]:
    """Divides vectors by their Euclidean norm.

    Args:
      x: vectors (b, d); one of norm 0 becomes NaN.
    """
    return x / jnp.linalg.norm(x, axis=-1, keepdims=True)


def majority(
    shapes: Mapping[str, tuple[int, ...]], axes: Iterable[tuple[str, int]], default: int
) -> int:
    """Size that most of the named axes have.

    One misshaped or missing tensor then does not hide what all the others agree on.

    Args:
      shapes: of the tensors, by name.
      axes: patterns of names (as in a shell) with the axis to look at.
      default: the size where no such tensor is there.
    """
    votes = collections.Counter(
        shape[axis]
        for pattern, axis in axes
        for name, shape in shapes.items()
        if fnmatch.fnmatchcase(name, pattern) and len(shape) > axis
    )
    return votes.most_common(1)[0][0] if votes else default


def count_layers(shapes: Mapping[str, tuple[int, ...]], prefix: str) -> int:
    """Number of layers that the numbers after `prefix` imply.

    Missing ones are counted, but one absurd number does not make a million layers.

    Args:
      shapes: of the tensors, by name.
      prefix: what stands before a layer's number, such as "encoder.layer.".
    """
    numbers = {
        int(number)
        for name in shapes
        if name.startswith(prefix)
        and re.fullmatch("[0-9]{1,9}", number := name[len(prefix) :].split(".")[0])
    }
    return min(max(numbers, default=-1) + 1, 2 * len(numbers) + 1 if numbers else 0)
