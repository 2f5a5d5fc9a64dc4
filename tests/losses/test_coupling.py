"""Weighted similarity coupling against its own definition, term by term."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from retfm_jax.losses import memory_queue
from retfm_jax.losses.contrastive import info_nce
from retfm_jax.losses.coupling import (
    label_similarity,
    same_labels,
    similarity_quantile,
    weighted_similarity_coupling,
)

SCALE = jnp.float32(9.0)


def unit(seed: int, *shape: int) -> np.ndarray:
    x = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


#: Eight pairs: two unknown, two with equal sets, the rest overlapping more or less.
LABELS = np.array(
    [
        [1, 0, 0, 0, 0],
        [0, 0, 0, 0, 0],
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [0, 0, 0, 0, 0],
        [0, 1, 1, 1, 0],
        [1, 1, 0, 0, 0],
        [0, 0, 0, 0, 1],
    ],
    np.float32,
)


def filled_queue(pairs: int, size: int, seed: int = 5) -> memory_queue.Queue:
    labels = np.random.default_rng(seed).integers(0, 2, (pairs, 5)).astype(np.float32)
    queue = memory_queue.init(size, 16, 5)
    return memory_queue.push(queue, unit(seed, pairs, 16), unit(seed + 1, pairs, 16), labels)


def test_label_similarity_is_a_cosine_and_knows_the_unknown():
    similarity = np.asarray(label_similarity(LABELS, LABELS))
    for i, a in enumerate(LABELS):
        for j, b in enumerate(LABELS):
            known = a.any() and b.any()
            cosine = a @ b / np.sqrt(a.sum() * b.sum()) if known else 0.0
            assert similarity[i, j] == pytest.approx(cosine, abs=1e-6)
            assert bool(same_labels(a[None], b[None])[0, 0]) == (known and (a == b).all())


@pytest.mark.parametrize("gamma", [0.0, 1.0, 2.5])
@pytest.mark.parametrize("calibrated", [False, True])
def test_without_labels_and_with_an_empty_queue_it_is_info_nce(gamma, calibrated):
    image, text = unit(0, 8, 16), unit(1, 8, 16)
    queue = memory_queue.init(12, 16, 5)
    expected, expected_grads = jax.value_and_grad(info_nce, argnums=(0, 1, 2))(image, text, SCALE)

    def coupling(image, text, scale):
        return weighted_similarity_coupling(
            *(image, text, scale, jnp.zeros((8, 5)), queue, gamma),
            momentum=(text, image),
            calibrated=calibrated,
        )

    value, grads = jax.value_and_grad(coupling, argnums=(0, 1, 2))(image, text, SCALE)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    for grad, expected_grad in zip(grads, expected_grads, strict=True):
        np.testing.assert_allclose(grad, expected_grad, atol=2e-6)


def brute_force(image, text, labels, queue, gamma, momentum=None, calibrated=False, quantile=None):
    """The definition, candidate by candidate, in float64."""
    written_image, written_text = (image, text) if momentum is None else momentum
    texts = np.concatenate([written_text, queue["text"]])
    alike = written_text @ texts.T
    ranked = np.sort(alike[:, : len(image)], axis=None)
    least = None if quantile is None else ranked[int(quantile * len(ranked)) - 1] - 1e-5

    def direction(queries, own, written, entries):
        candidates = np.concatenate([own, entries]).astype(np.float64)
        candidate_labels = np.concatenate([labels, queue["labels"]])
        losses = []
        for i, query in enumerate(queries.astype(np.float64)):
            denominator, positive = 0.0, float(SCALE) * query @ candidates[i]
            for j, candidate in enumerate(candidates):
                a, b = labels[i], candidate_labels[j]
                overlap = a @ b / np.sqrt(a.sum() * b.sum()) if a.any() and b.any() else 0.0
                if i == j:
                    weight = 1.0
                elif alike[i, j] >= least if least is not None else a.any() and (a == b).all():
                    weight = 0.0
                else:
                    weight = max(1 - overlap, 0.0) ** gamma if overlap < 1 - 1e-9 else 0.0**gamma
                logit = float(SCALE) * query @ candidate
                if j >= len(queries):
                    logit += positive - float(SCALE) * query @ written[i]
                if weight:
                    denominator += weight * np.exp(logit)
                if calibrated:
                    denominator += (1 - weight) * np.exp(positive)
            losses.append(np.log(denominator) - positive)
        return np.mean(losses)

    by_image = direction(image, text, written_text, queue["text"])
    return (by_image + direction(text, image, written_image, queue["image"])) / 2


@pytest.mark.parametrize("gamma", [0.0, 2.0])
@pytest.mark.parametrize("block_size", [None, 5])
@pytest.mark.parametrize("calibrated", [False, True])
@pytest.mark.parametrize("followed", [False, True])
@pytest.mark.parametrize("quantile", [None, 0.6])
def test_equals_its_definition_candidate_by_candidate(
    gamma, block_size, calibrated, followed, quantile
):
    image, text = unit(0, 8, 16), unit(1, 8, 16)
    momentum = (unit(7, 8, 16), unit(8, 8, 16)) if followed else None
    queue = filled_queue(7, 10)
    value = weighted_similarity_coupling(
        *(image, text, SCALE, LABELS, queue, gamma, block_size),
        momentum=momentum,
        calibrated=calibrated,
        text_quantile=quantile,
    )
    entries = {name: np.asarray(queue[name][:7]) for name in ("image", "text", "labels")}
    expected = brute_force(image, text, LABELS, entries, gamma, momentum, calibrated, quantile)
    np.testing.assert_allclose(value, expected, rtol=3e-6)


@pytest.mark.parametrize("quantile", [1e-9, 0.1, 0.5, 0.77, 1.0])
@pytest.mark.parametrize("block_size", [None, 4, 13])
def test_a_quantile_of_similarities_is_the_one_that_sorting_finds(quantile, block_size):
    embeddings = jnp.asarray(unit(3, 13, 6))
    ranked = np.sort(embeddings @ embeddings.T, axis=None)
    expected = ranked[max(1, int(quantile * ranked.size)) - 1]
    found = jax.jit(similarity_quantile, static_argnums=(1, 2))(embeddings, quantile, block_size)
    np.testing.assert_allclose(found, expected, atol=2e-7)


def test_equal_texts_are_eliminated_as_equal_labels_are():
    image, text = unit(0, 8, 16), unit(1, 8, 16)
    text[5] = text[2]
    labels = np.zeros((8, 5), np.float32)
    labels[[2, 5], 1] = 1
    by_labels = weighted_similarity_coupling(image, text, SCALE, labels, gamma=0.0)
    # Of 64 similarities the ten largest are those of a text with itself or with its copy.
    by_text = weighted_similarity_coupling(
        image, text, SCALE, jnp.zeros((8, 5)), text_quantile=55 / 64
    )
    np.testing.assert_allclose(by_text, by_labels, rtol=1e-6)
    assert abs(by_text - info_nce(image, text, SCALE)) > 1e-3


def test_encoders_that_write_the_queue_themselves_change_nothing():
    image, text = unit(0, 8, 16), unit(1, 8, 16)
    arguments = image, text, SCALE, LABELS, filled_queue(7, 10)
    value = weighted_similarity_coupling(*arguments, momentum=(image, text))
    np.testing.assert_allclose(value, weighted_similarity_coupling(*arguments), rtol=1e-6)


def test_moving_on_together_does_not_lower_the_loss():
    """Encoders that turn image and text alike away from the queue gain nothing."""
    before, after = jnp.eye(4)[:1], jnp.eye(4)[1:2]
    entries = jnp.tile(before, (8, 1))
    queue = memory_queue.push(memory_queue.init(8, 4, 5), entries, entries, jnp.zeros((8, 5)))

    def loss(embedding, momentum):
        labels = jnp.zeros((1, 5))
        return weighted_similarity_coupling(
            embedding, embedding, SCALE, labels, queue, momentum=momentum
        )

    written = before, before
    assert loss(after, None) < 0.1 * loss(before, None)
    np.testing.assert_allclose(loss(after, written), loss(before, written), rtol=1e-6)


def test_calibrated_shares_are_the_frequencies_of_what_reports_say():
    """At its optimum over two kinds of reports the softmax tells their shares of the batch."""
    kinds = np.array([0, 0, 0, 1])
    labels = np.eye(2, dtype=np.float32)[kinds]

    def loss(gap, calibrated):
        # Every image is the same: it cannot tell, and only the frequencies are left to be learned.
        similarity_to_kind = jnp.stack([gap, 0.0])
        text = jnp.concatenate([similarity_to_kind[kinds][:, None], jnp.eye(4)], axis=1)
        image = jnp.tile(jnp.eye(5)[0], (4, 1))
        return weighted_similarity_coupling(
            image, text, jnp.float32(1.0), labels, calibrated=calibrated
        )

    def image_to_text_slope(calibrated):
        # Texts compare their images, which are all the same: no slope from them.
        return float(jax.grad(loss)(jnp.float32(0.0), calibrated))

    assert image_to_text_slope(True) == pytest.approx(0.0, abs=1e-6)
    assert abs(image_to_text_slope(False)) > 0.01


def test_gamma_0_only_eliminates():
    image, text = unit(0, 4, 16), unit(1, 4, 16)
    # Pairs 0 and 1 overlap without being equal: nothing is eliminated, nothing weighted.
    labels = jnp.array([[1.0, 1, 0], [1, 0, 0], [0, 0, 1], [0, 0, 0]])
    value = weighted_similarity_coupling(image, text, SCALE, labels, gamma=0.0)
    np.testing.assert_allclose(value, info_nce(image, text, SCALE), rtol=1e-6)
    assert weighted_similarity_coupling(image, text, SCALE, labels, gamma=1.0) < value


def test_a_batch_that_says_one_thing_leaves_only_the_positives():
    image, text = unit(0, 4, 16), unit(1, 4, 16)
    labels = jnp.tile(jnp.array([1.0, 0.0]), (4, 1))
    value, grad = jax.value_and_grad(weighted_similarity_coupling)(image, text, SCALE, labels)
    np.testing.assert_allclose(value, 0.0, atol=1e-6)
    np.testing.assert_allclose(grad, 0.0, atol=1e-6)


@pytest.mark.parametrize("calibrated", [False, True])
def test_a_pair_parts_in_proportion_to_its_weight_times_its_share(calibrated):
    gamma, batch = 1.5, len(LABELS)
    rng = np.random.default_rng(3)
    similarities = rng.uniform(-1, 1, (batch, batch)).astype(np.float32)
    identity = jnp.eye(batch)

    def loss(s):
        # Texts that are the axes make the images' coordinates the similarities themselves.
        return weighted_similarity_coupling(
            s, identity, 1.0, LABELS, gamma=gamma, calibrated=calibrated
        )

    grad = np.asarray(jax.grad(loss)(similarities))
    agreement = np.asarray(label_similarity(LABELS, LABELS))
    weight = np.maximum(1 - agreement, 0) ** gamma
    np.fill_diagonal(weight, 1.0)
    weighted = weight * np.exp(similarities.astype(np.float64))
    by_image, by_text = weighted.copy(), weighted.copy()
    if calibrated:  # what the weights take from the others stands at the own pair
        own = np.exp(np.diag(similarities).astype(np.float64))
        by_image[np.diag_indices(batch)] += own * (1 - weight).sum(axis=1)
        by_text[np.diag_indices(batch)] += own * (1 - weight).sum(axis=0)
    by_image /= by_image.sum(axis=1, keepdims=True)
    by_text /= by_text.sum(axis=0, keepdims=True)
    expected = (by_image + by_text - 2 * np.eye(batch)) / (2 * batch)
    np.testing.assert_allclose(grad, expected, atol=1e-6)
    assert (grad[same_labels(LABELS, LABELS) & ~np.eye(batch, dtype=bool)] == 0).all()


def test_unfilled_entries_are_no_candidates():
    image, text = unit(0, 8, 16), unit(1, 8, 16)
    queue = filled_queue(4, 9)
    rubbish = {
        **queue,
        "image": queue["image"].at[4:].set(3.0),
        "text": queue["text"].at[4:].set(3.0),
    }
    value = weighted_similarity_coupling(image, text, SCALE, LABELS, queue)
    assert weighted_similarity_coupling(image, text, SCALE, LABELS, rubbish) == value


def test_weights_are_constants_for_the_gradient():
    image, text = unit(0, 8, 16), unit(1, 8, 16)

    def loss(labels):
        return weighted_similarity_coupling(image, text, SCALE, labels, None, 1.0)

    assert not jax.grad(loss)(LABELS).any()


def test_permuting_the_batch_permutes_nothing_else():
    image, text = unit(0, 8, 16), unit(1, 8, 16)
    queue = filled_queue(6, 6)
    order = np.random.default_rng(4).permutation(8)
    grad = jax.value_and_grad(weighted_similarity_coupling)
    value, image_grad = grad(image, text, SCALE, LABELS, queue)
    permuted, permuted_grad = grad(image[order], text[order], SCALE, LABELS[order], queue)
    np.testing.assert_allclose(permuted, value, rtol=1e-6)
    np.testing.assert_allclose(permuted_grad, image_grad[order], atol=1e-6)


def test_eight_devices_compute_what_one_computes():
    image, text = unit(0, 16, 16), unit(1, 16, 16)
    labels = np.tile(LABELS, (2, 1))

    def step(image, text, labels, queue):
        momentum = jnp.roll(image, 1, 1), jnp.roll(text, 1, 1)
        loss = weighted_similarity_coupling(
            image, text, SCALE, labels, queue, momentum=momentum, calibrated=True
        )
        return loss, memory_queue.push(queue, image, text, labels)

    grad = jax.jit(jax.value_and_grad(step, has_aux=True))
    queue = filled_queue(19, 24)
    (value, pushed), image_grad = grad(image, text, labels, queue)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))

    def shard(array):
        return NamedSharding(mesh, PartitionSpec("data") if array.ndim else PartitionSpec())

    arguments = (image, text, labels, queue)
    sharded = jax.device_put(arguments, jax.tree.map(shard, arguments))
    (sharded_value, sharded_pushed), sharded_grad = grad(*sharded)
    np.testing.assert_allclose(sharded_value, value, rtol=1e-6)
    np.testing.assert_allclose(sharded_grad, image_grad, atol=1e-6)
    jax.tree.map(np.testing.assert_array_equal, sharded_pushed, pushed)
