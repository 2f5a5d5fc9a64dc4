"""Weighted similarity coupling: a contrastive loss that knows which pairs say the same.

In retinal reports most pairs of a batch agree ("normal fundus"), so a plain contrastive loss pushes
apart what means the same. Here expert-knowledge labels of the reports eliminate those false
negatives and weigh how fast the other pairs part. The published code holds a plain contrastive
loss; this is a reconstruction from the description in Yang et al. (ViLReF), arXiv 2408.10894.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, UInt32

from retfm_jax.losses.contrastive import EXCLUDED, cross_entropy, similarity
from retfm_jax.losses.memory_queue import Queue, filled_mask
from retfm_jax.losses.shapes import check_shapes

#: Similarities that differ less are equal: those of equal texts, which may be the quantile itself.
_ROUNDING = 1e-5

#: The sign bit of a float32.
_SIGN = np.uint32(1 << 31)


def label_similarity(
    labels: Float[Array, "q c"], other_labels: Float[Array, "n c"]
) -> Float[Array, "q n"]:
    r"""Cosine (q, n) of multi-hot label vectors, 0 where either is empty (unknown).

    .. math:: J_{ij} = \langle y_i, y_j \rangle / (|y_i| |y_j|)

    Args:
      labels, other_labels: multi-hot vectors (q, c) and (n, c) of zeros and ones.
    """
    shared, product = _overlap(labels, other_labels)
    return shared / jnp.sqrt(jnp.maximum(product, 1.0))


def same_labels(
    labels: Float[Array, "q c"], other_labels: Float[Array, "n c"]
) -> Bool[Array, "q n"]:
    """Tells whether two label sets are equal and not empty, so that their similarity is 1.

    Args:
      labels, other_labels: multi-hot vectors (q, c) and (n, c) of zeros and ones.

    Returns:
      (q, n) bool.
    """
    # In counts, which float32 holds exactly: no rounding of a square root decides.
    shared, product = _overlap(labels, other_labels)
    return (shared * shared == product) & (product > 0)


def _overlap(
    labels: Float[Array, "q c"], other_labels: Float[Array, "n c"]
) -> tuple[Float[Array, "q n"], Float[Array, "q n"]]:
    """The number of shared labels, and the product of the two numbers of labels."""
    counts = jnp.sum(labels, axis=1)[:, None] * jnp.sum(other_labels, axis=1)[None, :]
    return similarity(labels, other_labels), counts.astype(jnp.float32)


def log_weights(
    labels: Float[Array, "q c"],
    other_labels: Float[Array, "n c"],
    own: Bool[Array, "q n"],
    gamma: float,
    alike: Bool[Array, "q n"] | None = None,
) -> Float[Array, "q n"]:
    r"""Computes what is added to the logits of negatives; constant for the gradient.

    .. math:: \log w_{ij} = \gamma \log(1 - J_{ij}), \quad 0^0 = 1

    0 for a query's own pair; `EXCLUDED` for false negatives.

    Args:
      labels: multi-hot labels of the queries, (q, c).
      other_labels: multi-hot labels of the candidates, (n, c).
      own: where the candidate is the query's own pair, (q, n) bool.
      gamma: exponent of the weights, at least 0; 0 leaves the elimination alone.
      alike: where candidates are false negatives, (q, n) bool; None: where they are other pairs
        with the same labels.
    """
    same = same_labels(labels, other_labels)
    eliminated = same if alike is None else alike | (same & (gamma > 0))
    agreement = jnp.where(same, 0.0, label_similarity(labels, other_labels))
    weights = jnp.where(eliminated, EXCLUDED, gamma * jnp.log1p(-agreement))
    return jax.lax.stop_gradient(jnp.where(own, 0.0, weights))


def similarity_quantile(
    embeddings: Float[Array, "b d"], quantile: float, block_size: int | None = None
) -> Float[Array, ""]:
    r"""Finds a quantile of the similarities of a batch among itself.

    Of the :math:`N = B^2` inner products, those of a vector with itself among them, it is the
    :math:`\max(1, \lfloor q N \rfloor)`-th smallest one, found by bisection of its bits,
    so that no B x B matrix is sorted, or held where there is a block size.

    Args:
      embeddings: vectors (b, d), computed in float32.
      quantile: the share q, in (0, 1].
      block_size: of the candidates, see `contrastive.cross_entropy`.

    Returns:
      the similarity, () float32, without gradient.
    """
    embeddings = jax.lax.stop_gradient(embeddings.astype(jnp.float32))
    batch = embeddings.shape[0]
    rank = max(1, int(quantile * batch * batch))
    size = batch if block_size is None else min(block_size, batch)
    blocks = -(-batch // size)
    padded = jnp.pad(embeddings, [(0, blocks * size - batch), (0, 0)])
    candidates = padded.reshape(blocks, size, -1)
    present = (jnp.arange(blocks * size) < batch).reshape(blocks, size)

    def bisect(_: Array, between: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = between
        middle = low + (high - low) // 2

        def count(block: tuple[Array, Array]) -> Array:
            below = _in_order(similarity(embeddings, block[0])) <= middle
            return jnp.sum(below & block[1], dtype=jnp.uint32)

        reached = jnp.sum(jax.lax.map(count, (candidates, present)), dtype=jnp.uint32) >= rank
        return jnp.where(reached, low, middle + 1), jnp.where(reached, middle, high)

    everything = jnp.uint32(0), jnp.uint32(2**32 - 1)
    found, _ = jax.lax.fori_loop(0, 32, bisect, everything)
    bits = jnp.where(found >> 31, found ^ _SIGN, ~found)
    return jax.lax.bitcast_convert_type(bits, jnp.float32)


def _in_order(values: Float[Array, "q n"]) -> UInt32[Array, "q n"]:
    """Integers in the order of the values."""
    bits = jax.lax.bitcast_convert_type(values, jnp.uint32)
    return jnp.where(bits >> 31, ~bits, bits | _SIGN)


def weighted_similarity_coupling(
    image: Float[Array, "b d"],
    text: Float[Array, "b d"],
    scale: Float[Array, ""] | float,
    labels: Float[Array, "b c"],
    queue: Queue | None = None,
    gamma: float = 1.0,
    block_size: int | None = None,
    *,
    momentum: tuple[Float[Array, "b d"], Float[Array, "b d"]] | None = None,
    calibrated: bool = False,
    text_quantile: float | None = None,
) -> Float[Array, ""]:
    r"""Symmetric contrastive loss with eliminated false negatives and weighted negatives.

    .. math:: L_{i2t} = -\frac{1}{B} \sum_i \log
      \frac{e^{z_{ii}}}{\sum_{j : F_{ij} = 0} w_{ij} e^{z_{ij}}}, \quad z_{ij} = s v_i t_j, \quad
      L = (L_{i2t} + L_{t2i}) / 2

    The candidates j are the batch and the filled entries of the queue, which are always other
    pairs. F marks candidates with the same, non-empty labels, :math:`w_{ij} = (1 - J_{ij})^\gamma`
    weighs the rest and is 1 for the own pair (see `label_similarity`). With empty labels and an
    empty queue this is `contrastive.info_nce`, whatever gamma.

    With `text_quantile` it is the texts' embeddings that tell the false negatives, not the labels:
    F marks other pairs whose text is at least as similar as that quantile of the batch's
    similarities (`similarity_quantile`), in both directions alike. So do experiments that the
    published code keeps in compiled form, with a quantile of 0.77. Labels go on weighing the rest.

    Two things go beyond that definition, and both leave the gradient of a candidate's similarity
    at its weight times its share:

    - With `momentum`, an entry k_j of the queue competes with what its own encoder makes of the
      pair, :math:`\tilde t_i`: :math:`z_{ij} = s (v_i k_j + v_i t_i - v_i \tilde t_i)`. Else the
      encoders lower the loss by moving on together, away from all that they wrote before.
    - `calibrated` takes what is removed to lie where the own pair lies, not to be absent:
      :math:`w_{ij} e^{z_{ij}} + (1 - w_{ij}) e^{z_{ii}}` stands in the sum, with F as w = 0. So the
      softmax keeps the frequencies of what reports say. Without it one "normal fundus" stands for
      all that were eliminated against all that is not normal, and its embedding is driven off.

    Args:
      image, text: unit-norm embeddings (b, d) of the batch; row i of both belongs to pair i.
      scale: the factor s on the similarities.
      labels: multi-hot labels of the pairs (b, c), all 0 where unknown.
      queue: earlier pairs (see `memory_queue`); None: the batch alone.
      gamma: exponent of the weights, at least 0.
      block_size: see `contrastive.cross_entropy`.
      momentum: the batch's images and texts, each (b, d), as the encoders that write the queue
        embed them; None: as if these were the encoders themselves.
      calibrated: see above.
      text_quantile: in (0, 1], or None, see above. Texts are compared as `momentum` has them, where
        it is given, so that the queue's are of the same kind.

    Returns:
      the mean over the batch and both directions, () float32.

    Raises:
      UserError: the shapes do not fit together.
    """
    remembered, ours = queue or {}, momentum or (None, None)
    check_shapes(
        image=(image, "b d"),
        text=(text, "b d"),
        scale=(scale, ""),
        labels=(labels, "b c"),
        **{
            f"queue[{name!r}]": (remembered.get(name), axes)
            for name, axes in (("image", "k d"), ("text", "k d"), ("labels", "k c"))
        },
        **{f"momentum[{position}]": (each, "b d") for position, each in enumerate(ours)},
    )
    image = image.astype(jnp.float32)
    text = text.astype(jnp.float32)
    labels = labels.astype(jnp.float32)
    batch = image.shape[0]
    index = jnp.arange(batch)
    said = text if momentum is None else momentum[1]
    similar = None
    candidates = {"labels": labels, "index": index, "present": jnp.ones(batch, bool)}
    if text_quantile is not None:
        similar = similarity_quantile(said, text_quantile, block_size)
        candidates["said"] = said
    if queue is not None:
        size = queue["image"].shape[0]
        remembered = {
            "labels": queue["labels"],
            "index": jnp.full(size, -1),  # never a query's own pair
            "present": filled_mask(queue),
            "said": queue["text"],
        }
        candidates = {
            name: jnp.concatenate([part, remembered[name]]) for name, part in candidates.items()
        }

    def direction(
        queries: Float[Array, "b d"], others: Float[Array, "b d"], name: str, position: int
    ) -> Array:
        positive = scale * jnp.sum(queries * others, axis=1)
        ahead = jnp.zeros_like(positive)
        if momentum is not None:
            ahead = positive - scale * jnp.sum(queries * momentum[position], axis=1)
        entries = others if queue is None else jnp.concatenate([others, queue[name]])

        def logits_and_targets(block: dict[str, Array]) -> tuple[Array, Array]:
            own = index[:, None] == block["index"]
            logits = scale * similarity(queries, block["embedding"])
            logits += jnp.where(block["index"] < 0, ahead[:, None], 0.0)
            alike = None
            if similar is not None:
                alike = similarity(said, block["said"]) > similar - _ROUNDING
            weights = log_weights(labels, block["labels"], own, gamma, alike)
            logits += weights
            if calibrated:
                removed = jnp.log(-jnp.expm1(weights))
                logits = jnp.logaddexp(logits, removed + positive[:, None])
            return jnp.where(block["present"], logits, EXCLUDED), own.astype(jnp.float32)

        return cross_entropy(logits_and_targets, {**candidates, "embedding": entries}, block_size)

    return jnp.mean(direction(image, text, "text", 1) + direction(text, image, "image", 0)) / 2
