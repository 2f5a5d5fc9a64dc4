"""RET-CLIP+ (sStonemason/RET-CLIP-PLUS, 2026): RET-CLIP with a masked autoencoder, in stages."""

import copy
import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any, Literal, cast

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Key, PRNGKeyArray

from retfm_jax.losses.masked_image import (
    denormalize_patches,
    masked_error,
    normalize_patches,
    patchify,
    unpatchify,
)
from retfm_jax.losses.tripartite import LEVELS
from retfm_jax.methods.base import Batch, MethodState, Metrics, Params, Published, Stage
from retfm_jax.methods.dual_encoder import Embeddings
from retfm_jax.methods.masked import (
    DECODER_NAMES,
    Masked,
    infer_decoder,
    mask_noise,
    predict_hidden,
    visible_patches,
)
from retfm_jax.methods.patients import (
    PatientConfig,
    PatientMethod,
    PatientNetwork,
    image_levels,
    text_levels,
)
from retfm_jax.methods.towers import (
    Names,
    embed_eye_rows,
    embed_eyes,
    eye_keys,
    eye_rows,
    prefixed,
    relative,
)
from retfm_jax.models import mae, vit
from retfm_jax.models.layers import LayerNorm, split
from retfm_jax.ranges import Filled, NonNegative, PositiveFloat, Rate, Section

_DECODER_PREFIX = "MAE_decoder."
#: A norm that the published class has and does not use.
_UNUSED: Names = (
    ("visual.transformer.ln_post.weight", "unused_norm/scale", "copy"),
    ("visual.transformer.ln_post.bias", "unused_norm/bias", "copy"),
)


@dataclasses.dataclass(frozen=True)
class StageConfig(Section):
    """Loss of a part of a run.

    Attributes:
      until: epochs of the run after which the next stage begins; None: it is the last one.
      contrast: weight of the mean of the three contrastive losses.
      reconstruction: whether these see reconstructions instead of photographs.
      mae: weight of the error of hidden patches.
    """

    until: PositiveFloat | None = None
    contrast: NonNegative = 1.0
    reconstruction: bool = False
    mae: NonNegative = 0.0

    def __post_init__(self):
        super().__post_init__()
        if not self.contrast and (self.reconstruction or not self.mae):
            raise ValueError("a stage needs a weight of contrast, or of mae without reconstruction")

    def __str__(self) -> str:
        seen = "contrast of reconstructions" if self.reconstruction else "contrast"
        terms = ((self.contrast, seen), (self.mae, "MAE"))
        return " + ".join(f"{weight:g} {name}" for weight, name in terms if weight)


#: As published, by epochs from 0 on: 0 and 1; 2 to 4; from 5 on.
PUBLISHED_STAGES = (
    StageConfig(until=2.0),
    StageConfig(until=5.0, mae=10.0),
    StageConfig(reconstruction=True, mae=10.0),
)


@dataclasses.dataclass(frozen=True)
class RetClipPlusConfig(PatientConfig):
    """Sizes of the network, and the stages of a run.

    Attributes:
      image: sizes of the image tower, which has a class token and no registers.
      decoder: sizes of the decoder.
      mask_ratio: share of the patches that the masked encoder does not see.
      reconstruction: what hidden patches of a reconstruction hold: the prediction of normalized
        patches itself, as "published", beside visible patches that are not normalized; or, as
        "denormalized", the prediction with the mean and variance of the true patch.
      stages: losses by epoch, one after the other.
    """

    image: vit.ViTConfig = dataclasses.field(default_factory=vit.ViTConfig)
    decoder: mae.DecoderConfig = dataclasses.field(default_factory=mae.DecoderConfig)
    mask_ratio: Rate = 0.75
    reconstruction: Literal["published", "denormalized"] = "published"
    stages: Annotated[tuple[StageConfig, ...], Filled()] = PUBLISHED_STAGES

    def __post_init__(self):
        super().__post_init__()
        if not self.image.class_token or self.image.registers:
            raise ValueError("image needs a class token, and takes no registers")
        *ends, last = [stage.until for stage in self.stages]
        known = [end for end in ends if end is not None]
        if last is not None or known != ends or known != sorted(set(known)):
            raise ValueError(
                f"stages end one after the other, the last one with the run: their until must "
                f"increase and end with null, not {[*ends, last]}"
            )

    @property
    def kept(self) -> int:
        """Patches that the masked encoder sees."""
        return visible_patches(self.image, self.mask_ratio)


