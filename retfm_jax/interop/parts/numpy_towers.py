"""Towers of exported networks in NumPy; readable, not fast."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from retfm_jax.interop.parts.numpy_layers import (
    Arrays,
    activated,
    attend,
    batch_norm,
    convolved,
    gelu,
    heads_first,
    layer,
    layer_norm,
    linear,
)


def vit(
    arrays: Arrays, path: str, sizes: Any, images: np.ndarray, norm: str
) -> tuple[np.ndarray, np.ndarray]:
    """Runs a vision transformer.

    Args:
      arrays: of the network.
      path: of the tower.
      sizes: of the tower, by name.
      images: normalized, (n, h, w, 3) float32.
      norm: path of its last norm.

    Returns:
      the embedding (n, e), not normalized, and the features (n, d).
    """
    (x,) = _tokens(arrays, path, sizes, images, (sizes["layers"] - 1,))
    prefix = x.shape[1] - (images.shape[1] // sizes["patch_size"]) ** 2
    features = _pooled(arrays, path, sizes, x, prefix, norm)
    projection = arrays.get(f"{path}/projection")
    return (features if projection is None else features @ projection), features


def vit_maps(
    arrays: Arrays, path: str, sizes: Any, images: np.ndarray, levels: Sequence[int]
) -> list[np.ndarray]:
    """Computes feature maps (n, rows, columns, d): patches of blocks behind the last norm.

    Args:
      arrays, path, sizes, images: as for `vit`.
      levels: numbers of the blocks, from 0.
    """
    side = images.shape[1] // sizes["patch_size"]
    return [
        layer_norm(arrays, f"{path}/ln_post", x[:, -side * side :], sizes["eps"]).reshape(
            len(x), side, side, -1
        )
        for x in _tokens(arrays, path, sizes, images, levels)
    ]


def _tokens(
    arrays: Arrays, path: str, sizes: Any, images: np.ndarray, levels: Sequence[int]
) -> list[np.ndarray]:
    """Outputs of blocks, before the last norm."""
    n, patch, eps, heads = len(images), sizes["patch_size"], sizes["eps"], sizes["heads"]
    x = convolved(images, arrays[f"{path}/patch/kernel"], patch).reshape(n, -1, sizes["width"])
    x = x + arrays.get(f"{path}/patch/bias", np.float32(0))
    positions = arrays.get(f"{path}/position_embedding")
    if positions is not None:
        x = x + positions[-x.shape[1] :]
    before = []
    if sizes["class_token"]:
        first = arrays[f"{path}/class_embedding"]
        if positions is not None and sizes["class_position"]:
            first = first + positions[0]
        before.append(first[None])
    if sizes["registers"]:
        before.append(arrays[f"{path}/registers"])
    x = np.concatenate([*(np.tile(each[None], (n, 1, 1)) for each in before), x], axis=1)
    if sizes["pre_norm"]:
        x = layer_norm(arrays, f"{path}/ln_pre", x, eps)
    prefix = x.shape[1] - (images.shape[1] // patch) ** 2
    angles = rope_angles(images.shape[1] // patch, sizes["width"] // heads, prefix)
    found = {}
    for number in range(sizes["layers"]):
        own = layer(arrays, f"{path}/blocks", number)
        maps = np.split(linear(own, "qkv", layer_norm(own, "ln_1", x, eps)), 3, axis=-1)
        query, key, value = (heads_first(each, heads) for each in maps)
        if sizes["rope"]:
            query, key = rotate(query, angles), rotate(key, angles)
        x = x + linear(own, "out", attend(query, key, value)) * own.get("scale_1", 1)
        hidden = linear(own, "fc", layer_norm(own, "ln_2", x, eps))
        x = x + linear(own, "proj", activated(hidden, sizes["activation"])) * own.get("scale_2", 1)
        if number in levels:
            found[number] = x
    return [found[level] for level in levels]


def _pooled(
    arrays: Arrays, path: str, sizes: Any, x: np.ndarray, prefix: int, norm: str
) -> np.ndarray:
    eps = sizes["eps"]
    match sizes["pooling"]:
        case "class":
            return layer_norm(arrays, norm, x[:, 0], eps)
        case "mean":
            return layer_norm(arrays, norm, x[:, prefix:], eps).mean(1)
        case "mean_norm":
            return layer_norm(arrays, norm, x[:, prefix:].mean(1), eps)
    tokens, own = layer_norm(arrays, norm, x, eps), f"{path}/pooling"
    kernels = np.split(arrays[f"{own}/qkv/kernel"], 3, axis=1)
    biases = np.split(arrays[f"{own}/qkv/bias"], 3)
    first = np.tile(arrays[f"{own}/query"], (len(x), 1, 1))
    query, key, value = (
        heads_first(each @ kernel + bias, sizes["heads"])
        for each, kernel, bias in zip((first, tokens, tokens), kernels, biases, strict=True)
    )
    pooled = linear(arrays, f"{own}/out", attend(query, key, value)[:, 0])
    hidden = linear(arrays, f"{own}/fc", layer_norm(arrays, f"{own}/norm", pooled, eps))
    return pooled + linear(arrays, f"{own}/proj", activated(hidden, sizes["activation"]))


def rope_angles(grid: int, head: int, prefix: int) -> np.ndarray:
    """Computes rotations of tokens in radians, (prefix + grid grid, head / 2), as DINOv3 does.

    Args:
      grid: patches along a side.
      head: width of an attention head.
      prefix: tokens before the patches, which are not rotated.
    """
    center = (np.arange(grid) + 0.5) / grid * 2 - 1
    turns = 2 * np.pi * center[:, None] * 100.0 ** -(4 * np.arange(head // 4) / head)
    rows, columns = np.broadcast_arrays(turns[:, None], turns[None])
    patches = np.concatenate([rows, columns], -1).reshape(grid * grid, -1)
    return np.pad(patches, ((prefix, 0), (0, 0))).astype(np.float32)


def rotate(x: np.ndarray, angles: np.ndarray) -> np.ndarray:
    """Rotates pairs of channels, i and i + w / 2 (Su et al. 2021).

    Args:
      x: queries or keys (n, heads, tokens, w).
      angles: in radians, (tokens, w / 2).
    """
    sine, cosine = np.sin(angles), np.cos(angles)
    first, second = np.split(x, 2, axis=-1)
    return np.concatenate([first * cosine - second * sine, second * cosine + first * sine], -1)


def _averaged(x: np.ndarray, size: int) -> np.ndarray:
    """Means of windows side by side."""
    n, height, width, channels = x.shape
    x = x[:, : height // size * size, : width // size * size]
    return x.reshape(n, height // size, size, width // size, size, channels).mean((2, 4))


def _stages(arrays: Arrays, path: str, sizes: Any, x: np.ndarray, pooled: bool) -> list[np.ndarray]:
    """What each of the four stages of bottlenecks gives."""
    found = []
    for number, blocks in enumerate(sizes["stages"], 1):
        for index in range(blocks):
            own = f"{path}/layer{number}/block{index}"
            shrinks = 2 if index == 0 and number > 1 else 1
            step = 1 if pooled else shrinks
            pool = shrinks if pooled else 1

            def part(name: str, y: np.ndarray, stride: int, own: str = own) -> np.ndarray:
                kernel = arrays[f"{own}/conv{name}/kernel"]
                y = convolved(y, kernel, stride, len(kernel) // 2)
                return batch_norm(arrays, f"{own}/bn{name}", y)

            y = np.maximum(part("1", x, 1), 0)
            y = _averaged(np.maximum(part("2", y, step), 0), pool)
            y = part("3", y, 1)
            if f"{own}/shortcut_conv/kernel" in arrays:
                x = convolved(_averaged(x, pool), arrays[f"{own}/shortcut_conv/kernel"], step)
                x = batch_norm(arrays, f"{own}/shortcut_bn", x)
            x = np.maximum(x + y, 0)
        found.append(x)
    return found


def resnet(
    arrays: Arrays, path: str, sizes: Any, images: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Runs torchvision's residual network (v1.5).

    Args:
      arrays: of the network.
      path: of the tower.
      sizes: of the tower, by name.
      images: normalized, (n, h, w, 3) float32.

    Returns:
      the mean of the last feature map (n, d), twice.
    """
    (x,) = resnet_maps(arrays, path, sizes, images, (5,))
    features = x.mean((1, 2))
    return features, features


