"""The towers that RET-CLIP and ViLReF have in common, chosen by configuration."""

from collections.abc import Mapping
from typing import Any, Literal

from flax import nnx

from retfm_jax.models import bert, vit

Names = tuple[tuple[str, str, str], ...]

#: An image tower is chosen by the type of its sizes.
ImageTowerConfig = vit.ViTConfig


def image_tower(
    config: ImageTowerConfig,
    embed_dim: int,
    *,
    dtype: Literal["float32", "bfloat16"],
    rngs: nnx.Rngs,
) -> nnx.Module:
    """The image tower of these sizes: images -> (embedding, features before projection)."""
    return vit.ViT(config, embed_dim, dtype=dtype, rngs=rngs)


def image_names(config: ImageTowerConfig, theirs: str, ours: str) -> Names:
    """The image tower's name table under prefixes."""
    return _prefixed(vit.NAMES, theirs, ours)


def text_names(theirs: str, ours: str) -> Names:
    """The text tower's name table under prefixes."""
    return _prefixed(bert.NAMES, theirs, ours)


def infer_image_config(shapes: Mapping[str, tuple[int, ...]]) -> ImageTowerConfig:
    """The sizes of the image tower whose published tensors have these shapes."""
    return vit.infer_config(shapes)


def relative(shapes: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """The entries whose name begins with `prefix`, named without it."""
    return {
        name[len(prefix) :]: shape for name, shape in shapes.items() if name.startswith(prefix)
    }


def _prefixed(names: Names, theirs: str, ours: str) -> Names:
    return tuple((theirs + published, ours + path, rule) for published, path, rule in names)


