"""What is known of chips."""

import types

import jax
import pytest

from retfm_jax.runtime import chips


@pytest.mark.parametrize(
    ("platform", "capability", "dtype"),
    [
        ("gpu", "7.0", "float32"),  # V100
        ("gpu", "7.5", "float32"),  # T4
        ("gpu", "8.0", "bfloat16"),  # A100
        ("gpu", "8.9", "bfloat16"),  # L4
        ("gpu", "12.0", "bfloat16"),
        ("tpu", None, "bfloat16"),
        ("cpu", None, "float32"),
    ],
)
def test_a_device_computes_in_what_it_has_units_for(platform, capability, dtype):
    device = types.SimpleNamespace(platform=platform)
    if capability is not None:
        device.compute_capability = capability
    assert chips.compute_dtype(device) == dtype


def test_processors_compute_in_float32():
    assert chips.compute_dtype(jax.devices("cpu")[0]) == "float32"
