"""Layers of exported networks in NumPy: arrays by path in, arrays out."""

from collections.abc import Mapping

import numpy as np

Arrays = Mapping[str, np.ndarray]


def linear(arrays: Arrays, path: str, x: np.ndarray) -> np.ndarray:
    """Computes `x kernel + bias`.

    Args:
      arrays: of the network.
      path: of the map; or of a matrix alone.
      x: (..., inputs) float32.
    """
    if path in arrays:
        return x @ arrays[path]
    y = x @ arrays[f"{path}/kernel"]
    return y + arrays[f"{path}/bias"] if f"{path}/bias" in arrays else y


def layer_norm(arrays: Arrays, path: str, x: np.ndarray, eps: float) -> np.ndarray:
    """Normalizes over the last axis.

    Args:
      arrays: of the network.
      path: of the norm.
      x: (..., d) float32.
      eps: added to the variance.
    """
    y = x - x.mean(-1, keepdims=True)
    y = y / np.sqrt(np.square(y).mean(-1, keepdims=True) + np.float32(eps))
    return y * arrays[f"{path}/scale"] + arrays[f"{path}/bias"]


def layer(arrays: Arrays, path: str, number: int) -> dict[str, np.ndarray]:
    """Selects one of stacked layers, whose arrays have a leading axis; named from the layer on.

    Args:
      arrays: of the network.
      path: of the layers.
      number: of the one.
    """
    prefix = f"{path}/"
    return {
        name[len(prefix) :]: value[number]
        for name, value in arrays.items()
        if name.startswith(prefix)
    }


def attend(
    query: np.ndarray, key: np.ndarray, value: np.ndarray, seen: np.ndarray | None = None
) -> np.ndarray:
    """Computes softmax attention, `softmax(q k^T / sqrt(w)) v`, (n, tokens, heads w).

    Args:
      query, key, value: (n, heads, tokens, w).
      seen: which keys may be seen, (n, tokens) bool; None: all.
    """
    logits = query @ key.swapaxes(2, 3) * np.float32(query.shape[-1] ** -0.5)
    if seen is not None:
        logits = np.where(seen[:, None, None, :], logits, -np.inf)
    x = softmax(logits) @ value
    return x.swapaxes(1, 2).reshape(len(x), x.shape[2], -1)


def heads_first(x: np.ndarray, heads: int) -> np.ndarray:
    """Splits tokens among heads, (n, tokens, d) -> (n, heads, tokens, d / heads).

    Args:
      x: tokens.
      heads: their number.
    """
    return x.reshape(*x.shape[:2], heads, -1).swapaxes(1, 2)


def softmax(x: np.ndarray) -> np.ndarray:
    """Computes the softmax over the last axis.

    Args:
      x: logits; -inf has no part.
    """
    powers = np.exp(x - x.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def sigmoid(x: np.ndarray) -> np.ndarray:
    """Computes 1 / (1 + exp(-x)).

    Args:
      x: any values.
    """
    small = np.exp(-np.abs(x))
    return np.where(x >= 0, 1, small) / (1 + small)


def unit(x: np.ndarray) -> np.ndarray:
    """Divides vectors by their Euclidean norm.

    Args:
      x: vectors (n, d).
    """
    return x / np.sqrt(np.square(x).sum(-1, keepdims=True))


#: Of the rational function in x^2 by which Eigen computes x -> erf(x) / x in float32, for |x| <= 4.
_ABOVE = (
    -2.72614225801306e-10, 2.77068142495902e-08, -2.10102402082508e-06, -5.69250639462346e-05,
    -7.34990630326855e-04, -2.95459980854025e-03, -1.60960333262415e-02,
)  # fmt: skip
_BELOW = (
    -1.45660718464996e-05, -2.13374055278905e-04, -1.68282697438203e-03, -7.37332916720468e-03,
    -1.42647390514189e-02,
)  # fmt: skip


def gelu(x: np.ndarray) -> np.ndarray:
    """Computes the exact GELU, by the error function.

    Args:
      x: any values.
    """
    z = (x * np.float32(0.5**0.5)).clip(-4, 4)
    square = z * z
    erf = z * np.polyval(_ABOVE, square) / np.polyval(_BELOW, square)
    return (x * (1 + erf.clip(-1, 1)) / 2).astype(np.float32)


def activated(x: np.ndarray, kind: str) -> np.ndarray:
    """Applies what stands between the linear maps of a block.

    Args:
      x: (..., d).
      kind: "gelu", "gelu_tanh", "quick_gelu" or "swiglu".
    """
    if kind == "gelu":
        return gelu(x)
    if kind == "gelu_tanh":
        inner = np.float32((2 / np.pi) ** 0.5) * (x + np.float32(0.044715) * x**3)
        return x * (1 + np.tanh(inner)) / 2
    if kind == "quick_gelu":
        return x * sigmoid(np.float32(1.702) * x)
    gate, value = np.split(x, 2, axis=-1)
    return gate * sigmoid(gate) * value


def batch_norm(arrays: Arrays, path: str, x: np.ndarray) -> np.ndarray:
    """Normalizes by running statistics.

    Args:
      arrays: of the network.
      path: of the norm.
      x: (..., c) float32.
    """
    mean, variance = (arrays[f"batch_stats/{path}/{name}"] for name in ("mean", "var"))
    scale = arrays[f"{path}/scale"] / np.sqrt(variance + np.float32(1e-5))
    return (x - mean) * scale + arrays[f"{path}/bias"]


def convolved(x: np.ndarray, kernel: np.ndarray, stride: int = 1, padding: int = 0) -> np.ndarray:
    """Convolves images with a square kernel, as one matrix product for each of its rows.

    Args:
      x: (n, h, w, inputs) float32.
      kernel: (size, size, inputs, outputs).
      stride, padding: in pixels, along both axes.
    """
    size, _, inputs, outputs = kernel.shape
    x = np.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    height, width = ((side - size) // stride + 1 for side in x.shape[1:3])
    found = np.zeros((len(x) * height * width, outputs), x.dtype)
    for row, weights in enumerate(kernel):
        lines = x[:, row : row + stride * (height - 1) + 1 : stride]
        windows = np.lib.stride_tricks.sliding_window_view(lines, size, axis=2)[:, :, ::stride]
        rows = windows.swapaxes(3, 4).reshape(-1, size * inputs)  # of (n, h, w, inputs, size)
        found += rows @ weights.reshape(-1, outputs)
    return found.reshape(len(x), height, width, outputs)
