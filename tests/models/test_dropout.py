"""Dropout's masks are functions of a sample's key alone, drawn by a generator that is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.extend.random import threefry_2x32

from retfm_jax.models import random_bits
from retfm_jax.models.attention import attention
from retfm_jax.models.bert import Bert, BertConfig
from retfm_jax.models.layers import drop, dropout, dropout_masks

KEYS = jax.random.split(jax.random.key(7), 4)


def test_threefry_is_that_of_jax():
    key = jax.random.key_data(jax.random.key(5))
    counters = jax.random.bits(jax.random.key(1), (2, 40))
    found = random_bits.threefry(key[0], key[1], *counters)
    np.testing.assert_array_equal(
        jnp.concatenate(found), threefry_2x32(key, jnp.concatenate(counters))
    )


@pytest.mark.parametrize("shape", [(64, 96), (7, 5), (3, 9, 11), (33,)])
def test_two_masks_are_as_different_as_two_draws(shape):
    rate = 0.25
    first, second = random_bits.hidden_masks(KEYS, rate, shape, 2)
    assert first.shape == second.shape == (4, *shape)
    np.testing.assert_array_equal(first, random_bits.hidden_masks(KEYS, rate, shape, 1)[0])
    flat = np.stack([np.ravel(x) for mask in (first, second) for x in mask]).astype(float)
    n = flat.shape[1]
    bound = 4.5 * np.sqrt(rate * (1 - rate) / n)
    assert np.abs(flat.mean(1) - 0.75).max() < bound
    if n > 1000:
        correlations = np.corrcoef(flat) - np.eye(len(flat))
        assert np.abs(correlations).max() < 4.5 / np.sqrt(n)


def test_the_bits_of_the_heads_are_those_of_their_counters():
    heads, queries, seen, rate = 6, 5, 9, 0.4
    mask = random_bits.attention_mask(KEYS, rate, heads, queries, seen)
    words = np.asarray(jax.random.key_data(KEYS))
    for sample, head, query, key in np.ndindex(4, heads, queries, seen):
        counter = jnp.array([head // 4, query * 65536 + key], jnp.uint32)
        drawn = [int(word) for word in threefry_2x32(jnp.asarray(words[sample]), counter)]
        bits = (drawn[head % 4 // 2] >> 16 * (head % 2)) & 0xFFFF
        assert bool(mask[sample, head, query, key]) == (bits >= round(rate * 65536))
        if sample == head == 2:  # the counters of a few samples and heads tell
            break


def test_masks_do_not_depend_on_what_stands_beside():
    rate = 0.3
    wide = random_bits.attention_mask(KEYS, rate, 4, 12, 10)
    np.testing.assert_array_equal(
        wide[:, :, :7, :6], random_bits.attention_mask(KEYS, rate, 4, 7, 6)
    )
    hidden = random_bits.hidden_masks(KEYS, rate, (12, 8), 1)[0]
    np.testing.assert_array_equal(hidden[:, :5], random_bits.hidden_masks(KEYS, rate, (5, 8), 1)[0])
    for part in range(4):
        alone = random_bits.hidden_masks(KEYS[part : part + 1], rate, (12, 8), 1)[0]
        np.testing.assert_array_equal(hidden[part : part + 1], alone)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.999])
def test_dropout_keeps_the_expectation(rate):
    x = jnp.ones((4, 300, 50))
    found = np.asarray(dropout(x, rate, KEYS), np.float64)
    share = 1 - round(rate * 65536) / 65536
    assert set(np.unique(found)) == {0.0, float(np.float32(1 / share))}
    deviation = np.sqrt((1 - share) / share / found.size)
    assert abs(found.mean() - 1) < 4.5 * deviation


def test_nothing_is_dropped_without_keys_or_at_rate_0():
    x = jnp.ones((4, 3, 2))
    assert dropout_masks(None, 0.5, (3, 2), 2) == (None, None)
    assert dropout(x, 0.5, None) is x
    assert dropout(x, 0.0, KEYS) is x
    assert drop(x, 0.5, None) is x


def test_attention_drops_probabilities_by_the_same_bits():
    rate, heads = 0.3, 2
    query, key, value = jax.random.normal(jax.random.key(0), (3, 4, 6, heads, 8))
    mask = random_bits.attention_mask(KEYS, rate, heads, 6, 6)
    weights = jax.nn.softmax(jnp.einsum("bnhd,bmhd->bhnm", query, key) * 8**-0.5)
    kept = jnp.where(mask, weights * random_bits.kept_scale(rate), 0)
    np.testing.assert_allclose(
        attention(query, key, value, rate=rate, rngs=KEYS),
        jnp.einsum("bhnm,bmhd->bnhd", kept, value),
        atol=1e-6,
    )


def _texts(remat):
    """A text tower's parameters, and the loss of them, with dropout."""
    entries = {"vocab_size": 30, "positions": 9, "width": 16, "layers": 2, "mlp_width": 32}
    config = BertConfig(**entries, heads=2, dropout=0.3, remat=remat)
    graph, params = nnx.split(Bert(config, rngs=nnx.Rngs(0)))
    tokens = jax.random.randint(jax.random.key(3), (4, 9), 1, 30)
    return params, lambda p: jnp.square(nnx.merge(graph, p)(tokens, keys=KEYS)[0]).sum()


@pytest.mark.parametrize("remat", ["dots", "named", "full"])
def test_what_is_computed_again_has_the_same_masks(remat):
    def gradient(remat):
        params, loss = _texts(remat)
        return jax.tree.leaves(jax.jit(jax.grad(loss))(params))

    for one, other in zip(gradient(remat), gradient("none"), strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-4, atol=2e-4)


def _program(remat):
    params, loss = _texts(remat)
    return str(jax.make_jaxpr(jax.grad(loss))(params))


def test_named_keeps_the_masks_and_the_dear_products():
    programs = {remat: _program(remat) for remat in ("none", "named", "full")}
    rotations, products = (
        {remat: program.count(f" {name}") for remat, program in programs.items()}
        for name in ("shift_right_logical", "dot_general")
    )
    assert rotations["named"] == rotations["none"] < rotations["full"]
    assert products["none"] + 1 == products["named"] < products["full"]  # queries with keys
