"""Attention equals JAX's own; where a GPU's fused kernel takes the arrays, that computes it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from retfm_jax.models.attention import attention

PLAIN = jax.nn.dot_product_attention


@pytest.fixture
def used(monkeypatch):
    """Implementations that were asked for; the arrays are computed by XLA's."""
    asked = []

    def computed(*arrays, implementation, **options):
        # What JAX says of the kernel where a gradient is taken.
        assert all(each.shape[1] % 2 == 0 for each in arrays), "Unsupported sequence length"
        asked.append(implementation)
        return PLAIN(*arrays, implementation="xla", **options)

    monkeypatch.setattr(jax.nn, "dot_product_attention", computed)
    return asked


def _arrays(dtype, width, queries=6, keys=6):
    shapes = [(2, queries, 2, width), (2, keys, 2, width), (2, keys, 2, width)]
    keys = jax.random.split(jax.random.key(0), 3)
    return [jax.random.normal(key, shape, dtype) for key, shape in zip(keys, shapes, strict=True)]


@pytest.mark.parametrize(("dtype", "bound"), [(jnp.float32, 1e-6), (jnp.bfloat16, 1e-2)])
def test_attention_is_that_of_jax(dtype, bound):
    arrays = _arrays(dtype, 16)
    mask = jnp.arange(6) < jnp.array([[4], [6]])
    for seen in (None, mask):
        wanted = PLAIN(*arrays, mask=None if seen is None else seen[:, None, None, :])
        found = attention(*arrays, seen)
        assert found.dtype == wanted.dtype
        np.testing.assert_allclose(np.float32(found), np.float32(wanted), atol=bound, rtol=bound)


@pytest.mark.parametrize(("queries", "keys"), [(6, 6), (7, 5)])
def test_the_fused_kernel_computes_the_same_with_lengths_for_masks(
    used, monkeypatch, queries, keys
):
    arrays = _arrays(jnp.bfloat16, 16, queries, keys)
    mask = jnp.arange(keys) < jnp.array([[4], [keys]])

    def both(arrays):
        return [attention(*arrays), attention(*arrays, mask)]

    def gradient(arrays):
        return jax.grad(lambda each: sum((x.astype(float) ** 2).sum() for x in both(each)))(arrays)

    plain = both(arrays), gradient(arrays)
    assert used == []
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    fused = both(arrays), gradient(arrays)
    assert set(used) == {"cudnn"}
    for found, wanted in zip(jax.tree.leaves(fused), jax.tree.leaves(plain), strict=True):
        np.testing.assert_allclose(np.float32(found), np.float32(wanted), atol=2e-2, rtol=2e-2)


@pytest.mark.parametrize(
    ("dtype", "width", "queries"),
    [(jnp.float32, 16, 6), (jnp.bfloat16, 12, 6), (jnp.bfloat16, 136, 6), (jnp.bfloat16, 16, 1)],
)
def test_what_the_kernel_does_not_take_is_not_given_to_it(used, monkeypatch, dtype, width, queries):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    attention(*_arrays(dtype, width, queries))
    assert used == []
