"""Augmentation on the device: uint8 -> float, color jitter, normalization, erasing, mixing.

Pure functions under the same jit as the training step: the host sends a quarter of the bytes and
spends no time on colors. They work on planes, (b, 3, h, w): a TPU pads a last axis of 3 to 128.
"""

import math
import zlib
from collections.abc import Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from retfm_jax.config import AugmentConfig, ImageConfig
from retfm_jax.methods.base import Batch

#: The random stream of an array's augmentation: its index here, or a number of its name.
_STREAMS = ("image_left", "image_right", "image", "expert_image")

#: ITU-R 601-2 luma, as Pillow and torchvision define gray.
_LUMA = (0.2989, 0.587, 0.114)

#: Random erasing as published: share of the area, aspect, tries to find a rectangle.
_ERASED_AREA = (0.02, 1 / 3)
_ERASED_ASPECT = (0.3, 1 / 0.3)
_ERASING_TRIES = 10

#: Arrays of pixels that are no images: what is drawn on one.
_DRAWN = ("masks",)

#: The random stream of mixing, beside those of arrays.
_MIXING = zlib.crc32(b"mixing")


def prepare(
    batch: Mapping[str, Array | np.ndarray],
    image_config: ImageConfig,
    augment_config: AugmentConfig | None = None,
    key: PRNGKeyArray | None = None,
) -> Batch:
    """Makes a host batch what `Method.loss` takes; jit-able, the configurations static.

    Args:
      batch: global arrays; those of uint8 with four axes are images, NHWC, with five the images of
        cases (b, images, h, w, 3); all others and `masks` pass as they are.
      image_config: mean and standard deviation of the channels.
      augment_config: its color, erasing and mixing entries; needed with a key only. What has an
        `image` and `labels` is mixed.
      key: randomness of the augmentation of this batch; None augments nothing. Every image (both
        eyes of a patient, too) samples for itself, from the key and its row in the global batch, so
        that the result does not depend on the sharding.

    Returns:
      the batch with images as float32, `(x / 255 - mean) / std`, and `labels` of mixed ones.
    """
    prepared: dict[str, Any] = dict(batch)
    for name, images in batch.items():
        if images.dtype != jnp.uint8 or images.ndim not in (4, 5) or name in _DRAWN:
            continue
        rows = images.reshape(-1, *images.shape[-3:])
        planes = jnp.moveaxis(rows, -1, 1).astype(jnp.float32) / 255
        if key is None:
            planes = normalize(planes, image_config)
        else:
            assert augment_config is not None, "a key augments, which needs the entries"
            jitter_key, erasing_key = jax.random.split(jax.random.fold_in(key, _stream(name)))
            planes = normalize(color_jitter(planes, augment_config, jitter_key), image_config)
            planes = random_erasing(
                planes,
                augment_config.erasing_probability,
                erasing_key,
                fill=augment_config.erasing_fill,
            )
            if name == "image" and "labels" in batch:
                mixing_key = jax.random.fold_in(key, _MIXING)
                planes, prepared["labels"] = mixed(
                    planes, jnp.asarray(batch["labels"]), augment_config, mixing_key
                )
        prepared[name] = jnp.moveaxis(planes, 1, -1).reshape(images.shape)
    return prepared


def _stream(name: str) -> int:
    return _STREAMS.index(name) if name in _STREAMS else zlib.crc32(name.encode())


def normalize(images: Float[Array, "b 3 h w"], config: ImageConfig) -> Float[Array, "b 3 h w"]:
    """Normalizes images: `(x - mean) / std` for each channel.

    Args:
      images: (b, 3, h, w) float, planes R, G, B, values 0..1.
      config: mean and standard deviation of the channels, for values 0..1.

    Returns:
      (b, 3, h, w), as `images`.
    """
    mean, std = (jnp.array(part, jnp.float32)[:, None, None] for part in (config.mean, config.std))
    return (images - mean) / std


def color_jitter(
    images: Float[Array, "b 3 h w"], config: AugmentConfig, key: PRNGKeyArray
) -> Float[Array, "b 3 h w"]:
    """Changes brightness, contrast, saturation and hue randomly, as torchvision's ColorJitter does.

    The strengths are sampled for each image, uniform in [1 - s, 1 + s] (hue: [-s, s]), and so is
    whether it is changed at all. The order of the four is sampled once for the batch: an order per
    image would compute each change four times over.

    Args:
      images: (b, 3, h, w) float, planes R, G, B, values 0..1.
      config: its `brightness`, `contrast`, `saturation`, `hue` and `colour_probability`; strengths
        of 0 are left out.
      key: randomness of the batch.

    Returns:
      (b, 3, h, w), as `images`.
    """
    changes = [
        (brightness, config.brightness),
        (contrast, config.contrast),
        (saturation, config.saturation),
        (hue, config.hue),
    ]
    changes = [(change, strength) for change, strength in changes if strength]
    if not changes or not config.colour_probability:
        return images
    order_key, draw_key = jax.random.split(key)
    # One call for all strengths and the choice: every call of the generator costs compile time.
    drawn = jax.random.uniform(draw_key, (1 + len(changes), images.shape[0]))
    factors = [
        _between(share, *((-strength, strength) if change is hue else _around_one(strength)))
        for share, (change, strength) in zip(drawn[1:], changes, strict=True)
    ]
    order = jax.random.permutation(order_key, len(changes))
    branches = [
        lambda x, change=change, factor=factor: change(x, factor)
        for (change, _), factor in zip(changes, factors, strict=True)
    ]
    changed = jax.lax.fori_loop(
        0, len(changes), lambda slot, x: jax.lax.switch(order[slot], branches, x), images
    )
    return jnp.where(_per_image(drawn[0] < config.colour_probability), changed, images)


