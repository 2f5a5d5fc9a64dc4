"""The exact GELU of bfloat16 is nearer to the truth than bfloat16 is."""

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import erf

from retfm_jax.models.activations import gelu


def _numbers():
    """All finite bfloat16 numbers whose GELU is not the number itself or 0."""
    bits = jnp.arange(2**16, dtype=jnp.uint16)
    x = jax.lax.bitcast_convert_type(bits, jnp.bfloat16)
    return x[jnp.isfinite(x)]


def _true(x):
    x = np.asarray(x, np.float64)
    cdf = 0.5 * (1 + erf(x / np.sqrt(2)))
    return x * cdf, cdf + x * np.exp(-0.5 * x * x) / np.sqrt(2 * np.pi)


def _worst(found, true, where):
    return np.abs(np.asarray(found, np.float64) - true)[where].max()


def test_bfloat16_gelu_is_as_near_to_the_truth_as_its_rounding():
    x = _numbers()
    value, slope = _true(x)
    found, pull = jax.vjp(gelu, x)
    found_slope = pull(jnp.ones_like(x))[0]
    assert found.dtype == found_slope.dtype == jnp.bfloat16
    # Half a step of bfloat16 at a value, and what the approximation adds.
    near = np.abs(np.asarray(x, np.float64)) < 1e4
    step = 2.0**-8 * np.abs(value) + 3e-5
    assert (np.abs(np.asarray(found, np.float64) - value) <= step)[near].all()
    bound = 2.0**-8 * np.maximum(np.abs(slope), 1) + 1e-4
    assert (np.abs(np.asarray(found_slope, np.float64) - slope) <= bound)[near].all()
    # Far out there is no sign that turns, and nothing that overflows.
    far = np.asarray(x, np.float64)
    np.testing.assert_array_equal(np.asarray(found, np.float64)[far > 10], far[far > 10])
    assert np.abs(np.asarray(found, np.float64))[far < -10].max() < 1e-6
    assert np.isfinite(np.asarray(found_slope, np.float64)).all()


def test_bfloat16_gelu_is_not_worse_than_that_of_jax():
    x = _numbers()
    value, _ = _true(x)
    usual = np.abs(np.asarray(x, np.float64)) < 8
    old = _worst(jax.nn.gelu(x, approximate=False), value, usual)
    assert _worst(gelu(x), value, usual) <= old


def test_float32_gelu_is_that_of_jax():
    x = jnp.linspace(-8, 8, 1001)
    np.testing.assert_array_equal(gelu(x), jax.nn.gelu(x, approximate=False))
