"""Masked image modelling: which patches are hidden, and how far a prediction of them is off."""

import math

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from retfm_jax.losses.shapes import check_shapes


def split_patches(
    noise: Float[Array, "b n"], kept: int
) -> tuple[Int[Array, "b k"], Int[Array, "b n"], Float[Array, "b n"]]:
    """Splits each image's patches at random into visible and hidden ones.

    The visible ones are those of the least noise, in its order (He et al., CVPR 2022, section 3).

    Args:
      noise: of every patch (b, n).
      kept: number of visible patches of an image, from 1 to n.

    Returns:
      indices of the visible patches (b, kept) int32; where each patch stands when the visible ones
      are followed by the hidden ones (b, n) int32; and 1 where a patch is hidden (b, n) float32.
    """
    order = jnp.argsort(noise, axis=1)
    restore = jnp.argsort(order, axis=1)
    return order[:, :kept], restore, (restore >= kept).astype(jnp.float32)


def patchify(images: Float[Array, "b h w c"], patch: int) -> Float[Array, "b n p"]:
    """Cuts images into square patches, row by row; a patch is flat by (row, column, channel).

    Args:
      images: (b, h, w, c), whose height and width are multiples of `patch`.
      patch: height and width of a patch in pixels.

    Returns:
      (b, h w / patch^2, patch^2 c).
    """
    b, height, width, channels = images.shape
    grid = images.reshape(b, height // patch, patch, width // patch, patch, channels)
    return grid.transpose(0, 1, 3, 2, 4, 5).reshape(b, -1, patch * patch * channels)


def unpatchify(patches: Float[Array, "b n p"], patch: int) -> Float[Array, "b s s c"]:
    """Puts the patches of square images together: the inverse of `patchify`.

    Args:
      patches: (b, n, p), n a square number.
      patch: height and width of a patch in pixels.

    Returns:
      (b, s, s, c), s = patch sqrt(n) and c = p / patch^2.
    """
    b, n, p = patches.shape
    side = math.isqrt(n)
    grid = patches.reshape(b, side, side, patch, patch, p // patch**2)
    return grid.transpose(0, 1, 3, 2, 4, 5).reshape(b, side * patch, side * patch, -1)


def normalize_patches(patches: Float[Array, "b n p"], eps: float = 1e-6) -> Float[Array, "b n p"]:
    """Gives every patch mean 0 and variance 1: (x - mean) / sqrt(var + eps), var unbiased.

    Args:
      patches: (b, n, p), as `patchify` returns them.
      eps: added to the variance.
    """
    mean, deviation = _moments(patches, eps)
    return (patches - mean) / deviation


def denormalize_patches(
    prediction: Float[Array, "b n p"], patches: Float[Array, "b n p"], eps: float = 1e-6
) -> Float[Array, "b n p"]:
    """Gives predictions of normalized patches the mean and variance of the true ones.

    It inverts `normalize_patches`, but needs what is to be predicted.

    Args:
      prediction: of normalized patches, (b, n, p).
      patches: the true ones, (b, n, p), as `patchify` returns them.
      eps: added to the variance.
    """
    mean, deviation = _moments(patches, eps)
    return prediction * deviation + mean


def _moments(patches: Float[Array, "b n p"], eps: float) -> tuple[Array, Array]:
    variance = patches.var(-1, ddof=1, keepdims=True)
    return patches.mean(-1, keepdims=True), jnp.sqrt(variance + eps)


def masked_error(
    prediction: Float[Array, "b n p"],
    target: Float[Array, "b n p"],
    hidden: Float[Array, "b n"],
) -> Float[Array, " b"]:
    r"""Mean squared error over the hidden patches of each image.

    .. math:: L_i = \frac{1}{|H_i|} \sum_{j \in H_i} \frac{1}{p} \lVert y_{ij} - x_{ij} \rVert^2

    Source: He et al., CVPR 2022, section 3.

    Args:
      prediction, target: y and x, (b, n, p) floats.
      hidden: 1 where a patch is hidden, (b, n); at least one of every image.

    Returns:
      the error of each image, (b,) float32.

    Raises:
      UserError: the shapes do not fit together.
    """
    check_shapes(prediction=(prediction, "b n p"), target=(target, "b n p"), hidden=(hidden, "b n"))
    error = jnp.square(prediction.astype(jnp.float32) - target).mean(-1)
    return (error * hidden).sum(-1) / hidden.sum(-1)
