"""SigLIP (Zhai et al., ICCV 2023, arXiv 2303.15343): a sigmoid loss over image-text pairs."""

import dataclasses
from typing import Annotated, Literal

import jax.numpy as jnp
from flax import nnx

from retfm_jax.losses.sigmoid import sigmoid
from retfm_jax.methods.dual_encoder import DualEncoder
from retfm_jax.methods.towers import ImageTowerConfig, image_tower
from retfm_jax.models import bert, vit
from retfm_jax.models.layers import Linear
from retfm_jax.ranges import Positive, Range, Section


@dataclasses.dataclass(frozen=True)
class SiglipConfig(Section):
    """Sizes of the network.

    Attributes:
      image: sizes of the image tower, whose type chooses it.
      text: sizes of the text tower.
      samples: "pair" of an image and its text, or "patient", whose eyes' mean meets the report.
      embed_dim: width of the embeddings.
      dtype: compute type of the towers; parameters stay float32.
      groups: of the loss, see `losses.sigmoid`; as many as devices save memory and traffic.
      initial_scale, initial_bias: of similarities before the first step, as published.
    """

    image: ImageTowerConfig = dataclasses.field(default_factory=vit.ViTConfig)
    text: bert.BertConfig = dataclasses.field(default_factory=bert.BertConfig)
    samples: Literal["pair", "patient"] = "pair"
    embed_dim: Positive = 512
    dtype: Literal["float32", "bfloat16"] = "float32"
    groups: Positive = 1
    initial_scale: Annotated[float, Range(above=0)] = 10.0
    initial_bias: float = -10.0


class SiglipNetwork(nnx.Module):
    """Both towers, a projection of the text, a log-temperature and a bias.

    Args:
      config: sizes of the network.
      rngs: streams of random numbers for the initial parameters.
    """

    def __init__(self, config: SiglipConfig, *, rngs: nnx.Rngs):
        dim, width = config.embed_dim, config.text.width
        self.visual = image_tower(config.image, dim, dtype=config.dtype, rngs=rngs)
        self.bert = bert.Bert(config.text, dtype=config.dtype, rngs=rngs)
        self.text_projection = Linear(width, dim, std=width**-0.5, bias=False, rngs=rngs)
        self.log_scale = nnx.Param(jnp.log(config.initial_scale))
        self.bias = nnx.Param(jnp.asarray(config.initial_bias))

    def text(self, tokens, *, keys=None):
        """Embeds texts, (b, embed_dim) float32, not normalized.

        Args:
          tokens: token ids (b, n) int32, padded with 0.
          keys: randomness of dropout, one key for each text; None drops nothing.
        """
        hidden, _ = self.bert(tokens, keys=keys)
        return self.text_projection(hidden[:, 0].astype(jnp.float32))


class Siglip(DualEncoder[SiglipNetwork]):
    """Sigmoid objective: whether each image and each text of a batch belong together.

    Args:
      config: sizes of the network; `samples` decides what a sample is.
    """

    name, config_class, default_experiment = "siglip", SiglipConfig, "siglip_vit_b16"

    def __init__(self, config: SiglipConfig):
        super().__init__(config)
        self.sample_kind = config.samples

    @property
    def ignores_padding(self) -> bool:
        """True: padding takes no part; see `Method.ignores_padding`."""
        return True

    def network(self, rngs):
        return SiglipNetwork(self.config, rngs=rngs)

    def objective(self, params, state, embeddings, batch, *, key=None):
        """Computes the sigmoid loss; metric `loss_total`, the same."""
        scales = self.scale(params), params["bias"]
        loss = sigmoid(embeddings["image"], embeddings["text"], *scales, self.config.groups)
        return loss, ({"loss_total": loss}, state)


METHOD = Siglip
