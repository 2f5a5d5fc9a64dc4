"""Attention equals JAX's own; where a GPU's fused kernel takes the arrays, that computes it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from retfm_jax.models.layers import attention

PLAIN = jax.nn.dot_product_attention


@pytest.fixture
def used(monkeypatch):
    """Implementations that were asked for; the arrays are computed by XLA's."""
    asked = []

    def computed(*arrays, implementation, **options):
        asked.append(implementation)
        return PLAIN(*arrays, implementation="xla", **options)

    monkeypatch.setattr(jax.nn, "dot_product_attention", computed)
    return asked


def _arrays(dtype, width, queries=6):
    keys = jax.random.split(jax.random.key(0), 3)
    shapes = [(2, queries, 2, width), (2, 6, 2, width), (2, 6, 2, width)]
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


def test_the_fused_kernel_computes_the_same_with_lengths_for_masks(used, monkeypatch):
    arrays = _arrays(jnp.bfloat16, 16)
    mask = jnp.arange(6) < jnp.array([[4], [6]])
    plain = [attention(*arrays), attention(*arrays, mask)]
    assert used == []
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    fused = [attention(*arrays), attention(*arrays, mask)]
    assert used == ["cudnn", "cudnn"]
    np.testing.assert_array_equal(np.float32(plain), np.float32(fused))


@pytest.mark.parametrize(
    ("dtype", "width", "queries"),
    [(jnp.float32, 16, 6), (jnp.bfloat16, 12, 6), (jnp.bfloat16, 136, 6), (jnp.bfloat16, 16, 1)],
)
def test_what_the_kernel_does_not_take_is_not_given_to_it(used, monkeypatch, dtype, width, queries):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    attention(*_arrays(dtype, width, queries))
    assert used == []
