"""Random bits of dropout: a function of a sample's key and of an entry's place alone.

The same few lines run inside of a Pallas kernel and outside of it, on every device, so that one
mask does not depend on what computes it.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Key, UInt32

#: Threefry-2x32's rotations of even and of odd groups of four rounds, in bits.
_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = np.uint32(0x1BD11BDA)
#: Values that 16 bits have.
_LEVELS = 2**16


def threefry(key_0: Array, key_1: Array, counter_0: Array, counter_1: Array) -> tuple[Array, Array]:
    """Threefry-2x32 with 20 rounds (Salmon et al., SC 2011), in additions, rotations and xors.

    Args:
      key_0, key_1: both words of the key, uint32, of shapes that broadcast to the counters'.
      counter_0, counter_1: both words of the counter, uint32.

    Returns:
      two random words for each counter, uint32, of the counters' shape.
    """
    keys = (key_0, key_1, key_0 ^ key_1 ^ _PARITY)
    x, y = counter_0 + keys[0], counter_1 + keys[1]
    for group in range(5):
        for rotation in _ROTATIONS[group % 2]:
            x = x + y
            y = (y << np.uint32(rotation)) | (y >> np.uint32(32 - rotation))
            y = x ^ y
        x = x + keys[(group + 1) % 3]
        y = y + keys[(group + 2) % 3] + np.uint32(group + 1)
    return x, y


def pieces(words: tuple[Array, Array]) -> tuple[Array, Array, Array, Array]:
    """Takes two words apart into four times 16 bits, int32 in [0, 65536).

    Args:
      words: as `threefry` gives them.
    """
    low = [(word & np.uint32(_LEVELS - 1)).astype(jnp.int32) for word in words]
    high = [(word >> np.uint32(16)).astype(jnp.int32) for word in words]
    return low[0], high[0], low[1], high[1]


def threshold(rate: float) -> int:
    """The number below which 16 random bits drop an entry: `rate` in steps of 1 / 65536.

    Args:
      rate: share of the entries that is zeroed, in [0, 1).
    """
    return min(round(rate * _LEVELS), _LEVELS - 1)


def kept_scale(rate: float) -> float:
    """What kept entries are multiplied by, so that an entry's expectation stays.

    Args:
      rate: share of the entries that is zeroed, in [0, 1).
    """
    return _LEVELS / (_LEVELS - threshold(rate))


def key_words(keys: Key[Array, " b"]) -> UInt32[Array, "b 2"]:
    """The words of PRNG keys (b,), as `threefry` takes them.

    Args:
      keys: of JAX's default generator.
    """
    return jax.random.key_data(keys)


def hidden_masks(
    keys: Key[Array, " b"], rate: float, shape: tuple[int, ...], count: int
) -> tuple[Bool[Array, "b ... d"], ...]:
    """Draws which entries of hidden states stay, 16 bits for each.

    The entry of row i (all axes but the last as one) and column c of width d has the counter
    (i, c mod ceil(d / 2)). The first word serves the left half of the columns, the second the right
    one; the lower 16 bits serve the first mask of two, the upper ones the second.

    Args:
      keys: one for each sample (b,).
      rate: share of the entries that is dropped, in [0, 1).
      shape: of a sample's states, (..., d).
      count: masks of this shape that are drawn at once, 1 or 2.

    Returns:
      `count` masks (b, ..., d) bool.
    """
    width = shape[-1]
    half = -(-width // 2)
    rows = int(np.prod(shape[:-1], dtype=np.int64))
    words = key_words(keys)[:, :, None, None]
    drawn = threefry(
        words[:, 0],
        words[:, 1],
        jax.lax.broadcasted_iota(jnp.uint32, (1, rows, half), 1),
        jax.lax.broadcasted_iota(jnp.uint32, (1, rows, half), 2),
    )
    # The compiler would draw anew for each mask, rather than look twice at what is drawn.
    drawn = jax.lax.optimization_barrier(drawn)
    left_first, left_second, right_first, right_second = pieces(drawn)
    halves = ((left_first, right_first), (left_second, right_second))[:count]
    masks = [jnp.concatenate(each, axis=-1)[..., :width] >= threshold(rate) for each in halves]
    return tuple(mask.reshape(-1, *shape) for mask in masks)


def attention_words(
    key_0: Array, key_1: Array, group: int | Array, queries: Array, keys: Array
) -> tuple[Array, Array, Array, Array]:
    """Random bits of the attention probabilities of four heads, for dropout.

    Query i and key j of the heads 4 g to 4 g + 3 have the counter (g, 65536 i + j): they depend on
    no length, so that padding changes nothing.

    Args:
      key_0, key_1: words of a sample's key, uint32 scalars or shapes that broadcast.
      group: g, the number of the four heads.
      queries, keys: numbers of the queries and of the keys, uint32 of one shape.

    Returns:
      16 bits for each head of the four, int32 of that shape.
    """
    counter = (queries << np.uint32(16)) | keys
    return pieces(threefry(key_0, key_1, jnp.full_like(counter, group), counter))


def attention_mask(
    keys: Key[Array, " b"], rate: float, heads: int, queries: int, seen: int
) -> Bool[Array, "b h n m"]:
    """Draws which attention probabilities stay, as `attention_words` counts them.

    Args:
      keys: one for each sample (b,).
      rate: share of the probabilities that is dropped, in [0, 1).
      heads: h.
      queries, seen: n and m, at most 65,536 each.

    Returns:
      the mask (b, h, n, m) bool.
    """
    words = key_words(keys)[:, :, None, None]
    shape = (1, queries, seen)
    rows, columns = (jax.lax.broadcasted_iota(jnp.uint32, shape, axis) for axis in (1, 2))
    bits = [
        piece
        for group in range(-(-heads // 4))
        for piece in attention_words(words[:, 0], words[:, 1], group, rows, columns)
    ]
    return jnp.stack(bits[:heads], axis=1) >= threshold(rate)
