"""Weighted similarity coupling: a contrastive loss that knows which pairs say the same.

In retinal reports most pairs of a batch agree ("normal fundus"), so a plain contrastive loss pushes
apart what means the same. Here expert-knowledge labels of the reports eliminate those false
negatives and weigh how fast the other pairs part. The published code holds a plain contrastive
loss; this is a reconstruction from the description in Yang et al. (ViLReF), arXiv 2408.10894.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from retfm_jax.losses.contrastive import EXCLUDED, cross_entropy, similarity
from retfm_jax.losses.memory_queue import Queue, filled_mask
from retfm_jax.losses.shapes import check_shapes


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
) -> Float[Array, "q n"]:
    r"""Computes what is added to the logits of negatives; constant for the gradient.

    .. math:: \log w_{ij} = \gamma \log(1 - J_{ij})

    0 for a query's own pair; `EXCLUDED` for false negatives, other pairs with the same labels.

    Args:
      labels: multi-hot labels of the queries, (q, c).
      other_labels: multi-hot labels of the candidates, (n, c).
      own: where the candidate is the query's own pair, (q, n) bool.
      gamma: exponent of the weights, at least 0; 0 leaves the elimination alone.
    """
    false_negative = same_labels(labels, other_labels)
    agreement = jnp.where(false_negative, 0.0, label_similarity(labels, other_labels))
    weights = jnp.where(false_negative, EXCLUDED, gamma * jnp.log1p(-agreement))
    return jax.lax.stop_gradient(jnp.where(own, 0.0, weights))


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
) -> Float[Array, ""]:
    r"""Symmetric contrastive loss with eliminated false negatives and weighted negatives.

    .. math:: L_{i2t} = -\frac{1}{B} \sum_i \log
      \frac{e^{z_{ii}}}{\sum_{j : F_{ij} = 0} w_{ij} e^{z_{ij}}}, \quad z_{ij} = s v_i t_j, \quad
      L = (L_{i2t} + L_{t2i}) / 2

    The candidates j are the batch and the filled entries of the queue, which are always other
    pairs. F marks candidates with the same, non-empty labels, :math:`w_{ij} = (1 - J_{ij})^\gamma`
    weighs the rest and is 1 for the own pair (see `label_similarity`). With empty labels and an
    empty queue this is `contrastive.info_nce`, whatever gamma.

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
    candidates = {"labels": labels, "index": index, "present": jnp.ones(batch, bool)}
    if queue is not None:
        size = queue["image"].shape[0]
        remembered = {
            "labels": queue["labels"],
            "index": jnp.full(size, -1),  # never a query's own pair
            "present": filled_mask(queue),
        }
        candidates = jax.tree.map(lambda *parts: jnp.concatenate(parts), candidates, remembered)

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
            weights = log_weights(labels, block["labels"], own, gamma)
            logits += weights
            if calibrated:
                removed = jnp.log(-jnp.expm1(weights))
                logits = jnp.logaddexp(logits, removed + positive[:, None])
            return jnp.where(block["present"], logits, EXCLUDED), own.astype(jnp.float32)

        return cross_entropy(logits_and_targets, {**candidates, "embedding": entries}, block_size)

    return jnp.mean(direction(image, text, "text", 1) + direction(text, image, "image", 0)) / 2
