"""RET-CLIP's objective: published where both eyes are there, fair where one is missing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from retfm_jax.losses.contrastive import info_nce
from retfm_jax.losses.tripartite import LEVELS, tripartite


@pytest.fixture
def embeddings():
    rng = np.random.default_rng(0)
    arrays = {}
    for level in LEVELS:
        for kind in ("image", "text"):
            x = rng.normal(size=(6, 8)).astype(np.float32)
            arrays[f"{kind}_{level}"] = x / np.linalg.norm(x, axis=1, keepdims=True)
    return arrays


SCALES = {"patient": jnp.float32(12.0), "left": jnp.float32(7.0), "right": jnp.float32(20.0)}


def test_with_both_eyes_it_is_the_sum_of_three_contrastive_losses(embeddings):
    total, parts = tripartite(embeddings, SCALES)
    everyone = jnp.ones(6, bool)
    masked_total, masked_parts = tripartite(embeddings, SCALES, everyone, everyone)
    assert list(parts) == ["loss_patient", "loss_left", "loss_right"]
    for level in LEVELS:
        expected = info_nce(
            embeddings[f"image_{level}"], embeddings[f"text_{level}"], SCALES[level]
        )
        np.testing.assert_allclose(parts[f"loss_{level}"], expected, rtol=1e-6)
        assert parts[f"loss_{level}"] == masked_parts[f"loss_{level}"]
    np.testing.assert_allclose(total, sum(parts.values()), rtol=1e-6)
    assert total == masked_total


def test_a_missing_eye_leaves_its_own_level_alone(embeddings):
    has_left = jnp.array([True, True, False, True, True, False])
    has_right = jnp.array([True, False, True, True, True, True])
    _, parts = tripartite(embeddings, SCALES, has_left, has_right)
    _, complete = tripartite(embeddings, SCALES)
    assert parts["loss_patient"] == complete["loss_patient"]
    for level, present in (("left", has_left), ("right", has_right)):
        kept = np.flatnonzero(present)
        expected = info_nce(
            embeddings[f"image_{level}"][kept], embeddings[f"text_{level}"][kept], SCALES[level]
        )
        np.testing.assert_allclose(parts[f"loss_{level}"], expected, rtol=1e-6)


def test_a_patient_without_images_gives_no_gradient(embeddings):
    has_left = jnp.array([True, True, False, True, True, True])
    has_right = jnp.array([True, False, False, True, True, True])
    grads = jax.grad(lambda e: tripartite(e, SCALES, has_left, has_right)[0])(embeddings)
    for name, grad in grads.items():
        assert not grad[2].any(), name
        assert grad[0].any(), name
