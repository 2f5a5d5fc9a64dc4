"""Loss of report generation: the negative log-likelihood of the words that were written."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


def counted(tokens: Int[Array, "b n"]) -> Bool[Array, "b n"]:
    """Marks the words that count: all up to the first 0 behind the beginning, and this end itself.

    A report that was cut has no end, and all of its words count.

    Args:
      tokens: ids (b, n) int32 of reports behind their beginning, 0 is end and padding.
    """
    ended = jnp.cumsum(tokens == 0, axis=1)
    return ended - (tokens == 0) == 0


def word_losses(
    log_probabilities: Float[Array, "b n v"],
    tokens: Int[Array, "b n"],
    mask: Bool[Array, "b n"],
) -> tuple[Float[Array, " b"], Float[Array, " b"]]:
    """Mean of -log p(word) over each report's words, and their number.

    With N_i words and the mean L_i of report i, sum(N_i L_i) / sum(N_i) is the mean over all words
    of a batch, which R2Gen and MM-Retinal minimize.

    Args:
      log_probabilities: of every id at every position, float32.
      tokens: the ids that stand there, (b, n) int32.
      mask: which of them count, as `counted` marks them.

    Returns:
      the mean, 0 of a report without a word that counts, and the number, each (b,) float32.
    """
    found = jnp.take_along_axis(log_probabilities, tokens[..., None], axis=-1)[..., 0]
    number = mask.sum(1).astype(jnp.float32)
    return -jnp.where(mask, found, 0).sum(1) / jnp.maximum(number, 1), number