def brightness(
    images: Float[Array, "b 3 h w"], factor: Float[Array, " b"]
) -> Float[Array, "b 3 h w"]:
    """Scales brightness: `factor * x`, clipped to 0..1.

    Args:
      images: (b, 3, h, w) float, planes R, G, B, values 0..1.
      factor: (b,) float, at least 0; 1 changes nothing.

    Returns:
      (b, 3, h, w), as `images`.
    """
    return jnp.clip(images * _per_image(factor), 0, 1)


def contrast(
    images: Float[Array, "b 3 h w"], factor: Float[Array, " b"]
) -> Float[Array, "b 3 h w"]:
    """Scales contrast: `factor * x + (1 - factor) * (mean gray of the image)`, in 0..1.

    Args:
      images: (b, 3, h, w) float, planes R, G, B, values 0..1.
      factor: (b,) float, at least 0; 1 changes nothing.

    Returns:
      (b, 3, h, w), as `images`.
    """
    mean = gray(images).mean((1, 2, 3), keepdims=True)
    return _blend(images, mean, factor)


def saturation(
    images: Float[Array, "b 3 h w"], factor: Float[Array, " b"]
) -> Float[Array, "b 3 h w"]:
    """Scales saturation: `factor * x + (1 - factor) * (gray of the pixel)`, clipped to 0..1.

    Args:
      images: (b, 3, h, w) float, planes R, G, B, values 0..1.
      factor: (b,) float, at least 0; 1 changes nothing.

    Returns:
      (b, 3, h, w), as `images`.
    """
    return _blend(images, gray(images), factor)


