"""KeepFIT (Wu et al., MICCAI 2024, arXiv 2405.11793): categories, revised by expert texts.

FLAIR (Silva-Rodriguez et al., arXiv 2308.07898) is the same network without the attention.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Literal

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Key, PRNGKeyArray

from retfm_jax.errors import UserError
from retfm_jax.losses.contrastive import info_nce, self_paced_weight, soft_target_info_nce
from retfm_jax.losses.text_revision import SoftmaxOver, revise_texts, revision_loss
from retfm_jax.methods.base import Batch, MethodState, Metrics, Params, Published
from retfm_jax.methods.dual_encoder import DualEncoder, Embeddings
from retfm_jax.methods.outputs import (
    TEXT_EMBEDDING,
    LinearMap,
    Output,
    TextTower,
    Unit,
    image_outputs,
)
from retfm_jax.methods.towers import prefixed, relative, text_names
from retfm_jax.models import bert, resnet
from retfm_jax.models.layers import Linear, majority, split, unit
from retfm_jax.ranges import NonNegative, Positive, PositiveFloat, Rate, Section

#: Initial and largest log-temperature.
INITIAL_LOG_SCALE = math.log(1 / 0.07)
MAX_LOG_SCALE = math.log(100)

#: The hidden states whose mean is a text; 0 would be the embeddings.
_TEXT_LAYERS = (1, 2, -1)

_IMAGE, _TEXT = "vision_model.", "text_model."


@dataclasses.dataclass(frozen=True)
class KeepfitConfig(Section):
    """Sizes of the network and parts of the objective; the defaults are the published ones.

    The paper's ablations: revision only (`expert_weight=0`), mixed training only
    (`revision_weight=0`), both.

    Attributes:
      image: sizes of the image tower.
      text: the default is Bio_ClinicalBERT, BERT-base with an English vocabulary.
      embed_dim: width of all embeddings.
      dtype: compute type of the towers; parameters stay float32.
      pooling: a text's hidden states are averaged over "all" positions, padding included, as
        published, so that an embedding depends on the length that texts are padded to; or over
        the "text" alone.
      attention: whether there is a revision attention; FLAIR has none.
      attention_heads: heads of the revision attention.
      attention_dropout: share of its weights that is dropped in training.
      attention_over: see `losses.text_revision.revise_texts`.
      expert_weight, revision_weight: of these losses in the sum; 0 leaves one out.
      self_paced_epochs: epochs in which the weight of the direction from texts to images grows to
        1, in the category loss (MedKCO, arXiv 2603.09101); None: it is 1 throughout.
      loss_block: candidates per block of the losses, for batches whose similarities do not fit
        into memory; None computes them at once.
    """

    image: resnet.ResNetConfig = dataclasses.field(default_factory=resnet.ResNetConfig)
    text: bert.BertConfig = dataclasses.field(
        default_factory=lambda: bert.BertConfig(vocab_size=28996)
    )
    embed_dim: Positive = 512
    dtype: Literal["float32", "bfloat16"] = "float32"
    pooling: Literal["all", "text"] = "all"
    attention: bool = True
    attention_heads: Positive = 2
    attention_dropout: Rate = 0.5
    attention_over: SoftmaxOver = "heads"
    expert_weight: NonNegative = 1.0
    revision_weight: NonNegative = 100.0
    self_paced_epochs: PositiveFloat | None = None
    loss_block: Positive | None = None

    def __post_init__(self):
        super().__post_init__()
        if self.text.layers < 2:
            raise ValueError("text.layers must be at least 2: a text is a mean over three states")
        if self.embed_dim % self.attention_heads:
            raise ValueError(
                f"embed_dim {self.embed_dim} does not divide into {self.attention_heads} heads"
            )
        if self.revision_weight and not self.attention:
            raise ValueError("revision_weight needs attention=true; 0 goes without it")


class RevisionAttention(nnx.Module):
    """Gives category images texts assembled from expert texts of similar images.

    Args:
      config: sizes of the network.
      rngs: streams of random numbers for the initial parameters.
    """

    def __init__(self, config: KeepfitConfig, *, rngs: nnx.Rngs):
        dim = config.embed_dim
        self.config = config

        def linear():
            return Linear(dim, dim, std=(3 * dim) ** -0.5, bias=False, rngs=rngs)

        self.query, self.key, self.value, self.out = linear(), linear(), linear(), linear()

    def __call__(
        self,
        image: Float[Array, "b d"],
        expert_image: Float[Array, "e d"],
        expert_text: Float[Array, "e d"],
        *,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "b d"]:
        revised = revise_texts(
            self.query(image),
            self.key(expert_image),
            self.value(expert_text),
            self.config.attention_heads,
            softmax_over=self.config.attention_over,
            dropout_rate=self.config.attention_dropout,
            key=key,
        )
        return self.out(revised)


class KeepfitNetwork(nnx.Module):
    """Both towers with their projections, the revision attention, one log-temperature.

    Args:
      config: sizes of the network.
      rngs: streams of random numbers for the initial parameters.
    """

    def __init__(self, config: KeepfitConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.visual = resnet.ResNet(config.image, dtype=config.dtype, rngs=rngs)
        self.bert = bert.Bert(config.text, dtype=config.dtype, rngs=rngs)
        width = config.text.width
        # Published files hold the pooler of their BERT; no output depends on it.
        self.pooler = Linear(width, width, std=0.02, bias=True, rngs=rngs)

        def projection(inputs):
            std = (3 * inputs) ** -0.5
            return Linear(inputs, config.embed_dim, std=std, bias=False, rngs=rngs)

        self.image_projection = projection(config.image.features)
        self.text_projection = projection(width)
        if config.attention:
            self.attention = RevisionAttention(config, rngs=rngs)
        self.log_scale = nnx.Param(jnp.asarray(INITIAL_LOG_SCALE))

    def image(self, images: Float[Array, "b h w 3"], *, train: bool = False) -> Array:
        """Embeds images with unit norm, (b, d) float32: normalized, projected, normalized.

        Args:
          images: normalized images of any size, NHWC float32.
          train: batch norms use and update the statistics of the batch.
        """
        return unit(self.image_projection(unit(self.visual(images, train=train))))

    def text(
        self,
        tokens: Int[Array, "b n"],
        mask: Bool[Array, "b n"] | Int[Array, "b n"] | None = None,
        *,
        keys: Key[Array, " b"] | None = None,
    ) -> Array:
        """Embeds texts with unit norm, (b, d) float32: normalized, projected, normalized.

        Args:
          tokens: token ids (b, n) int32, padded with 0.
          mask: which tokens count (b, n) bool, of each text the first ones; None: those that are
            not 0.
          keys: randomness of dropout, one key for each text; None drops nothing.
        """
        mask = tokens != 0 if mask is None else mask.astype(bool)
        _, states = self.bert(tokens, mask, keys=keys)
        counted = mask if self.config.pooling == "text" else jnp.ones_like(mask)
        share = counted / jnp.maximum(counted.sum(1, keepdims=True), 1)
        layers = jnp.stack([states[layer].astype(jnp.float32) for layer in _TEXT_LAYERS])
        pooled = jnp.einsum("lbnd,bn->lbd", layers, share).mean(0)
        return unit(self.text_projection(unit(pooled)))


class Keepfit(DualEncoder[KeepfitNetwork]):
    """Category pairs with soft targets, expert pairs, and revision of the first by the second."""

    name = "keepfit"
    config_class = KeepfitConfig
    default_experiment = "keepfit_resnet50"
    published = Published(
        "FLAIR or KeepFIT",
        (r"vision_model\.model\.(conv1|layer1)\.", r"text_model\.model\."),
    )
    sample_kind = "category"
    image_prefix = f"{_IMAGE}model."
    text_prefix = f"{_TEXT}model."
    untrained = ("pooler",)

    def __init__(self, config: KeepfitConfig):
        super().__init__(config)
        self.ignores_padding = config.pooling == "text"

    def network(self, rngs: nnx.Rngs) -> KeepfitNetwork:
        return KeepfitNetwork(self.config, rngs=rngs)

    @property
    def weight_names(self) -> tuple[tuple[str, str, str], ...]:
        rows = [
            *prefixed(resnet.names(self.config.image), self.image_prefix, "visual/"),
            *text_names(self.text_prefix, "bert/"),
            (f"{self.text_prefix}pooler.dense.weight", "pooler/kernel", "linear"),
            (f"{self.text_prefix}pooler.dense.bias", "pooler/bias", "copy"),
            ("logit_scale", "log_scale", "copy"),
        ]
        for modality, theirs, ours in (
            ("vision", _IMAGE, "image_projection"),
            ("text", _TEXT, "text_projection"),
        ):
            published = f"{theirs}projection_head_{modality}.projection.weight"
            rows.append((published, f"{ours}/kernel", "linear"))
        if self.config.attention:
            for theirs, ours in (("q", "query"), ("k", "key"), ("v", "value"), ("o", "out")):
                rows.append((f"attention.W_{theirs}.weight", f"attention/{ours}/kernel", "linear"))
        return tuple(rows)

    @property
    def outputs(self) -> tuple[Output, ...]:
        """Embeddings, normalized before and behind their projections; see `Method.outputs`."""
        config = self.config
        image = image_outputs(config.image, Unit(), LinearMap("image_projection"), Unit())
        tower = TextTower(config.text, _TEXT_LAYERS, config.pooling)
        text = tower, Unit(), LinearMap("text_projection"), Unit()
        return (*image, Output(TEXT_EMBEDDING, text))

    def encode(
        self,
        params: Params,
        state: MethodState,
        batch: Batch,
        *,
        keys: Key[Array, " b"] | None = None,
        train: bool = False,
    ) -> tuple[Embeddings, dict[str, Any]]:
        """Embeds category pairs and expert pairs.

        Args:
          batch: `image` (B, H, W, 3) and `tokens` (B, L); of the expert stream, where there is one,
            `expert_image` (E, H, W, 3) and `expert_tokens` (E, L); optionally `attention_mask`
            and `expert_attention_mask`, by default where tokens are not 0. With keys E = B.

        Returns:
          unit-norm `image`, `text` (B, embed_dim) and `expert_image`, `expert_text` (E, embed_dim),
          float32. As published, batch norms see the two streams one after the other.
        """
        network = self.bind(params, state.batch_stats)
        embeddings = {}
        for prefix, stream_keys in zip(("", "expert_"), split(keys, 2), strict=True):
            if f"{prefix}image" in batch:
                embeddings[f"{prefix}image"] = network.image(batch[f"{prefix}image"], train=train)
                embeddings[f"{prefix}text"] = network.text(
                    batch[f"{prefix}tokens"], batch.get(f"{prefix}attention_mask"), keys=stream_keys
                )
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
        """Computes the weighted sum of three losses.

        It is `loss_category + expert_weight * loss_expert + revision_weight * loss_revision`.

        Args:
          batch: `category` (B,) integers, equal where pairs were sampled for the same category; for
            a self-paced objective `epoch` (B,) integers, that of the run, from 0.
          key: randomness of the dropout in the revision attention.

        Returns:
          the total; metrics `loss_total` and the losses that there is data for; the same state.

        Raises:
          UserError: a weighted loss needs the expert stream and there is none, or a self-paced one
            the epoch.
        """
        config = self.config
        scale = self.scale(params)
        image, text = embeddings["image"], embeddings["text"]
        block = config.loss_block
        weight = self._text_weight(batch)
        total = soft_target_info_nce(image, text, scale, batch["category"], block, weight)
        losses = {"loss_category": total}
        if "expert_image" in embeddings:
            expert = embeddings["expert_image"], embeddings["expert_text"]
            losses["loss_expert"] = info_nce(*expert, scale, block_size=block)
            total += config.expert_weight * losses["loss_expert"]
            if config.attention:
                revised = self._revised(params, state, embeddings, key)
                losses["loss_revision"] = revision_loss(text, revised)
                total += config.revision_weight * losses["loss_revision"]
        elif config.expert_weight or config.revision_weight:
            raise UserError(
                "KeepFIT trains with expert pairs, and config.data.expert names none: set it, or "
                "config.model.expert_weight=0 and config.model.revision_weight=0 to train on "
                "categories alone"
            )
        return total, ({**losses, "loss_total": total}, state)

    def _text_weight(self, batch: Batch) -> Float[Array, ""] | float:
        epochs = self.config.self_paced_epochs
        if epochs is None:
            return 1.0
        if "epoch" not in batch:
            raise UserError("batch: epoch missing; config.model.self_paced_epochs needs it")
        return self_paced_weight(batch["epoch"].max(), epochs)

    def _revised(
        self, params: Params, state: MethodState, embeddings: Embeddings, key: PRNGKeyArray | None
    ) -> Float[Array, "b d"]:
        attention = self.bind(params, state.batch_stats).attention
        names = ("image", "expert_image", "expert_text")
        return attention(*(embeddings[name] for name in names), key=key)

    def after_update(self, params: Params, state: MethodState) -> tuple[Params, MethodState]:
        """Clamps the log-temperature to [0, ln 100]."""
        return params | {"log_scale": jnp.clip(params["log_scale"], 0, MAX_LOG_SCALE)}, state

    def features(self, params: Params, state: MethodState, batch: Batch) -> dict[str, Array]:
        """Embeddings of `encode`, `scale` and, with an expert stream, `revised_text`."""
        embeddings, _ = self.encode(params, state, batch)
        features = embeddings | {"scale": self.scale(params)}
        if self.config.attention and "expert_image" in embeddings:
            features["revised_text"] = self._revised(params, state, embeddings, None)
        return features

    def encode_images(
        self,
        params: Params,
        state: MethodState,
        images: Float[Array, "b h w 3"],
        *,
        keys: Key[Array, " b"] | None = None,
    ) -> Float[Array, "b d"]:
        return self.bind(params, state.batch_stats).image(images)

    def image_features(
        self,
        params: Params,
        state: MethodState,
        images: Float[Array, "b h w 3"],
        *,
        keys: Key[Array, " b"] | None = None,
    ) -> Float[Array, "b width"]:
        return self.bind(params, state.batch_stats).visual(images).astype(jnp.float32)

    def encode_texts(
        self, params: Params, state: MethodState, tokens: Int[Array, "b n"]
    ) -> Float[Array, "b d"]:
        return self.bind(params, state.batch_stats).text(tokens)

    @classmethod
    def infer_config(
        cls, shapes: Mapping[str, tuple[int, ...]], text_num_heads: int | None
    ) -> KeepfitConfig:
        """Infers sizes from published tensors; without attention tensors they are FLAIR's."""
        axes = (("*.projection_head_*.projection.weight", 0), ("attention.W_?.weight", 0))
        attention = any(name.startswith("attention.") for name in shapes)
        return KeepfitConfig(
            image=resnet.infer_config(relative(shapes, cls.image_prefix)),
            text=bert.infer_config(relative(shapes, cls.text_prefix), text_num_heads),
            embed_dim=majority(shapes, axes, 512),
            attention=attention,
            expert_weight=KeepfitConfig.expert_weight if attention else 0.0,
            revision_weight=KeepfitConfig.revision_weight if attention else 0.0,
        )


METHOD = Keepfit
