"""The sigmoid loss is its equation, in however many groups and on however many devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from retfm_jax.config import MeshConfig
from retfm_jax.errors import UserError
from retfm_jax.losses.sigmoid import sigmoid
from retfm_jax.runtime.mesh import batch_sharding, make_mesh


def embeddings(rows, seed=0):
    rng = np.random.default_rng(seed)
    found = rng.normal(size=(2, rows, 6)).astype(np.float32)
    return found / np.linalg.norm(found, axis=-1, keepdims=True)


def by_hand(image, text, scale, bias):
    total = 0.0
    for i, v in enumerate(image.astype(float)):
        for j, t in enumerate(text.astype(float)):
            z = 1 if i == j else -1
            total += np.log1p(np.exp(-z * (scale * v @ t + bias)))
    return total / len(image)


@pytest.mark.parametrize("rows", [1, 5, 16])
@pytest.mark.parametrize("groups", [1, 3, 8, 20])
def test_it_is_the_published_equation(rows, groups):
    image, text = embeddings(rows)
    loss = sigmoid(image, text, jnp.float32(10.0), jnp.float32(-3.0), groups)
    np.testing.assert_allclose(loss, by_hand(image, text, 10.0, -3.0), rtol=1e-5)


@pytest.mark.parametrize(("rows", "groups"), [(16, 4), (10, 4), (7, 8)])
def test_gradients_do_not_depend_on_the_groups(rows, groups):
    arguments = (*embeddings(rows), jnp.float32(10.0), jnp.float32(-10.0))
    gradient = jax.grad(sigmoid, argnums=(0, 1, 2, 3))
    for whole, grouped in zip(gradient(*arguments), gradient(*arguments, groups), strict=True):
        np.testing.assert_allclose(grouped, whole, atol=1e-6)


@pytest.mark.parametrize("sizes", [(8, 1), (4, 2)])
def test_on_a_mesh_texts_go_from_neighbor_to_neighbor(sizes):
    mesh = make_mesh(MeshConfig(*sizes))
    image, text = embeddings(24)
    rows = batch_sharding(mesh)
    placed = jax.device_put((image, text), rows)
    step = jax.jit(
        jax.value_and_grad(lambda *pair: sigmoid(*pair, jnp.float32(10.0), jnp.float32(-10.0), 8)),
        in_shardings=(rows, rows),
    )
    compiled = step.lower(*placed).compile()
    program = compiled.as_text()
    assert "collective-permute" in program
    assert "all-gather" not in program
    loss, gradient = compiled(*placed)
    want, slope = jax.value_and_grad(sigmoid)(image, text, jnp.float32(10.0), jnp.float32(-10.0))
    np.testing.assert_allclose(loss, want, rtol=1e-6)
    np.testing.assert_allclose(gradient, slope, atol=1e-6)


@pytest.mark.wrong_arguments
def test_what_does_not_fit_is_named():
    image, text = embeddings(4)
    with pytest.raises(UserError, match="text"):
        sigmoid(image, text[:3], jnp.float32(1.0), jnp.float32(0.0))
    with pytest.raises(UserError, match="groups"):
        sigmoid(image, text, jnp.float32(1.0), jnp.float32(0.0), 0)
