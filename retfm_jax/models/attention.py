"""Softmax attention: one function that every tower calls, and one place that chooses its kernel."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key

from retfm_jax.models.layers import dropout
from retfm_jax.models.taps import Tap


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
      what the queries attend to, (b, n, h, d).
    """
    if isinstance(mask, int):
        few = mask < key.shape[1]
        mask = jnp.broadcast_to(jnp.arange(key.shape[1]) < mask, key.shape[:2]) if few else None
    by_query = mask is not None and mask.ndim == 3
    if (rngs is None or rate == 0) and tap is None and not by_query and _fused(query):
        return _fused_attention(query, key, value, mask)
    # Heads before tokens makes batched matrix products of both contractions, as they lie in memory:
    # (b h n d) . (b h m d) -> (b h n m)
    query, key, value = (x.swapaxes(1, 2) for x in (query, key, value))
    logits = jnp.einsum("bhnd,bhmd->bhnm", query, key, preferred_element_type=jnp.float32)
    logits = logits * query.shape[-1] ** -0.5
    if mask is not None:
        seen = mask[:, None] if by_query else mask[:, None, None, :]
        logits = jnp.where(seen, logits, jnp.finfo(jnp.float32).min)
    weights = jax.nn.softmax(logits)
    weights = weights if tap is None else tap(weights)
    weights = dropout(weights, rate, rngs).astype(value.dtype)
    return jnp.einsum("bhnm,bhmd->bhnd", weights, value).swapaxes(1, 2)


def _fused(query: Float[Array, "b n h d"]) -> bool:
    """Whether cuDNN's fused attention takes such queries; one alone has nothing to gain."""
    _, queries, _, width = query.shape
    fits = query.dtype == jnp.bfloat16 and width % 8 == 0 and width <= 128 and queries > 1
    return fits and jax.default_backend() == "gpu"


def _fused_attention(
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
    found = jax.nn.dot_product_attention(
        query, key, value, key_value_seq_lengths=lengths, implementation="cudnn"
    )
    return found[:, :queries]


def _even(x: Float[Array, "b n h d"]) -> Float[Array, "b _ h d"]:
    return jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, 0), (0, 0)))
