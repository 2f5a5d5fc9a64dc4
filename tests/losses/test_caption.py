"""The loss of reports counts every written word once, and the end, and no padding."""

import numpy as np

from retfm_jax.losses.caption import counted, word_losses

TOKENS = np.array([[3, 1, 0, 0], [2, 2, 2, 2], [0, 0, 0, 0]], np.int32)


def test_words_up_to_the_end_count_and_a_cut_report_has_none():
    expected = [[1, 1, 1, 0], [1, 1, 1, 1], [1, 0, 0, 0]]
    np.testing.assert_array_equal(counted(TOKENS), np.array(expected, bool))


def test_the_loss_is_the_mean_over_words_and_padding_means_nothing():
    log_p = np.log(np.random.default_rng(0).dirichlet(np.ones(5), (3, 4))).astype(np.float32)
    mask = np.asarray(counted(TOKENS))
    means, words = word_losses(log_p, TOKENS, mask)
    picked = [
        -log_p[row, column, TOKENS[row, column]] for row in range(3) for column in range(4)
        if mask[row, column]
    ]  # fmt: skip
    np.testing.assert_array_equal(words, [3, 4, 1])
    np.testing.assert_allclose((means * words).sum() / words.sum(), np.mean(picked), rtol=1e-6)
    log_p[~mask] = -50.0
    np.testing.assert_array_equal(word_losses(log_p, TOKENS, mask)[0], means)


def test_a_report_without_a_word_that_counts_costs_nothing():
    log_p = np.full((1, 2, 3), -1.0, np.float32)
    means, words = word_losses(log_p, np.zeros((1, 2), np.int32), np.zeros((1, 2), bool))
    assert (float(means[0]), float(words[0])) == (0.0, 0.0)
