"""MM-Retinal's captioner (Wu et al., MICCAI 2024), which writes the reports of angiograms.

The image tower's last feature map goes through R2Gen's transformer (`models.caption`). The
published tower is KeepFIT's ResNet-50 of angiograms; here it is any tower that has maps.
"""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Key, PRNGKeyArray

from retfm_jax.losses import caption as losses
from retfm_jax.methods.base import Batch, MethodState, Metrics, Params, Published, Selected
from retfm_jax.methods.dual_encoder import split_keys
from retfm_jax.methods.image_tower import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    AnyTowerConfig,
    TowerConfig,
    TowerMethod,
    TowerNetwork,
)
from retfm_jax.methods.outputs import WORD_LOG_PROBABILITIES, Output, ReportWriter, TowerMaps
from retfm_jax.methods.per_sample import PerSampleMethod, averaged
from retfm_jax.methods.towers import prefixed
from retfm_jax.models import caption, resnet, vit
from retfm_jax.models.layers import count_layers, majority, split
from retfm_jax.models.word_search import Found
from retfm_jax.ranges import Positive

#: Of published files.
_TOWER, _WRITER = "visual_extractor.model.", "encoder_decoder."
#: Where torchvision's parts stand in the published list of modules.
_PLACES = {"conv1": 0, "bn1": 1, "layer1": 4, "layer2": 5, "layer3": 6, "layer4": 7}
_PARTS = {str(place): part for part, place in _PLACES.items()}


@dataclasses.dataclass(frozen=True)
class FfaCaptionerConfig(TowerConfig):
    """Sizes of tower and transformer, and how the images of a case are joined.

    Attributes:
      image: sizes of the image tower, whose type chooses it; by default ResNet-50.
      captioner: sizes of the transformer.
      vocabulary: number of ids: the words of reports, and 0, which begins and ends them.
      images: "mean" averages the images of a case place by place, as published; "all" lets words
        attend to the patches of each, which learn the number of their image.
      places: with "all", how many images of a case are told apart.
      norms: of a residual tower in training, the statistics of the "batch", as published, or the
        "running" ones, which then stay as they are.
    """

    image: AnyTowerConfig = dataclasses.field(default_factory=resnet.ResNetConfig)
    captioner: caption.CaptionerConfig = dataclasses.field(default_factory=caption.CaptionerConfig)
    vocabulary: Positive = 4096
    images: Literal["mean", "all"] = "mean"
    places: Positive = 8
    norms: Literal["batch", "running"] = "batch"

    @property
    def width(self) -> int:
        """Channels of the tower's last map."""
        if isinstance(self.image, vit.ViTConfig):
            return self.image.width
        return self.image.features


class FfaCaptionerNetwork(TowerNetwork):
    """An image tower and the transformer.

    Args:
      config: sizes of the network.
      rngs: streams of random numbers for the initial parameters.
    """

    def __init__(self, config: FfaCaptionerConfig, *, rngs: nnx.Rngs):
        super().__init__(config, rngs=rngs)
        self.captioner = caption.Captioner(
            config.captioner, config.width, config.vocabulary, dtype=config.dtype, rngs=rngs
        )
        shape = (config.places, config.width)
        self.places = nnx.Param(jnp.zeros(shape)) if config.images == "all" else None


