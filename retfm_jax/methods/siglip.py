"""SigLIP (Zhai et al., ICCV 2023, arXiv 2303.15343): a sigmoid loss over image-text pairs."""

import dataclasses
from typing import Annotated, Literal

import jax.numpy as jnp
from flax import nnx

from retfm_jax.losses.sigmoid import sigmoid
from retfm_jax.methods.dual_encoder import DualEncoder, TwoTowers, TwoTowersConfig
from retfm_jax.ranges import Positive, Range


@dataclasses.dataclass(frozen=True)
class SiglipConfig(TwoTowersConfig):
    """Sizes of the network and of the loss.

    Attributes:
      samples: "pair" of an image and its text, or "patient", whose eyes' mean meets the report.
      groups: of the loss, see `losses.sigmoid`; as many as devices save memory and traffic.
      initial_scale, initial_bias: of similarities before the first step, as published.
    """

    samples: Literal["pair", "patient"] = "pair"
    groups: Positive = 1
    initial_scale: Annotated[float, Range(above=0)] = 10.0
    initial_bias: float = -10.0


class SiglipNetwork(TwoTowers):
    """Both towers, a projection of the text, a log-temperature and a bias.

    Args:
      config: sizes of the network.
      rngs: streams of random numbers for the initial parameters.
    """

    def __init__(self, config: SiglipConfig, *, rngs: nnx.Rngs):
        super().__init__(config, rngs=rngs)
        self.bias = nnx.Param(jnp.asarray(config.initial_bias))


class Siglip(DualEncoder[SiglipNetwork]):
    """Sigmoid objective: whether each image and each text of a batch belong together.

    Args:
      config: sizes of the network; `samples` decides what a sample is.
    """

    name, config_class, default_experiment = "siglip", SiglipConfig, "siglip_vit_b16"
    ignores_padding = True

    def __init__(self, config: SiglipConfig):
        super().__init__(config)
        self.sample_kind = config.samples

    def network(self, rngs):
        return SiglipNetwork(self.config, rngs=rngs)

    def objective(self, params, state, embeddings, batch, *, key=None):
        """Computes the sigmoid loss; metric `loss_total`, the same."""
        scales = self.scale(params), params["bias"]
        loss = sigmoid(embeddings["image"], embeddings["text"], *scales, self.config.groups)
        return loss, ({"loss_total": loss}, state)


METHOD = Siglip
