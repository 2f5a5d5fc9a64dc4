"""What methods of images alone have in common: an image tower of any system, found by its names."""

import collections
import dataclasses
import fnmatch
import re
from collections.abc import Mapping
from typing import Any, Literal, TypeVar

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Key

from retfm_jax.methods.base import Batch, Method, MethodState, Params, Selected
from retfm_jax.methods.outputs import Output, image_outputs
from retfm_jax.methods.towers import ImageTower, image_tower, prefixed, relative
from retfm_jax.models import resnet, vit, vit_names
from retfm_jax.models.layers import unit
from retfm_jax.ranges import Positive, Section

#: Of the channels R, G, B, for values 0..1.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

#: Low-rank updates of queries and values, in the names of RetiZero.
_LORA = re.compile(
    r"(?P<map>.*\.qkv)\.(?:qkv\.(?P<kind>weight|bias)|linear_(?P<part>[ab]_[qv])\.weight)"
)

#: How features of a vision transformer can be pooled, and what they then are.
POOLINGS = {
    "class": "the class token",
    "mean": "the mean of the patches behind the last norm",
    "mean_norm": "the mean of the patches and a norm of their mean",
}

AnyTowerConfig = vit.ViTConfig | resnet.ClipResNetConfig | resnet.ResNetConfig
AnyTower = ImageTower | resnet.ResNet


@dataclasses.dataclass(frozen=True)
class TowerConfig(Section):
    """Sizes of the tower, and how its published weights are called.

    Attributes:
      image: sizes of the image tower, whose type chooses it.
      embed_dim: width of the projected features; None: they are not projected. A CLIP-ResNet has
        this width, a torchvision ResNet no projection.
      layout: whose names a vision transformer's published weights have; see `models.vit_names`.
      prefix: what stands before the tower's names in the published file.
      dtype: compute type of the tower; parameters stay float32.
    """

    image: AnyTowerConfig = dataclasses.field(default_factory=vit.ViTConfig)
    embed_dim: Positive | None = None
    layout: str = "timm"
    prefix: str = ""
    dtype: Literal["float32", "bfloat16"] = "float32"

    def __post_init__(self):
        super().__post_init__()
        if self.layout not in vit_names.LAYOUTS:
            raise ValueError(f"layout {self.layout!r} is none of {', '.join(vit_names.LAYOUTS)}")


class TowerNetwork(nnx.Module):
    """An image tower.

    Args:
      config: sizes of the network.
      rngs: streams of random numbers for the initial parameters.
    """

    def __init__(self, config: TowerConfig, *, rngs: nnx.Rngs):
        image, dtype = config.image, config.dtype
        if isinstance(image, vit.ViTConfig):
            tower = vit.ViT(image, config.embed_dim, dtype=dtype, rngs=rngs)
        elif isinstance(image, resnet.ClipResNetConfig):
            tower = image_tower(image, config.embed_dim or 1024, dtype=dtype, rngs=rngs)
        else:
            tower = resnet.ResNet(image, dtype=dtype, rngs=rngs)
        self.visual: AnyTower = tower


#: Network that holds a tower.
TowerOrMore = TypeVar("TowerOrMore", bound=TowerNetwork)


