"""What fused attention needs of memory, where cuDNN is not here: for plans alone."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


@jax.custom_vjp
def attention_stand_in(
    query: Float[Array, "b n h d"], key: Float[Array, "b m h d"], value: Float[Array, "b m h d"]
) -> Float[Array, "b n h d"]:
    """Reads, writes and keeps the arrays that cuDNN's attention does; it computes something else.

    Kept for the gradient are the arguments, the result and the logarithm of each query's sum of
    exponentials (b, h, n) float32. There are no logits.

    Args:
      query: n queries (b, n, h, d), for h heads of width d.
      key, value: m keys and their values (b, m, h, d).

    Returns:
      an array of the queries' shape and type.
    """
    return _forward(query, key, value)[0]


def _forward(query, key, value):
    mixed = (key * value).sum(1, keepdims=True)
    result = query * mixed
    sums = jnp.einsum("bnhd->bhn", query.astype(jnp.float32))
    return result, (query, key, value, result, sums)


def _backward(kept, gradient):
    query, key, value, result, sums = kept
    scale = (gradient * result).sum(1, keepdims=True)
    of_query = gradient * query + sums.swapaxes(1, 2)[..., None].astype(query.dtype)
    return of_query, key * scale, value * scale


attention_stand_in.defvjp(_forward, _backward)
