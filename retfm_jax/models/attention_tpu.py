"""Softmax attention of short sequences in one TPU kernel, forward and backward (Pallas).

Logits and probabilities never leave the chip's memory, and query, key and value stay as the matrix
products around them leave and want them: (b, n, heads d), heads side by side in the lanes.

Three choices make it fast. Keys stand in rows, so that a softmax goes along sublanes, by additions,
not across lanes. A head narrower than the 128 lanes shares them with its neighbors: in the logits
all others are masked to 0, which costs the matrix units nothing; every result is computed
transposed, where heads are rows that need no mask. And the products of the next heads begin before
the softmax of this one, so that matrix and vector units work at once.
"""

import contextlib
import functools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, Int, UInt32

from retfm_jax.models.random_bits import attention_words, kept_scale, threshold

_LANES = 128
#: Bytes of the chip's fast memory that a kernel may take; a v5p has 64 MiB, a v5e 128.
_VMEM = 48 * 2**20
#: Tiles of 8 x 128 logits whose code is written out, not looped over: enough to overlap heads.
_UNROLLED = 1536
#: Rows of queries that a step of the grid takes at least, where there are as many.
_ROWS = 512
#: How many heads' products begin before they are needed.
_AHEAD = 3
#: What is added to the logit of a key that may not be seen; float32 forgets any logit beside it.
_HIDDEN = -1e30

_interpreted = jax.make_user_context(False)


@contextlib.contextmanager
def interpreted() -> Iterator[None]:
    """Lets attention take this kernel on a CPU, interpreted, for tests."""
    with _interpreted(True):
        yield


def is_interpreted() -> bool:
    """Whether `interpreted` is in force."""
    return bool(_interpreted.value)


class _Form(NamedTuple):
    """What is known when the kernel is compiled: heads, keys that are seen (None: all), rate."""

    heads: int
    seen: int | None
    lengths: bool
    rate: float


class _Blocks(NamedTuple):
    """What one step of the grid takes: samples, and heads of each."""

    samples: int
    heads: int


def fits(
    batch: int, queries: int, keys: int, heads: int, width: int, dtype: Any, *, drops: bool
) -> bool:
    """Whether the kernels take arrays of these sizes: their logits must fit the fast memory.

    Args:
      batch: samples of one device.
      queries, keys: of a sample.
      heads, width: their number, and the width of one.
      dtype: of the arrays.
      drops: whether probabilities are dropped.
    """
    sizes = batch, queries, keys, heads, width, dtype
    return _blocks(*sizes, drops=drops, backward=True) is not None


def _blocks(
    batch: int,
    queries: int,
    keys: int,
    heads: int,
    width: int,
    dtype: Any,
    *,
    drops: bool,
    backward: bool,
) -> _Blocks | None:
    """Chooses what a step of the grid takes; None where not even the least fits."""
    size = jnp.dtype(dtype).itemsize
    rows = (3 * queries + 4 * keys) if backward else (2 * queries + 2 * keys)
    logits = _up(keys, 8) * _up(queries, _LANES)
    # Of heads that are begun and of the one that is finished, and random bits of eight heads.
    matrices = (2 if backward else 1) * (_AHEAD + 1) + 4 + (8 if drops else 0)
    samples = max(n for n in _divisors(batch) if n == 1 or n * queries <= _ROWS)
    parts = _parts(heads, width, drops)
    for count in parts:
        # Of a step that is computed and of one that is copied meanwhile, and a sample's own.
        arrays = (2 * samples + 1) * size * rows * _up(count * width, _LANES)
        small = count * logits <= _UNROLLED * 8 * _LANES or count == parts[-1]
        if small and arrays + 4 * matrices * logits <= _VMEM:
            return _Blocks(samples, count)
    return None


def _up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple


def _divisors(number: int) -> list[int]:
    return [divisor for divisor in range(1, number + 1) if number % divisor == 0]