def hue(images: Float[Array, "b 3 h w"], shift: Float[Array, " b"]) -> Float[Array, "b 3 h w"]:
    """Shifts the hue of HSV by `shift` of a full turn.

    Args:
      images: (b, 3, h, w) float, planes R, G, B, values 0..1.
      shift: (b,) float, turns, -0.5..0.5; 0 changes nothing.

    Returns:
      (b, 3, h, w), as `images`.
    """
    red, green, blue = images[:, 0], images[:, 1], images[:, 2]
    value = images.max(1)
    chroma = value - images.min(1)
    safe = jnp.where(chroma > 0, chroma, 1.0)
    turn = jnp.where(
        value == red,
        (green - blue) / safe,
        jnp.where(value == green, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )
    turn = turn + 6 * shift[:, None, None]  # sixths of a full turn, (b, h, w)
    # Each channel falls from `value` by the chroma, as its distance in hue says; k = 5, 3, 1 are
    # the sixths at which red, green and blue begin to fall.
    distance = (jnp.array([5.0, 3.0, 1.0])[:, None, None] + turn[:, None]) % 6
    fall = jnp.clip(jnp.minimum(distance, 4 - distance), 0, 1)
    return value[:, None] - chroma[:, None] * fall


def gray(images: Float[Array, "b 3 h w"]) -> Float[Array, "b 1 h w"]:
    """Computes luma: 0.2989 R + 0.587 G + 0.114 B.

    Args:
      images: (b, 3, h, w) float, planes R, G, B, values 0..1.

    Returns:
      (b, 1, h, w), values 0..1.
    """
    return (images * jnp.array(_LUMA, images.dtype)[:, None, None]).sum(1, keepdims=True)


def random_erasing(
    images: Float[Array, "b 3 h w"],
    probability: float,
    key: PRNGKeyArray,
    *,
    fill: Literal["mean", "noise"] = "mean",
) -> Float[Array, "b 3 h w"]:
    """Erases a random rectangle of an image.

    As in the published recipe: area 2% to a third of the image, aspect 0.3 to 1/0.3 uniform in the
    log, ten tries to find one that is smaller than the image, else nothing.

    Args:
      images: (b, 3, h, w) float, normalized.
      probability: chance that an image is changed, 0..1.
      key: randomness of the batch.
      fill: "mean": zero, after normalization the mean color; "noise": normal, of each pixel.

    Returns:
      (b, 3, h, w), as `images`.
    """
    if not probability:
        return images
    rows, _, height, width = images.shape
    drawn = jax.random.uniform(key, (2 * _ERASING_TRIES + 3, rows))
    area_share, aspect_share = drawn[:_ERASING_TRIES], drawn[_ERASING_TRIES:-3]
    down, across, chance = drawn[-3:]
    area = height * width * _between(area_share, *_ERASED_AREA)
    aspect = jnp.exp(_between(aspect_share, *map(math.log, _ERASED_ASPECT)))
    heights, widths = jnp.round(jnp.sqrt(area * aspect)), jnp.round(jnp.sqrt(area / aspect))
    fits = (heights < height) & (widths < width)  # (tries, b)
    first = jnp.argmax(fits, axis=0)[None]
    box_height = jnp.take_along_axis(heights, first, 0)[0]
    box_width = jnp.take_along_axis(widths, first, 0)[0]
    top = jnp.floor(down * (height - box_height + 1))
    left = jnp.floor(across * (width - box_width + 1))
    erased = fits.any(0) & (chance < probability)
    y, x = jnp.arange(height)[None, :, None], jnp.arange(width)[None, None, :]
    top, left, box_height, box_width, erased = (
        values[:, None, None] for values in (top, left, box_height, box_width, erased)
    )
    inside = (y >= top) & (y < top + box_height) & (x >= left) & (x < left + box_width)
    erased = (inside & erased)[:, None]
    if fill == "mean":
        return jnp.where(erased, 0.0, images)
    # A stream of its own, so that the rectangles are those of the other fill.
    noise = jax.random.normal(jax.random.fold_in(key, 1), images.shape, images.dtype)
    return jnp.where(erased, noise, images)


def mixed(
    images: Float[Array, "b 3 h w"],
    labels: Float[Array, "b c"],
    config: AugmentConfig,
    key: PRNGKeyArray,
) -> tuple[Float[Array, "b 3 h w"], Float[Array, "b c"]]:
    """Mixes each image and its labels with those of its neighbor in the batch.

    Mixup (Zhang et al., ICLR 2018): `share * x + (1 - share) * neighbor`. CutMix (Yun et al., ICCV
    2019): a rectangle of the neighbor covers 1 - share of the image. The share is sampled once for
    the batch, from Beta(alpha, alpha), and so is which of both it is where both are on, as timm's
    mode "batch" does. Rows 0 and 1, 2 and 3, ... are neighbors: batches are shuffled, and such
    pairs are on one device; of an odd number the last row stays.

    Args:
      images: (b, 3, h, w) float, normalized.
      labels: (b, c) float, targets of each class; one that is unknown, -1, in either image of a
        pair is unknown afterwards.
      config: its `mixup` and `cutmix`, the alphas; 0 switches off.
      key: randomness of the batch.

    Returns:
      images and labels, as they came in.
    """
    if not (config.mixup or config.cutmix):
        return images, labels
    choice_key, share_key, place_key = jax.random.split(key, 3)
    cuts = jnp.asarray(bool(config.cutmix))
    if config.mixup and config.cutmix:
        cuts = jax.random.bernoulli(choice_key)
    alpha = jnp.where(cuts, config.cutmix, config.mixup)
    share = jax.random.beta(share_key, alpha, alpha)
    height, width = images.shape[2:]
    kept = jnp.where(cuts, _uncovered(share, height, width, place_key), share)
    share = kept.mean()
    blended = share * labels + (1 - share) * _neighbors(labels)
    known = (labels >= 0) & (_neighbors(labels) >= 0)
    return (
        kept * images + (1 - kept) * _neighbors(images),
        jnp.where(known, blended, -1).astype(labels.dtype),
    )


def _uncovered(
    share: Float[Array, ""], height: int, width: int, key: PRNGKeyArray
) -> Float[Array, "h w"]:
    """1 where an image stays, 0 in a rectangle of 1 - share around a random point, cut at edges."""
    middle = jnp.floor(jax.random.uniform(key, (2,)) * jnp.array([height, width]))
    inside = []
    for center, side in zip(middle, (height, width), strict=True):
        half = jnp.floor(jnp.floor(side * jnp.sqrt(1 - share)) / 2)
        places = jnp.arange(side)
        inside.append((places >= center - half) & (places < center + half))
    return 1.0 - (inside[0][:, None] & inside[1][None, :])


def _neighbors(rows: Float[Array, "b ..."]) -> Float[Array, "b ..."]:
    """Rows 1, 0, 3, 2, ...; the last of an odd number stays."""
    even = len(rows) // 2 * 2
    pairs = rows[:even].reshape(-1, 2, *rows.shape[1:])
    return jnp.concatenate([pairs[:, ::-1].reshape(rows[:even].shape), rows[even:]])


def _blend(images: Array, other: Array, factor: Float[Array, " b"]) -> Array:
    factor = _per_image(factor)
    return jnp.clip(factor * images + (1 - factor) * other, 0, 1)


def _around_one(strength: float) -> tuple[float, float]:
    return max(0.0, 1 - strength), 1 + strength


def _between(share: Array, low: float, high: float) -> Array:
    return low + share * (high - low)


def _per_image(values: Array) -> Array:
    return values[:, None, None, None]
