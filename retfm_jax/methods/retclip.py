"""RET-CLIP (Du et al., MICCAI 2024, arXiv 2405.14137): patients with two eyes and one report."""

import dataclasses

from jaxtyping import Array, Float, PRNGKeyArray

from retfm_jax.methods.base import Batch, MethodState, Metrics, Params, Published
from retfm_jax.methods.dual_encoder import Embeddings
from retfm_jax.methods.patients import PatientConfig, PatientMethod, PatientNetwork


@dataclasses.dataclass(frozen=True)
class RetClipConfig(PatientConfig):
    """Sizes of the network; the defaults are the published ViT-B/16 + RoBERTa-wwm-ext-base."""


class RetClip(PatientMethod[PatientNetwork]):
    """The tripartite objective over patients, of whom some have one eye only."""

    name = "retclip"
    config_class = RetClipConfig
    default_experiment = "retclip_vit_b16"
    published = Published(
        "RET-CLIP",
        (r"visual\.", r"bert\.", r".*_feature_mapping\.weight"),
    )

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
        total, parts = self.level_losses(params, embeddings, batch)
        return total, ({**parts, "loss_total": total}, state)


METHOD = RetClip
