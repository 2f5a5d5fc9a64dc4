"""An exported StableHLO network as functions of arrays."""

import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.export  # no attribute of jax until somebody imports it
import numpy as np


def read_weights(path: pathlib.Path) -> dict[str, Any]:
    """Reads arrays by name, and puts them on the first device.

    Args:
      path: of the .npz file.
    """
    with np.load(path, allow_pickle=False) as file:
        return {name: jax.device_put(file[name]) for name in file.files}


def on_exported(
    path: pathlib.Path, weights: Mapping[str, Any]
) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    """Opens a network, and makes a function of arrays of it.

    Args:
      path: of the file that `jax.export` wrote.
      weights: arrays by name.
    """
    function = jax.jit(jax.export.deserialize(bytearray(path.read_bytes())).call)

    def run(values: np.ndarray) -> dict[str, np.ndarray]:
        found = function(dict(weights), values)
        return {name: np.asarray(value) for name, value in found.items()}

    return run
