"""A decoder on an image tower: finds the pixels of lesions, vessels, the optic disc and its cup."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int, Integer, Key, PRNGKeyArray

from retfm_jax.losses import segmentation as losses
from retfm_jax.methods.base import Batch, MethodState, Metrics, Params, Published, Selected
from retfm_jax.methods.dual_encoder import split_keys
from retfm_jax.methods.image_tower import TowerConfig, TowerMethod, TowerNetwork
from retfm_jax.methods.outputs import PIXEL_LOGITS, Output, PixelDecoder, TowerMaps
from retfm_jax.methods.towers import prefixed, relative
from retfm_jax.models import resnet, unet, unetr, vit
from retfm_jax.models.layers import split
from retfm_jax.models.resnet import Groups
from retfm_jax.ranges import Count, Name, Positive, Share

#: Of decoders in published files.
_UNETR = "decoder."
_FLAIR = "vision_model."


@dataclasses.dataclass(frozen=True)
class SegmenterConfig(TowerConfig):
    """Sizes of tower and decoder, what is found, and the loss.

    Attributes:
      structures: names of what is found, in the order of the masks; () is one without a name.
      decoder: its kind and sizes; None: UNETR's head on a vision transformer, FLAIR's U-Net on a
        residual network.
      levels: blocks of a vision transformer whose maps the head sees, four numbers from 0; (): the
        ends of its quarters, of 12 blocks 3, 5, 7 and 11.
      loss: "dice_ce" of structures that may lie on each other; "dice_cldice" of thin ones, which
        counts their centerlines as well; "exclusive" of structures of which a pixel shows one at
        most (softmax with a background; of several in a mask it is the last one).
      centerlines: share of the centerlines in "dice_cldice".
      erosions: of the soft skeleton in "dice_cldice"; half of the widest vessel's width in pixels.
      loss_within_fov: whether pixels outside of the field of view count nowhere.
    """

    structures: tuple[Name, ...] = ()
    decoder: unet.UnetConfig | unetr.UnetrConfig | None = None
    levels: tuple[Count, ...] = ()
    loss: Literal["dice_ce", "dice_cldice", "exclusive"] = "dice_ce"
    centerlines: Share = 0.5
    erosions: Positive = 10
    loss_within_fov: bool = True

    def __post_init__(self):
        super().__post_init__()
        twice = sorted({name for name in self.structures if self.structures.count(name) > 1})
        if twice:
            raise ValueError(f"structures names {', '.join(twice)} twice")
        transformer = isinstance(self.image, vit.ViTConfig)
        if isinstance(self.form, unetr.UnetrConfig) != transformer:
            fitting = "unetr" if transformer else "unet"
            raise ValueError(f"decoder {self.form.kind} does not fit this tower, {fitting} does")
        if not self.levels:
            return
        if not isinstance(self.image, vit.ViTConfig):
            raise ValueError("levels are those of a vision transformer")
        highest = self.image.layers - 1
        if len(self.levels) != 4 or max(self.levels) > highest:
            raise ValueError(f"levels must be four blocks from 0 to {highest}")

    @property
    def form(self) -> unet.UnetConfig | unetr.UnetrConfig:
        """The decoder, by default that of the tower."""
        if self.decoder is not None:
            return self.decoder
        if isinstance(self.image, vit.ViTConfig):
            return unetr.UnetrConfig()
        return unet.UnetConfig()

    @property
    def map_levels(self) -> tuple[int, ...]:
        """Levels of the maps that the decoder sees."""
        return self.levels or self.image.map_levels

    @property
    def outputs(self) -> int:
        """Number of structures."""
        return len(self.structures) or 1

    @property
    def logits(self) -> int:
        """Logits of a pixel: the structures, and before exclusive ones the background."""
        return self.outputs + (self.loss == "exclusive")


class SegmenterNetwork(TowerNetwork):
    """An image tower and a decoder.

    Args:
      config: sizes of the network.
      rngs: streams of random numbers for the initial parameters.
    """

    def __init__(self, config: SegmenterConfig, *, rngs: nnx.Rngs):
        super().__init__(config, rngs=rngs)
        image, form = config.image, config.form
        kept: dict[str, Any] = {"dtype": config.dtype, "rngs": rngs}
        self.decoder: unet.Unet | unetr.UnetrHead
        if isinstance(image, vit.ViTConfig):
            assert isinstance(form, unetr.UnetrConfig)
            self.decoder = unetr.UnetrHead(form, image.width, config.logits, **kept)
        else:
            assert isinstance(form, unet.UnetConfig)
            self.decoder = unet.Unet(form, image.map_widths, config.logits, **kept)


class Segmenter(TowerMethod[SegmenterNetwork]):
    """Finds the pixels of structures in single photographs.

    The tower's batch norms keep their running statistics, as in FLAIR with `update_bn=False`; the
    decoder's, which begin anew, are those of the batch in training.
    """

    name, config_class, default_experiment = "segmenter", SegmenterConfig, "segment"
    sample_kind = "segmented_photograph"
    needs_head = True
    #: What makes one vector of an image is not asked for.
    untrained = ("visual/projection", "visual/pooling", "visual/attnpool")
    published: ClassVar[Published | None] = Published(
        "FLAIR's U-Net or UNETR's head", (r"vision_model\.up_blocks\.0\.|decoder\.s4\.",)
    )

    def network(self, rngs: nnx.Rngs) -> SegmenterNetwork:
        return SegmenterNetwork(self.config, rngs=rngs)

    @property
    def structures(self) -> tuple[str, ...]:
        """Names of the structures, in the order of the masks."""
        return self.config.structures

    @property
    def exclusive_structures(self) -> bool:
        return self.config.loss == "exclusive"

    @property
    def outputs(self) -> tuple[Output, ...]:
        """The logits of every pixel; see `Method.outputs`."""
        config = self.config
        decoder = PixelDecoder(config.form, config.logits, self.exclusive_structures)
        return (Output(PIXEL_LOGITS, (TowerMaps(config.image, config.map_levels), decoder)),)

    @property
    def weight_names(self) -> tuple[tuple[str, str, str], ...]:
        """Rows as `Method.weight_names` has.

        torchvision's tower below a U-Net has FLAIR's names; others keep their own beside the
        decoder's, which are FLAIR's or, below "decoder.", VisionFM's.
        """
        image = self.config.image
        if isinstance(image, vit.ViTConfig):
            return (*super().weight_names, *prefixed(unetr.names(), _UNETR, "decoder/"))
        tower = super().weight_names
        if not isinstance(image, resnet.ClipResNetConfig):
            tower = prefixed(unet.tower_names(image), "", "visual/")
        return (*tower, *prefixed(unet.names(), "", "decoder/"))

    def pixel_logits(
        self,
        params: Params,
        state: MethodState,
        images: Float[Array, "b h w 3"],
        *,
        keys: Key[Array, " b"] | None = None,
    ) -> Float[Array, "b h w k"]:
        """Computes the logits of every pixel, which are those of probabilities as trained.

        Args:
          params: all parameters, a nested dict of float32 arrays, as `init` makes them.
          state: batch statistics and what the method carries.
          images: normalized images, NHWC float32.
          keys: randomness, one for each image; None drops none.

        Returns:
          (b, h, w, k) float32, of the structures; before exclusive ones stands the background.
        """
        network = self.bind(params, state.batch_stats)
        return self._decoded(network, images, keys=keys)["logits"]

    def probabilities(self, logits: Float[Array, "... k"]) -> Float[Array, "... c"]:
        """Computes the probabilities of the structures from logits of pixels.

        Args:
          logits: as `pixel_logits` gives them, (..., k) floats, also resized.
        """
        if self.exclusive_structures:
            return jax.nn.softmax(logits, axis=-1)[..., 1:]
        return jax.nn.sigmoid(logits)

    def _decoded(
        self,
        network: SegmenterNetwork,
        images: Float[Array, "b h w 3"],
        *,
        keys: Key[Array, " b"] | None = None,
        train: bool = False,
    ) -> dict[str, Any]:
        """Maps of the tower, the decoder's last one where it has one, and logits."""
        tower_keys, decoder_keys = split(keys, 2)
        levels = self.config.map_levels
        maps = network.visual.maps(images, levels, keys=tower_keys)
        groups = Groups(1, 1) if train else None
        named = {f"map_{level}": x for level, x in zip(levels, maps, strict=True)}
        decoder = network.decoder
        if isinstance(decoder, unet.Unet):
            last = decoder.decode(maps, images, groups=groups)
            return named | {"features": last, "logits": decoder.head(last.astype(jnp.float32))}
        logits = decoder(maps, images, groups=groups, keys=decoder_keys)
        return named | {"logits": logits}

    def loss(
        self,
        params: Params,
        state: MethodState,
        batch: Batch,
        key: PRNGKeyArray | None = None,
        *,
        train: bool = False,
    ) -> tuple[Float[Array, ""], tuple[Metrics, MethodState]]:
        """Computes the mean over images of the configured loss; see `Method.loss`.

        Args:
          params, state, key, train: as there.
          batch: `image`, (b, h, w, 3) float32 normalized; `masks`, (b, h, w, structures), 1
            present, 0 absent, else unknown; and, where it is known, `fov`, (b, h, w), 1 inside the
            field of view.
        """
        keys, _ = split_keys(key, batch)
        network = self.bind(params, state.batch_stats)
        logits = self._decoded(network, batch["image"], keys=keys, train=train)["logits"]
        fov = batch.get("fov") if self.config.loss_within_fov else None
        parts = self._losses(logits, batch["masks"], fov)
        metrics: Metrics = {name: each.mean() for name, each in parts.items()}
        stats = nnx.to_pure_dict(nnx.state(network, nnx.BatchStat))
        return metrics["loss_total"], (metrics, state._replace(batch_stats=stats))

    def _losses(
        self, logits: Float[Array, "b h w k"], masks: Array, fov: Array | None
    ) -> dict[str, Float[Array, " b"]]:
        """Parts of the loss of each image, and their sum."""
        config = self.config
        if config.loss == "dice_cldice":
            p = jax.nn.sigmoid(logits)
            share, erosions = config.centerlines, config.erosions
            whole = losses.dice_cldice(p, masks, fov, share=share, iterations=erosions)
            return {"loss_dice": losses.dice(logits, masks, fov), "loss_total": whole}
        if config.loss == "exclusive":
            labels = shown(masks)
            entropy = losses.cross_entropy(logits, labels, fov)
            overlap = losses.softmax_dice(logits, labels, fov)
        else:
            entropy = losses.binary_cross_entropy(logits, masks, fov)
            overlap = losses.dice(logits, masks, fov)
        return {
            "loss_cross_entropy": entropy, "loss_dice": overlap, "loss_total": entropy + overlap
        }  # fmt: skip

    def features(self, params: Params, state: MethodState, batch: Batch) -> dict[str, Array]:
        """Computes `logits` of every pixel and means over the pixels of maps.

        Returns:
          `logits` (b, h, w, k); `map_LEVEL` of the tower, and of a U-Net `features`, its last map,
          each (b, d).
        """
        network = self.bind(params, state.batch_stats)
        found = self._decoded(network, batch["image"])
        return {
            name: value if name == "logits" else value.astype(jnp.float32).mean((1, 2))
            for name, value in found.items()
        }

    @classmethod
    def select(
        cls,
        tensors: Mapping[str, np.ndarray],
        text_num_heads: int | None = None,
        pooling: str | None = None,
        stated: Mapping[str, Any] | None = None,
    ) -> Selected:
        """Finds a tower with FLAIR's U-Net or UNETR's head in a file; see `TowerMethod.select`.

        Args:
          tensors, text_num_heads, pooling, stated: as there.

        Returns:
          the network; its structures are called by their number, as the file has no names.

        Raises:
          ValueError: there is no such decoder, or no tower below it.
        """
        if f"{_FLAIR}up_blocks.0.upsample.weight" in tensors:
            return cls._with_unet(tensors)
        decoder = {name: x for name, x in tensors.items() if name.startswith(_UNETR)}
        head = decoder.get(f"{_UNETR}cls.weight")
        if head is None or head.ndim != 4:
            raise ValueError("no decoder is found, FLAIR's U-Net or UNETR's head (decoder.cls)")
        others = {name: x for name, x in tensors.items() if name not in decoder}
        found = super().select(others, text_num_heads, pooling, stated)
        outputs, channels = head.shape[:2]
        several = outputs > 1
        config = dataclasses.replace(
            found.config,
            decoder=unetr.UnetrConfig(2 * channels),
            structures=_numbered(outputs - several),
            loss="exclusive" if several else "dice_ce",
        )
        taken = "exclude each other, with the first output for the background" if several else ""
        notes = (*found.notes, _said(taken))
        return Selected(config, dict(found.tensors) | decoder, found.image, notes)

    @classmethod
    def _with_unet(cls, tensors: Mapping[str, np.ndarray]) -> Selected:
        """FLAIR's network, or CLIP's residual one below the same decoder."""
        shapes = {name: x.shape for name, x in tensors.items()}
        head = shapes.get("classifier.weight", ())
        inside = shapes.get(f"{_FLAIR}bridge.bridge.0.conv.weight", ())
        if len(head) != 4 or len(inside) != 4:
            raise ValueError("a U-Net without classifier.weight or its bridge")
        form = unet.UnetConfig("published" if inside[0] == inside[1] else "narrow")
        structures = _numbered(head[0])
        if f"{_FLAIR}input_block.0.weight" in tensors:
            tower = relative(shapes, _FLAIR)
            named = {unet.torchvision_name(name): shape for name, shape in tower.items()}
            image = resnet.infer_config(named)
            config = cls.config_class(image, structures=structures, decoder=form)
            return Selected(config, tensors, {"mean": (0.0,) * 3, "std": (1.0,) * 3}, (_said(""),))
        decoder = {
            name: x
            for name, x in tensors.items()
            if name.startswith((f"{_FLAIR}bridge.", f"{_FLAIR}up_blocks.", "classifier."))
        }
        others = {name: x for name, x in tensors.items() if name not in decoder}
        found = super().select(others)
        config = dataclasses.replace(found.config, structures=structures, decoder=form)
        return Selected(
            config, dict(found.tensors) | decoder, found.image, (*found.notes, _said(""))
        )


def shown(masks: Integer[Array, "b h w c"]) -> Int[Array, "b h w"]:
    """Numbers what each pixel shows, of structures that exclude each other.

    Args:
      masks: 1 present, 0 absent, else unknown, (b, h, w, c) integers.

    Returns:
      0 for none of them, else 1 + the number of the last that is present, -1 where one is unknown,
      (b, h, w) int32.
    """
    numbers = jnp.arange(1, masks.shape[-1] + 1)
    labels = jnp.where(masks == 1, numbers, 0).max(-1)
    return jnp.where(((masks == 0) | (masks == 1)).all(-1), labels, -1).astype(jnp.int32)


def _numbered(count: int) -> tuple[str, ...]:
    return tuple(f"structure {number}" for number in range(1, count + 1))


def _said(taken: str) -> str:
    return (
        "structures are called by their number, as the file has no names, and taken to "
        f"{taken or 'lie on each other where they do'}"
    )


METHOD = Segmenter
