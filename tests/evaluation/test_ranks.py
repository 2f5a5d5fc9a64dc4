"""Ranks of models: corrections against definitions, groups that no test separates."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from retfm_jax.evaluation.metrics import ranks


def test_holm_by_hand():
    """Holm's example: 0.01 * 4, then 0.015 * 3 = 0.045, 0.03 * 2 = 0.06, 0.05 -> 0.06."""
    found = ranks.holm([0.05, 0.01, 0.03, 0.015])
    assert found == pytest.approx([0.06, 0.04, 0.06, 0.045])
    assert ranks.holm([0.6, 0.7]) == [1.0, 1.0]
    assert ranks.holm([]) == []


def test_holm_is_the_closed_test_of_bonferroni():
    """Each hypothesis is rejected where every intersection that holds it is, at the size of it."""
    generator = np.random.default_rng(0)
    for _ in range(50):
        p = (generator.random(5) ** 3).tolist()
        closed = [
            max(
                min(1.0, len(others) * min(p[other] for other in others))
                for size in range(1, 6)
                for others in itertools.combinations(range(5), size)
                if hypothesis in others
            )
            for hypothesis in range(5)
        ]
        assert ranks.holm(p) == pytest.approx(closed)


def test_a_test_that_could_not_be_made_does_not_count():
    found = ranks.holm([0.02, math.nan, 0.04])
    assert found[0] == pytest.approx(0.04)
    assert found[2] == pytest.approx(0.04)
    assert math.isnan(found[1])
    assert ranks.significant({("a", "b"): 0.02, ("a", "c"): math.nan}) == {("a", "b"): 0.02}


def test_a_rank_counts_who_is_proven_better():
    values = {"a": 0.9, "b": 0.88, "c": 0.8, "d": 0.79}
    apart = [("a", "c"), ("d", "a"), ("b", "d")]
    assert ranks.ranks(values, apart) == {"a": 1, "b": 1, "c": 2, "d": 3}
    assert set(ranks.ranks(values, ()).values()) == {1}


def test_average_ranks_share_places():
    values = np.array([[0.9, 0.8, 0.8], [0.7, 0.7, 0.7], [0.5, 0.6, 0.4]])
    np.testing.assert_allclose(ranks.average_ranks(values), [5 / 3, 5.5 / 3, 7.5 / 3])


@pytest.mark.parametrize("decimals", [1, 6])
def test_friedman_is_scipys_with_and_without_ties(decimals):
    values = np.round(np.random.default_rng(1).normal(size=(9, 4)), decimals)
    found = ranks.friedman(values)
    assert found == pytest.approx(tuple(stats.friedmanchisquare(*values.T)))


def test_friedman_of_two_models_of_one_set_and_of_ties():
    one, two = np.random.default_rng(2).random((2, 6))
    pair = np.stack([one, two], 1)
    better = int((one > two).sum())
    assert ranks.friedman(pair).statistic == pytest.approx((2 * better - 6) ** 2 / 6)  # sign test
    assert math.isnan(ranks.friedman(pair[:1]).p)
    assert ranks.friedman(np.ones((4, 3))) == (0.0, 1.0)


def test_cliques_are_the_longest_runs_without_a_pair_apart():
    assert ranks.cliques("abcd", [("a", "d")]) == [("a", "b", "c"), ("b", "c", "d")]
    assert ranks.cliques("abcd", [("b", "a"), ("a", "c"), ("a", "d")]) == [("b", "c", "d")]
    assert ranks.cliques("abcd", ()) == [tuple("abcd")]
    assert ranks.cliques("ab", [("a", "b")]) == []
    assert ranks.cliques("a", ()) == []


def test_cliques_by_brute_force():
    generator = np.random.default_rng(3)
    order = "abcdef"
    for _ in range(100):
        apart = {pair for pair in itertools.combinations(order, 2) if generator.random() < 0.3}
        runs = [
            order[i:j]
            for i in range(6)
            for j in range(i + 2, 7)
            if not apart & set(itertools.combinations(order[i:j], 2))
        ]
        longest = [run for run in runs if not any(run != o and run in o for o in runs)]
        assert ranks.cliques(order, apart) == [tuple(run) for run in longest]