class RetClipPlusNetwork(PatientNetwork):
    """RET-CLIP's network, a decoder, and a norm that nothing uses.

    Args:
      config: sizes of the network.
      rngs: streams of random numbers for the initial parameters.
    """

    def __init__(self, config: RetClipPlusConfig, *, rngs: nnx.Rngs):
        super().__init__(config, rngs=rngs)
        # The decoder's blocks are MAE's, whatever the tower's are.
        form = dataclasses.replace(
            config.image, activation="gelu", norm_eps=1e-6, qkv_bias=True, layer_scale=False
        )
        self.decoder = mae.Decoder(config.decoder, form, dtype=config.dtype, rngs=rngs)
        self.unused_norm = LayerNorm(config.image.width, eps=config.image.norm_eps)


class RetClipPlus(PatientMethod[RetClipPlusNetwork]):
    """Contrast of patients, masked autoencoding, and contrast of what that reconstructs.

    Args:
      config: sizes and stages.

    Attributes:
      stage: whose loss is in force; outside of a run the last one's.
    """

    name = "retclip_plus"
    config_class = RetClipPlusConfig
    default_experiment = "retclip_plus_vit_b16"
    published = Published(
        "RET-CLIP+",
        (r"visual\.", r"bert\.", r".*_feature_mapping\.weight", r"MAE_decoder\."),
    )
    sample_kind = "patient_views"
    untrained = ("decoder/position_embedding", "unused_norm")

    def __init__(self, config: RetClipPlusConfig):
        super().__init__(config)
        self.stage = config.stages[-1]

    def network(self, rngs: nnx.Rngs) -> RetClipPlusNetwork:
        return RetClipPlusNetwork(self.config, rngs=rngs)

    @property
    def weight_names(self) -> Names:
        """Rows as `Method.weight_names` has: RET-CLIP's, the decoder's, and what is not used."""
        return (*super().weight_names, *prefixed(DECODER_NAMES, _DECODER_PREFIX, ""), *_UNUSED)

    @property
    def stages(self) -> tuple[Stage, ...]:
        """Stages of a run, as configured; see `Method.stages`."""
        found = []
        for number, stage in enumerate(self.config.stages, 1):
            method = copy.copy(self)
            method.stage = stage
            title = f"stage {number} of {len(self.config.stages)} ({stage})"
            found.append(Stage(method, title, stage.until))
        return tuple(found)

    def encode(
        self,
        params: Params,
        state: MethodState,
        batch: Batch,
        *,
        keys: Key[Array, " b"] | None = None,
        train: bool = False,
    ) -> tuple[Embeddings, dict[str, Any]]:
        """Computes what the stage's loss needs of each patient.

        Args:
          batch: `image_left`, `image_right` (B, H, W, 3), which the contrast sees; `view_left`,
            `view_right`, which are masked and reconstructed; `tokens` (B, L); where eyes are
            missing, `has_left`, `has_right` (B,) bool. What is hidden is a function of the key, or
            of `noise` (2 B, patches), rows of left eyes, then of right eyes, where it is given.

        Returns:
          where the stage has a contrast, the six unit-norm embeddings of `PatientMethod.encode`,
          those of images of reconstructions where it says so; with MAE `error` (B, 2), of left and
          right eye; and the batch statistics.
        """
        network, stage = self.bind(params, state.batch_stats), self.stage
        image_keys, text_keys, noise_keys, masked_keys = split(keys, 4)
        found: Embeddings = {}
        if stage.contrast:
            found |= text_levels(network, batch["tokens"], text_keys)
            if not stage.reconstruction:
                eyes = embed_eyes(network.visual, batch, image_keys, train)
                found |= image_levels(network, eyes)
        if stage.mae or stage.reconstruction:
            views, masked = self._masked(network, batch, noise_keys, masked_keys)
            target = normalize_patches(patchify(views, self.config.image.patch_size))
            error = masked_error(masked.prediction, target, masked.hidden)
            found["error"] = error.reshape(-1, 2)
            if stage.reconstruction:
                images = self._reconstructed(views, masked)
                eyes = embed_eye_rows(network.visual, images, image_keys, train)
                found |= image_levels(network, eyes)
        return found, state.batch_stats

    def _masked(
        self,
        network: RetClipPlusNetwork,
        batch: Batch,
        noise_keys: Key[Array, " b"] | None,
        keys: Key[Array, " b"] | None,
    ) -> tuple[Float[Array, "rows h w 3"], Masked]:
        """The views of all eyes, patient by patient, and what is predicted of them."""
        views = eye_rows(batch, "view")
        if "noise" in batch:
            noise = _by_patient(batch["noise"])
        else:
            noise = mask_noise(eye_keys(noise_keys), len(views), self.config.image.num_patches)
        encoder = cast(vit.ViT, network.visual)
        masked = predict_hidden(
            encoder, network.decoder, views, noise, self.config.kept, eye_keys(keys)
        )
        return views, masked

    def _reconstructed(
        self, views: Float[Array, "b h w 3"], masked: Masked
    ) -> Float[Array, "b h w 3"]:
        """Images of visible patches and of predictions of hidden ones."""
        patch = self.config.image.patch_size
        patches, predicted = patchify(views, patch), masked.prediction
        if self.config.reconstruction == "denormalized":
            predicted = denormalize_patches(predicted, patches)
        return unpatchify(jnp.where(masked.hidden[..., None] > 0, predicted, patches), patch)

    def objective(
        self,
        params: Params,
        state: MethodState,
        embeddings: Embeddings,
        batch: Batch,
        *,
        key: PRNGKeyArray | None = None,
    ) -> tuple[Float[Array, ""], tuple[Metrics, MethodState]]:
        r"""Computes the loss of the stage.

        .. math:: L = w_c (L_{patient} + L_{left} + L_{right}) / 3 + w_m L_{MAE}

        L_MAE is the mean over hidden patches of all eyes that there are.

        Returns:
          the loss; of its metrics `loss_patient`, `loss_left`, `loss_right`, `loss_mae` those that
          the stage has, and `loss_total`; the same state.
        """
        stage, total, metrics = self.stage, jnp.zeros(()), {}
        if stage.contrast:
            levels, metrics = self.level_losses(params, embeddings, batch)
            total = stage.contrast * levels / len(LEVELS)
        if "error" in embeddings:
            error = embeddings["error"]
            everyone = jnp.ones(len(error), bool)
            sides = [batch.get(name, everyone) for name in ("has_left", "has_right")]
            there = jnp.stack(sides, axis=1).astype(error.dtype)
            metrics["loss_mae"] = (error * there).sum() / jnp.maximum(there.sum(), 1)
            total = total + stage.mae * metrics["loss_mae"]
        return total, ({**metrics, "loss_total": total}, state)

    def losses(self, params: Params, state: MethodState, batch: Batch) -> Metrics:
        """Computes the losses of every stage, without dropout.

        Returns:
          `loss_mae`, and for n from 1 on `stageN_loss_patient`, `..._left`, `..._right` and
          `..._total`, as the stages have them.
        """
        found: Metrics = {}
        for number, stage in enumerate(self.stages, 1):
            _, (metrics, _) = stage.method.loss(params, state, batch)
            error = {name: value for name, value in metrics.items() if name == "loss_mae"}
            found |= error | {f"stage{number}_{n}": metrics[n] for n in metrics if n not in error}
        return found

    def features(self, params: Params, state: MethodState, batch: Batch) -> dict[str, Array]:
        """Computes embeddings and scales as RET-CLIP has them, and what is made of views.

        Returns:
          the six embeddings of photographs and `scale_patient`, `scale_left`, `scale_right`; where
          the batch has views, rows of left eyes, then of right eyes: `latent`, `mask` (1 where
          hidden), `prediction`, and `reconstruction_mean` (2 B, 3), of the channels.
        """
        network = self.bind(params, state.batch_stats)
        found = super().encode(params, state, batch)[0] | self.scales(params)
        if "view_left" in batch:
            views, masked = self._masked(network, batch, None, None)
            made = {
                "latent": masked.latent,
                "mask": masked.hidden,
                "prediction": masked.prediction,
                "reconstruction_mean": self._reconstructed(views, masked).mean((1, 2)),
            }
            found |= {name: _by_side(array) for name, array in made.items()}
        return found

    @classmethod
    def infer_config(
        cls, shapes: Mapping[str, tuple[int, ...]], text_num_heads: int | None
    ) -> RetClipPlusConfig:
        """See `Method.infer_config`; the decoder's heads are those of `infer_decoder`."""
        found = cast(RetClipPlusConfig, super().infer_config(shapes, text_num_heads))
        return dataclasses.replace(found, decoder=infer_decoder(relative(shapes, _DECODER_PREFIX)))


def _by_patient(rows: Float[Array, "rows ..."]) -> Float[Array, "rows ..."]:
    """Rows of left eyes, then of right eyes -> rows of patients, left eye first."""
    return rows.reshape(2, -1, *rows.shape[1:]).swapaxes(0, 1).reshape(rows.shape)


def _by_side(rows: Float[Array, "rows ..."]) -> Float[Array, "rows ..."]:
    """The inverse of `_by_patient`."""
    return rows.reshape(-1, 2, *rows.shape[1:]).swapaxes(0, 1).reshape(rows.shape)


METHOD = RetClipPlus