def resnet_maps(
    arrays: Arrays, path: str, sizes: Any, images: np.ndarray, levels: Sequence[int]
) -> list[np.ndarray]:
    """Computes feature maps (n, rows, columns, c): 1 behind the stem, 2 to 5 behind the stages.

    Args:
      arrays, path, sizes, images: as for `resnet`.
      levels: their numbers.
    """
    x = convolved(images, arrays[f"{path}/conv1/kernel"], 2, 3)
    first = np.maximum(batch_norm(arrays, f"{path}/bn1", x), 0)
    x = np.pad(first, ((0, 0), (1, 1), (1, 1), (0, 0)))  # zeros are no larger than what is there
    windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(1, 2))
    x = windows[:, ::2, ::2].max((4, 5))
    found = [first, *_stages(arrays, path, sizes, x, pooled=False)]
    return [found[level - 1] for level in levels]


def clip_resnet(
    arrays: Arrays, path: str, sizes: Any, images: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Runs CLIP's residual network.

    Args:
      arrays, path, sizes, images: as for `resnet`.

    Returns:
      the embedding (n, e), twice.
    """
    (x,) = clip_resnet_maps(arrays, path, sizes, images, (5,))
    x = x.reshape(len(x), -1, x.shape[3])
    own = f"{path}/attnpool"
    x = np.concatenate([x.mean(1, keepdims=True), x], axis=1) + arrays[f"{own}/position_embedding"]
    heads = x.shape[2] // 64
    maps = (("query", x[:, :1]), ("key", x), ("value", x))
    parts = (heads_first(linear(arrays, f"{own}/{name}", each), heads) for name, each in maps)
    embedding = linear(arrays, f"{own}/out", attend(*parts)[:, 0])
    return embedding, embedding


def clip_resnet_maps(
    arrays: Arrays, path: str, sizes: Any, images: np.ndarray, levels: Sequence[int]
) -> list[np.ndarray]:
    """Computes feature maps; see `resnet_maps`.

    Args:
      arrays, path, sizes, images, levels: as there.
    """
    x = images
    for number in (1, 2, 3):
        kernel, stride = arrays[f"{path}/conv{number}/kernel"], 2 if number == 1 else 1
        x = convolved(x, kernel, stride, 1)
        x = np.maximum(batch_norm(arrays, f"{path}/bn{number}", x), 0)
    found = [x, *_stages(arrays, path, sizes, _averaged(x, 2), pooled=True)]
    return [found[level - 1] for level in levels]


def bert(arrays: Arrays, path: str, sizes: Any, tokens: np.ndarray) -> np.ndarray:
    """Runs BERT, and takes a mean over hidden states and over tokens.

    Args:
      arrays: of the network.
      path: of the tower.
      sizes: of the tower, by name.
      tokens: ids (n, length) int32, padded with 0.

    Returns:
      (n, d).
    """
    seen, heads = tokens != 0, sizes["heads"]
    x = arrays[f"{path}/words/embedding"][tokens]
    x = x + arrays[f"{path}/positions/embedding"][: tokens.shape[1]]
    x = layer_norm(arrays, f"{path}/ln", x + arrays[f"{path}/types/embedding"][0], 1e-12)
    found = [x]
    for number in range(sizes["layers"]):
        own = layer(arrays, f"{path}/blocks", number)
        parts = (heads_first(linear(own, name, x), heads) for name in ("query", "key", "value"))
        x = layer_norm(own, "ln_1", x + linear(own, "out", attend(*parts, seen)), 1e-12)
        x = layer_norm(own, "ln_2", x + linear(own, "proj", gelu(linear(own, "fc", x))), 1e-12)
        found.append(x)
    x = np.stack([found[state] for state in sizes["states"]]).mean(0)
    if sizes["pooling"] == "first":
        return x[:, 0]
    if sizes["pooling"] == "all":
        return x.mean(1)
    weights = seen[..., None].astype(np.float32)
    return (x * weights).sum(1) / np.maximum(weights.sum(1), 1)