def _parts(heads: int, width: int, drops: bool) -> list[int]:
    """How many heads a step may take, most first: all, or parts whose lanes are whole tiles.

    With dropout four heads share their random bits.
    """
    unit = math.lcm(_LANES // math.gcd(_LANES, width), 4 if drops else 1)
    return [heads, *(n for n in _divisors(heads)[-2::-1] if n % unit == 0)]


class _Head(NamedTuple):
    """Where a head stands among those of a step.

    Attributes:
      number: of the head.
      window: the lanes of the whole tiles that hold it.
      inside: first and last lane of the head in its window.
      rows: its lanes in its group, which stand as rows in what is transposed.
      group: the lanes of the heads that fill whole tiles together.
      last: whether it is the last one of its group.
    """

    number: int
    window: tuple[int, int]
    inside: tuple[int, int]
    rows: slice
    group: tuple[int, int]
    last: bool


def _heads(count: int, width: int) -> list[_Head]:
    end, together = count * width, _LANES // math.gcd(_LANES, width)
    found = []
    for number in range(count):
        first = number * width
        start = first // _LANES * _LANES
        group = number // together * together * width
        stop = min(group + together * width, end)
        found.append(
            _Head(
                number,
                (start, min(_up(first + width, _LANES), end)),
                (first - start, first - start + width),
                slice(first - group, first - group + width),
                (group, stop),
                first + width == stop,
            )
        )
    return found


def _product(a: Any, b: Any, contracted: tuple[int, int]) -> Any:
    # Of float32 as exact as `jax.default_matmul_precision` has it, as everywhere else.
    dimensions = ((contracted[0],), (contracted[1],)), ((), ())
    return jax.lax.dot_general(a, b, dimensions, preferred_element_type=jnp.float32)


def _own(x: Any, head: _Head) -> Any:
    """Keeps the lanes of a head in its window, which others share."""
    first, stop = head.inside
    if (first, stop) == (0, x.shape[1]):
        return x
    lane = jax.lax.broadcasted_iota(jnp.int32, x.shape, 1)
    own = (lane >= first) & (lane < stop)
    if x.dtype != jnp.bfloat16:
        return jnp.where(own, x, 0)
    # Not every chip computes in bfloat16, but all mask bits.
    bits = jax.lax.bitcast_convert_type(x, jnp.int16)
    return jax.lax.bitcast_convert_type(bits & jnp.where(own, -1, 0).astype(jnp.int16), x.dtype)


def _in_turn(
    heads: Iterable[_Head], begin: Callable[[_Head], Any], finish: Callable[[_Head, Any], None]
) -> None:
    """Begins the products of some heads ahead of those that are finished."""
    begun = []
    for head in heads:
        begun.append((head, begin(head)))
        if len(begun) > _AHEAD:
            finish(*begun.pop(0))
    for each in begun:
        finish(*each)


class _Sample(NamedTuple):
    """What the heads of one sample share inside of a kernel.

    Attributes:
      form: what was known before.
      scale: of the logits.
      bias: added to the logits of each key (m, 1) float32; None: all keys are seen.
      some: whether the sample has a key that is seen; None: it has.
      words: both words of the dropout's key; None: nothing is dropped.
      fours: number of the first head, in fours.
      bits: random bits that were drawn, by the number of the four heads that share them.
    """

    form: _Form
    scale: float
    bias: Any
    some: Any
    words: Any
    fours: Any
    bits: dict[int, Any]


def _sample(
    form: _Form, width: int, scalars: Sequence[Any], step: Sequence[Any], number: Any, keys: int
) -> _Sample:
    bias = some = words = None
    if form.lengths:
        length = scalars[0][number]
        row = jax.lax.broadcasted_iota(jnp.int32, (keys, 1), 0)
        bias, some = jnp.where(row < length, 0.0, _HIDDEN), length > 0
    if form.rate:
        words = tuple(scalars[-1][2 * number + word].astype(jnp.uint32) for word in range(2))
    fours = step[1] * (form.heads // 4)
    return _Sample(form, width**-0.5, bias, some, words, fours, {})


def _lanes(ref: Any, at: Any, rows: int) -> Callable[[tuple[int, int]], Any]:
    """Reads lanes of a sample's first rows, once."""
    return functools.cache(lambda lanes: ref[at, :rows, lanes[0] : lanes[1]])


def _transposed(read: Callable[[tuple[int, int]], Any]) -> Callable[[_Head], Any]:
    """Reads a head's lanes as rows; a group is transposed once."""
    whole = functools.cache(lambda group: read(group).T)
    return lambda head: whole(head.group)[head.rows]


def _probabilities(sample: _Sample, logits: Any) -> tuple[Any, Any]:
    """The softmax over the rows before it is normalized, (m, n), and the normalizer (1, n)."""
    if sample.bias is not None:
        logits = logits + sample.bias
    weights = jnp.exp2((logits - logits.max(0, keepdims=True)) * (sample.scale * math.log2(math.e)))
    normalizer = 1 / weights.sum(0, keepdims=True)
    if sample.some is not None:
        normalizer = jnp.where(sample.some, normalizer, 0.0)
    return weights, normalizer


def _kept(sample: _Sample, head: _Head, shape: tuple[int, ...]) -> Any:
    """Which probabilities (m, n) of a head stay; four heads draw together."""
    four, piece = divmod(head.number, 4)
    if piece == 0:
        key, query = (jax.lax.broadcasted_iota(jnp.uint32, shape, axis) for axis in (0, 1))
        group = (sample.fours + four).astype(jnp.uint32)
        sample.bits[four] = attention_words(sample.words[0], sample.words[1], group, query, key)
    bits = sample.bits[four][piece]
    return bits >= threshold(sample.form.rate)


def _store(ref: Any, at: Any, head: _Head, parts: list[Any], seen: int) -> None:
    """Writes the results of a group of heads, each (rows of the head, tokens), when it is whole."""
    if not head.last:
        return
    whole = jnp.concatenate(parts, axis=0).astype(ref.dtype).T
    parts.clear()
    lanes = slice(*head.group)
    ref[at, :seen, lanes] = whole
    if seen < ref.shape[1]:
        rest = (ref.shape[1] - seen, whole.shape[1])
        ref[at, seen:, lanes] = jnp.zeros(rest, ref.dtype)


def _each_sample(samples: int, run: Callable[[Any], None]) -> None:
    if samples == 1:
        run(0)
    else:
        jax.lax.fori_loop(0, samples, lambda at, _: (run(at), 0)[1], 0)


def _sizes(form: _Form, query_ref: Any, key_ref: Any) -> tuple[int, int, int, int]:
    """Samples and queries of a step, keys that are seen, and the width of a head."""
    samples, queries, lanes = query_ref.shape
    seen = key_ref.shape[1] if form.seen is None else form.seen
    return samples, queries, seen, lanes // form.heads


def _forward_kernel(*refs: Any, form: _Form) -> None:
    *scalars, query_ref, key_ref, value_ref, out_ref = refs
    samples, queries, seen, width = _sizes(form, query_ref, key_ref)
    dtype, step = query_ref.dtype, (pl.program_id(0), pl.program_id(1))

    def run(at: Any) -> None:
        sample = _sample(form, width, scalars, step, step[0] * samples + at, seen)
        query, key, value = (
            _lanes(ref, at, rows)
            for ref, rows in ((query_ref, queries), (key_ref, seen), (value_ref, seen))
        )
        value_rows = _transposed(value)
        parts: list[Any] = []

        def begin(head: _Head) -> Any:
            return _product(_own(key(head.window), head), query(head.window), (1, 1))  # (m, n)

        def finish(head: _Head, logits: Any) -> None:
            weights, normalizer = _probabilities(sample, logits)
            if form.rate:
                weights = jnp.where(_kept(sample, head, weights.shape), weights, 0.0)
                normalizer = normalizer * kept_scale(form.rate)
            out = _product(value_rows(head), weights.astype(dtype), (1, 0))  # (d, n)
            parts.append(out * normalizer)
            _store(out_ref, at, head, parts, queries)

        _in_turn(_heads(form.heads, width), begin, finish)

    _each_sample(samples, run)


def _backward_kernel(*refs: Any, form: _Form) -> None:
    *scalars, query_ref, key_ref, value_ref, out_ref = refs[:-3]
    gradients = refs[-3:]
    samples, queries, seen, width = _sizes(form, query_ref, key_ref)
    dtype, step = query_ref.dtype, (pl.program_id(0), pl.program_id(1))

    def run(at: Any) -> None:
        sample = _sample(form, width, scalars, step, step[0] * samples + at, seen)
        query, key = _lanes(query_ref, at, queries), _lanes(key_ref, at, seen)
        value, out = _lanes(value_ref, at, seen), _lanes(out_ref, at, queries)
        query_rows, key_rows, out_rows = (_transposed(read) for read in (query, key, out))
        parts: tuple[list[Any], ...] = ([], [], [])

        def begin(head: _Head) -> Any:
            logits = _product(_own(key(head.window), head), query(head.window), (1, 1))
            slopes = _product(_own(value(head.window), head), out(head.window), (1, 1))
            return logits, slopes  # (m, n)

        def finish(head: _Head, products: Any) -> None:
            logits, slopes = products
            weights, normalizer = _probabilities(sample, logits)
            weights = weights * normalizer
            dropped = weights
            if form.rate:
                kept, factor = _kept(sample, head, weights.shape), kept_scale(form.rate)
                dropped = jnp.where(kept, weights * factor, 0.0)
                slopes = jnp.where(kept, slopes * factor, 0.0)
            mean = (weights * slopes).sum(0, keepdims=True)
            slopes = (weights * (slopes - mean)).astype(dtype)
            parts[0].append(_product(key_rows(head), slopes, (1, 0)) * sample.scale)  # (d, n)
            parts[1].append(_product(query_rows(head), slopes, (1, 1)) * sample.scale)  # (d, m)
            parts[2].append(_product(out_rows(head), dropped.astype(dtype), (1, 1)))  # (d, m)
            for ref, own, rows in zip(gradients, parts, (queries, seen, seen), strict=True):
                _store(ref, at, head, own, rows)

        _in_turn(_heads(form.heads, width), begin, finish)

    _each_sample(samples, run)


def _call(
    kernel: Callable[..., None],
    form: _Form,
    scalars: tuple[Array, ...],
    arrays: tuple[Array, ...],
    results: tuple[Array, ...],
    products: int,
) -> tuple[Array, ...]:
    """Runs a kernel over samples and lanes.

    Args:
      kernel: what a step computes.
      form: with the heads of all lanes.
      scalars: lengths (b,) and words (b, 2), where there are any.
      arrays: query, key, value and more, (b, tokens, w).
      results: arrays like those that are computed.
      products: of queries, keys and width, that a head needs.
    """
    (batch, queries, lanes), keys = arrays[0].shape, arrays[1].shape[1]
    width = lanes // form.heads
    backward = len(results) > 1
    sizes = batch, queries, keys, form.heads, width, arrays[0].dtype
    blocks = _blocks(*sizes, drops=form.rate > 0, backward=backward)
    assert blocks is not None, "callers ask `fits` before"
    logits = batch * form.heads * queries * keys
    moved = sum(x.size * x.dtype.itemsize for x in (*arrays, *results))

    def spec(x: Array) -> pl.BlockSpec:
        shape = (blocks.samples, x.shape[1], blocks.heads * width)
        return pl.BlockSpec(shape, lambda sample, part, *_: (sample, 0, part))

    found = pl.pallas_call(
        functools.partial(kernel, form=form._replace(heads=blocks.heads)),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=len(scalars),
            grid=(batch // blocks.samples, form.heads // blocks.heads),
            in_specs=[spec(x) for x in arrays],
            out_specs=[spec(x) for x in results],
        ),
        out_shape=[jax.ShapeDtypeStruct(x.shape, x.dtype) for x in results],
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "parallel"), vmem_limit_bytes=_VMEM
        ),
        cost_estimate=pl.CostEstimate(
            flops=2 * products * logits * width, transcendentals=logits, bytes_accessed=moved
        ),
        name="attention_backward" if backward else "attention",
        interpret=is_interpreted(),
    )(*(x.reshape(-1).astype(jnp.int32) for x in scalars), *arrays)
    return tuple(found)


