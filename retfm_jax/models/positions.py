"""Learned positions of a grid of patches, fitted to another grid."""

from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

#: Of Keys' cubic kernel, as in PyTorch.
_CUBIC = -0.75

#: NumPy's arrays keep their type and are computed on the host.
AnyArray = TypeVar("AnyArray", np.ndarray, jax.Array)


def resize_grid(grid: AnyArray, size: tuple[int, int], *, aligned: bool) -> AnyArray:
    """Interpolates vectors of a grid bicubically (Keys' kernel, a = -0.75), without antialiasing.

    Args:
      grid: of vectors (g, h, d).
      size: rows and columns that are wanted, G and H.
      aligned: whether the corners of both grids coincide (Chinese-CLIP), else the edges of their
        patches do (MAE, timm, DINOv2).

    Returns:
      (G, H, d), of the same type.
    """
    rows, columns = (
        bicubic_weights(old, new, aligned) for old, new in zip(grid.shape, size, strict=False)
    )
    xp: Any = np if isinstance(grid, np.ndarray) else jnp
    rows, columns = xp.asarray(rows, grid.dtype), xp.asarray(columns, grid.dtype)
    return xp.einsum("Gg,Hh,ghd->GHd", rows, columns, grid)


def bicubic_weights(old: int, new: int, aligned: bool) -> Float[np.ndarray, "new old"]:
    """Weights (new, old) of bicubic interpolation along an axis.

    Args:
      old, new: sizes of the axis.
      aligned: see `resize_grid`.
    """
    a = _CUBIC
    if aligned:
        where = np.arange(new) * ((old - 1) / (new - 1) if new > 1 else 0.0)
    else:
        where = (np.arange(new) + 0.5) * (old / new) - 0.5
    base = np.floor(where).astype(int)
    weights = np.zeros((new, old))
    for offset in (-1, 0, 1, 2):
        x = np.abs(where - (base + offset))
        near = (a + 2) * x**3 - (a + 3) * x**2 + 1
        far = a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a
        columns = np.clip(base + offset, 0, old - 1)
        np.add.at(weights, (np.arange(new), columns), np.where(x <= 1, near, far))
    return weights
