"""Adapters equal their formulas in plain NumPy; Tip-Adapter's cache by hand."""

import jax.numpy as jnp
import numpy as np
import pytest

from retfm_jax.evaluation.protocols import adapters
from retfm_jax.evaluation.protocols.few_shot import Support
from retfm_jax.zero_shot import unit


def support(count=30, classes=3, width=12, seed=0, exclusive=True):
    generator = np.random.default_rng(seed)
    centers = unit(generator.normal(size=(classes, width)))
    label = generator.integers(0, classes, count)
    features = unit(centers[label] + 0.4 * generator.normal(size=(count, width)))
    texts = unit(centers + 0.8 * generator.normal(size=centers.shape))
    return Support(
        features.astype(np.float32),
        np.eye(classes, dtype=np.int64)[label],
        texts.astype(np.float32),
        scale=10.0,
        exclusive=exclusive,
    )


def softmax(logits):
    weights = np.exp(logits - logits.max(1, keepdims=True))
    return weights / weights.sum(1, keepdims=True)


def test_tip_adapter_logits_by_hand_on_three_samples():
    keys = np.array([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
    values = np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    classes = np.array([[0.8, 0.6], [0.0, 1.0]])
    logits = adapters.tip_adapter_logits(keys, np.array([[1.0, 0.0]]), values, classes, 2.0)
    # Affinities 1, 0, 0.6 -> exp(0), exp(-5), exp(-2); zero-shot 2 * 0.8 and 2 * 0.
    expected = [1.6 + 1.0, 0.0 + np.exp(-5) + np.exp(-2)]
    np.testing.assert_allclose(logits[0], expected, rtol=1e-6)


def test_tip_adapter_equals_numpy():
    data, test = support(), support(seed=1).features
    affinity = test @ data.features.T
    logits = 10 * test @ data.classes.T + np.exp(-5 * (1 - affinity)) @ data.labels
    np.testing.assert_allclose(adapters.tip_adapter(data)(test), softmax(logits), rtol=1e-4)


def test_clip_adapter_equals_numpy():
    generator = np.random.default_rng(2)
    down, up = generator.normal(size=(12, 3)), generator.normal(size=(3, 12))
    data = support()
    hidden = np.maximum(np.maximum(data.features @ down, 0) @ up, 0)
    mixed = 0.2 * hidden + 0.8 * data.features
    expected = 10 * (mixed / np.linalg.norm(mixed, axis=1, keepdims=True)) @ data.classes.T
    params = {"down": jnp.asarray(down), "up": jnp.asarray(up)}
    found = adapters.clip_adapter_logits(params, data.features, data.classes, jnp.asarray(10.0))
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_the_loss_is_cross_entropy_over_samples_that_count():
    logits = np.random.default_rng(0).normal(size=(4, 3))
    labels = np.eye(3, dtype=int)[[0, 2, 1, 1]]
    weights = np.array([1.0, 1.0, 1.0, 0.0])
    expected = -np.log(softmax(logits)[np.arange(3), [0, 2, 1]]).mean()
    found = adapters.classification_loss(logits, labels, weights, True)
    assert float(found) == pytest.approx(expected, rel=1e-5)


def test_unknown_findings_do_not_count_in_the_binary_loss():
    logits = jnp.array([[2.0, -1.0], [0.5, 3.0]])
    labels = jnp.array([[1, -1], [0, 1]])
    terms = np.log1p(np.exp([-2.0, 0.5, -3.0]))
    expected = (terms[0] + terms[1:].mean()) / 2
    found = adapters.classification_loss(logits, labels, np.ones(2), False)
    assert float(found) == pytest.approx(expected, rel=1e-5)


def test_every_epoch_sees_every_sample_once():
    rows, weights = adapters.batches(10, epochs=3, size=4, seed=0)
    assert rows.shape == weights.shape == (9, 4)
    for epoch in range(3):
        part = slice(3 * epoch, 3 * epoch + 3)
        assert sorted(rows[part][weights[part] > 0]) == list(range(10))
    assert adapters.batches(2, 1, 32, 0)[0].shape == (1, 2)


@pytest.mark.parametrize("learn", [adapters.clip_adapter, adapters.tip_adapter_f])
@pytest.mark.parametrize("exclusive", [True, False])
def test_training_lowers_the_loss_on_its_support_and_repeats(learn, exclusive):
    data = support(exclusive=exclusive)
    weights = np.ones(len(data.labels))

    def loss(predict):
        found = predict(data.features)
        logits = np.log(np.maximum(found, 1e-30)) if exclusive else found
        return float(adapters.classification_loss(logits, data.labels, weights, exclusive))

    trained = learn(data)
    assert loss(trained) < loss(learn(data, epochs=1))
    np.testing.assert_array_equal(trained(data.features), learn(data)(data.features))
