"""The shapes that a loss takes, checked while it is traced: nothing is broadcast without a word."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from retfm_jax.errors import UserError


def check_shapes(**arrays: tuple[Any, str]) -> None:
    """Compares arrays with the names of their axes.

    Args:
      arrays: by argument, an array (or None, which is passed over) and its axes as jaxtyping writes
        them, "b d". Axes of one name have one size, in all arrays.

    Raises:
      UserError: an array has other axes, or two arrays disagree about one; both are named.
    """
    sizes: dict[str, tuple[str, int]] = {}
    for name, (array, axes) in arrays.items():
        if array is None:
            continue
        shape, names = np.shape(array), axes.split()
        if len(shape) != len(names):
            raise UserError(f"{name} must have the shape ({', '.join(names)}), not {shape}")
        for axis, size in zip(names, shape, strict=True):
            other, expected = sizes.setdefault(axis, (name, size))
            if size != expected:
                raise UserError(
                    f"{name} {shape} has {size} where {other} {np.shape(arrays[other][0])} has "
                    f"{expected} (axis {axis})"
                )


def check_integers(**arrays: Any) -> None:
    """Refuses floating point where arrays are categories.

    Args:
      arrays: by argument, an array that must hold integers.

    Raises:
      UserError: one is not of integers.
    """
    for name, array in arrays.items():
        if not jnp.issubdtype(jnp.result_type(array), jnp.integer):
            raise UserError(f"{name} must be integers, not {jnp.result_type(array)}")