class FfaCaptioner(TowerMethod[FfaCaptionerNetwork], PerSampleMethod[FfaCaptionerNetwork]):
    """Writes the report of a case with one image or several.

    The published files hold no words: a vocabulary belongs beside them.
    """

    name, config_class, default_experiment = "ffa_captioner", FfaCaptionerConfig, "ffa_captioner"
    sample_kind = "case"
    needs_head = True
    published: ClassVar[Published | None] = Published(
        "MM-Retinal's captioner", (r"encoder_decoder\.att_embed\.",)
    )
    #: What makes one vector of an image is not asked for.
    untrained = (
        "captioner/positions", "visual/projection", "visual/pooling", "visual/attnpool"
    )  # fmt: skip

    def network(self, rngs: nnx.Rngs) -> FfaCaptionerNetwork:
        return FfaCaptionerNetwork(self.config, rngs=rngs)

    @property
    def weight_names(self) -> tuple[tuple[str, str, str], ...]:
        """Rows as `Method.weight_names` has.

        torchvision's tower has the published names, others keep their own.
        """
        image = self.config.image
        if isinstance(image, vit.ViTConfig | resnet.ClipResNetConfig):
            tower = super().weight_names
        else:
            rows = resnet.names(image)
            tower = tuple((_published(name), f"visual/{path}", rule) for name, path, rule in rows)
        places = (("places", "places", "copy"),) * (self.config.images == "all")
        return (*tower, *prefixed((*caption.names(),), _WRITER, "captioner/"), *places)

    @property
    def vocabulary(self) -> int:
        """Number of ids: the words, and 0; see `Method.vocabulary`."""
        return self.config.vocabulary

    @property
    def most_images(self) -> int | None:
        """How many images of a case are told apart; see `Method.most_images`."""
        return self.config.places if self.config.images == "all" else None

    @property
    def outputs(self) -> tuple[Output, ...]:
        """The words, of which a search makes reports; see `Method.outputs`."""
        config = self.config
        maps = TowerMaps(config.image, config.image.map_levels[-1:])
        places = "places" if config.images == "all" else None
        writer = ReportWriter(config.captioner, config.vocabulary, places=places)
        return (Output(WORD_LOG_PROBABILITIES, (maps, writer)),)

    @property
    def longest_report(self) -> int:
        """Number of positions; see `Method.longest_report`."""
        return self.config.captioner.positions

    @property
    def separable(self) -> bool:
        """Whether no batch norm normalizes samples by each other; see `PerSampleMethod`."""
        return self.config.norms == "running" or isinstance(self.config.image, vit.ViTConfig)

    def patch_features(
        self,
        network: FfaCaptionerNetwork,
        images: Float[Array, "b v h w 3"],
        has_image: Bool[Array, "b v"] | None = None,
        *,
        keys: Key[Array, " b"] | None = None,
        train: bool = False,
    ) -> tuple[Float[Array, "b m f"], Bool[Array, "b m"] | None]:
        """Computes the features of the patches of cases.

        Args:
          network: with its arrays, as `bind` returns it.
          images: of each case, normalized, float32.
          has_image: which of them there are, of each case at least one; None: all.
          keys: randomness, one for each case; None drops nothing.
          train: batch norms use and update the statistics of the batch.

        Returns:
          the features in row order (b, m, f) float32, and which of them there are; None: all.

        Raises:
          ValueError: there are more images than `config.places`.
        """
        b, views = images.shape[:2]
        if has_image is not None:
            # One that is there, so that no blank picture enters a batch norm's statistics.
            some = has_image.argmax(1)[:, None, None, None, None]
            some = jnp.take_along_axis(images, some, axis=1)
            images = jnp.where(has_image[..., None, None, None], images, some)
        rows = images.reshape(b * views, *images.shape[2:])
        row_keys = None if keys is None else split(keys, views).T.reshape(-1)
        level = self.config.image.map_levels[-1]
        (maps,) = network.visual.maps(rows, (level,), keys=row_keys, train=train, views=views)
        patches = maps.astype(jnp.float32).reshape(b, views, -1, maps.shape[-1])
        if network.places is None:
            if has_image is None:
                return patches.mean(1), None
            there = has_image.astype(jnp.float32)
            return jnp.einsum("bvmf,bv->bmf", patches, there / there.sum(1, keepdims=True)), None
        if views > self.config.places:
            raise ValueError(
                f"{views} images of a case are more than config.model.places {self.config.places}"
            )
        count = patches.shape[2]
        patches = patches + network.places[:views, None]
        mask = None if has_image is None else jnp.repeat(has_image, count, axis=1)
        return patches.reshape(b, views * count, -1), mask

    def sample_losses(
        self,
        params: Params,
        state: MethodState,
        batch: Batch,
        *,
        keys: Key[Array, " b"] | None = None,
        train: bool = False,
    ) -> dict[str, Float[Array, " b"]]:
        """Computes the mean of -log p over the words of each report.

        Args:
          params, state, keys, train: see `PerSampleMethod.sample_losses`.
          batch: `image`, (b, v, h, w, 3) float32 normalized; `tokens`, (b, n) int32, 0, the words
            and 0; where some cases have fewer images, `has_image`, (b, v) bool; and, where it is
            not the words up to the first 0 and this end, `mask`, (b, n), 1 where a token counts.
        """
        network = self.bind(params, state.batch_stats)
        return self._losses(network, batch, keys=keys, train=train)

    def sample_shares(self, batch: Batch) -> Float[Array, " b"]:
        """Weighs reports by their words; see `PerSampleMethod.sample_shares`."""
        words = _mask(batch).sum(1).astype(jnp.float32)
        return words / jnp.maximum(words.mean(), jnp.finfo(jnp.float32).tiny)

    def loss(
        self,
        params: Params,
        state: MethodState,
        batch: Batch,
        key: PRNGKeyArray | None = None,
        *,
        train: bool = False,
    ) -> tuple[Float[Array, ""], tuple[Metrics, MethodState]]:
        """Computes the mean of -log p over all words of the batch; see `Method.loss`.

        Args:
          params, state, key, train: as there.
          batch: see `sample_losses`.
        """
        keys, _ = split_keys(key, batch)
        network = self.bind(params, state.batch_stats)
        found = self._losses(network, batch, keys=keys, train=train)
        metrics: Metrics = averaged(found, self.sample_shares(batch))
        stats = nnx.to_pure_dict(nnx.state(network, nnx.BatchStat))
        return metrics["loss_total"], (metrics, state._replace(batch_stats=stats))

    def _losses(
        self,
        network: FfaCaptionerNetwork,
        batch: Batch,
        *,
        keys: Key[Array, " b"] | None,
        train: bool,
    ) -> dict[str, Float[Array, " b"]]:
        found = self._read(network, batch, keys=keys, train=train and not self.separable)
        each, _ = losses.word_losses(
            found["log_probabilities"], batch["tokens"][:, 1:], _mask(batch)
        )
        return {"loss_total": each}

    def _read(
        self,
        network: FfaCaptionerNetwork,
        batch: Batch,
        *,
        keys: Key[Array, " b"] | None = None,
        train: bool = False,
    ) -> dict[str, Array]:
        tower_keys, encoder_keys, decoder_keys = split(keys, 3)
        features, mask = self.patch_features(
            network, batch["image"], batch.get("has_image"), keys=tower_keys, train=train
        )
        memory = network.captioner.encode(features, mask, keys=encoder_keys)
        found = {"patch_features": features, "memory": memory}
        if "tokens" not in batch:
            return found
        read = batch["tokens"][:, :-1]
        words = network.captioner.log_probabilities(read, memory, mask, keys=decoder_keys)
        return found | {"log_probabilities": words}

    def features(self, params: Params, state: MethodState, batch: Batch) -> dict[str, Array]:
        """Computes what the network makes of cases, without dropout.

        Returns:
          `patch_features` (b, m, f), `memory` (b, m, d) and, where the batch has `tokens`,
          `log_probabilities` (b, n - 1, vocabulary) of the words behind the first, float32.
        """
        return self._read(self.bind(params, state.batch_stats), batch)

    def report_losses(
        self, params: Params, state: MethodState, batch: Batch
    ) -> tuple[Float[Array, " b"], Float[Array, " b"]]:
        """Computes the mean of -ln p over the words of each report; see `Method.report_losses`."""
        losses = self.sample_losses(params, state, batch)["loss_total"]
        return losses, _mask(batch).sum(1).astype(jnp.float32)

    def decode(
        self,
        params: Params,
        state: MethodState,
        images: Float[Array, "b v h w 3"],
        has_image: Bool[Array, "b v"] | None = None,
        *,
        beams: int = 3,
        length: int = 90,
        length_penalty: float = 0.0,
        block_trigrams: bool = False,
    ) -> Found:
        """Writes the reports of cases; see `Method.decode`."""
        network = self.bind(params, state.batch_stats)
        features, mask = self.patch_features(network, images, has_image)
        memory = network.captioner.encode(features, mask)
        return network.captioner.write(
            memory,
            mask,
            beams=beams,
            length=length,
            length_penalty=length_penalty,
            block_trigrams=block_trigrams,
        )

    @classmethod
    def select(
        cls,
        tensors: Mapping[str, np.ndarray],
        text_num_heads: int | None = None,
        pooling: str | None = None,
        stated: Mapping[str, Any] | None = None,
    ) -> Selected:
        """Finds a tower and the transformer in a file; see `TowerMethod.select`.

        Args:
          tensors, pooling, stated: as there.
          text_num_heads: attention heads of the transformer, which no shape tells; None means one
            for every 64 of its width.

        Raises:
          ValueError: there is no such transformer, or no tower below it.
        """
        own = ("places", _WRITER)
        writer = {name: x for name, x in tensors.items() if name.startswith(own)}
        others = {name: x for name, x in tensors.items() if name not in writer}
        shapes = {name.removeprefix(_WRITER): x.shape for name, x in writer.items()}
        if "model.tgt_embed.0.lut.weight" not in shapes or "att_embed.0.weight" not in shapes:
            raise ValueError(
                "no captioner is found (encoder_decoder.att_embed, encoder_decoder.model)"
            )
        tower = any(name.startswith(_TOWER) for name in others)
        named = {_plain(name): x for name, x in others.items()} if tower else others
        found = super().select(named, None, pooling, stated)
        config = dataclasses.replace(
            found.config,
            captioner=_sizes(shapes, text_num_heads),
            vocabulary=majority(shapes, (("model.tgt_embed.0.lut.weight", 0), ("logit.*", 0)), 1),
            images="all" if "places" in shapes else "mean",
            places=majority(shapes, (("places", 0),), 8),
        )
        kept = (
            {_published(name): x for name, x in found.tensors.items()} if tower else found.tensors
        )
        image = {"mean": IMAGENET_MEAN, "std": IMAGENET_STD} if tower else found.image
        return Selected(config, {**kept, **writer}, image, found.notes)

    @classmethod
    def infer_config(
        cls, shapes: Mapping[str, tuple[int, ...]], text_num_heads: int | None
    ) -> FfaCaptionerConfig:
        """Infers the sizes of the network; see `Method.infer_config`.

        Args:
          shapes: shape of each published tensor by its name.
          text_num_heads: see `select`.

        Raises:
          ValueError: there is no such network.
        """
        empty = {name: np.broadcast_to(np.float32(0), shape) for name, shape in shapes.items()}
        return cls.select(empty, text_num_heads).config