def _divided(function: Callable[..., Any], *arrays: Any) -> Any:
    """Runs a function of samples on each device's own, under a mesh."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return function(*arrays)
    rows = PartitionSpec(mesh.axis_names)
    return jax.shard_map(function, in_specs=rows, out_specs=rows, check_vma=False)(*arrays)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(form: _Form, scalars: tuple[Array, ...], *arrays: Array) -> Array:
    def run(scalars: tuple[Array, ...], *arrays: Array) -> Array:
        return _call(_forward_kernel, form, scalars, arrays, arrays[:1], 2)[0]

    return _divided(run, scalars, *arrays)


def _attend_forward(form: _Form, scalars: tuple[Array, ...], *arrays: Array) -> Any:
    return _attend(form, scalars, *arrays), (scalars, arrays)


def _attend_backward(form: _Form, kept: Any, gradient: Array) -> Any:
    scalars, arrays = kept

    def run(scalars: tuple[Array, ...], *arrays: Array) -> tuple[Array, ...]:
        return _call(_backward_kernel, form, scalars, arrays, arrays[:3], 5)

    return None, *_divided(run, scalars, *arrays, gradient)


_attend.defvjp(_attend_forward, _attend_backward)


def attend(
    query: Float[Array, "b n w"],
    key: Float[Array, "b m w"],
    value: Float[Array, "b m w"],
    *,
    heads: int,
    seen: int | None = None,
    lengths: Int[Array, " b"] | None = None,
    rate: float = 0.0,
    words: UInt32[Array, "b 2"] | None = None,
) -> Float[Array, "b n w"]:
    """Computes softmax attention on a TPU; under a mesh on each device's samples.

    Args:
      query: n queries (b, n, w), for heads side by side in the last axis.
      key, value: m keys and their values (b, m, w), in the type of `query`.
      heads: their number.
      seen: how many keys, the first ones, may be seen in every sample; None: all.
      lengths: how many may be seen in each sample (b,); a sample without any gets zeros.
      rate: dropout on the attention probabilities, in [0, 1).
      words: a key for each sample (b, 2), as `random_bits.key_words` gives them; None: no dropout.

    Returns:
      what the queries attend to, (b, n, w).
    """
    drops = words is not None and rate > 0
    form = _Form(heads, seen, lengths is not None, rate if drops else 0.0)
    scalars = tuple(x for x in (lengths, words if drops else None) if x is not None)
    return _attend(form, scalars, query, key, value)
