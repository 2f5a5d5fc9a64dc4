"""The revision attention in its two readings."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from retfm_jax.losses.text_revision import revise_texts, revision_loss


def arrays(categories: int = 4, experts: int = 3, width: int = 8):
    rng = np.random.default_rng(0)
    shapes = ((categories, width), (experts, width), (experts, width))
    return [rng.normal(size=shape).astype(np.float32) for shape in shapes]


@pytest.mark.parametrize(("softmax_over", "axis"), [("heads", 0), ("experts", 2)])
def test_equals_a_computation_head_by_head(softmax_over, axis):
    queries, keys, values = arrays()
    width = 4
    heads = [slice(h * width, (h + 1) * width) for h in range(2)]
    scores = np.stack([queries[:, h] @ keys[:, h].T / np.sqrt(width) for h in heads])
    weights = np.exp(scores) / np.exp(scores).sum(axis=axis, keepdims=True)
    expected = np.concatenate(
        [weight @ values[:, h] for weight, h in zip(weights, heads, strict=True)], axis=1
    )
    revised = revise_texts(queries, keys, values, 2, softmax_over=softmax_over)
    np.testing.assert_allclose(revised, expected, rtol=1e-5, atol=1e-6)


def test_over_experts_a_single_expert_is_what_every_image_finds():
    queries, keys, values = arrays(experts=1)
    revised = revise_texts(queries, keys, values, 2, softmax_over="experts")
    np.testing.assert_allclose(revised, np.tile(values, (4, 1)), rtol=1e-6)


def test_dropout_is_unbiased_and_off_without_a_key():
    queries, keys, values = arrays()
    expected = revise_texts(queries, keys, values, 2)
    without_key = revise_texts(queries, keys, values, 2, dropout_rate=0.5)
    np.testing.assert_array_equal(without_key, expected)
    drawn = jax.vmap(lambda key: revise_texts(queries, keys, values, 2, dropout_rate=0.5, key=key))(
        jax.random.split(jax.random.key(0), 4000)
    )
    assert drawn.std(axis=0).min() > 0.1
    np.testing.assert_allclose(drawn.mean(axis=0), expected, atol=0.15)


def test_the_loss_is_the_mean_over_all_elements_and_moves_both_sides():
    text, revised = jnp.array([[1.0, 2.0], [0.0, 1.0]]), jnp.array([[0.0, 2.0], [2.0, 1.0]])
    value, (text_grad, revised_grad) = jax.value_and_grad(revision_loss, argnums=(0, 1))(
        text, revised
    )
    assert value == pytest.approx((1 + 4) / 4)
    np.testing.assert_allclose(text_grad, [[0.5, 0], [-1, 0]])
    np.testing.assert_allclose(revised_grad, -text_grad)
