"""RET-CLIP (Du et al., MICCAI 2024, arXiv 2405.14137): patients with two eyes and one report."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, Key, PRNGKeyArray

from retfm_jax.losses.tripartite import LEVELS, tripartite
from retfm_jax.methods.base import Batch, MethodState, Metrics, Params, Published
from retfm_jax.methods.dual_encoder import DualEncoder, Embeddings
from retfm_jax.methods.towers import (
    ImageTowerConfig,
    embed_eyes,
    image_names,
    image_tower,
    infer_image_config,
    relative,
    text_names,
)
from retfm_jax.models import bert, vit
from retfm_jax.models.layers import Linear, majority, split, unit
from retfm_jax.ranges import Positive, Range, Section

#: Largest log-temperature.
MAX_LOG_SCALE = math.log(100)

#: What the published names append for each level.
_SUFFIX = {"patient": "", "left": "_left", "right": "_right"}
_FEATURE_MAPPING = {"patient": "global", "left": "left", "right": "right"}


@dataclasses.dataclass(frozen=True)
class RetClipConfig(Section):
    """Sizes of the network; the defaults are the published ViT-B/16 + RoBERTa-wwm-ext-base.

    Attributes:
      image: sizes of the image tower, whose type chooses it.
      text: sizes of the text tower.
      embed_dim: width of all six embeddings.
      dtype: compute type of the towers; parameters stay float32.
      loss_block: candidates per block of the loss, for batches whose B x B similarities do not
        fit into memory; None computes them at once.
      initial_scale: of similarities before the first step. The published 90 suits towers that were
        trained before; randomly initialized towers learn faster from 14 (CLIP's 1 / 0.07).
    """

    image: ImageTowerConfig = dataclasses.field(default_factory=vit.ViTConfig)
    text: bert.BertConfig = dataclasses.field(default_factory=bert.BertConfig)
    embed_dim: Positive = 512
    dtype: Literal["float32", "bfloat16"] = "float32"
    loss_block: Positive | None = None
    initial_scale: Annotated[float, Range(above=0, high=100)] = 90.0


class TextHead(nnx.Module):
    """Two linear layers with a ReLU between them.

    Args:
      width: of the input and between the layers.
      outputs: width of the output.
      rngs: streams of random numbers for the initial parameters.
    """

    def __init__(self, width: int, outputs: int, *, rngs: nnx.Rngs):
        self.hidden = Linear(width, width, std=width**-0.5, bias=True, rngs=rngs)
        self.output = Linear(width, outputs, std=width**-0.5, bias=True, rngs=rngs)

    def __call__(self, x: Float[Array, "b d"]) -> Float[Array, "b e"]:
        return self.output(jax.nn.relu(self.hidden(x)))


class RetClipNetwork(nnx.Module):
    """Both towers, a head for each level and modality, three log-temperatures.

    Args:
      config: sizes of the network.
      rngs: streams of random numbers for the initial parameters.
    """

    def __init__(self, config: RetClipConfig, *, rngs: nnx.Rngs):
        dim = config.embed_dim
        self.visual = image_tower(config.image, dim, dtype=config.dtype, rngs=rngs)
        self.bert = bert.Bert(config.text, dtype=config.dtype, rngs=rngs)
        self.image_head = nnx.Dict()
        self.text_head = nnx.Dict()
        self.log_scale = nnx.Dict()
        for level in LEVELS:
            inputs = 2 * dim if level == "patient" else dim
            self.image_head[level] = Linear(inputs, dim, std=inputs**-0.5, bias=False, rngs=rngs)
            self.text_head[level] = TextHead(config.text.width, dim, rngs=rngs)
            self.log_scale[level] = nnx.Param(jnp.log(config.initial_scale))


class RetClip(DualEncoder[RetClipNetwork]):
    """The tripartite objective over patients, of whom some have one eye only."""

    name = "retclip"
    config_class = RetClipConfig
    default_experiment = "retclip_vit_b16"
    published = Published(
        "RET-CLIP",
        (r"visual\.", r"bert\.", r".*_feature_mapping\.weight"),
    )
    sample_kind = "patient"
    ignores_padding = True

    def network(self, rngs: nnx.Rngs) -> RetClipNetwork:
        return RetClipNetwork(self.config, rngs=rngs)

    @property
    def weight_names(self) -> tuple[tuple[str, str, str], ...]:
        heads = []
        for level in LEVELS:
            suffix = _SUFFIX[level]
            heads.append((f"logit_scale{suffix}", f"log_scale/{level}", "copy"))
            for theirs, ours in (("0", "hidden"), ("2", "output")):
                published, path = f"text_projection{suffix}.{theirs}", f"text_head/{level}/{ours}"
                heads.append((f"{published}.weight", f"{path}/kernel", "linear"))
                heads.append((f"{published}.bias", f"{path}/bias", "copy"))
            mapping = f"{_FEATURE_MAPPING[level]}_feature_mapping.weight"
            heads.append((mapping, f"image_head/{level}/kernel", "linear"))
        return (
            *image_names(self.config.image, "visual.", "visual/"),
            *text_names("bert.", "bert/"),
            *heads,
        )

    def encode(
        self,
        params: Params,
        state: MethodState,
        batch: Batch,
        *,
        keys: Key[Array, " b"] | None = None,
        train: bool = False,
    ) -> tuple[Embeddings, dict[str, Any]]:
        """Embeds patients at the three levels.

        Args:
          batch: `image_left`, `image_right` (B, H, W, 3), `tokens` (B, L), and, where eyes are
            missing, `has_left`, `has_right` (B,) bool. What a missing eye's pixels hold does not
            matter to the losses that it is absent from.

        Returns:
          unit-norm `image_patient`, `image_left`, `image_right` and `text_patient`, `text_left`,
          `text_right`, each (B, embed_dim) float32; and the new batch statistics. The patient's
          image embedding is a linear map of both eyes' embeddings side by side; where one eye is
          missing, the other one stands in for it.
        """
        network = self.bind(params, state.batch_stats)
        image_keys, text_keys = split(keys, 2)
        eyes = embed_eyes(network.visual, batch, image_keys, train)
        images = _image_levels(network, eyes[:, 0], eyes[:, 1])
        texts = _text_levels(network, batch["tokens"], text_keys)
        stats = nnx.to_pure_dict(nnx.state(network, nnx.BatchStat))
        return images | texts, stats

    def objective(
        self,
        params: Params,
        state: MethodState,
        embeddings: Embeddings,
        batch: Batch,
        *,
        key: PRNGKeyArray | None = None,
    ) -> tuple[Float[Array, ""], tuple[Metrics, MethodState]]:
        """Computes the tripartite loss from the embeddings of the three levels.

        Returns:
          the loss; metrics `loss_patient`, `loss_left`, `loss_right`, `loss_total`; the same state.
        """
        scales = {level: jnp.exp(params["log_scale"][level]) for level in LEVELS}
        total, parts = tripartite(
            embeddings,
            scales,
            batch.get("has_left"),
            batch.get("has_right"),
            self.config.loss_block,
        )
        return total, ({**parts, "loss_total": total}, state)

    def after_update(self, params: Params, state: MethodState) -> tuple[Params, MethodState]:
        """Clamps each log-temperature to [0, ln 100]."""
        clamped = jax.tree.map(lambda s: jnp.clip(s, 0, MAX_LOG_SCALE), params["log_scale"])
        return params | {"log_scale": clamped}, state

    def features(self, params: Params, state: MethodState, batch: Batch) -> dict[str, Array]:
        """Computes the six embeddings and `scale_patient`, `scale_left`, `scale_right`."""
        embeddings, _ = self.encode(params, state, batch)
        scales = {f"scale_{level}": jnp.exp(params["log_scale"][level]) for level in LEVELS}
        return embeddings | scales

    def encode_images(
        self,
        params: Params,
        state: MethodState,
        images: Float[Array, "b h w 3"],
        *,
        keys: Key[Array, " b"] | None = None,
    ) -> Float[Array, "b d"]:
        """Embeds patients of whom one eye is known, at the level of the patient."""
        network = self.bind(params, state.batch_stats)
        embedded, _ = network.visual(images, keys=keys)
        return _image_levels(network, embedded, embedded)["image_patient"]

    def encode_texts(
        self, params: Params, state: MethodState, tokens: Int[Array, "b n"]
    ) -> Float[Array, "b d"]:
        """Embeds reports at the level of the patient."""
        return _text_levels(self.bind(params, state.batch_stats), tokens, None)["text_patient"]

    def scale(self, params: Params) -> Float[Array, ""]:
        return jnp.exp(params["log_scale"]["patient"])

    def encode_patients(self, params: Params, state: MethodState, batch: Batch) -> dict[str, Array]:
        network = self.bind(params, state.batch_stats)
        eyes = embed_eyes(network.visual, batch, None, False)
        return _image_levels(network, eyes[:, 0], eyes[:, 1])

    def encode_reports(
        self, params: Params, state: MethodState, tokens: Int[Array, "b n"]
    ) -> dict[str, Array]:
        return _text_levels(self.bind(params, state.batch_stats), tokens, None)

    @classmethod
    def infer_config(
        cls, shapes: Mapping[str, tuple[int, ...]], text_num_heads: int | None
    ) -> RetClipConfig:
        dim = majority(
            shapes, (("text_projection*.2.bias", 0), ("*_feature_mapping.weight", 0)), 512
        )
        return RetClipConfig(
            image=infer_image_config(relative(shapes, "visual.")),
            text=bert.infer_config(relative(shapes, "bert."), text_num_heads),
            embed_dim=dim,
        )


def _image_levels(
    network: RetClipNetwork, left: Float[Array, "b d"], right: Float[Array, "b d"]
) -> Embeddings:
    head = network.image_head
    return {
        "image_patient": unit(head["patient"](jnp.concatenate([left, right], axis=-1))),
        "image_left": unit(head["left"](left)),
        "image_right": unit(head["right"](right)),
    }


def _text_levels(
    network: RetClipNetwork, tokens: Int[Array, "b n"], keys: Key[Array, " b"] | None
) -> Embeddings:
    hidden, _ = network.bert(tokens, keys=keys)
    first = hidden[:, 0].astype(jnp.float32)
    return {f"text_{level}": unit(network.text_head[level](first)) for level in LEVELS}


METHOD = RetClip
