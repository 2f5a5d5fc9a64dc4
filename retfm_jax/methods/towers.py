"""Helpers of several methods: towers chosen by configuration, prefixed name tables."""

from collections.abc import Mapping
from typing import Any, Literal

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Key

from retfm_jax.models import bert, resnet, vit, vit_names
from retfm_jax.models.layers import split

Names = tuple[tuple[str, str, str], ...]

#: An image tower of the Chinese-CLIP layout is chosen by the type of its sizes.
ImageTowerConfig = vit.ViTConfig | resnet.ClipResNetConfig
ImageTower = vit.ViT | resnet.ClipResNet


def image_tower(
    config: ImageTowerConfig,
    embed_dim: int,
    *,
    dtype: Literal["float32", "bfloat16"],
    rngs: nnx.Rngs,
) -> ImageTower:
    """Makes the image tower of these sizes: images -> (embedding, features before projection).

    Args:
      config: sizes, whose type chooses the network.
      embed_dim: width of the embedding.
      dtype: compute type; parameters stay float32.
      rngs: streams of random numbers for the initial parameters.
    """
    if isinstance(config, resnet.ClipResNetConfig):
        return resnet.ClipResNet(config, embed_dim, dtype=dtype, rngs=rngs)
    return vit.ViT(config, embed_dim, dtype=dtype, rngs=rngs)


def image_names(config: ImageTowerConfig, theirs: str, ours: str) -> Names:
    """Name table of the image tower under prefixes.

    Args:
      config: sizes of the tower, whose type chooses the table.
      theirs, ours: prefixes of the published names and of our paths, such as "visual." and
        "visual/".
    """
    clip_resnet = isinstance(config, resnet.ClipResNetConfig)
    names = resnet.clip_names(config) if clip_resnet else vit_names.names(config)
    return prefixed(names, theirs, ours)


def text_names(theirs: str, ours: str) -> Names:
    """Name table of the text tower under prefixes.

    Args:
      theirs, ours: prefixes of the published names and of our paths, such as "visual." and
        "visual/".
    """
    return prefixed(bert.NAMES, theirs, ours)


def infer_image_config(shapes: Mapping[str, tuple[int, ...]]) -> ImageTowerConfig:
    """Infers the sizes of the image tower whose published tensors have these shapes.

    Args:
      shapes: of the tower's tensors, by published name relative to the tower.
    """
    if any(name.startswith(("attnpool.", "layer1.")) for name in shapes):
        return resnet.infer_clip_config(shapes)
    return vit_names.infer_config(shapes)


def relative(shapes: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """Selects the entries whose name begins with `prefix`, named without it.

    Args:
      shapes: values by published name.
      prefix: beginning of the names to keep, such as "visual.".
    """
    return {name[len(prefix) :]: shape for name, shape in shapes.items() if name.startswith(prefix)}


def prefixed(names: Names, theirs: str, ours: str) -> Names:
    """Puts prefixes before the names of a table.

    Args:
      names: rows of (published name, our path, transform), relative to a tower.
      theirs, ours: prefixes of the published names and of our paths, such as "visual." and
        "visual/".
    """
    return tuple((theirs + published, ours + path, rule) for published, path, rule in names)


def embed_eyes(
    tower: ImageTower,
    batch: Mapping[str, Array],
    keys: Key[Array, " b"] | None,
    train: bool,
) -> Float[Array, "b 2 d"]:
    """Embeds the left and the right eye of patients, (B, 2, d), not normalized.

    Args:
      tower: image tower, which embeds both eyes in one call of 2 B images.
      batch: `image_left`, `image_right` and flags; see `eye_rows`.
      keys: randomness, one key for each patient; None embeds without dropout.
      train: see `Method.loss`.
    """
    return embed_eye_rows(tower, eye_rows(batch), keys, train)


def eye_rows(batch: Mapping[str, Array], view: str = "image") -> Float[Array, "rows h w 3"]:
    """Lines up the eyes of patients, each one's left eye before the right one, (2 B, H, W, 3).

    With the eye as the second axis the rows of one patient stay on one device.

    Args:
      batch: `VIEW_left`, `VIEW_right` (B, H, W, 3) float32 normalized and, where eyes are missing,
        `has_left`, `has_right` (B,) bool. The other eye stands in for a missing one.
      view: of the photographs, the prefix of their arrays.
    """
    left, right = images = batch[f"{view}_left"], batch[f"{view}_right"]
    # Before the tower, so that no blank picture enters a batch norm's statistics.
    if "has_left" in batch:
        left = jnp.where(batch["has_left"][:, None, None, None], left, images[1])
    if "has_right" in batch:
        right = jnp.where(batch["has_right"][:, None, None, None], right, images[0])
    return jnp.stack([left, right], axis=1).reshape(-1, *left.shape[1:])


def eye_keys(keys: Key[Array, " b"] | None) -> Key[Array, " rows"] | None:
    """Makes a key for each of `eye_rows` from the patients', (2 B,); None of None.

    Args:
      keys: one for each patient (B,).
    """
    return None if keys is None else split(keys, 2).T.reshape(-1)


def embed_eye_rows(
    tower: ImageTower,
    eyes: Float[Array, "rows h w 3"],
    keys: Key[Array, " b"] | None,
    train: bool,
) -> Float[Array, "b 2 d"]:
    """Embeds eyes in one call of the tower, (B, 2, d), not normalized.

    Args:
      tower: image tower.
      eyes: of patients, as `eye_rows` lines them up, (2 B, H, W, 3).
      keys: randomness, one key for each patient (B,); None embeds without dropout.
      train: see `Method.loss`.
    """
    embedded, _ = tower(eyes, keys=eye_keys(keys), train=train, views=2)
    return embedded.reshape(-1, 2, embedded.shape[-1])
