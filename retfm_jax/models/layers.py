"""What the transformer towers share: linear maps, norms, attention, dropout, a scan over layers."""

import collections
import fnmatch
from collections.abc import Callable, Iterable, Mapping
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, PRNGKeyArray

Remat = Literal["none", "dots", "full"]


class Linear(nnx.Module):
    """`x kernel + bias` with float32 parameters, computed in the type of `x`."""

    def __init__(self, inputs: int, outputs: int, *, std: float, bias: bool, rngs: nnx.Rngs):
        self.kernel = nnx.Param(std * jax.random.normal(rngs.params(), (inputs, outputs)))
        self.bias = nnx.Param(jnp.zeros(outputs)) if bias else None

    def __call__(self, x: Float[Array, "... i"]) -> Float[Array, "... o"]:
        y = x @ self.kernel.astype(x.dtype)
        return y if self.bias is None else y + self.bias.astype(x.dtype)


class LayerNorm(nnx.Module):
    """Layer normalisation over the last axis, in float32 whatever the type of `x`."""

    def __init__(self, width: int, *, eps: float):
        self.scale = nnx.Param(jnp.ones(width))
        self.bias = nnx.Param(jnp.zeros(width))
        self.eps = eps

    def __call__(self, x: Float[Array, "... d"]) -> Float[Array, "... d"]:
        y = x.astype(jnp.float32)
        y = y - y.mean(-1, keepdims=True)
        y = y * jax.lax.rsqrt(jnp.square(y).mean(-1, keepdims=True) + self.eps)
        return (y * self.scale[...] + self.bias[...]).astype(x.dtype)


def dropout(x: Array, rate: float, key: PRNGKeyArray | None) -> Array:
    """Zeroes entries with probability `rate` and scales the rest; without a key, nothing."""
    if key is None or rate == 0:
        return x
    keep = jax.random.bernoulli(key, 1 - rate, x.shape)
    return jnp.where(keep, x / (1 - rate), 0).astype(x.dtype)


def split(key: PRNGKeyArray | None, count: int) -> list[PRNGKeyArray | None]:
    """`jax.random.split` that passes None on."""
    return [None] * count if key is None else list(jax.random.split(key, count))


def attention(
    query: Float[Array, "b n h d"],
    key: Float[Array, "b m h d"],
    value: Float[Array, "b m h d"],
    mask: Bool[Array, "b m"] | None = None,
    *,
    rate: float = 0.0,
    rng: PRNGKeyArray | None = None,
) -> Float[Array, "b n h d"]:
    """Softmax attention, `softmax(q k^T / sqrt(d)) v` (Vaswani et al. 2017).

    Args:
      mask: which keys may be seen.
      rate: dropout on the attention probabilities, drawn with `rng`; None drops nothing.
    """
    bias_mask = None if mask is None else mask[:, None, None, :]
    if rng is None or rate == 0:
        # The fused kernel of an NVIDIA GPU takes half precision only.
        fused = jax.default_backend() == "gpu" and query.dtype == jnp.bfloat16
        return jax.nn.dot_product_attention(
            query, key, value, mask=bias_mask, implementation="cudnn" if fused else None
        )
    # Dropout on probabilities: (b n h d) . (b m h d) -> (b h n m)
    logits = jnp.einsum("bnhd,bmhd->bhnm", query, key, preferred_element_type=jnp.float32)
    logits = logits * query.shape[-1] ** -0.5
    if bias_mask is not None:
        logits = jnp.where(bias_mask, logits, jnp.finfo(jnp.float32).min)
    weights = dropout(jax.nn.softmax(logits), rate, rng).astype(value.dtype)
    return jnp.einsum("bhnm,bmhd->bnhd", weights, value)


def scan_layers(
    blocks: nnx.Module,
    x: Float[Array, "b n d"],
    apply: Callable[[nnx.Module, Array, PRNGKeyArray | None], Array],
    *,
    layers: int,
    key: PRNGKeyArray | None,
    remat: Remat,
) -> tuple[Float[Array, "b n d"], Float[Array, "l b n d"]]:
    """Runs stacked layers one after the other, compiled once.

    Args:
      blocks: a module whose parameters have a leading axis of `layers`.
      apply: runs one layer: (layer, input, key) -> output.
      remat: what the backward pass computes again: nothing, all but matrix products, everything.

    Returns:
      the last output, and the outputs of all layers stacked (free where they are not used).
    """
    graphdef, stacked = nnx.split(blocks)

    def body(x, layer):
        parameters, layer_key = layer
        y = apply(nnx.merge(graphdef, parameters), x, layer_key)
        return y, y

    if remat == "full":
        body = jax.checkpoint(body, prevent_cse=False)
    elif remat == "dots":
        policy = jax.checkpoint_policies.dots_with_no_batch_dims_saveable
        body = jax.checkpoint(body, prevent_cse=False, policy=policy)
    keys = None if key is None else jax.random.split(key, layers)
    return jax.lax.scan(body, x, (stacked, keys))


def stack_layers(make: Callable[[nnx.Rngs], nnx.Module], layers: int, rngs: nnx.Rngs) -> nnx.Module:
    """One module that holds `layers` differently drawn copies, stacked on a leading axis."""
    return nnx.split_rngs(splits=layers)(nnx.vmap(make))(rngs)


def majority(
    shapes: Mapping[str, tuple[int, ...]], places: Iterable[tuple[str, int]], default: int
) -> int:
    """The size that most of the named axes have, `default` where no such tensor is there.

    One misshaped or missing tensor then does not hide what all the others agree on.

    Args:
      places: patterns of names (as in a shell) with the axis to look at.
    """
    votes = collections.Counter(
        shape[axis]
        for pattern, axis in places
        for name, shape in shapes.items()
        if fnmatch.fnmatchcase(name, pattern) and len(shape) > axis
    )
    return votes.most_common(1)[0][0] if votes else default


def count_layers(shapes: Mapping[str, tuple[int, ...]], prefix: str) -> int:
    """How many numbered layers the names after `prefix` speak of."""
    numbers = {
        int(number)
        for name in shapes
        if name.startswith(prefix) and (number := name[len(prefix) :].split(".")[0]).isdigit()
    }
    return max(numbers, default=-1) + 1