class TowerMethod(Method[TowerOrMore]):
    """A method whose network is an image tower of any form, with or without more behind it."""

    config_class = TowerConfig
    takes_towers = True

    @property
    def outputs(self) -> tuple[Output, ...]:
        """Embedding and features of the tower; see `Method.outputs`."""
        return image_outputs(self.config.image)

    @property
    def weight_names(self) -> tuple[tuple[str, str, str], ...]:
        """Rows as `Method.weight_names` has, of the layout that the weights came in."""
        image, prefix = self.config.image, self.config.prefix
        if isinstance(image, vit.ViTConfig):
            projection = self.config.embed_dim is not None
            rows = vit_names.names(image, self.config.layout, prefix, projection=projection)
            return tuple((name, f"visual/{path}", rule) for name, path, rule in rows)
        clip = isinstance(image, resnet.ClipResNetConfig)
        return prefixed(
            resnet.clip_names(image) if clip else resnet.names(image), prefix, "visual/"
        )

    def features(self, params: Params, state: MethodState, batch: Batch) -> dict[str, Array]:
        """Computes `image`, unit-norm embeddings, and `image_features` before any projection."""
        embedding, features = self.outputs_of(self.bind(params, state.batch_stats), batch["image"])
        return {"image": unit(embedding), "image_features": features}

    def encode_images(
        self,
        params: Params,
        state: MethodState,
        images: Float[Array, "b h w 3"],
        *,
        keys: Key[Array, " b"] | None = None,
    ) -> Float[Array, "b d"]:
        """Embeds single images with unit norm; see `Method.encode_images`."""
        return unit(self.outputs_of(self.bind(params, state.batch_stats), images, keys)[0])

    def image_features(
        self,
        params: Params,
        state: MethodState,
        images: Float[Array, "b h w 3"],
        *,
        keys: Key[Array, " b"] | None = None,
    ) -> Float[Array, "b width"]:
        """Computes the tower's features, (b, w) float32; see `Method.image_features`."""
        return self.outputs_of(self.bind(params, state.batch_stats), images, keys)[1]

    def outputs_of(
        self,
        network: TowerOrMore,
        images: Float[Array, "b h w 3"],
        keys: Key[Array, " b"] | None = None,
    ) -> tuple[Float[Array, "b d"], Float[Array, "b f"]]:
        """Runs the tower.

        Args:
          network: with its arrays, as `bind` returns it.
          images: normalized images, NHWC float32.
          keys: randomness, one for each image; None drops nothing.

        Returns:
          the projected embedding (b, d), not normalized, which is the features where there is no
          projection; and the features (b, f). Both are float32.
        """
        found: Any = network.visual(images, keys=keys)
        embedding, features = found if isinstance(found, tuple) else (found, found)
        return embedding.astype(jnp.float32), features.astype(jnp.float32)

    @classmethod
    def select(
        cls,
        tensors: Mapping[str, np.ndarray],
        text_num_heads: int | None = None,
        pooling: str | None = None,
        stated: Mapping[str, Any] | None = None,
    ) -> Selected:
        """Finds the image tower among the tensors of a file, whatever system it is of.

        Args:
          tensors: by plain published name.
          text_num_heads: attention heads of a vision transformer; None: see `models.vit_names`.
          pooling: how a vision transformer's features are pooled, one of `POOLINGS`; None: see
            `models.vit_names`.
          stated: what else is known of a vision transformer, as entries of its config, such as
            `activation` from a configuration that came with the file; gated maps stay gated.

        Returns:
          the tower; low-rank updates are merged into it, and what stands beside it is left out and
          counted in the notes.

        Raises:
          ValueError: no image tower is found, its sizes contradict each other, or it has one
            pooling, which is another one.
        """
        tensors, merged = merge_lora(tensors)
        notes = []
        if merged:
            notes.append(f"low-rank updates of {merged} blocks are merged into their weights")
        shapes = {name: tensor.shape for name, tensor in tensors.items()}
        found = vit_names.recognize(shapes)
        if found is None:
            if pooling is not None:
                raise ValueError("a residual network has one pooling, of its own")
            config, what, image = _residual(cls.config_class, shapes), "residual network", {}
            prefix = config.prefix
            unused: tuple[str, ...] = ("fc.*",)
        else:
            prefix, size, known = found.prefix, found.config, dict(stated or {})
            if text_num_heads is not None:
                known["heads"] = text_num_heads
            if size.activation == "swiglu":
                known.pop("activation", None)
            size = dataclasses.replace(size, **known)
            if pooling is not None:
                size, known = _pooled(size, pooling), known | {"pooling": pooling}
                notes.append(f"features, by choice: {POOLINGS[pooling]}")
            guesses = [guess for entry, guess in found.guesses.items() if entry not in known]
            config = cls.config_class(size, found.embed_dim, found.layout, prefix)
            about = vit_names.LAYOUTS[found.layout]
            unused, image = about.unused, _preprocessing(found)
            what = (
                f"vision transformer, {size.width} x {size.layers}, patches of {size.patch_size}, "
                f"images of {size.image_size} pixels, named as in {about.title}"
            )
            if guesses:
                notes.append(f"guesses, as no name tells them: {'; '.join(guesses)}")
        notes.insert(0, f"found by names and shapes: {what}")
        kept, beside = _divided(tensors, cls(config).weight_names, prefix, unused)
        if beside:
            listed = ", ".join(f"{first}* ({count})" for first, count in sorted(beside.items()))
            notes.append(f"passed over, as no part of the tower: {listed}")
        fresh = _fresh_norm(config, kept)
        if fresh:
            for name in [f"{prefix}norm.weight", f"{prefix}norm.bias"]:
                kept.pop(name, None)
            notes.append("the norm behind the mean of patches is new: the file has none")
        return Selected(config, kept | fresh, image, tuple(notes))


