"""The sigmoid loss between images and texts: every pair of the batch is a question of its own."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from retfm_jax.errors import UserError
from retfm_jax.losses.shapes import check_shapes


def sigmoid(
    image: Float[Array, "b d"],
    text: Float[Array, "b d"],
    scale: Float[Array, ""] | float,
    bias: Float[Array, ""] | float,
    groups: int = 1,
) -> Float[Array, ""]:
    r"""Binary cross-entropy of "image i and text j belong together", over all i and j.

    .. math:: L = -\frac{1}{B} \sum_{ij} \log \sigma \big( z_{ij} (s v_i t_j + b) \big), \quad
      z_{ij} = 2 [i = j] - 1

    Source: Zhai et al., arXiv 2303.15343, algorithm 1 and section 3.3.

    The batch is taken in groups whose texts go round: in each turn every group of images meets one
    group of texts. With as many groups as devices a turn needs no embedding but the neighbor's,
    which a collective permutation hands on, and no device ever holds more than its own share of the
    B x B similarities. The value does not depend on the number of groups (up to rounding).

    Args:
      image, text: unit-norm embeddings (B, d); row i of both belongs to pair i.
      scale: the factor s on the similarities, ().
      bias: b, (), which answers for most pairs not belonging together.
      groups: any number from 1 on; where it does not divide the batch, the last ones are filled up
        with rows that count for nothing.

    Returns:
      the sum over all i and j divided by B, () float32.

    Raises:
      UserError: the shapes do not fit together, or `groups` is not positive.
    """
    check_shapes(image=(image, "b d"), text=(text, "b d"), scale=(scale, ""), bias=(bias, ""))
    if groups < 1:
        raise UserError(f"groups must be at least 1, not {groups}")
    batch = image.shape[0]
    rows = -(-batch // groups)

    def grouped(array: Array) -> Array:
        padding = [(0, rows * groups - batch)] + [(0, 0)] * (array.ndim - 1)
        return jnp.pad(array, padding).reshape(groups, rows, *array.shape[1:])

    images, texts = grouped(image.astype(jnp.float32)), grouped(text.astype(jnp.float32))
    exists = grouped(jnp.ones(batch, bool))

    @jax.checkpoint
    def turn(
        texts: Float[Array, "g r d"], there: Bool[Array, "g r"], own: Bool[Array, ""]
    ) -> Float[Array, ""]:
        similarity = jnp.einsum("gid,gjd->gij", images, texts, precision=jax.lax.Precision.HIGHEST)
        belongs = jnp.where(own & jnp.eye(rows, dtype=bool), 1.0, -1.0)
        losses = jax.nn.softplus(-belongs * (scale * similarity + bias))
        return jnp.sum(jnp.where(exists[:, :, None] & there[:, None, :], losses, 0.0))

    def step(carry, index):
        total, texts, there = carry
        total += turn(texts, there, index == 0)
        return (total, jnp.roll(texts, 1, axis=0), jnp.roll(there, 1, axis=0)), None

    start = jnp.zeros((), jnp.float32), texts, exists
    (total, _, _), _ = jax.lax.scan(step, start, jnp.arange(groups))
    return total / batch
