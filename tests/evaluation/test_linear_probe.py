"""The linear probe equals scikit-learn's logistic regression with the published settings."""

import numpy as np
from sklearn.linear_model import LogisticRegression

from retfm_jax.evaluation.protocols.few_shot import Support
from retfm_jax.evaluation.protocols.linear_probe import linear_probe


def data(seed=0):
    generator = np.random.default_rng(seed)
    features = generator.normal(size=(60, 5)).astype(np.float32)
    return features, (features[:, :3] + 0.5 * generator.normal(size=(60, 3))).argmax(1)


def test_one_class_a_sample_equals_scikit_learn():
    features, truth = data()
    expected = LogisticRegression(C=0.316, class_weight="balanced", max_iter=1000)
    expected.fit(features, truth)
    support = Support(features, np.eye(3, dtype=int)[truth], np.zeros((3, 5)), 1.0, True)
    np.testing.assert_allclose(
        linear_probe(support)(features), expected.predict_proba(features), rtol=1e-6
    )


def test_a_class_without_support_gets_probability_zero():
    features, truth = data()
    support = Support(features, np.eye(4, dtype=int)[truth], np.zeros((4, 5)), 1.0, True)
    scores = linear_probe(support)(features)
    assert not scores[:, 3].any()
    np.testing.assert_allclose(scores.sum(1), 1, rtol=1e-6)


def test_findings_get_a_regression_each_on_known_labels_only():
    features, truth = data()
    labels = np.stack([truth == 0, truth == 1, np.ones(60), np.zeros(60)], axis=1).astype(int)
    labels[:20, 1] = -1
    support = Support(features, labels, np.zeros((4, 5)), 1.0, False)
    scores = linear_probe(support)(features)
    expected = LogisticRegression(C=0.316, class_weight="balanced", max_iter=1000)
    expected.fit(features[20:], labels[20:, 1])
    np.testing.assert_allclose(scores[:, 1], expected.predict_proba(features)[:, 1], rtol=1e-6)
    np.testing.assert_array_equal(scores[:, 2], 1)
    np.testing.assert_array_equal(scores[:, 3], 0)
