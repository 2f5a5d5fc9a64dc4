"""Batches without the padding that all of their texts share."""

import collections
import contextlib
import functools
from collections.abc import Generator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

#: Batches whose longest text is asked for ahead of the one that is in use, so that its answer is
#: there, and no device waits, when the batch is taken.
_AHEAD = 2


class _Waiting(NamedTuple):
    batch: Any
    texts: dict[str, Array]
    longest: Int[Array, ""]


def cut_padding(batches: Generator[Any, None, None], multiple: int) -> Generator[Any, None, None]:
    """Cuts each batch's texts to a multiple of `multiple` tokens that holds the longest of them.

    The longest text is that of the global batch, which the devices tell every process alike; so
    a batch has the same length whenever, and by however many processes, it is read. The step
    compiles once for each length that occurs.

    Args:
      batches: with global arrays of token ids (`tokens`, `expert_tokens`), 0 is padding. Closed
        with this generator.
      multiple: number of tokens, at least 1.
    """
    waiting: collections.deque[_Waiting] = collections.deque()
    with contextlib.closing(batches):
        for batch in batches:
            texts = {name: a for name, a in batch.arrays.items() if name.endswith("tokens")}
            waiting.append(_Waiting(batch, texts, _longest(texts)))
            if len(waiting) > _AHEAD:
                yield _cut(waiting.popleft(), multiple)
        while waiting:
            yield _cut(waiting.popleft(), multiple)


def _cut(waiting: _Waiting, multiple: int) -> Any:
    batch, texts, longest = waiting
    length = -(-max(int(longest), 1) // multiple) * multiple
    cut = {
        name: tokens if length >= tokens.shape[1] else _first(tokens, length)
        for name, tokens in texts.items()
    }
    return batch._replace(arrays=batch.arrays | cut)


@functools.partial(jax.jit, static_argnums=1)
def _first(tokens: Int[Array, "b n"], length: int) -> Int[Array, "b k"]:
    return tokens[:, :length]


@jax.jit
def _longest(texts: dict[str, Int[Array, "b n"]]) -> Int[Array, ""]:
    """Tokens of the longest text."""
    ends = [((tokens != 0) * (1 + jnp.arange(tokens.shape[1]))).max() for tokens in texts.values()]
    return jnp.stack(ends).max()
