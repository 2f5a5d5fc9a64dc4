"""Network and encoding of methods whose samples are patients with two eyes and one report."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar, cast

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, Key

from retfm_jax.losses.tripartite import LEVELS, tripartite
from retfm_jax.methods.base import Batch, MethodState, Metrics, Params
from retfm_jax.methods.dual_encoder import DualEncoder, Embeddings
from retfm_jax.methods.outputs import (
    TEXT_EMBEDDING,
    LinearMap,
    Output,
    Relu,
    TextTower,
    Twice,
    Unit,
    image_outputs,
)
from retfm_jax.methods.towers import (
    ImageTowerConfig,
    Names,
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
class PatientConfig(Section):
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


class PatientNetwork(nnx.Module):
    """Both towers, a head for each level and modality, three log-temperatures.

    Args:
      config: sizes of the network.
      rngs: streams of random numbers for the initial parameters.
    """

    def __init__(self, config: PatientConfig, *, rngs: nnx.Rngs):
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


#: What a method's `network` builds.
Network = TypeVar("Network", bound=PatientNetwork)


class PatientMethod(DualEncoder[Network]):
    """Patients embedded at three levels, of whom some have one eye only.

    A patient of whom one eye is known is embedded as if the other eye looked alike.
    """

    sample_kind = "patient"
    ignores_padding = True

    def network(self, rngs: nnx.Rngs) -> Network:
        """Builds both towers, the heads and the log-temperatures.

        Args:
          rngs: streams of random numbers for the initial parameters.
        """
        return cast(Network, PatientNetwork(self.config, rngs=rngs))

    @property
    def weight_names(self) -> Names:
        """Rows as `Method.weight_names` has, in the names of RET-CLIP's files."""
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

    @property
    def outputs(self) -> tuple[Output, ...]:
        """Embeddings at the level of the patient, and features; see `Method.outputs`."""
        image = image_outputs(self.config.image, Twice(), LinearMap("image_head/patient"), Unit())
        head = "text_head/patient"
        hidden, output = LinearMap(f"{head}/hidden"), LinearMap(f"{head}/output")
        text = TextTower(self.config.text), hidden, Relu(), output, Unit()
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
        images = image_levels(network, embed_eyes(network.visual, batch, image_keys, train))
        texts = text_levels(network, batch["tokens"], text_keys)
        stats = nnx.to_pure_dict(nnx.state(network, nnx.BatchStat))
        return images | texts, stats

    def level_losses(
        self, params: Params, embeddings: Embeddings, batch: Batch
    ) -> tuple[Float[Array, ""], Metrics]:
        """Computes the tripartite loss; see `losses.tripartite`.

        Args:
          params: all parameters, of which the log-temperatures are read.
          embeddings: those of the three levels, of the whole batch.
          batch: its `has_left` and `has_right`, where there are any.

        Returns:
          the sum of `loss_patient`, `loss_left` and `loss_right`, and these.
        """
        return tripartite(
            embeddings,
            {level: jnp.exp(params["log_scale"][level]) for level in LEVELS},
            batch.get("has_left"),
            batch.get("has_right"),
            self.config.loss_block,
        )

    def after_update(self, params: Params, state: MethodState) -> tuple[Params, MethodState]:
        """Clamps each log-temperature to [0, ln 100]."""
        clamped = jax.tree.map(lambda s: jnp.clip(s, 0, MAX_LOG_SCALE), params["log_scale"])
        return params | {"log_scale": clamped}, state

    def features(self, params: Params, state: MethodState, batch: Batch) -> dict[str, Array]:
        """Computes the six embeddings and `scale_patient`, `scale_left`, `scale_right`."""
        return self.encode(params, state, batch)[0] | self.scales(params)

    def scales(self, params: Params) -> dict[str, Float[Array, ""]]:
        """Factors on similarities, `scale_patient`, `scale_left` and `scale_right`, each ().

        Args:
          params: all parameters, a nested dict.
        """
        return {f"scale_{level}": jnp.exp(params["log_scale"][level]) for level in LEVELS}

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
        return image_levels(network, jnp.stack([embedded, embedded], 1))["image_patient"]

    def encode_texts(
        self, params: Params, state: MethodState, tokens: Int[Array, "b n"]
    ) -> Float[Array, "b d"]:
        """Embeds reports at the level of the patient."""
        return text_levels(self.bind(params, state.batch_stats), tokens, None)["text_patient"]

    def scale(self, params: Params) -> Float[Array, ""]:
        return jnp.exp(params["log_scale"]["patient"])

    def encode_patients(self, params: Params, state: MethodState, batch: Batch) -> dict[str, Array]:
        network = self.bind(params, state.batch_stats)
        return image_levels(network, embed_eyes(network.visual, batch, None, False))

    def encode_reports(
        self, params: Params, state: MethodState, tokens: Int[Array, "b n"]
    ) -> dict[str, Array]:
        return text_levels(self.bind(params, state.batch_stats), tokens, None)

    @classmethod
    def infer_config(
        cls, shapes: Mapping[str, tuple[int, ...]], text_num_heads: int | None
    ) -> PatientConfig:
        """See `Method.infer_config`."""
        dim = majority(
            shapes, (("text_projection*.2.bias", 0), ("*_feature_mapping.weight", 0)), 512
        )
        return cls.config_class(
            image=infer_image_config(relative(shapes, "visual.")),
            text=bert.infer_config(relative(shapes, "bert."), text_num_heads),
            embed_dim=dim,
        )


def image_levels(network: PatientNetwork, eyes: Float[Array, "b 2 d"]) -> Embeddings:
    """Embeds patients' images at the three levels.

    Args:
      network: its heads are applied.
      eyes: what the tower made of left and right eyes, (b, 2, d), not normalized.

    Returns:
      unit-norm `image_patient`, `image_left`, `image_right`, each (b, embed_dim).
    """
    head, left, right = network.image_head, eyes[:, 0], eyes[:, 1]
    return {
        "image_patient": unit(head["patient"](jnp.concatenate([left, right], axis=-1))),
        "image_left": unit(head["left"](left)),
        "image_right": unit(head["right"](right)),
    }


def text_levels(
    network: PatientNetwork, tokens: Int[Array, "b n"], keys: Key[Array, " b"] | None
) -> Embeddings:
    """Embeds patients' reports at the three levels.

    Args:
      network: its text tower and heads are applied.
      tokens: token ids (b, n) int32, padded with 0.
      keys: randomness of dropout, one key for each report; None drops nothing.

    Returns:
      unit-norm `text_patient`, `text_left`, `text_right`, each (b, embed_dim).
    """
    hidden, _ = network.bert(tokens, keys=keys)
    first = hidden[:, 0].astype(jnp.float32)
    return {f"text_{level}": unit(network.text_head[level](first)) for level in LEVELS}
