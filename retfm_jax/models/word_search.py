"""Beam search over words: the reports that a decoder finds most likely."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

#: What a word loses for each time that it already followed the last two words.
_REPEATED = 2 * 0.693

#: Log-probabilities of the next word (b, k, v) float32, and what is carried on, from the last word
#: of each beam (b, k) int32, its position () from 0, and what was carried.
Step = Callable[[Int[Array, "b k"], Int[Array, ""], Any], tuple[Float[Array, "b k v"], Any]]
#: What is carried by the beams that come from these ones (b, k) int32.
Reorder = Callable[[Any, Int[Array, "b k"]], Any]


class Found(NamedTuple):
    """Reports that a search found, the best first.

    Attributes:
      words: ids (b, k, length) int32, 0 behind the end.
      scores: sums of log-probabilities (b, k) float32, as penalties have left them; -inf where
        there is no such report.
    """

    words: Int[Array, "b k length"]
    scores: Float[Array, "b k"]


class _Beams(NamedTuple):
    """State between two words: the beams, with sums of -inf where they ended, and the reports."""

    position: Int[Array, ""]
    last: Int[Array, "b k"]
    words: Int[Array, "b k length"]
    sums: Float[Array, "b k"]
    found: Found
    carry: Any


def search(
    step: Step,
    reorder: Reorder,
    carry: Any,
    samples: int,
    *,
    beams: int,
    length: int,
    length_penalty: float = 0.0,
    block_trigrams: bool = False,
) -> Found:
    """Finds the likeliest reports of each sample by beam search; one beam is greedy.

    Each step keeps the `beams` best sums of log-probabilities over all beams and words. A beam
    whose word is 0, and at the last step every beam, is a report and goes no further. The search of
    all samples ends when no beam of any goes on. As R2Gen's (Chen et al., EMNLP 2020), where ended
    beams go on with 1,000 less instead, which no going beam ever falls behind.

    Args:
      step: gives the log-probabilities of the next word; the first word's are those after 0.
      reorder: what the beams carry, in another order.
      carry: at the beginning.
      samples: how many are searched side by side, b.
      beams: how many go on at a time, k.
      length: words of a report at most.
      length_penalty: alpha; scores are divided by the number of words, the end among them, to the
        power of alpha. 0: as published.
      block_trigrams: whether a word loses 2 x 0.693 for each time that it already followed the last
        two words, as R2Gen's greedy decoding has it.
    """
    shape = (samples, beams)
    begin = _Beams(
        position=jnp.zeros((), jnp.int32),
        last=jnp.zeros(shape, jnp.int32),
        words=jnp.zeros((*shape, length), jnp.int32),
        sums=jnp.full(shape, -jnp.inf).at[:, 0].set(0.0),
        found=Found(jnp.zeros((*shape, length), jnp.int32), jnp.full(shape, -jnp.inf)),
        carry=carry,
    )

    def goes_on(state: _Beams) -> Array:
        return (state.position < length) & jnp.isfinite(state.sums).any()

    def advance(state: _Beams) -> _Beams:
        position, words = state.position, state.words
        added, carry = step(state.last, position, state.carry)
        if block_trigrams:
            added = added - _REPEATED * _followers(words, position, added.shape[-1])
        sums = (state.sums[..., None] + added).reshape(samples, -1)  # (b, k, v) -> (b, k v)
        sums, best = jax.lax.top_k(sums, beams)
        parents, chosen = jnp.divmod(best, added.shape[-1])
        words = _taken(words, parents).at[:, :, position].set(chosen)
        ended = (chosen == 0) | (position == length - 1)
        scores = sums / (position + 1.0) ** length_penalty if length_penalty else sums
        scores = jnp.concatenate([state.found.scores, jnp.where(ended, scores, -jnp.inf)], axis=1)
        scores, kept = jax.lax.top_k(scores, beams)
        reports = _taken(jnp.concatenate([state.found.words, words], axis=1), kept)
        return _Beams(
            position=position + 1,
            last=chosen,
            words=words,
            sums=jnp.where(ended, -jnp.inf, sums),
            found=Found(reports, scores),
            carry=reorder(carry, parents),
        )

    return jax.lax.while_loop(goes_on, advance, begin).found


def _taken(rows: Int[Array, "b n length"], which: Int[Array, "b k"]) -> Int[Array, "b k length"]:
    return jnp.take_along_axis(rows, which[..., None], axis=1)


def _followers(
    words: Int[Array, "b k length"], position: Int[Array, ""], vocabulary: int
) -> Float[Array, "b k v"]:
    """How often each word followed the last two of the words before a position."""
    b, k, length = words.shape
    if length < 3:
        return jnp.zeros((b, k, vocabulary))
    last = jax.lax.dynamic_slice_in_dim(words, jnp.maximum(position - 2, 0), 2, axis=2)
    ends = jnp.arange(2, length) < position  # where the third word of a trigram stands
    same = (words[..., :-2] == last[..., :1]) & (words[..., 1:-1] == last[..., 1:]) & ends
    rows, columns = jnp.indices((b, k))
    counts = jnp.zeros((b, k, vocabulary))
    return counts.at[rows[..., None], columns[..., None], words[..., 2:]].add(same)
