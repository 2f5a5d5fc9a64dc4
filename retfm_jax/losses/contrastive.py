"""Contrastive losses between images and texts: InfoNCE, with hard or soft targets.

Similarities are taken over the global batch: under `jax.jit` with a sharded batch the compiler
gathers the embeddings that are needed, so there is no second code path for many devices.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from retfm_jax.errors import UserError
from retfm_jax.losses.shapes import check_integers, check_shapes

#: The logit of what does not count. Finite, so that a row without any candidate has a gradient.
EXCLUDED = float(jnp.finfo(jnp.float32).min)


def similarity(
    queries: Float[Array, "q d"], candidates: Float[Array, "n d"]
) -> Float[Array, "q n"]:
    """Computes inner products in full float32, also where matrix units would round their inputs.

    Args:
      queries, candidates: vectors (q, d) and (n, d), computed in float32.
    """
    return jnp.matmul(
        queries.astype(jnp.float32),
        candidates.astype(jnp.float32).T,
        precision=jax.lax.Precision.HIGHEST,
    )  # (q, d) . (d, n) -> (q, n)


def cross_entropy(
    logits_and_targets: Callable[[PyTree[Array]], tuple[Float[Array, "q n"], Float[Array, "q n"]]],
    candidates: PyTree[Array],
    block_size: int | None = None,
) -> Float[Array, " q"]:
    r"""Cross-entropy of every query over all candidates, in blocks of candidates.

    .. math:: L_i = \log \sum_j e^{z_{ij}} - \sum_j T_{ij} z_{ij}

    with the targets of a query summing to 1. With a block size no (queries, candidates) matrix
    exists, forward or backward: each block's logits are computed again in the backward pass. The
    value does not depend on the block size (up to rounding).

    Args:
      logits_and_targets: gives z and T of all queries for a block of candidates.
      candidates: arrays whose leading axis is the candidates.
      block_size: candidates in a block, which need not divide their number; None: all at once.

    Returns:
      the cross-entropy of each query, (q,) float32.

    Raises:
      UserError: `block_size` is not positive.
    """
    if block_size is not None and block_size < 1:
        raise UserError(f"block_size must be at least 1, or None, not {block_size}")
    count = jax.tree.leaves(candidates)[0].shape[0]
    if block_size is None or block_size >= count:
        log_sum, positive = _block_sums(*logits_and_targets(candidates))
        return log_sum - positive
    blocks = -(-count // block_size)

    def split(array: Array) -> Array:
        padding = [(0, blocks * block_size - count)] + [(0, 0)] * (array.ndim - 1)
        return jnp.pad(array, padding).reshape(blocks, block_size, *array.shape[1:])

    @jax.checkpoint
    def block_sums(
        block: tuple[PyTree[Array], Bool[Array, " n"]],
    ) -> tuple[Float[Array, " q"], Float[Array, " q"]]:
        members, exists = block
        logits, targets = logits_and_targets(members)
        return _block_sums(jnp.where(exists, logits, EXCLUDED), jnp.where(exists, targets, 0.0))

    exists = split(jnp.ones(count, bool))
    log_sums, positives = jax.lax.map(block_sums, (jax.tree.map(split, candidates), exists))
    return jax.nn.logsumexp(log_sums, axis=0) - jnp.sum(positives, axis=0)


def _block_sums(
    logits: Float[Array, "q n"], targets: Float[Array, "q n"]
) -> tuple[Float[Array, " q"], Float[Array, " q"]]:
    # The positive is taken from the same logits as the sum, not computed on its own: where
    # embeddings are alike, the gradient is a small difference of the two.
    return jax.nn.logsumexp(logits, axis=1), jnp.sum(targets * logits, axis=1)


def info_nce(
    image: Float[Array, "b d"],
    text: Float[Array, "b d"],
    scale: Float[Array, ""] | float,
    mask: Bool[Array, " b"] | None = None,
    block_size: int | None = None,
) -> Float[Array, ""]:
    r"""Symmetric InfoNCE over the pairs of a global batch.

    .. math:: L = -\frac{1}{2|P|} \sum_{i \in P} \Big(
      \log \frac{e^{s v_i t_i}}{\sum_{j \in P} e^{s v_i t_j}} +
      \log \frac{e^{s v_i t_i}}{\sum_{j \in P} e^{s v_j t_i}} \Big)

    with P the pairs that are present. Source: Radford et al., arXiv 2103.00020, section 2.3.

    Args:
      image, text: unit-norm embeddings (b, d); row i of both belongs to pair i.
      scale: the factor s on the similarities (the exponential of the learned log-temperature).
      mask: which pairs are present, (b,) bool. An absent pair is neither query nor candidate in
        either direction, whatever its embeddings hold. None: all are present.
      block_size: see `cross_entropy`.

    Returns:
      the mean over the present pairs; 0, with zero gradient, where there is none.

    Raises:
      UserError: the shapes do not fit together.
    """
    check_shapes(image=(image, "b d"), text=(text, "b d"), scale=(scale, ""), mask=(mask, "b"))
    index = jnp.arange(image.shape[0])
    present = jnp.ones(image.shape[0], bool) if mask is None else mask.astype(bool)
    image = jnp.where(present[:, None], image.astype(jnp.float32), 0.0)
    text = jnp.where(present[:, None], text.astype(jnp.float32), 0.0)

    def direction(queries: Float[Array, "b d"], others: Float[Array, "b d"]) -> Array:
        def logits_and_targets(block: dict[str, Array]) -> tuple[Array, Array]:
            logits = scale * similarity(queries, block["embedding"])
            own = index[:, None] == block["index"]
            return jnp.where(block["present"], logits, EXCLUDED), own.astype(jnp.float32)

        candidates = {"embedding": others, "index": index, "present": present}
        return cross_entropy(logits_and_targets, candidates, block_size)

    total = direction(image, text) + direction(text, image)
    pairs = jnp.maximum(jnp.sum(present), 1)
    return jnp.sum(jnp.where(present, total, 0.0)) / (2 * pairs)


def soft_target_info_nce(
    image: Float[Array, "b d"],
    text: Float[Array, "b d"],
    scale: Float[Array, ""] | float,
    category: Int[Array, " b"],
    block_size: int | None = None,
    text_weight: Float[Array, ""] | float = 1.0,
) -> Float[Array, ""]:
    r"""Cross-entropy of both directions in which all pairs of one category are positives.

    .. math:: L = -\frac{1}{2B} \sum_{ij} T_{ij} \big( \log p_{ij}^{v \to t} +
      \beta \log p_{ij}^{t \to v} \big), \quad T_{ij} = [c_i = c_j] / n_i

    with n_i the number of pairs of i's category. With beta = 1 and every category different this is
    `info_nce`. Source: Silva-Rodriguez et al. (FLAIR), arXiv 2308.07898; Wu et al. (KeepFIT),
    arXiv 2405.11793; the weight beta: MedKCO, arXiv 2603.09101.

    Args:
      image, text: unit-norm embeddings (B, d); row i of both belongs to pair i.
      scale: the factor s on the similarities, () float32.
      category: the category that pair i was sampled for, (B,) integers.
      block_size: see `cross_entropy`.
      text_weight: the weight beta of the direction from texts to images, () float32.

    Returns:
      the mean over all pairs and both directions, () float32.

    Raises:
      UserError: the shapes do not fit together, or categories are no integers.
    """
    check_shapes(
        image=(image, "b d"),
        text=(text, "b d"),
        scale=(scale, ""),
        category=(category, "b"),
        text_weight=(text_weight, ""),
    )
    check_integers(category=category)
    _, group, sizes = jnp.unique(
        category, return_inverse=True, return_counts=True, size=category.shape[0]
    )
    share = 1 / sizes[group]

    def direction(queries: Float[Array, "b d"], others: Float[Array, "b d"]) -> Array:
        def logits_and_targets(block: dict[str, Array]) -> tuple[Array, Array]:
            same = category[:, None] == block["category"]
            logits = scale * similarity(queries, block["embedding"])
            return logits, jnp.where(same, share[:, None], 0.0)

        candidates = {"embedding": others, "category": category}
        return cross_entropy(logits_and_targets, candidates, block_size)

    return jnp.mean(direction(image, text) + text_weight * direction(text, image)) / 2


def self_paced_weight(epoch: Int[Array, ""], epochs: float) -> Float[Array, ""]:
    r"""Weight of the direction from texts to images, which grows to 1 as a run proceeds.

    .. math:: \beta_e = \min(1, (e + 1) / E)

    Source: MedKCO, arXiv 2603.09101: beta = epoch / epochs, where epochs count from 1.

    Args:
      epoch: e, from 0, () integer.
      epochs: E, after which the weight is 1; above 0.
    """
    return jnp.minimum(1.0, (epoch + 1) / epochs)
