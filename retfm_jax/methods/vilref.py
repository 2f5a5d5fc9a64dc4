"""ViLReF (Yang et al., arXiv 2408.10894): single images, reports, and labels out of these."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, Key, PRNGKeyArray

from retfm_jax.errors import UserError
from retfm_jax.losses import memory_queue
from retfm_jax.losses.contrastive import info_nce
from retfm_jax.losses.coupling import weighted_similarity_coupling
from retfm_jax.methods.base import Batch, MethodState, Metrics, Params, Published
from retfm_jax.methods.dual_encoder import DualEncoder, Embeddings
from retfm_jax.methods.towers import (
    ImageTowerConfig,
    image_names,
    image_tower,
    infer_image_config,
    relative,
    text_names,
)
from retfm_jax.models import bert, vit
from retfm_jax.models.layers import majority, split, unit
from retfm_jax.ranges import Count, NonNegative, Positive, PositiveShare, Section, Share

#: Initial and largest log-temperature.
INITIAL_LOG_SCALE = math.log(1 / 0.07)
MAX_LOG_SCALE = math.log(100)


@dataclasses.dataclass(frozen=True)
class VilrefConfig(Section):
    """Sizes of the network and parts of the objective; the defaults are the published ViT-B/16.

    Queue length, momentum and gamma were not published. The paper's ablation is: InfoNCE
    (`use_labels=False, queue_size=0`), elimination only (`gamma=0, queue_size=0`), with weights
    (`queue_size=0`), with queue (`use_labels=False`), all. `calibrated=False` is what the paper
    describes.

    Attributes:
      image: sizes of the image tower, whose type chooses it.
      text: sizes of the text tower.
      embed_dim: width of both embeddings (1024 for RN50).
      dtype: compute type of the towers; parameters stay float32.
      use_labels: whether labels eliminate false negatives and weigh the other negatives.
      eliminate: what tells false negatives: "labels", equal ones; or "text_similarity", texts whose
        embeddings are among the most similar ones of the batch, while labels, where they are used,
        weigh the rest.
      text_quantile: of the similarities of a batch's texts, from which on they are false negatives
        with "text_similarity"; 0.77 in compiled experiments of the published code.
      num_labels: length of the data's label vectors.
      gamma: exponent of the weights; 0 eliminates only.
      calibrated: whether the loss keeps the frequencies of what reports say, which the paper's
        description does not (see `losses.coupling`).
      queue_size: pairs in the memory queues; 0 goes without queues and momentum encoders.
      momentum: of the momentum encoders' moving average.
      loss_block: candidates per block of the loss, for batches and queues whose similarities do
        not fit into memory; None computes them at once.
    """

    image: ImageTowerConfig = dataclasses.field(default_factory=vit.ViTConfig)
    text: bert.BertConfig = dataclasses.field(default_factory=bert.BertConfig)
    embed_dim: Positive = 512
    dtype: Literal["float32", "bfloat16"] = "float32"
    use_labels: bool = True
    eliminate: Literal["labels", "text_similarity"] = "labels"
    text_quantile: PositiveShare = 0.77
    num_labels: Count = 0
    gamma: NonNegative = 1.0
    calibrated: bool = True
    queue_size: Count = 4096
    momentum: Share = 0.995
    loss_block: Positive | None = None


class VilrefNetwork(nnx.Module):
    """Both towers in the Chinese-CLIP layout, and one log-temperature.

    Args:
      config: sizes of the network.
      rngs: streams of random numbers for the initial parameters.
    """

    def __init__(self, config: VilrefConfig, *, rngs: nnx.Rngs):
        self.visual = image_tower(config.image, config.embed_dim, dtype=config.dtype, rngs=rngs)
        self.bert = bert.Bert(config.text, dtype=config.dtype, rngs=rngs)
        width = config.text.width
        projection = width**-0.5 * jax.random.normal(rngs.params(), (width, config.embed_dim))
        self.text_projection = nnx.Param(projection)
        self.log_scale = nnx.Param(jnp.asarray(INITIAL_LOG_SCALE))

    def image(
        self,
        images: Float[Array, "b h w 3"],
        *,
        keys: Key[Array, " b"] | None = None,
        train: bool = False,
    ) -> tuple[Float[Array, "b e"], Float[Array, "b d"]]:
        """Embeds images.

        Args:
          images: normalized images, NHWC float32.
          keys: randomness of patch dropping, one key for each image; None keeps every patch.
          train: batch norms use and update the statistics of the batch.

        Returns:
          unit-norm embeddings (b, e), and the features before projection (b, d), both float32.
        """
        embedding, features = self.visual(images, keys=keys, train=train)
        return unit(embedding), features

    def text(
        self, tokens: Int[Array, "b n"], *, keys: Key[Array, " b"] | None = None
    ) -> tuple[Float[Array, "b e"], Float[Array, "b d"]]:
        """Embeds reports.

        Args:
          tokens: token ids (b, n) int32, padded with 0.
          keys: randomness of dropout, one key for each text; None drops nothing.

        Returns:
          unit-norm embeddings (b, e), and the hidden states of [CLS] (b, d), both float32.
        """
        hidden, _ = self.bert(tokens, keys=keys)
        first = hidden[:, 0].astype(jnp.float32)
        return unit(first @ self.text_projection[...]), first


class Vilref(DualEncoder[VilrefNetwork]):
    """Weighted similarity coupling over the batch and queues of momentum embeddings.

    The momentum encoders keep no statistics of their own: after every update they would be copied
    from the encoders, so that the encoders' are theirs. In training both normalize by the batch.
    """

    name = "vilref"
    config_class = VilrefConfig
    default_experiment = "vilref_vit_b16"
    published = Published(
        "ViLReF or Chinese-CLIP",
        (r"visual\.", r"bert\.", r"(visual\.proj|visual\.attnpool\..*|text_projection)$"),
        formats=("chinese_clip",),
    )
    sample_kind = "image"
    ignores_padding = True

    def network(self, rngs: nnx.Rngs) -> VilrefNetwork:
        return VilrefNetwork(self.config, rngs=rngs)

    @property
    def weight_names(self) -> tuple[tuple[str, str, str], ...]:
        return (
            *image_names(self.config.image, "visual.", "visual/"),
            *text_names("bert.", "bert/"),
            ("text_projection", "text_projection", "copy"),
            ("logit_scale", "log_scale", "copy"),
        )

    def init_carry(self, params: Params, batch_stats: dict[str, Any]) -> dict[str, Any]:
        """Makes `momentum_params` and an empty `queue`; {} where `queue_size` is 0."""
        config = self.config
        if not config.queue_size:
            return {}
        return {
            # Copies, so that a donated state does not hold one buffer twice.
            "momentum_params": jax.tree.map(jnp.copy, params),
            "queue": memory_queue.init(config.queue_size, config.embed_dim, config.num_labels),
        }

    def encode(
        self,
        params: Params,
        state: MethodState,
        batch: Batch,
        *,
        keys: Key[Array, " b"] | None = None,
        train: bool = False,
    ) -> tuple[Embeddings, dict[str, Any]]:
        """Embeds pairs of an image and its report.

        Args:
          batch: `image` (B, H, W, 3) and `tokens` (B, L).

        Returns:
          unit-norm `image` and `text`, each (B, embed_dim) float32; in training with a queue also
          what the momentum encoders make of them, without dropout and without gradient, as
          `momentum_image` and `momentum_text`.
        """
        network = self.bind(params, state.batch_stats)
        image_keys, text_keys = split(keys, 2)
        image, _ = network.image(batch["image"], keys=image_keys, train=train)
        text, _ = network.text(batch["tokens"], keys=text_keys)
        embeddings = {"image": image, "text": text}
        if train and self.config.queue_size:
            momentum = self.bind(state.carry["momentum_params"], state.batch_stats)
            remembered = {
                "momentum_image": momentum.image(batch["image"], train=True)[0],
                "momentum_text": momentum.text(batch["tokens"])[0],
            }
            embeddings |= jax.lax.stop_gradient(remembered)
        return embeddings, nnx.to_pure_dict(nnx.state(network, nnx.BatchStat))

    def objective(
        self,
        params: Params,
        state: MethodState,
        embeddings: Embeddings,
        batch: Batch,
        *,
        key: PRNGKeyArray | None = None,
    ) -> tuple[Float[Array, ""], tuple[Metrics, MethodState]]:
        """Computes the coupling loss, after which the batch's momentum embeddings enter the queue.

        Args:
          batch: `labels` (B, num_labels) multi-hot, all 0 where unknown; without them all are
            unknown.

        Returns:
          the loss; metrics `loss_total` (the same) and `loss_clip`, plain symmetric InfoNCE of the
          batch, which compares runs with different objectives.

        Raises:
          UserError: the labels have another length than `num_labels`.
        """
        config = self.config
        image, text = embeddings["image"], embeddings["text"]
        scale = jnp.exp(params["log_scale"])
        labels = self._labels(batch, len(image))
        queue = state.carry.get("queue")
        remembered = None
        if "momentum_image" in embeddings:
            remembered = embeddings["momentum_image"], embeddings["momentum_text"]
        total = weighted_similarity_coupling(
            image,
            text,
            scale,
            labels,
            queue,
            config.gamma,
            config.loss_block,
            momentum=remembered,
            calibrated=config.calibrated,
            text_quantile=config.text_quantile if config.eliminate == "text_similarity" else None,
        )
        plain = info_nce(image, text, scale, block_size=config.loss_block)
        if queue is not None and remembered is not None:
            queue = memory_queue.push(queue, *remembered, labels)
            state = state._replace(carry=state.carry | {"queue": queue})
        return total, ({"loss_clip": plain, "loss_total": total}, state)

    def _labels(self, batch: Batch, pairs: int) -> Float[Array, "b c"]:
        config = self.config
        if not config.use_labels or "labels" not in batch:
            return jnp.zeros((pairs, config.num_labels))
        labels = batch["labels"].astype(jnp.float32)
        if labels.shape[1] != config.num_labels:
            raise UserError(
                f"config.model.num_labels is {config.num_labels}, but the data carries "
                f"{labels.shape[1]} labels: set it to {labels.shape[1]}, or "
                "config.model.use_labels=false to train without labels"
            )
        return labels

    def after_update(self, params: Params, state: MethodState) -> tuple[Params, MethodState]:
        """Clamps the log-temperature to [0, ln 100] and moves the momentum encoders."""
        params = params | {"log_scale": jnp.clip(params["log_scale"], 0, MAX_LOG_SCALE)}
        if not self.config.queue_size:
            return params, state
        followed = memory_queue.momentum_update(
            params, state.carry["momentum_params"], self.config.momentum
        )
        return params, state._replace(carry=state.carry | {"momentum_params": followed})

    def features(self, params: Params, state: MethodState, batch: Batch) -> dict[str, Array]:
        """Computes `image`, `text`, `scale`, and what transfer learning uses.

        `image_backbone` is the class token after the last norm, or a ResNet's embedding before it
        is normalized; `text_backbone` is the hidden state of [CLS].
        """
        network = self.bind(params, state.batch_stats)
        image, image_backbone = network.image(batch["image"])
        text, text_backbone = network.text(batch["tokens"])
        return {
            "image": image,
            "text": text,
            "scale": self.scale(params),
            "image_backbone": image_backbone,
            "text_backbone": text_backbone,
        }

    def encode_images(
        self,
        params: Params,
        state: MethodState,
        images: Float[Array, "b h w 3"],
        *,
        keys: Key[Array, " b"] | None = None,
    ) -> Float[Array, "b d"]:
        return self.bind(params, state.batch_stats).image(images, keys=keys)[0]

    def encode_texts(
        self, params: Params, state: MethodState, tokens: Int[Array, "b n"]
    ) -> Float[Array, "b d"]:
        return self.bind(params, state.batch_stats).text(tokens)[0]

    @classmethod
    def infer_config(
        cls, shapes: Mapping[str, tuple[int, ...]], text_num_heads: int | None
    ) -> VilrefConfig:
        """Infers sizes from published tensors, with the published objective, InfoNCE."""
        axes = (("text_projection", 1), ("visual.proj", 1), ("visual.attnpool.c_proj.*", 0))
        return VilrefConfig(
            image=infer_image_config(relative(shapes, "visual.")),
            text=bert.infer_config(relative(shapes, "bert."), text_num_heads),
            embed_dim=majority(shapes, axes, 512),
            use_labels=False,
            queue_size=0,
        )


METHOD = Vilref
