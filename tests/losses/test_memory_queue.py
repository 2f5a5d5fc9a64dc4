"""The queue holds the last K of everything that was pushed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from retfm_jax.losses import memory_queue


def batches(sizes: list[int], dim: int = 4, num_labels: int = 3):
    rng = np.random.default_rng(0)
    for size in sizes:
        yield tuple(rng.normal(size=(size, width)).astype(np.float32) for width in (dim, dim, 3))


def in_order(queue: memory_queue.Queue, name: str) -> np.ndarray:
    """The filled entries, oldest first."""
    filled, cursor = int(queue["filled"]), int(queue["cursor"])
    size = len(queue[name])
    start = cursor if filled == size else 0
    return np.roll(queue[name], -start, axis=0)[:filled]


@pytest.mark.parametrize("size", [1, 5, 8, 12])
@pytest.mark.parametrize("sizes", [[3], [4, 4, 4], [5, 3, 7, 2], [20, 6], [9, 1, 30, 4]])
def test_holds_the_last_pairs_of_all_pushes(size, sizes):
    push = jax.jit(memory_queue.push)
    queue = memory_queue.init(size, 4, 3)
    pushed = list(batches(sizes))
    for batch in pushed:
        queue = push(queue, *batch)
    assert queue["filled"] == min(size, sum(sizes))
    assert memory_queue.filled_mask(queue).sum() == queue["filled"]
    for index, name in enumerate(("image", "text", "labels")):
        everything = np.concatenate([batch[index] for batch in pushed])
        np.testing.assert_array_equal(in_order(queue, name), everything[-size:])


def test_no_gradient_enters_the_queue():
    image, text, labels = next(batches([3]))

    def total(image):
        queue = memory_queue.push(memory_queue.init(5, 4, 3), image, text, labels)
        return queue["image"].sum()

    assert not jax.grad(total)(image).any()


def test_momentum_update_is_a_moving_average():
    params = {"a": jnp.array([1.0, 2.0]), "b": {"c": jnp.array(4.0)}}
    average = {"a": jnp.array([0.0, 0.0]), "b": {"c": jnp.array(8.0)}}
    updated = memory_queue.momentum_update(params, average, 0.75)
    np.testing.assert_allclose(updated["a"], [0.25, 0.5])
    np.testing.assert_allclose(updated["b"]["c"], 7.0)
    jax.tree.map(
        np.testing.assert_array_equal, memory_queue.momentum_update(params, average, 0.0), params
    )
