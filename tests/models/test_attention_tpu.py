"""The TPU's attention kernel, interpreted, computes the plain form's numbers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, SingleDeviceSharding

from retfm_jax.models import attention_tpu, target
from retfm_jax.models.attention import attention
from retfm_jax.models.attention_tpu import fits, interpreted
from retfm_jax.models.taps import Tap
from retfm_jax.planning.topologies import open_topology
from retfm_jax.training.flops import count_flops


def _arrays(heads, width, queries, keys, batch=2, dtype=jnp.float32):
    """Query, key, value and the gradient of what is computed."""
    shapes = [(batch, n, heads, width) for n in (queries, keys, keys, queries)]
    seeds = jax.random.split(jax.random.key(0), 4)
    return [jax.random.normal(*each, dtype) for each in zip(seeds, shapes, strict=True)]


def _computed(arrays, mask=None, rate=0.0):
    """Output and gradients of attention."""
    *inputs, slope = arrays
    rngs = jax.random.split(jax.random.key(1), len(slope)) if rate else None

    @jax.jit
    def run(inputs):
        found, pull = jax.vjp(lambda *x: attention(*x, mask, rate=rate, rngs=rngs), *inputs)
        return found, *pull(slope)

    return run(inputs)


def _by_kernel(*arguments):
    with interpreted():
        return _computed(*arguments)


@pytest.mark.parametrize(
    ("heads", "width", "queries", "keys", "mask", "rate"),
    [
        (3, 8, 9, 9, None, 0.0),
        (5, 16, 5, 7, [0, 7], 0.3),  # five heads draw twice
        (2, 32, 17, 6, 5, 0.0),
        (3, 64, 11, 11, [1, 8], 0.0),  # one and a half tiles of lanes
        (2, 80, 8, 5, [5, 2], 0.1),  # heads across the edges of tiles
        (1, 128, 6, 6, 4, 0.0),
    ],
)
def test_the_kernel_computes_what_the_plain_form_computes(heads, width, queries, keys, mask, rate):
    if isinstance(mask, list):
        mask = jnp.arange(keys) < jnp.array(mask)[:, None]
    arguments = _arrays(heads, width, queries, keys), mask, rate
    kernel, plain = _by_kernel(*arguments), _computed(*arguments)
    np.testing.assert_allclose(kernel[0], plain[0], atol=1e-6, rtol=1e-6)
    for found, wanted in zip(kernel[1:], plain[1:], strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-5, rtol=1e-5)


def test_in_bfloat16_it_errs_no_more_than_the_plain_form():
    arrays = _arrays(2, 32, 24, 20)
    exact = _computed(arrays, 18)
    short = [x.astype(jnp.bfloat16) for x in arrays]
    for found, plain, wanted in zip(
        _by_kernel(short, 18), _computed(short, 18), exact, strict=True
    ):
        assert found.dtype == jnp.bfloat16
        assert jnp.abs(found - wanted).max() < 1.25 * jnp.abs(plain - wanted).max()


def test_a_sample_without_keys_gets_zeros_and_gives_no_gradient():
    mask = jnp.arange(6) < jnp.array([[0], [1]])
    arrays = _arrays(2, 16, 5, 6)
    for compute in (_computed, _by_kernel):
        found, *gradients = compute(arrays, mask)
        for each in (found, *gradients):
            np.testing.assert_array_equal(each[0], 0)
        # One key alone is all that is attended to, whatever its logit.
        np.testing.assert_allclose(found[1], jnp.broadcast_to(arrays[2][1, :1], found[1].shape))
        np.testing.assert_allclose(gradients[0][1], 0, atol=1e-6)


def test_large_logits_stay_finite_and_padding_is_not_seen():
    query, key, value, slope = _arrays(1, 16, 6, 8)
    padded = key.at[:, 5:].set(1e4), value.at[:, 5:].set(jnp.inf)
    found = _by_kernel((50 * query, *padded, slope), 5)
    wanted = _computed((50 * query, key[:, :5], value[:, :5], slope))
    for each, part in zip(found, wanted, strict=True):
        np.testing.assert_allclose(each[:, : part.shape[1]], part, atol=1e-5, rtol=1e-5)
        assert not np.asarray(each[:, part.shape[1] :]).any()


def _layers(query, key, value, mask, rngs):
    """The gradient of two layers under scan and rematerialization."""

    def layer(x, _):
        attend = jax.checkpoint(
            lambda x: attention(x, key, value, mask, rate=0.2, rngs=rngs), prevent_cse=False
        )
        return x + attend(x), None

    def loss(query):
        return jnp.square(jax.lax.scan(layer, query, None, length=2)[0]).sum()

    return jax.value_and_grad(loss)(query)


def test_devices_in_two_axes_compute_what_one_computes():
    query, key, value, _ = _arrays(2, 16, 5, 6, batch=16)
    mask = jnp.arange(6) < jnp.arange(16)[:, None] % 7
    arguments = query, key, value, mask, jax.random.split(jax.random.key(1), 16)
    with interpreted():
        one = jax.jit(_layers)(*arguments)
        with jax.set_mesh(jax.make_mesh((4, 2), ("data", "fsdp"), (AxisType.Auto,) * 2)):
            divided = jax.jit(_layers)
            assert "shard_map" in str(divided.trace(*arguments).jaxpr)
            many = divided(*arguments)
    np.testing.assert_allclose(many[0], one[0], rtol=1e-6)
    np.testing.assert_allclose(many[1], one[1], atol=1e-6, rtol=1e-6)


def _takes_the_kernel(*arguments, **options):
    return "pallas_call" in str(jax.make_jaxpr(lambda: attention(*arguments, **options))())


def test_what_the_kernel_does_not_take_goes_to_the_plain_form():
    query, key, value, _ = _arrays(2, 16, 6, 6)
    by_query = jnp.ones((2, 6, 6), bool)
    tap = Tap(jnp.zeros((2, 2, 6, 6)), lambda weights, slope: weights)
    assert not _takes_the_kernel(query, key, value)
    with target.assumed("tpu"):
        assert not _takes_the_kernel(query, key, value)  # eight devices, and no mesh that says how
    with target.assumed("tpu"), jax.set_mesh(jax.make_mesh((1,), ("data",), (AxisType.Auto,))):
        assert _takes_the_kernel(query, key, value)
        assert _takes_the_kernel(query, key, value, jnp.ones((2, 6), bool))
        assert not _takes_the_kernel(query, key, value, by_query)
        assert not _takes_the_kernel(query, key, value, tap=tap)
        assert not _takes_the_kernel(query[:, :1], key, value)
    with target.assumed("tpu"), jax.set_mesh(jax.make_mesh((8,), ("data",), (AxisType.Auto,))):
        assert not _takes_the_kernel(query, key, value)  # two samples for eight devices


@pytest.mark.parametrize(
    ("tokens", "heads", "width", "taken"),
    [(200, 12, 64, True), (264, 16, 64, True), (577, 16, 64, True), (264, 16, 80, True),
     (256, 12, 64, True), (1025, 16, 64, False), (4097, 12, 64, False)],
)  # fmt: skip
def test_sequences_fit_that_leave_room_for_their_logits(tokens, heads, width, taken):
    for drops in (False, True):
        found = fits(64, tokens, tokens, heads, width, jnp.bfloat16, drops=drops)
        assert found == taken


@functools.cache
def _device(name):
    return SingleDeviceSharding(open_topology(name).devices[0])


@pytest.mark.parametrize(
    ("chip", "tokens", "mask", "heads", "width", "rate"),
    [
        ("v5e:2x2", 200, 197, 2, 64, 0.0),
        ("v5p:2x2x1", 264, 257, 2, 64, 0.0),
        ("v6e:2x2", 104, "lengths", 4, 64, 0.1),
        ("v5e:2x2", 24, "lengths", 2, 80, 0.0),
        ("v5e:2x2", 21, None, 3, 16, 0.0),
    ],
)
def test_the_compiler_of_tpus_takes_both_kernels(chip, tokens, mask, heads, width, rate):
    def abstract(shape, dtype):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=_device(chip))

    def loss(query, key, value, lengths, words):
        found = attention_tpu.attend(
            query, key, value, heads=heads, seen=mask if isinstance(mask, int) else None,
            lengths=lengths if mask == "lengths" else None, rate=rate, words=words,
        )  # fmt: skip
        return jnp.square(found.astype(jnp.float32)).sum()

    arrays = [abstract((2, tokens, heads * width), jnp.bfloat16)] * 3
    scalars = abstract((2,), jnp.int32), abstract((2, 2), jnp.uint32)
    compiled = jax.jit(jax.grad(loss, (0, 1, 2))).lower(*arrays, *scalars).compile()
    assert compiled.as_text().count('custom_call_target="tpu_custom_call"') == 2


def test_the_kernel_counts_the_products_of_the_plain_form():
    query, key, value, _ = _arrays(4, 16, 5, 7)
    mask = jnp.arange(7) < jnp.array([[3], [7]])

    def attend(query, key, value):
        return attention(query, key, value, mask)

    plain = count_flops(attend, query, key, value)
    with interpreted():
        assert count_flops(attend, query, key, value) == plain == 2 * 4 * 5 * 7 * 64
