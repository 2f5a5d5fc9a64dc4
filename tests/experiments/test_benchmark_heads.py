"""Heads of a benchmark: what features are scaled by means nothing, and validation alone chooses."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from retfm_jax.evaluation.metrics.classification import auroc
from retfm_jax.evaluation.protocols.few_shot import Support
from retfm_jax.evaluation.protocols.linear_probe import linear_probe
from retfm_jax.experiments.benchmark.heads import (
    PRIOR,
    Examples,
    Judge,
    Judged,
    better,
    choose_head,
    statistics,
)
from retfm_jax.experiments.benchmark.suite import STRENGTHS

EXCLUSIVE = Judge("auroc", ("a", "b", "c"), exclusive=True)
FINDINGS = Judge("auroc", ("a", "b", "c"), exclusive=False)


def examples(count, seed, classes=3, width=8, noise=1.0):
    """Classes at corners, with noise; the first features tell them apart."""
    generator = np.random.default_rng(seed)
    column = np.arange(count) % classes
    features = generator.normal(size=(count, width)) * noise
    features[:, :classes] += 2 * np.eye(classes)[column]
    return Examples(features.astype(np.float32), np.eye(classes, dtype=np.int64)[column])


def probe(judge=EXCLUSIVE, strengths=(1e-2, 1.0), **changes):
    sets = {name: examples(60, seed) for seed, name in enumerate(("train", "validation"))}
    sets |= changes
    return choose_head(sets["train"], sets["validation"], strengths, judge)


def test_a_head_is_logistic_regression_on_standardized_features():
    train, test = examples(300, 0), examples(50, 2)
    head = probe(train=train, strengths=(0.1,))
    center, scale = statistics(train.features)
    known = LogisticRegression(C=1 / (0.1 * 300), max_iter=5000, tol=1e-8)
    known.fit((train.features - center) / scale, train.labels.argmax(1))
    expected = known.predict_proba((test.features - center) / scale)
    np.testing.assert_allclose(head.predict(test.features), expected, atol=1e-4)


def test_of_many_photographs_the_scale_and_offset_of_a_feature_mean_nothing():
    scale, offset = np.geomspace(1e-3, 1e3, 8), np.linspace(-50, 50, 8)

    def moved(given):
        return Examples(given.features * scale + offset, given.labels)

    train, validation, test = examples(20_000, 0), examples(300, 1), examples(300, 2)
    plain = choose_head(train, validation, (0.1,), EXCLUSIVE)
    other = choose_head(moved(train), moved(validation), (0.1,), EXCLUSIVE)
    ours, theirs = plain.predict(test.features), other.predict(moved(test).features)
    np.testing.assert_allclose(ours, theirs, atol=5e-3)


def auroc_of(scores, given):
    return np.mean([auroc(given.labels[:, c], scores[:, c]) for c in range(scores.shape[1])])


def test_features_of_few_large_directions_are_not_underestimated():
    """As of masked autoencoders: what tells classes apart hides below directions of no use."""
    generator = np.random.default_rng(0)

    def like_mae(count, seed):
        plain = examples(count, seed, width=32)
        loud = np.random.default_rng(seed + 100).normal(size=(count, 4)) * 100 + 300
        turn = np.linalg.qr(generator.normal(size=(4, 4)))[0]
        features = np.concatenate([loud @ turn, plain.features], axis=1)
        return Examples(features.astype(np.float32), plain.labels)

    train, validation, test = (like_mae(300, seed) for seed in range(3))
    head = choose_head(train, validation, STRENGTHS, EXCLUSIVE)
    norms = [np.linalg.norm(each.features, axis=1, keepdims=True) for each in (train, test)]
    support = Support(train.features / norms[0], train.labels, np.zeros((3, 0)), 1.0, True)
    published = linear_probe(support)(test.features / norms[1])
    assert auroc_of(head.predict(test.features), test) > auroc_of(published, test) + 0.1


def test_validation_chooses():
    train = examples(12, 0, width=40, noise=3.0)
    head = probe(train=train, validation=examples(300, 1, width=40, noise=3.0), strengths=STRENGTHS)
    scores = {point["strength"]: point["score"] for point in head.points}
    assert set(scores) == set(STRENGTHS)
    assert scores[head.strength] == max(scores.values())


@pytest.mark.parametrize(
    ("points", "expected"),
    [
        ([(0.8, 1.0), (0.9, 2.0)], 1),
        ([(0.9, 2.0), (0.9, 1.0)], 1),
        ([(0.9, 1.0), (0.9, 1.0)], 0),
        ([(float("nan"), 0.1), (0.1, 9.0)], 1),
        ([(float("nan"), 0.2), (float("nan"), 0.1)], 1),
    ],
)
def test_between_equals_the_likelihood_decides(points, expected):
    assert better([(Judged(*point), number) for number, point in enumerate(points)]) == expected


def test_findings_have_a_head_each_and_unknown_labels_teach_nothing():
    generator = np.random.default_rng(3)
    train = examples(90, 0)
    labels = (generator.random((90, 3)) < 0.4).astype(np.int64)
    labels[:, 0] = train.features[:, 0] > 0.5
    hidden = labels.copy()
    hidden[::3, 1] = -1
    labels[:, 2], hidden[:, 2] = 1, 1  # all have it
    head = probe(FINDINGS, train=Examples(train.features, hidden), strengths=(0.1,))
    found = head.predict(examples(5, 4).features)
    np.testing.assert_array_equal(found[:, 2], 1)
    assert ((found >= 0) & (found <= 1)).all()
    other = hidden.copy()
    other[::3, 1] = -1
    again = probe(FINDINGS, train=Examples(train.features, other), strengths=(0.1,))
    np.testing.assert_array_equal(again.predict(train.features), head.predict(train.features))


def test_a_class_that_the_support_lacks_has_no_probability():
    train = examples(40, 0)
    kept = train.labels[:, 1] == 0
    head = probe(train=Examples(train.features[kept], train.labels[kept]))
    found = head.predict(train.features)
    assert not found[:, 1].any()
    np.testing.assert_allclose(found.sum(1), 1)


def test_variances_of_few_photographs_are_drawn_to_their_mean():
    features = np.random.default_rng(0).normal(size=(4, 50)) * np.geomspace(1, 10, 50)
    _, scale = statistics(features)
    logs = np.log(features.var(0))
    expected = np.exp((4 * logs + PRIOR * logs.mean()) / (4 + PRIOR) / 2)
    np.testing.assert_allclose(scale, expected)
    assert scale.max() / scale.min() < (features.std(0).max() / features.std(0).min()) ** 0.5
    constant = np.concatenate([features, np.full((4, 1), 7.0)], axis=1)
    assert statistics(constant)[1][-1] == 1


def test_the_same_examples_give_the_same_bits():
    one, two = probe(strengths=STRENGTHS), probe(strengths=STRENGTHS)
    test = examples(30, 9)
    assert one.predict(test.features).tobytes() == two.predict(test.features).tobytes()
    assert one.points == two.points
