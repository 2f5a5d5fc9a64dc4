"""Beam search finds what looking at every report finds, and goes the published way."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from retfm_jax.models.word_search import search

WORDS, LENGTH = 4, 5


def table(seed: int) -> np.ndarray:
    """Log-probabilities of the next word after every text of up to four words, by `number`."""
    logits = np.random.default_rng(seed).normal(size=(2, WORDS ** (LENGTH + 1), WORDS))
    return np.asarray(jax.nn.log_softmax(logits * 1.5), np.float32)


def number(words) -> int:
    """Of a text: a 1 and its words as digits."""
    found = 1
    for word in words:
        found = found * WORDS + word
    return found % WORDS ** (LENGTH + 1)


def searched(tables: np.ndarray, **options):
    """Two samples, whose next words depend on all words before."""

    def step(last, position, texts):
        texts = jnp.where(position == 0, 1, texts * WORDS + last) % WORDS ** (LENGTH + 1)
        return jnp.take_along_axis(jnp.asarray(tables), texts[..., None], axis=1), texts

    def reorder(texts, parents):
        return jnp.take_along_axis(texts, parents, axis=1)

    carry = jnp.ones((2, options["beams"]), jnp.int32)
    return jax.jit(lambda: search(step, reorder, carry, 2, length=LENGTH, **options))()


def every_report(log_p: np.ndarray, alpha: float = 0.0) -> list[tuple[float, list[int]]]:
    reports = []
    for length in range(1, LENGTH + 1):
        for words in itertools.product(range(WORDS), repeat=length):
            if 0 in words[:-1] or (words[-1] != 0 and length < LENGTH):
                continue
            score = sum(log_p[number(words[:k]), words[k]] for k in range(length))
            reports.append((score / length**alpha, [*words, *[0] * (LENGTH - length)]))
    return sorted(reports, key=lambda report: -report[0])


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_enough_beams_find_the_best_of_all_reports(alpha):
    tables = table(0)
    found = searched(tables, beams=3 ** (LENGTH - 1), length_penalty=alpha)
    for sample in range(2):
        best = every_report(tables[sample], alpha)[:10]
        assert np.asarray(found.words)[sample, :10].tolist() == [words for _, words in best]
        np.testing.assert_allclose(found.scores[sample, :10], [s for s, _ in best], rtol=1e-5)


def published(log_p: np.ndarray, beams: int) -> list[tuple[float, list[int]]]:
    """R2Gen's search: ended beams go on with 1,000 less."""
    going, done = [(0.0, [])], []
    for position in range(LENGTH):
        candidates = [
            (total + log_p[number(words), word], [*words, word])
            for total, words in going
            for word in range(WORDS)
        ]
        going = sorted(candidates, key=lambda beam: -beam[0])[:beams]
        for index, (total, words) in enumerate(going):
            if words[-1] == 0 or position == LENGTH - 1:
                done.append((total, words))
                going[index] = (total - 1000, words)
    return sorted(done, key=lambda beam: -beam[0])[:beams]


@pytest.mark.parametrize("beams", [1, 2, 3])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_few_beams_go_the_published_way(beams, seed):
    tables = table(seed)
    found = searched(tables, beams=beams)
    for sample in range(2):
        for (score, words), ours, our_score in zip(
            published(tables[sample], beams), found.words[sample], found.scores[sample], strict=True
        ):
            assert ours.tolist() == [*words, *[0] * (LENGTH - len(words))]
            assert our_score == pytest.approx(score, rel=1e-5)


def test_a_word_that_followed_the_last_two_loses_for_each_time():
    # Word 1 is likelier than 2 always; the end is out of reach.
    tables = np.broadcast_to(
        np.log(np.array([1e-9, 0.6, 0.4, 1e-9], np.float32)), (2, WORDS ** (LENGTH + 1), WORDS)
    )
    assert searched(tables, beams=1).words[0, 0].tolist() == [1] * 5
    found = searched(tables, beams=1, block_trigrams=True)
    assert found.words[0, 0].tolist() == [1, 1, 1, 2, 1]
