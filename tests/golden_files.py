"""Reads the goldens: what the published PyTorch networks compute, and how near we must come."""

import json
import os
from collections.abc import Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from retfm_jax.interop import state_dict as interop
from retfm_jax.methods import get_method_class
from retfm_jax.methods.base import Method, MethodState, Params


def golden_path(name: str) -> Path:
    """A golden file in the folder that `RETFM_GOLDENS` names, else in tests/goldens."""
    return Path(os.environ.get("RETFM_GOLDENS") or Path(__file__).parent / "goldens") / name


class Golden:
    """One `.npz`: `config`, and arrays by group (`state`, `in`, `out`, `grad`, `grad_norm`)."""

    def __init__(self, name: str):
        with np.load(golden_path(name)) as file:
            arrays = {key: file[key] for key in file.files}
        self.config = json.loads(str(arrays.pop("config")))
        self.groups: dict[str, dict[str, np.ndarray]] = {}
        for key, value in arrays.items():
            group, _, rest = key.partition("/")
            self.groups.setdefault(group, {})[rest] = value

    def __getitem__(self, group: str) -> dict[str, np.ndarray]:
        return self.groups[group]

    def network(self, method: str, text_num_heads: int) -> tuple[Method, Params, MethodState]:
        """The golden's network in our hands."""
        tensors = interop.normalize(self["state"])
        cls = get_method_class(method)
        shapes = {name: value.shape for name, value in tensors.items()}
        built = cls(cls.infer_config(shapes, text_num_heads))
        return built, *interop.from_state_dict(built, tensors)

    def batch(self) -> dict[str, jax.Array]:
        """The inputs as we take them: images NHWC, ids int32."""
        return {name: to_batch(value) for name, value in self["in"].items()}


def to_batch(value: np.ndarray) -> jax.Array:
    """NCHW images as NHWC, int64 as int32."""
    if value.ndim >= 4:
        value = np.moveaxis(value, -3, -1)
    return jnp.asarray(value.astype(np.int32) if value.dtype == np.int64 else value)


def assert_near(ours: Mapping[str, np.ndarray], golden: Mapping[str, np.ndarray], bound: float):
    """Every golden tensor is met within `bound` of its largest absolute value."""
    for name, want in golden.items():
        got = np.asarray(ours[name])
        assert got.shape == want.shape, name
        error = np.abs(got - want).max() / np.abs(want).max()
        assert error <= bound, f"{name}: {error:.2e} > {bound}"


def assert_gradients_near(ours: Mapping[str, np.ndarray], golden: Golden):
    """Gradients within 2e-4 and their norms within 1e-4.

    A gradient that is zero by mathematics (attention keys' biases) is rounding noise in the golden:
    there ours must be noise as well.
    """
    norms = golden["grad_norm"]
    noise = 1e-7 * max(float(norm) for norm in norms.values())
    for name, want in norms.items():
        got = np.linalg.norm(np.asarray(ours[name], np.float64).ravel())
        if want < noise:
            assert got < noise, name
        else:
            assert abs(got - want) <= 1e-4 * want, f"{name}: norm {got} instead of {want}"
    large = {name: g for name, g in golden["grad"].items() if norms[name] >= noise}
    assert_near(ours, large, 2e-4)


def assert_same_bits(ours: Mapping[str, np.ndarray], theirs: Mapping[str, np.ndarray]):
    """Two state dicts have the same names, shapes, dtypes and bits."""
    assert set(ours) == set(theirs)
    for name, want in theirs.items():
        got = ours[name]
        assert (got.shape, got.dtype) == (want.shape, want.dtype), name
        assert got.tobytes() == want.tobytes(), name
