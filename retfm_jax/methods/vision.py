"""Networks of images alone: a tower of any system, to be embedded, probed and fine-tuned."""

from flax import nnx
from jaxtyping import Array, Float, PRNGKeyArray

from retfm_jax.errors import UserError
from retfm_jax.methods.base import Batch, MethodState, Metrics, Params
from retfm_jax.methods.image_tower import TowerConfig, TowerMethod, TowerNetwork


class Vision(TowerMethod[TowerNetwork]):
    """A tower without an objective of its own.

    It is probed and fine-tuned by the evaluation's protocols, exported, and begins the image tower
    of other methods (`config.init.image`).
    """

    name, config_class, default_experiment = "vision", TowerConfig, "vision"
    sample_kind = "photograph"

    def network(self, rngs: nnx.Rngs) -> TowerNetwork:
        return TowerNetwork(self.config, rngs=rngs)

    def loss(
        self,
        params: Params,
        state: MethodState,
        batch: Batch,
        key: PRNGKeyArray | None = None,
        *,
        train: bool = False,
    ) -> tuple[Float[Array, ""], tuple[Metrics, MethodState]]:
        """See `Method.loss`.

        Raises:
          UserError: always: a tower alone has no objective.
        """
        raise UserError(
            "a vision network alone has no objective: fine-tune it (retfm train, config finetune), "
            "or begin another method's image tower with it (config.init.image)"
        )


METHOD = Vision
