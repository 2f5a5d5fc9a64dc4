"""Arrays of a network by name in an .npz file."""

import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from retfm_jax.interop.formats.base import Exported
from retfm_jax.methods.base import MethodState, Params
from retfm_jax.trees import flatten, unflatten_like

#: Before the names of running statistics.
_STATISTICS = "batch_stats/"


def arrays_of(network: Exported) -> dict[str, np.ndarray]:
    """Parameters and running statistics by path, such as "visual/blocks/fc/kernel".

    Args:
      network: of any method.
    """
    statistics = flatten(network.state.batch_stats)
    named = flatten(network.params) | {f"{_STATISTICS}{n}": x for n, x in statistics.items()}
    return {name: np.asarray(value) for name, value in named.items()}


def network_of(network: Exported, arrays: Mapping[str, Any]) -> tuple[Params, MethodState]:
    """Inverts `arrays_of`.

    Args:
      network: of which only the structure is taken.
      arrays: by name.
    """
    structure = jax.eval_shape(lambda: (network.params, network.state.batch_stats))
    statistics = {
        name.removeprefix(_STATISTICS): value
        for name, value in arrays.items()
        if name.startswith(_STATISTICS)
    }
    params = unflatten_like(structure[0], arrays)
    return params, MethodState(unflatten_like(structure[1], statistics), {})


def write_arrays(path: pathlib.Path, network: Exported) -> None:
    """Writes `arrays_of` a network, uncompressed.

    Args:
      path: of the file, .npz.
      network: of any method.
    """
    with path.open("wb") as file:
        np.savez(file, **arrays_of(network))  # pyright: ignore[reportArgumentType]
