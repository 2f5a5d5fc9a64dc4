"""KeepFIT's image-similarity-guided text revision.

A category image looks for similar expert images and takes their texts; the text embedding of its
category is pulled towards what it found. Source: Wu et al. (KeepFIT), arXiv 2405.11793.
"""

from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from retfm_jax.errors import UserError
from retfm_jax.losses.shapes import check_shapes

#: What the attention weights of a pair of images are normalized over.
SoftmaxOver = Literal["heads", "experts"]


def revise_texts(
    queries: Float[Array, "b d"],
    keys: Float[Array, "e d"],
    values: Float[Array, "e d"],
    num_heads: int,
    *,
    softmax_over: SoftmaxOver = "heads",
    dropout_rate: float = 0.0,
    key: PRNGKeyArray | None = None,
) -> Float[Array, "b d"]:
    r"""Attends from category images to expert pairs with several heads, before output projection.

    .. math:: \hat t_{bh} = \sum_e a_{hbe} V_{eh}, \quad
      a = \mathrm{softmax}(Q_{bh} \cdot K_{eh} / \sqrt{d / H})

    The paper describes attention over the expert pairs (`softmax_over="experts"`). The published
    code leaves the axis of its softmax to PyTorch's default for three axes, which is the first:
    the heads. The published weights were trained so, and it is the default here: a weight then
    compares the heads on one expert pair, and the result is a sum over the expert pairs that grows
    with their number.

    Args:
      queries: projected embeddings of the category images, (b, d).
      keys: projected embeddings of the expert images, (e, d).
      values: projected embeddings of the expert texts, (e, d).
      num_heads: the H heads that share the width d.
      softmax_over: the axis on which the attention weights sum to 1.
      dropout_rate: share of the attention weights that is dropped, in [0, 1); the rest is scaled
        up.
      key: randomness of the dropout; None drops nothing.

    Returns:
      the revised texts, (b, d) float32.

    Raises:
      UserError: the shapes do not fit together, the heads do not divide the width, or there is no
        such axis of the softmax.
    """
    check_shapes(queries=(queries, "b d"), keys=(keys, "e d"), values=(values, "e d"))
    if num_heads < 1 or queries.shape[1] % num_heads:
        raise UserError(f"num_heads {num_heads} does not divide the width {queries.shape[1]}")
    if softmax_over not in get_args(SoftmaxOver):
        raise UserError(
            f"softmax_over is {' or '.join(get_args(SoftmaxOver))}, not {softmax_over!r}"
        )
    heads = [array.reshape(array.shape[0], num_heads, -1) for array in (queries, keys, values)]
    query, expert_image, expert_text = (array.astype(jnp.float32) for array in heads)
    precision = jax.lax.Precision.HIGHEST
    # (b, h, d) . (e, h, d) -> (h, b, e)
    scores = jnp.einsum("bhd,ehd->hbe", query, expert_image, precision=precision)
    scores = scores * query.shape[-1] ** -0.5
    weights = jax.nn.softmax(scores, axis={"heads": 0, "experts": 2}[softmax_over])
    if key is not None:
        kept = jax.random.bernoulli(key, 1 - dropout_rate, weights.shape)
        weights = jnp.where(kept, weights / (1 - dropout_rate), 0.0)
    # (h, b, e) . (e, h, d) -> (b, h, d)
    revised = jnp.einsum("hbe,ehd->bhd", weights, expert_text, precision=precision)
    return revised.reshape(queries.shape)


def revision_loss(text: Float[Array, "b d"], revised_text: Float[Array, "b d"]) -> Float[Array, ""]:
    r"""Mean squared error over all B x D elements, with gradient to both sides.

    .. math:: L = \frac{1}{BD} \sum_{ik} (t_{ik} - \hat t_{ik})^2

    Args:
      text: embeddings of the categories' texts, (b, d).
      revised_text: what the images assembled from expert texts (`revise_texts`, projected), (b, d).

    Raises:
      UserError: the shapes differ.
    """
    check_shapes(text=(text, "b d"), revised_text=(revised_text, "b d"))
    difference = text.astype(jnp.float32) - revised_text.astype(jnp.float32)
    return jnp.mean(jnp.square(difference))