def _pooled(image: vit.ViTConfig, pooling: str) -> vit.ViTConfig:
    """The tower with another pooling.

    Raises:
      ValueError: there is no such pooling, or it cannot have another one.
    """
    if pooling not in POOLINGS:
        raise ValueError(f"pooling {pooling!r} is none of {', '.join(POOLINGS)}")
    if image.pooling == "attention":
        raise ValueError(f"its pooling is attention, which it was trained with, not {pooling}")
    return dataclasses.replace(image, pooling=pooling)


def _divided(
    tensors: Mapping[str, np.ndarray],
    rows: tuple[tuple[str, str, str], ...],
    prefix: str,
    unused: tuple[str, ...],
) -> tuple[dict[str, np.ndarray], collections.Counter[str]]:
    """The tensors of the tower, and how many others there are by the beginnings of their names.

    A name belongs to the tower if it begins as one of the tower's does: whether the tower has such
    a tensor is not asked here.
    """
    names = {name for name, _, _ in rows}
    own = {name.removeprefix(prefix).partition(".")[0] for name in names}
    kept, beside = {}, collections.Counter()
    for name, tensor in tensors.items():
        rest = name.removeprefix(prefix)
        inside = name.startswith(prefix) and rest.partition(".")[0] in own
        unread = any(fnmatch.fnmatchcase(rest, pattern) for pattern in unused)
        if name in names or (inside and not unread):
            kept[name] = tensor
        else:
            beside[re.split(r"[._]", rest if inside else name)[0]] += 1
    return kept, beside


def merge_lora(tensors: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], int]:
    """Adds low-rank updates of queries and values to the weights that they update.

    W_q + B_q A_q and W_v + B_v A_v (Hu et al., ICLR 2022), in the names that RetiZero has.

    Args:
      tensors: by plain published name.

    Returns:
      the tensors, with `attn.qkv.weight` for what was `attn.qkv.qkv.weight` and its updates; and
      how many weights were updated.

    Raises:
      ValueError: a part of an update is missing, or does not fit its weight.
    """
    plain: dict[str, np.ndarray] = {}
    parts: dict[str, dict[str, np.ndarray]] = {}
    for name, tensor in tensors.items():
        found = _LORA.fullmatch(name)
        if found is None:
            plain[name.replace("lora_vit.", "")] = tensor
        elif found["part"]:
            parts.setdefault(found["map"].replace("lora_vit.", ""), {})[found["part"]] = tensor
        else:
            plain[f"{found['map'].replace('lora_vit.', '')}.{found['kind']}"] = tensor
    for name, update in parts.items():
        weight = plain.get(f"{name}.weight")
        if weight is None or set(update) != {"a_q", "b_q", "a_v", "b_v"}:
            raise ValueError(f"the low-rank update of {name} is incomplete")
        width = len(weight) // 3
        query, value = (
            update[f"b_{part}"].astype(np.float64) @ update[f"a_{part}"].astype(np.float64)
            for part in "qv"
        )
        if query.shape != (width, weight.shape[1]) or value.shape != query.shape:
            raise ValueError(f"the low-rank update of {name} has another shape than its weight")
        whole = weight.astype(np.float64)
        whole[:width] += query
        whole[-width:] += value
        plain[f"{name}.weight"] = whole.astype(weight.dtype)
    return plain, len(parts)


def _residual(
    config_class: type[TowerConfig], shapes: Mapping[str, tuple[int, ...]]
) -> TowerConfig:
    end = "layer1.0.conv1.weight"
    prefixes = [name[: -len(end)] for name in shapes if name.endswith(end)]
    if not prefixes:
        raise ValueError("no image tower is found by its names")
    prefix = min(prefixes, key=len)
    tower = relative(shapes, prefix)
    if any(name.startswith("attnpool.") for name in tower):
        width = tower.get("attnpool.c_proj.weight", (1024,))[0]
        return config_class(resnet.infer_clip_config(tower), width, prefix=prefix)
    return config_class(resnet.infer_config(tower), prefix=prefix)


def _preprocessing(found: vit_names.Found) -> dict[str, Any]:
    """Entries of `config.data.image` with which towers of a layout are trained."""
    if found.config.activation == "quick_gelu":
        return {}  # CLIP's, as in the default experiment
    if found.config.pooling == "attention":
        return {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
    return {"resize": "crop", "mean": IMAGENET_MEAN, "std": IMAGENET_STD}


def _fresh_norm(config: TowerConfig, tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The norm behind the mean of patches, where a pretraining file has another one."""
    image, prefix = config.image, config.prefix
    weight, bias = f"{prefix}fc_norm.weight", f"{prefix}fc_norm.bias"
    if not isinstance(image, vit.ViTConfig) or image.pooling != "mean_norm" or weight in tensors:
        return {}
    width = image.width
    return {weight: np.ones(width, np.float32), bias: np.zeros(width, np.float32)}
