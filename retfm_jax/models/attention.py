"""Softmax attention: one function that every tower calls, and one place that chooses its kernel."""

from typing import Literal

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Bool, Float, Key

from retfm_jax.models import attention_tpu
from retfm_jax.models.attention_stand_in import attention_stand_in
from retfm_jax.models.random_bits import attention_mask, kept_scale, key_words
from retfm_jax.models.taps import Tap
from retfm_jax.models.target import is_assumed, platform


def attention(
    query: Float[Array, "b n h d"],
    key: Float[Array, "b m h d"],
    value: Float[Array, "b m h d"],
    mask: Bool[Array, "b m"] | Bool[Array, "b n m"] | int | None = None,
    *,
    rate: float = 0.0,
    rngs: Key[Array, " b"] | None = None,
    tap: Tap | None = None,
) -> Float[Array, "b n h d"]:
    """Computes softmax attention, `softmax(q k^T / sqrt(d)) v` (Vaswani et al. 2017).

    Args:
      query: n queries (b, n, h, d), for h heads of width d.
      key, value: m keys and their values (b, m, h, d), in the type of `query`.
      mask: which keys may be seen (b, m) bool, of each row the first ones; or (b, n, m), by each
        query; or how many of the keys of every row, as others are padding; None: all.
      rate: dropout on the attention probabilities, in [0, 1).
      rngs: PRNG keys of the dropout, one for each sample; None drops nothing.
      tap: observes the attention probabilities (b, h, n, m) float32; None: they are not looked at.

    Returns:
      what the queries attend to, (b, n, h, d); zeros where no key may be seen.
    """
    if isinstance(mask, int) and mask >= key.shape[1]:
        mask = None
    rate = 0.0 if rngs is None else rate
    kernel = _kernel(query, key, mask, rate, tap)
    if kernel == "tpu":
        return _tpu_attention(query, key, value, mask, rate, rngs)
    if isinstance(mask, int):
        mask = jnp.broadcast_to(jnp.arange(key.shape[1]) < mask, key.shape[:2])
    if kernel == "cudnn":
        return _cudnn_attention(query, key, value, mask)
    # Heads before tokens makes batched matrix products of both contractions, as they lie in memory:
    # (b h n d) . (b h m d) -> (b h n m)
    query, key, value = (x.swapaxes(1, 2) for x in (query, key, value))
    logits = jnp.einsum("bhnd,bhmd->bhnm", query, key, preferred_element_type=jnp.float32)
    logits = logits * query.shape[-1] ** -0.5
    if mask is None:
        weights = jax.nn.softmax(logits)
    else:
        seen = mask[:, None] if mask.ndim == 3 else mask[:, None, None, :]
        weights = jax.nn.softmax(jnp.where(seen, logits, jnp.finfo(jnp.float32).min))
        weights = jnp.where(seen, weights, 0)
    weights = weights if tap is None else tap(weights)
    if rngs is not None and rate > 0:
        keep = checkpoint_name(attention_mask(rngs, rate, *weights.shape[1:]), "mask")
        weights = jnp.where(keep, weights * kept_scale(rate), 0)
    return jnp.einsum("bhnm,bhmd->bhnd", weights.astype(value.dtype), value).swapaxes(1, 2)


def _kernel(
    query: Float[Array, "b n h d"],
    key: Float[Array, "b m h d"],
    mask: Bool[Array, "b m"] | Bool[Array, "b n m"] | int | None,
    rate: float,
    tap: Tap | None,
) -> Literal["tpu", "cudnn"] | None:
    """Chooses the fused kernel that takes such arrays; None: there is none, or nothing to gain.

    None of them shows its probabilities or takes a mask by query, and one query alone has no
    logits to speak of. cuDNN draws its dropout from one seed for the whole batch, so that a
    sample's mask would depend on its place in the batch: with dropout a GPU takes the plain form.
    """
    batch, queries, heads, width = query.shape
    by_query = mask is not None and not isinstance(mask, int) and mask.ndim == 3
    if tap is not None or by_query or queries == 1:
        return None
    if platform() == "gpu":
        fits = query.dtype == jnp.bfloat16 and width % 8 == 0 and width <= 128
        return "cudnn" if fits and rate == 0 else None
    if platform() == "tpu" or attention_tpu.is_interpreted():
        mesh = jax.sharding.get_abstract_mesh()
        if mesh.empty and not attention_tpu.is_interpreted() and jax.device_count() > 1:
            return None  # XLA cannot divide a kernel by itself
        own, rest = (batch, 0) if mesh.empty else divmod(batch, mesh.size)
        sizes = own, queries, key.shape[1], heads, width, query.dtype
        return "tpu" if rest == 0 and attention_tpu.fits(*sizes, drops=rate > 0) else None
    return None


def _tpu_attention(
    query: Float[Array, "b n h d"],
    key: Float[Array, "b m h d"],
    value: Float[Array, "b m h d"],
    mask: Bool[Array, "b m"] | int | None,
    rate: float,
    rngs: Key[Array, " b"] | None,
) -> Float[Array, "b n h d"]:
    """Computes attention by the TPU's kernel, in whose arrays heads stand side by side."""
    lengths = None if mask is None or isinstance(mask, int) else mask.sum(1, dtype=jnp.int32)
    found = attention_tpu.attend(
        *(x.reshape(*x.shape[:2], -1) for x in (query, key, value)),
        heads=query.shape[2],
        seen=mask if isinstance(mask, int) else None,
        lengths=lengths,
        rate=rate,
        words=None if rngs is None else key_words(rngs),
    )
    return found.reshape(query.shape)


def _cudnn_attention(
    query: Float[Array, "b n h d"],
    key: Float[Array, "b m h d"],
    value: Float[Array, "b m h d"],
    mask: Bool[Array, "b m"] | None,
) -> Float[Array, "b n h d"]:
    """Computes attention by cuDNN, whose gradient takes even numbers of tokens alone.

    A class token beside an even number of patches makes them odd: a token that no query sees, and
    a query whose result is dropped, make them even.
    """
    queries, keys = query.shape[1], key.shape[1]
    # A mask would be a bias of the size of the logits here; the kernel takes lengths.
    lengths = None if mask is None else mask.sum(1, dtype=jnp.int32)
    if lengths is None and keys % 2:
        lengths = jnp.full(len(key), keys, jnp.int32)
    query, key, value = (_even(x) for x in (query, key, value))
    if is_assumed():
        return attention_stand_in(query, key, value)[:, :queries]
    found = jax.nn.dot_product_attention(
        query, key, value, key_value_seq_lengths=lengths, implementation="cudnn"
    )
    return found[:, :queries]


def _even(x: Float[Array, "b n h d"]) -> Float[Array, "b _ h d"]:
    return jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, 0), (0, 0)))
