"""Decoders of feature maps in NumPy: FLAIR's U-Net and UNETR's head; readable, not fast."""

from collections.abc import Sequence

import numpy as np

from retfm_jax.interop.parts.numpy_layers import Arrays, batch_norm, convolved
from retfm_jax.interop.parts.resizing import linear_weights


def resized(x: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resizes maps bilinearly with antialiasing; those of that size stay as they are.

    Args:
      x: (n, h, w, c) float32.
      height, width: that are wanted.
    """
    if x.shape[1:3] == (height, width):
        return x
    x = np.einsum("ij,njwc->niwc", linear_weights(x.shape[1], height), x)
    return np.einsum("ij,nhjc->nhic", linear_weights(x.shape[2], width), x)


def block(arrays: Arrays, path: str, x: np.ndarray) -> np.ndarray:
    """Runs a 3x3 convolution with bias, a batch norm and ReLU.

    Args:
      arrays: of the network.
      path: of the block.
      x: maps (n, h, w, c) float32.
    """
    x = convolved(x, arrays[f"{path}/conv/kernel"], 1, 1) + arrays[f"{path}/conv/bias"]
    return np.maximum(batch_norm(arrays, f"{path}/bn", x), 0)


def pair(arrays: Arrays, path: str, x: np.ndarray) -> np.ndarray:
    """Runs two blocks, one behind the other.

    Args:
      arrays, path, x: as of `block`.
    """
    return block(arrays, f"{path}/block2", block(arrays, f"{path}/block1", x))


def upsampled(arrays: Arrays, path: str, x: np.ndarray) -> np.ndarray:
    """Doubles the resolution by a transposed convolution, 2x2 with stride 2.

    Args:
      arrays: of the network.
      path: of the layer.
      x: maps (n, h, w, c) float32.
    """
    n, height, width, inputs = x.shape
    kernel = arrays[f"{path}/kernel"]  # (2, 2, inputs, outputs)
    y = x @ kernel.transpose(2, 0, 1, 3).reshape(inputs, -1)
    y = y.reshape(n, height, width, 2, 2, -1).swapaxes(2, 3)
    return y.reshape(n, 2 * height, 2 * width, -1) + arrays[f"{path}/bias"]


def unet(arrays: Arrays, path: str, maps: Sequence[np.ndarray], images: np.ndarray) -> np.ndarray:
    """Runs FLAIR's decoder for residual networks.

    Args:
      arrays: of the network.
      path: of the decoder.
      maps: of the tower, the finest first, (n, rows, columns, c) each.
      images: what they are of, normalized, (n, h, w, 3) float32.

    Returns:
      logits (n, h, w, outputs).
    """
    x = block(arrays, f"{path}/bridge2", block(arrays, f"{path}/bridge1", maps[-1]))
    for number, skip in enumerate((*maps[-2::-1], images), 1):
        own = f"{path}/up{number}"
        x = resized(upsampled(arrays, f"{own}/upsample", x), *skip.shape[1:3])
        x = pair(arrays, own, np.concatenate([x, skip], -1))
    return convolved(x, arrays[f"{path}/head/kernel"]) + arrays[f"{path}/head/bias"]


def unetr(arrays: Arrays, path: str, maps: Sequence[np.ndarray], images: np.ndarray) -> np.ndarray:
    """Runs UNETR's head for vision transformers.

    Args:
      arrays, path, images: as of `unet`.
      maps: four of the tower, the first block's first, (n, rows, columns, c) each.

    Returns:
      logits (n, h, w, outputs).
    """
    height, width = images.shape[1:3]
    rows, columns = max(1, round(height / 16)), max(1, round(width / 16))
    first, second, third, x = (resized(each, rows, columns) for each in maps)
    fine = pair(arrays, f"{path}/s4", resized(images, 16 * rows, 16 * columns))
    for number, skip in enumerate((third, second, first, fine), 1):
        for step in range(1, number + 1 if number < 4 else 1):
            skip = upsampled(arrays, f"{path}/s{number}/up{step}", skip)
            skip = block(arrays, f"{path}/s{number}/block{step}", skip)
        x = upsampled(arrays, f"{path}/d{number}", x)
        x = pair(arrays, f"{path}/c{number}", np.concatenate([x, skip], -1))
    x = convolved(x, arrays[f"{path}/cls/kernel"]) + arrays[f"{path}/cls/bias"]
    return resized(x, height, width)
