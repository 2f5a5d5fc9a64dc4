"""Losses of class heads are their equations, in two ways, and do not mix samples."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

from retfm_jax.errors import UserError
from retfm_jax.losses.classification import (
    binary_cross_entropy,
    cross_entropy,
    graded,
    ranked_probability_score,
    smooth,
)

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(0, 3, (6, 4)).astype(np.float32)
CLASSES = RNG.integers(0, 4, 6)
ONE_HOT = np.eye(4, dtype=np.float32)[CLASSES]
WEIGHTS = np.array([0.5, 1, 2, 4], np.float32)
FINDINGS = RNG.integers(-1, 2, (6, 4)).astype(np.float32)


def test_cross_entropy_is_torchs_with_weights_and_smoothing():
    theirs = torch.nn.functional.cross_entropy(
        torch.from_numpy(LOGITS), torch.from_numpy(ONE_HOT), torch.from_numpy(WEIGHTS),
        reduction="none", label_smoothing=0.1,
    )  # fmt: skip
    ours = cross_entropy(LOGITS, ONE_HOT, WEIGHTS, 0.1)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)


def test_a_hard_label_costs_its_negative_log_probability():
    probabilities = np.exp(LOGITS) / np.exp(LOGITS).sum(1, keepdims=True)
    want = [-np.log(row[c]) for row, c in zip(probabilities, CLASSES, strict=True)]
    np.testing.assert_allclose(cross_entropy(LOGITS, ONE_HOT), want, rtol=1e-5)


def test_a_mixed_target_costs_the_mixture_of_both_losses():
    other = np.roll(ONE_HOT, 1, axis=1)
    mixed = cross_entropy(LOGITS, 0.3 * ONE_HOT + 0.7 * other, WEIGHTS, 0.1)
    parts = 0.3 * cross_entropy(LOGITS, ONE_HOT, WEIGHTS, 0.1)
    parts += 0.7 * cross_entropy(LOGITS, other, WEIGHTS, 0.1)
    np.testing.assert_allclose(mixed, parts, rtol=1e-5)


def test_smoothing_keeps_the_sum_and_takes_a_share_of_every_class():
    smoothed = smooth(jnp.asarray(ONE_HOT), 0.2)
    np.testing.assert_allclose(smoothed.sum(1), 1, rtol=1e-6)
    np.testing.assert_allclose(smoothed[np.arange(6), CLASSES], 0.85, rtol=1e-6)
    np.testing.assert_allclose(smoothed.min(1), 0.05, rtol=1e-6)


def test_unknown_findings_count_for_nothing_and_known_ones_as_optax_has_them():
    each = optax.sigmoid_binary_cross_entropy(LOGITS, np.maximum(FINDINGS, 0))
    want = [row[known >= 0].mean() for row, known in zip(np.asarray(each), FINDINGS, strict=True)]
    np.testing.assert_allclose(binary_cross_entropy(LOGITS, FINDINGS), want, rtol=1e-5)
    changed = np.where(FINDINGS < 0, 9, LOGITS)
    gradient = jax.grad(lambda z: binary_cross_entropy(z, FINDINGS).sum())(jnp.asarray(LOGITS))
    np.testing.assert_array_equal(np.asarray(gradient)[FINDINGS < 0], 0)
    np.testing.assert_allclose(binary_cross_entropy(changed, FINDINGS), want, rtol=1e-5)
    nothing = binary_cross_entropy(LOGITS, np.full_like(LOGITS, -1))
    np.testing.assert_array_equal(nothing, 0)


def test_sides_of_a_finding_are_weighed_as_stated():
    labels = (FINDINGS > 0).astype(np.float32)
    weights = np.stack([np.ones(4, np.float32), WEIGHTS])
    theirs = torch.nn.functional.binary_cross_entropy_with_logits(
        torch.from_numpy(LOGITS), torch.from_numpy(labels), pos_weight=torch.from_numpy(WEIGHTS),
        reduction="none",
    ).mean(1)  # fmt: skip
    np.testing.assert_allclose(binary_cross_entropy(LOGITS, labels, weights), theirs, rtol=1e-5)


def test_the_ranked_score_counts_how_far_off_a_grade_is():
    certain = 100 * np.eye(4, dtype=np.float32)
    truth = np.tile(np.eye(4, dtype=np.float32)[:1], (4, 1))
    np.testing.assert_allclose(
        ranked_probability_score(certain, truth), np.arange(4) / 3, atol=1e-6
    )
    p = np.exp(LOGITS) / np.exp(LOGITS).sum(1, keepdims=True)
    want = [
        sum((p[i, : k + 1].sum() - (CLASSES[i] <= k)) ** 2 for k in range(3)) / 3 for i in range(6)
    ]
    np.testing.assert_allclose(ranked_probability_score(LOGITS, ONE_HOT), want, rtol=1e-4)


def test_grades_cost_both_and_a_sample_of_weight_0_costs_nothing():
    both = cross_entropy(LOGITS, ONE_HOT) + ranked_probability_score(LOGITS, ONE_HOT)
    np.testing.assert_allclose(graded(LOGITS, ONE_HOT), both, rtol=1e-5)
    weights = np.ones(4, np.float32)
    weights[CLASSES[0]] = 0
    assert float(graded(LOGITS, ONE_HOT, weights)[0]) == 0


@pytest.mark.wrong_arguments
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: cross_entropy(LOGITS, ONE_HOT[:1]), r"targets .* has 1 where logits"),
        (lambda: cross_entropy(LOGITS, ONE_HOT, WEIGHTS[:1]), "class_weights"),
        (lambda: binary_cross_entropy(LOGITS, FINDINGS[:, :1]), "labels"),
        (lambda: binary_cross_entropy(LOGITS, FINDINGS, WEIGHTS), "weights"),
        (lambda: graded(LOGITS, CLASSES), "targets"),
    ],
)
def test_shapes_that_do_not_fit_are_named(call, message):
    with pytest.raises(UserError, match=message):
        call()
