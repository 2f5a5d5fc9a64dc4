"""MAE (He et al., CVPR 2022), with which RETFound was pretrained on photographs without reports."""

import dataclasses
from collections.abc import Mapping
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Key

from retfm_jax.losses.masked_image import masked_error, normalize_patches, patchify
from retfm_jax.methods.base import Batch, MethodState, Params
from retfm_jax.methods.masked import (
    DECODER_NAMES,
    infer_decoder,
    mask_noise,
    predict_hidden,
    visible_patches,
)
from retfm_jax.methods.outputs import IMAGE_EMBEDDING, IMAGE_FEATURES, ImageTower, Output, Unit
from retfm_jax.methods.per_sample import PerSampleMethod
from retfm_jax.methods.towers import prefixed
from retfm_jax.models import mae, vit, vit_names
from retfm_jax.models.layers import LayerNorm
from retfm_jax.ranges import Rate, Section

_FC_NORM = (
    ("fc_norm.weight", "fc_norm/scale", "copy"),
    ("fc_norm.bias", "fc_norm/bias", "copy"),
)


def _encoder() -> vit.ViTConfig:
    return vit.ViTConfig(**{**vit.ViTConfig.sizes["MAE-L/16"], "pooling": "mean"})


@dataclasses.dataclass(frozen=True)
class MaeConfig(Section):
    """Sizes of the network and the share of patches that is hidden.

    Attributes:
      image: sizes of the encoder, which has learned positions and a class token; they keep the
        values of sines and cosines that they begin with.
      decoder: sizes of the decoder.
      mask_ratio: share of the patches that the encoder does not see.
      fc_norm: whether a norm follows the mean of the patches, as in files made for fine-tuning; it
        gives the features then, and no loss depends on it.
      dtype: compute type; parameters stay float32.
    """

    image: vit.ViTConfig = dataclasses.field(default_factory=_encoder)
    decoder: mae.DecoderConfig = dataclasses.field(default_factory=mae.DecoderConfig)
    mask_ratio: Rate = 0.75
    fc_norm: bool = False
    dtype: Literal["float32", "bfloat16"] = "float32"

    def __post_init__(self):
        super().__post_init__()
        if self.image.positions != "learned" or not self.image.class_position:
            raise ValueError("image needs positions of its patches and of a class token")
        if self.image.registers or self.image.patch_dropout:
            raise ValueError("image takes no registers or patch_dropout")

    @property
    def kept(self) -> int:
        """Patches that the encoder sees."""
        return visible_patches(self.image, self.mask_ratio)


class MaeNetwork(nnx.Module):
    """Encoder and decoder.

    Args:
      config: sizes of the network.
      rngs: streams of random numbers for the initial parameters.
    """

    def __init__(self, config: MaeConfig, *, rngs: nnx.Rngs):
        image, dtype = config.image, config.dtype
        self.visual = vit.ViT(image, None, dtype=dtype, rngs=rngs)
        positions = vit.sine_cosine_positions(image.grid, image.width, class_row=True)
        self.visual.position_embedding = nnx.Param(jnp.asarray(positions))
        self.decoder = mae.Decoder(config.decoder, image, dtype=dtype, rngs=rngs)
        self.fc_norm = LayerNorm(image.width, eps=image.norm_eps) if config.fc_norm else None


