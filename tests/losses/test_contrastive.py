"""InfoNCE and its forms, each against a plain computation of the same sentence."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from retfm_jax.losses.contrastive import info_nce, self_paced_weight, soft_target_info_nce

SCALE = jnp.float32(14.3)


def unit(seed: int, *shape: int) -> np.ndarray:
    x = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def plain_cross_entropy(logits: np.ndarray, target: np.ndarray) -> float:
    """The textbook formula in float64."""
    logits = logits.astype(np.float64)
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return float(-(target * log_p).sum(axis=1).mean())


def plain_info_nce(image: np.ndarray, text: np.ndarray, scale: float) -> float:
    logits = float(scale) * image @ text.T
    target = np.eye(len(image))
    return (plain_cross_entropy(logits, target) + plain_cross_entropy(logits.T, target)) / 2


def test_is_the_mean_cross_entropy_of_both_directions():
    image, text = unit(0, 7, 16), unit(1, 7, 16)
    expected = plain_info_nce(image, text, SCALE)
    np.testing.assert_allclose(info_nce(image, text, SCALE), expected, rtol=2e-6)


def test_an_absent_pair_leaves_rows_and_columns():
    image, text = unit(0, 9, 16), unit(1, 9, 16)
    present = np.array([1, 1, 0, 1, 0, 1, 1, 1, 0], bool)
    expected = plain_info_nce(image[present], text[present], SCALE)
    np.testing.assert_allclose(info_nce(image, text, SCALE, present), expected, rtol=2e-6)


def test_what_an_absent_pair_holds_does_not_matter():
    image, text = unit(0, 4, 8), unit(1, 4, 8)
    present = jnp.array([True, False, True, True])
    grad = jax.grad(lambda i, t: info_nce(i, t, SCALE, present), argnums=(0, 1))
    image_grad, text_grad = grad(image, text)
    broken = image.copy()
    broken[1] = np.nan
    broken_image_grad, broken_text_grad = grad(broken, text)
    assert not image_grad[1].any()
    assert not text_grad[1].any()
    np.testing.assert_array_equal(broken_image_grad, image_grad)
    np.testing.assert_array_equal(broken_text_grad, text_grad)


@pytest.mark.parametrize("block_size", [None, 3])
def test_without_any_pair_loss_and_gradient_are_zero(block_size):
    image, text = unit(0, 5, 8), unit(1, 5, 8)
    value, grads = jax.value_and_grad(info_nce, argnums=(0, 1, 2))(
        image, text, SCALE, jnp.zeros(5, bool), block_size
    )
    assert value == 0
    assert all(not np.any(grad) for grad in grads)


@pytest.mark.parametrize("block_size", [1, 4, 6, 13, 40])
@pytest.mark.parametrize("masked", [False, True])
def test_blocks_change_neither_value_nor_gradient(block_size, masked):
    image, text = unit(0, 13, 16), unit(1, 13, 16)
    mask = jnp.arange(13) % 3 != 1 if masked else None
    grad = jax.value_and_grad(info_nce, argnums=(0, 1, 2))
    value, grads = grad(image, text, SCALE, mask)
    block_value, block_grads = grad(image, text, SCALE, mask, block_size)
    np.testing.assert_allclose(block_value, value, rtol=1e-6)
    for block_grad, full_grad in zip(block_grads, grads, strict=True):
        np.testing.assert_allclose(block_grad, full_grad, atol=2e-6)


def test_blocks_never_hold_all_similarities():
    image = jax.ShapeDtypeStruct((512, 4), jnp.float32)

    def largest(block_size):
        def loss(image, text):
            return info_nce(image, text, SCALE, None, block_size)

        compiled = jax.jit(jax.grad(loss)).lower(image, image).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert largest(None) >= 512 * 512 * 4
    assert largest(32) < 512 * 512 * 4 / 2


def test_permuting_the_batch_permutes_nothing_else():
    image, text = unit(0, 8, 16), unit(1, 8, 16)
    order = np.random.default_rng(2).permutation(8)
    mask = np.arange(8) != 3
    grad = jax.value_and_grad(info_nce)
    value, image_grad = grad(image, text, SCALE, mask)
    permuted_value, permuted_grad = grad(image[order], text[order], SCALE, mask[order])
    np.testing.assert_allclose(permuted_value, value, rtol=1e-6)
    np.testing.assert_allclose(permuted_grad, image_grad[order], atol=1e-6)


def test_soft_targets_of_different_categories_are_the_identity():
    image, text = unit(0, 6, 16), unit(1, 6, 16)
    category = jnp.array([4, 1, 9, 0, 3, 7])
    grad = jax.value_and_grad(soft_target_info_nce, argnums=(0, 1, 2))
    value, grads = grad(image, text, SCALE, category)
    hard_value, hard_grads = jax.value_and_grad(info_nce, argnums=(0, 1, 2))(image, text, SCALE)
    np.testing.assert_allclose(value, hard_value, rtol=1e-6)
    for soft, hard in zip(grads, hard_grads, strict=True):
        np.testing.assert_allclose(soft, hard, atol=2e-6)


@pytest.mark.parametrize("block_size", [None, 4])
def test_soft_targets_share_a_row_among_its_category(block_size):
    image, text = unit(0, 7, 16), unit(1, 7, 16)
    category = np.array([2, 5, 2, 2, 0, 5, 8])
    same = category[:, None] == category[None, :]
    target = same / same.sum(axis=1, keepdims=True)
    logits = float(SCALE) * image @ text.T
    expected = (plain_cross_entropy(logits, target) + plain_cross_entropy(logits.T, target)) / 2
    value = jax.jit(soft_target_info_nce, static_argnums=4)(
        image, text, SCALE, jnp.asarray(category), block_size
    )
    np.testing.assert_allclose(value, expected, rtol=2e-6)


@pytest.mark.parametrize("block_size", [None, 8])
def test_eight_devices_compute_what_one_computes(block_size):
    image, text = unit(0, 24, 16), unit(1, 24, 16)
    category = np.arange(24) % 5
    mask = np.arange(24) % 7 != 2

    def loss(image, text, mask, category):
        hard = info_nce(image, text, SCALE, mask, block_size)
        return hard + soft_target_info_nce(image, text, SCALE, category, block_size)

    grad = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    sharding = NamedSharding(mesh, PartitionSpec("data"))
    value, grads = grad(image, text, mask, category)
    sharded_value, sharded_grads = grad(*jax.device_put((image, text, mask, category), sharding))
    np.testing.assert_allclose(sharded_value, value, rtol=1e-6)
    for sharded, single in zip(sharded_grads, grads, strict=True):
        np.testing.assert_allclose(sharded, single, atol=1e-6)


@pytest.mark.parametrize("block_size", [None, 4])
def test_the_weight_of_the_texts_direction_weighs_it_alone(block_size):
    image, text = unit(0, 7, 16), unit(1, 7, 16)
    category = np.array([2, 5, 2, 2, 0, 5, 8])
    same = category[:, None] == category[None, :]
    target = same / same.sum(axis=1, keepdims=True)
    logits = float(SCALE) * image @ text.T
    of_images, of_texts = plain_cross_entropy(logits, target), plain_cross_entropy(logits.T, target)
    for weight in (0.0, 0.2, 1.0):
        value = soft_target_info_nce(image, text, SCALE, category, block_size, weight)
        np.testing.assert_allclose(value, (of_images + weight * of_texts) / 2, rtol=2e-6)


def test_the_self_paced_weight_reaches_one_in_the_last_epoch_and_stays():
    found = [float(self_paced_weight(jnp.asarray(epoch), 4.0)) for epoch in range(6)]
    np.testing.assert_allclose(found, [0.25, 0.5, 0.75, 1, 1, 1])