def _sizes(shapes: Mapping[str, tuple[int, ...]], num_heads: int | None) -> caption.CaptionerConfig:
    """Sizes of the transformer whose published tensors have these shapes, by majority."""
    width = majority(shapes, (("*.norm.gamma", 0), ("model.tgt_embed.0.lut.weight", 1)), 512)
    return caption.CaptionerConfig(
        width=width,
        mlp_width=majority(shapes, (("*.feed_forward.w_1.weight", 0),), 512),
        layers=count_layers(shapes, "model.decoder.layers.") or 3,
        heads=num_heads or max(width // 64, 1),
        positions=majority(shapes, (("model.tgt_embed.1.pe", 1),), 5000),
    )


def _published(name: str) -> str:
    """Published name of torchvision's tensor."""
    part, _, rest = name.partition(".")
    return f"{_TOWER}{_PLACES.get(part, part)}.{rest}"


def _plain(name: str) -> str:
    """torchvision's name of a published tensor of the tower; others keep theirs."""
    part, _, rest = name.removeprefix(_TOWER).partition(".")
    if not name.startswith(_TOWER) or not re.fullmatch("[0-9]", part) or part not in _PARTS:
        return name
    return f"{_PARTS[part]}.{rest}"


def _mask(batch: Batch) -> Bool[Array, "b n"]:
    """Which words of `tokens` behind the first count."""
    if "mask" in batch:
        return batch["mask"][:, 1:] > 0
    return losses.counted(batch["tokens"][:, 1:])


METHOD = FfaCaptioner