class Mae(PerSampleMethod[MaeNetwork]):
    """Predicts the hidden patches of photographs from the visible ones.

    The photographs' fixed positions take no part in training. Only visible patches are encoded.
    """

    name, config_class, default_experiment = "mae", MaeConfig, "mae_vit_l16"
    sample_kind = "photograph"
    untrained = ("visual/position_embedding", "decoder/position_embedding", "fc_norm")

    def network(self, rngs: nnx.Rngs) -> MaeNetwork:
        return MaeNetwork(self.config, rngs=rngs)

    @property
    def weight_names(self) -> tuple[tuple[str, str, str], ...]:
        """Rows as `Method.weight_names` has, in the names of MAE's and RETFound's files."""
        # The norm of all tokens is `norm`, whatever is pooled.
        image = dataclasses.replace(self.config.image, pooling="class")
        encoder = vit_names.names(image, "timm", projection=False)
        return (*prefixed(encoder, "", "visual/"), *DECODER_NAMES, *_FC_NORM * self.config.fc_norm)

    @property
    def outputs(self) -> tuple[Output, ...]:
        """Features of whole images, and their unit-norm form; see `Method.outputs`."""
        image, norm = self.config.image, None
        if self.config.fc_norm:
            image, norm = dataclasses.replace(image, pooling="mean_norm"), "fc_norm"
        tower = ImageTower(image, projected=False, norm=norm)
        return Output(IMAGE_EMBEDDING, (tower, Unit())), Output(IMAGE_FEATURES, (tower,))

    def _predicted(
        self, params: Params, state: MethodState, batch: Batch, keys: Key[Array, " b"] | None
    ) -> dict[str, Array]:
        network, images = self.bind(params, state.batch_stats), batch["image"]
        noise = batch.get("noise")
        if noise is None:
            noise = mask_noise(keys, len(images), self.config.image.num_patches)
        branch_keys = None
        if keys is not None:
            branch_keys = jax.vmap(lambda key: jax.random.fold_in(key, 1))(keys)
        found = predict_hidden(
            network.visual, network.decoder, images, noise, self.config.kept, branch_keys
        )
        return {
            "ids_restore": found.restore,
            "mask": found.hidden,
            "latent": found.latent,
            "prediction": found.prediction,
        }

    def sample_losses(
        self,
        params: Params,
        state: MethodState,
        batch: Batch,
        *,
        keys: Key[Array, " b"] | None = None,
        train: bool = False,
    ) -> dict[str, Float[Array, " b"]]:
        """Computes the error of normalized hidden patches, and `loss_pixels`, of plain ones.

        A sample's mask is a function of its key alone, or of `noise` in the batch.
        """
        found = self._predicted(params, state, batch, keys)
        target = patchify(batch["image"], self.config.image.patch_size)
        prediction, hidden = found["prediction"], found["mask"]
        return {
            "loss_total": masked_error(prediction, normalize_patches(target), hidden),
            "loss_pixels": masked_error(prediction, target, hidden),
        }

    def features(self, params: Params, state: MethodState, batch: Batch) -> dict[str, Array]:
        """Computes what is hidden, encoded and predicted, and the features of whole images.

        Returns:
          `ids_restore`, `mask` (1 where hidden), `latent` and `prediction` of the visible part;
          `features_class`, the class token after the last norm, and, with `fc_norm`,
          `features_global`, the norm of the mean of the patches, of whole images.
        """
        network = self.bind(params, state.batch_stats)
        tokens = network.visual.tokens(network.visual.patches(batch["image"])).astype(jnp.float32)
        found = self._predicted(params, state, batch, None)
        found["features_class"] = network.visual.ln_post(tokens[:, 0])
        if network.fc_norm is not None:
            found["features_global"] = network.fc_norm(tokens[:, 1:].mean(1))
        return found

    def image_features(
        self,
        params: Params,
        state: MethodState,
        images: Float[Array, "b h w 3"],
        *,
        keys: Key[Array, " b"] | None = None,
    ) -> Float[Array, "b width"]:
        """Computes features of whole images: of `fc_norm` where there is one, else as pooled."""
        network = self.bind(params, state.batch_stats)
        if network.fc_norm is None:
            return network.visual(images, keys=keys)[1]
        tokens = network.visual.tokens(network.visual.patches(images), keys=keys)
        tokens = tokens.astype(jnp.float32)
        return network.fc_norm(network.visual.mean(tokens[:, 1:]))

    @classmethod
    def infer_config(
        cls, shapes: Mapping[str, tuple[int, ...]], text_num_heads: int | None
    ) -> MaeConfig:
        """Infers the sizes of a pretraining file; see `Method.infer_config`.

        Args:
          shapes: shape of each published tensor by its name.
          text_num_heads: attention heads of the encoder, whose heads the decoder's equal in width;
            None: as published, 64 wide in the encoder and 32 in the decoder.

        Raises:
          ValueError: there is no such network.
        """
        found = vit_names.recognize(shapes)
        if found is None:
            raise ValueError("no vision transformer is found by its names")
        image = dataclasses.replace(found.config, pooling="mean", heads=text_num_heads)
        head = None if text_num_heads is None else image.width // image.num_heads
        return MaeConfig(image, infer_decoder(shapes, head), fc_norm="fc_norm.weight" in shapes)


METHOD = Mae
