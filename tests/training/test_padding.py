"""Texts are computed to the end of a batch's longest one, and come out the same."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_gradient_cache_methods import KEEPFIT, RETCLIP, VILREF
from toy_training import Batch

from retfm_jax.config import MeshConfig
from retfm_jax.runtime.mesh import make_mesh, place_batch
from retfm_jax.training.padding import cut_padding

MESH = make_mesh(MeshConfig(4, 2))


def _batches(lengths, closed):
    try:
        for index, longest in enumerate(lengths):
            tokens = np.zeros((8, 10), np.int32)
            tokens[index % 8, :longest] = 1 + np.arange(longest)
            arrays = {"tokens": tokens, "image": np.zeros((8, 2), np.uint8)}
            yield Batch(place_batch(arrays, MESH), [], index)
    finally:
        closed.append(True)


def test_the_longest_text_of_the_global_batch_decides():
    lengths = (3, 4, 5, 10, 9, 0)
    for batch, whole in zip(
        cut_padding(_batches(lengths, []), 4), _batches(lengths, []), strict=True
    ):
        wanted = (4, 4, 8, 10, 10, 4)[batch.index]
        assert batch.arrays["tokens"].shape == (8, wanted)
        np.testing.assert_array_equal(batch.arrays["tokens"], whole.arrays["tokens"][:, :wanted])
        for name, array in whole.arrays.items():
            assert batch.arrays[name].sharding.is_equivalent_to(array.sharding, 2)


def test_closing_closes_the_reading():
    closed = []
    batches = cut_padding(_batches(itertools.repeat(3), closed), 4)
    next(batches)
    batches.close()
    assert closed == [True]


@pytest.mark.parametrize("method", [RETCLIP, VILREF], ids=["retclip", "vilref"])
def test_embeddings_are_those_of_padded_texts(method):
    assert method.ignores_padding
    assert not KEEPFIT.ignores_padding  # The published mean is over all positions.
    params, state = jax.jit(method.init)(jax.random.key(0))
    tokens = jnp.array([[1, 2, 3, 0, 0, 0, 0, 0], [4, 5, 6, 7, 8, 0, 0, 0]])
    encode = jax.jit(method.encode_texts)
    padded, cut = encode(params, state, tokens), encode(params, state, tokens[:, :5])
    np.testing.assert_allclose(cut, padded, atol=1e-6)
