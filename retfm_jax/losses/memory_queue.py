"""Memory queues and momentum parameters: what a contrastive method remembers between steps.

A queue is a plain dict of arrays, so that it is saved, resumed and sharded like any other state:

- `image`, `text`: (K, D) embeddings of momentum encoders,
- `labels`: (K, C) their multi-hot labels,
- `cursor`: () int32, where the next pair is written,
- `filled`: () int32, how many of the K entries hold a pair.

Source: He et al. (MoCo), arXiv 1911.05722, section 3.2, with a cursor that need not start a batch
on a multiple of the batch size.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PyTree

from retfm_jax.losses.shapes import check_shapes

Queue = dict[str, Array]


def init(size: int, dim: int, num_labels: int) -> Queue:
    """Makes an empty queue.

    Args:
      size: the K pairs that it holds when full.
      dim: width D of the embeddings.
      num_labels: length C of the label vectors, 0 without labels.
    """
    return {
        "image": jnp.zeros((size, dim), jnp.float32),
        "text": jnp.zeros((size, dim), jnp.float32),
        "labels": jnp.zeros((size, num_labels), jnp.float32),
        "cursor": jnp.zeros((), jnp.int32),
        "filled": jnp.zeros((), jnp.int32),
    }


def push(
    queue: Queue,
    image: Float[Array, "b d"],
    text: Float[Array, "b d"],
    labels: Float[Array, "b c"],
) -> Queue:
    """Pushes a batch: the oldest pairs are overwritten, in the order of the batch.

    The batch need not divide the queue's size K; of a batch larger than K the newest K pairs
    stay. Under `jax.jit` with a sharded batch the queue takes the global batch, in its order.
    No gradient flows into the queue.

    Args:
      queue: the queue before, as `init` makes it.
      image, text: unit-norm momentum embeddings (b, d) of the batch's pairs.
      labels: their multi-hot labels (b, c), all 0 where unknown.

    Returns:
      the queue after it.

    Raises:
      UserError: the arrays do not fit together, or not into the queue.
    """
    check_shapes(
        image=(image, "b d"),
        text=(text, "b d"),
        labels=(labels, "b c"),
        **{"the queue's image": (queue["image"], "k d"), "its labels": (queue["labels"], "k c")},
    )
    size = queue["image"].shape[0]
    batch = image.shape[0]
    newest = min(batch, size)
    start = queue["cursor"] + (batch - newest)
    positions = (start + jnp.arange(newest)) % size
    entries = {"image": image, "text": text, "labels": labels}
    pushed = {
        name: queue[name].at[positions].set(jax.lax.stop_gradient(array[batch - newest :]))
        for name, array in entries.items()
    }
    return {
        **pushed,
        "cursor": (queue["cursor"] + batch) % size,
        "filled": jnp.minimum(queue["filled"] + batch, size),
    }


def filled_mask(queue: Queue) -> Bool[Array, " k"]:
    """Mask (K,) of the entries that hold a pair.

    Args:
      queue: as `init` or `push` returned it.
    """
    return jnp.arange(queue["image"].shape[0]) < queue["filled"]


def momentum_update(
    params: PyTree[Array], momentum_params: PyTree[Array], momentum: float
) -> PyTree[Array]:
    """Moves the average: `momentum * momentum_params + (1 - momentum) * params`.

    Args:
      params: current parameters, a pytree.
      momentum_params: their average so far, a pytree like it.
      momentum: share of the average that stays, in [0, 1].
    """
    return jax.tree.map(
        lambda new, average: momentum * average + (1 - momentum) * new, params, momentum_params
    )
