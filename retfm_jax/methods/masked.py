"""Masked autoencoding as several methods do it: what is hidden, encoded and predicted."""

import math
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from retfm_jax.losses.masked_image import split_patches
from retfm_jax.methods.towers import Names, prefixed
from retfm_jax.models import mae, vit, vit_names
from retfm_jax.models.layers import count_layers, majority

#: The decoder's names in the files of MAE, RETFound and RET-CLIP+.
DECODER_NAMES: Names = (
    ("decoder_embed.weight", "decoder/embed/kernel", "linear"),
    ("decoder_embed.bias", "decoder/embed/bias", "copy"),
    ("mask_token", "decoder/mask_token", "token"),
    ("decoder_pos_embed", "decoder/position_embedding", "tokens"),
    *(
        row
        for row in prefixed(vit_names.TIMM_BLOCKS, "decoder_", "decoder/")
        if "/scale_" not in row[1]
    ),
    ("decoder_norm.weight", "decoder/norm/scale", "copy"),
    ("decoder_norm.bias", "decoder/norm/bias", "copy"),
    ("decoder_pred.weight", "decoder/predict/kernel", "linear"),
    ("decoder_pred.bias", "decoder/predict/bias", "copy"),
)


class Masked(NamedTuple):
    """What a masked autoencoder makes of images.

    Attributes:
      restore: where each patch stands when the visible ones are followed by the hidden ones, (b, n)
        int32.
      hidden: 1 where a patch is hidden, (b, n) float32.
      latent: normalized tokens of the class and the k visible patches, (b, 1 + k, d) float32.
      prediction: of all patches, normalized, (b, n, p) float32.
    """

    restore: Int[Array, "b n"]
    hidden: Float[Array, "b n"]
    latent: Float[Array, "b t d"]
    prediction: Float[Array, "b n p"]


def visible_patches(image: vit.ViTConfig, mask_ratio: float) -> int:
    """Counts the patches that the encoder sees, at least one.

    Args:
      image: sizes of the encoder.
      mask_ratio: share of the patches that it does not see.
    """
    return max(1, int(image.num_patches * (1 - mask_ratio)))


def mask_noise(keys: Key[Array, " b"] | None, rows: int, patches: int) -> Float[Array, "b n"]:
    """Samples the numbers that decide what is hidden, (rows, patches) float32 in [0, 1).

    Args:
      keys: one for each image, of which alone its row is a function; None: keys by position, the
        same at every call.
      rows: number of images.
      patches: of an image.
    """
    keys = jax.random.split(jax.random.key(0), rows) if keys is None else keys
    return jax.vmap(lambda key: jax.random.uniform(key, (patches,)))(keys)


def predict_hidden(
    encoder: vit.ViT,
    decoder: mae.Decoder,
    images: Float[Array, "b h w 3"],
    noise: Float[Array, "b n"],
    kept: int,
    keys: Key[Array, " b"] | None = None,
) -> Masked:
    """Encodes the visible patches of images and predicts all of them.

    Args:
      encoder: its last norm is that of all tokens, whatever it pools.
      decoder: of an encoder of that size.
      images: normalized, NHWC float32.
      noise: of every patch; see `losses.masked_image.split_patches`.
      kept: number of visible patches of an image.
      keys: randomness of dropped branches, one for each image; None drops none.
    """
    visible, restore, hidden = split_patches(noise, kept)
    tokens = encoder.tokens(encoder.patches(images), visible, keys=keys)
    latent = encoder.ln_post(tokens.astype(jnp.float32))
    return Masked(restore, hidden, latent, decoder(latent, restore))


def infer_decoder(
    shapes: Mapping[str, tuple[int, ...]], head: int | None = None
) -> mae.DecoderConfig:
    """Infers the sizes of the decoder whose published tensors have these shapes.

    Args:
      shapes: of the decoder's tensors, by their names in `DECODER_NAMES`.
      head: width of an attention head, which no shape tells; None: 32 as published, or the largest
        power of two below that divides the width.
    """
    width = majority(shapes, (("decoder_*.bias", 0), ("decoder_embed.weight", 0)), 512)
    head = math.gcd(width, 32) if head is None else head
    layers = count_layers(shapes, "decoder_blocks.") or 8
    return mae.DecoderConfig(width, layers, max(width // head, 1))
