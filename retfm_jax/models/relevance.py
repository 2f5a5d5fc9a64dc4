"""Maps of what an image tower looks at: what taps keep of a tower, and what is made of it.

Every way has the scalar y of an image that is explained, such as the cosine of its embedding with
a text's, and gives a map over the tower's grid: attention rollout and attention relevance of vision
transformers, Grad-CAM of residual networks. No map is a proof of what a network bases y on.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from retfm_jax.models import vit
from retfm_jax.models.taps import See, Tap, Taps

Found = Mapping[str, Array]


def mean_attention(
    attention: Float[Array, "b h n m"], gradient: Float[Array, "b h n m"]
) -> Float[Array, "b n m"]:
    """Computes the mean of attention over heads, (b, n, m), whatever is explained.

    Args:
      attention: probabilities (b, h, n, m).
      gradient: of y by them, not read.
    """
    del gradient
    return attention.mean(1)


def relevant_attention(
    attention: Float[Array, "b h n m"], gradient: Float[Array, "b h n m"]
) -> Float[Array, "b n m"]:
    """Computes E_h[(A * dy/dA)^+], the attention that raises y (Chefer et al. 2021, equation 5).

    Args:
      attention: probabilities A (b, h, n, m).
      gradient: dy/dA (b, h, n, m).

    Returns:
      the mean over heads (b, n, m), at least 0.
    """
    return jnp.maximum(attention * gradient, 0).mean(1)


def class_activation(
    maps: Float[Array, "b h w c"], gradient: Float[Array, "b h w c"]
) -> Float[Array, "b h w"]:
    """Computes Grad-CAM, (sum_c a_c F_c)^+ with a_c the mean of dy/dF_c (Selvaraju et al. 2017).

    Args:
      maps: feature maps F (b, h, w, c).
      gradient: dy/dF (b, h, w, c).

    Returns:
      the map (b, h, w), at least 0.
    """
    maps, gradient = maps.astype(jnp.float32), gradient.astype(jnp.float32)
    weights = gradient.mean((1, 2))
    # (b, h, w, c) . (b, c) -> (b, h, w)
    return jnp.maximum(jnp.einsum("bhwc,bc->bhw", maps, weights), 0)


def local_activation(
    maps: Float[Array, "b h w c"], gradient: Float[Array, "b h w c"]
) -> Float[Array, "b h w"]:
    """Computes HiResCAM, (sum_c dy/dF_c * F_c)^+ (Draelos and Carin 2020, arXiv 2011.08891).

    Each place has its own gradient. Where a network's pooling tells places apart, as attention
    pooling does, their mean says little of any of them.

    Args:
      maps: feature maps F (b, h, w, c).
      gradient: dy/dF (b, h, w, c).

    Returns:
      the map (b, h, w), at least 0.
    """
    maps, gradient = maps.astype(jnp.float32), gradient.astype(jnp.float32)
    return jnp.maximum((maps * gradient).sum(-1), 0)


def roll_out(row: Float[Array, "b n"], attentions: Float[Array, "l b n n"]) -> Float[Array, "b n"]:
    """Computes a row of attention rollout, row R with R = A_l ... A_1 (Abnar and Zuidema 2020).

    A_i = (W_i + I) / 2 for the attention W_i of a block, as its input passes beside it.

    Args:
      row: how much of each of the last block's tokens makes the features, (b, n), of sum 1.
      attentions: W of all blocks, the first one first, (l, b, n, n); rows sum to 1.

    Returns:
      how much of each input token does, (b, n), of sum 1.
    """
    return _through(row, 0.5 * attentions, 0.5)


def relevance(row: Float[Array, "b n"], attentions: Float[Array, "l b n n"]) -> Float[Array, "b n"]:
    """Computes a row of R after R <- R + A_i R for all blocks from R = I (Chefer et al. 2021).

    Args:
      row: relevance of each of the last block's tokens, (b, n).
      attentions: `relevant_attention` A of all blocks, the first one first, (l, b, n, n).

    Returns:
      relevance of each input token, (b, n).
    """
    return _through(row, attentions, 1.0)


def shared_relevance(
    row: Float[Array, "b n"], attentions: Float[Array, "l b n n"]
) -> Float[Array, "b n"]:
    """Computes `relevance` with rows of A scaled to the sum 1, for features that many tokens make.

    Of a mean over n tokens a gradient reaches each by the n-th part, and attention as it is would
    vanish beside what passes by. Scaled, both count alike in every block, as in rollout; a row in
    which nothing raises y stays 0. Chefer et al. scale rows so (2021, equations 8 and 9) before
    they join two modalities.

    Args:
      row, attentions: as for `relevance`.

    Returns:
      relevance of each input token, (b, n), of the same ratios whatever y is multiplied by.
    """
    sums = attentions.sum(-1, keepdims=True)
    return _through(row, attentions / jnp.where(sums > 0, sums, 1), 1.0)


def _through(
    row: Float[Array, "b n"], attentions: Float[Array, "l b n n"], passing: float
) -> Float[Array, "b n"]:
    """row (passing I + A_l) ... (passing I + A_1): a vector goes back, no matrices are made."""

    def step(row: Array, attention: Array) -> tuple[Array, None]:
        # (b, n) . (b, n, m) -> (b, m)
        return passing * row + jnp.einsum("bn,bnm->bm", row, attention), None

    return jax.lax.scan(step, row, attentions, reverse=True)[0]


@dataclasses.dataclass(frozen=True)
class Way:
    """A way to make maps.

    Attributes:
      title: its name in words, with its source.
      see: what the taps keep.
      places: from the sizes of a tower, the images' side in pixels and their number to the shape of
        the slot at each tapped place.
      fold: from what the slots hold and the sizes of the tower to maps (b, rows, columns).
      needs_target: whether the maps are of a scalar, not of the tower alone.
    """

    title: str
    see: See
    places: Callable[[Any, int, int], dict[str, tuple[int, ...]]]
    fold: Callable[[Found, Any], Array]
    needs_target: bool = True

    def taps(self, config: Any, size: int, images: int) -> Taps:
        """Makes the taps of a tower.

        Args:
          config: sizes of the tower.
          size: height and width of the images in pixels.
          images: their number.
        """
        shapes = self.places(config, size, images)
        return {place: Tap(jnp.zeros(shape), self.see) for place, shape in shapes.items()}


def _attention_places(config: vit.ViTConfig, size: int, images: int) -> dict[str, tuple[int, ...]]:
    del size
    tokens = config.prefix_tokens + config.num_patches
    places: dict[str, tuple[int, ...]] = {"blocks": (config.layers, images, tokens, tokens)}
    if config.pooling != "class":
        pooled = tokens if config.pooling == "attention" else config.num_patches
        places["pool"] = (images, 1, pooled)
    return places


def _over_patches(
    through: Callable[[Array, Array], Array], found: Found, config: vit.ViTConfig
) -> Float[Array, "b g g"]:
    """A map from the row of what becomes the features: the class token, or a mixture of tokens."""
    blocks = found["blocks"]
    tokens = blocks.shape[-1]
    if config.pooling == "class":
        row = jnp.zeros(blocks.shape[1:3]).at[:, 0].set(1)
    else:
        pool = found["pool"][:, 0]
        row = jnp.pad(pool, ((0, 0), (tokens - pool.shape[1], 0)))
    patches = through(row, blocks)[:, config.prefix_tokens :]
    return patches.reshape(-1, config.grid, config.grid)


def _rolled_out(found: Found, config: vit.ViTConfig) -> Float[Array, "b g g"]:
    return _over_patches(roll_out, found, config)


def _relevant(found: Found, config: vit.ViTConfig) -> Float[Array, "b g g"]:
    through = relevance if config.pooling == "class" else shared_relevance
    return _over_patches(through, found, config)


def _stage(number: int, title: str, see: See) -> Way:
    """A way that looks at the feature maps of a stage."""
    place = f"stage{number}"

    def places(config: Any, size: int, images: int) -> dict[str, tuple[int, ...]]:
        del config
        side = math.ceil(size / 2 ** (number + 1))
        return {place: (images, side, side)}

    return Way(
        title.format(number),
        see,
        places,
        lambda found, config: found[place],
    )


_OF_TRANSFORMERS = {
    "relevance": Way(
        "attention relevance (Chefer et al., ICCV 2021)",
        relevant_attention,
        _attention_places,
        _relevant,
    ),
    "rollout": Way(
        "attention rollout (Abnar and Zuidema, ACL 2020)",
        mean_attention,
        _attention_places,
        _rolled_out,
        needs_target=False,
    ),
}
_GRAD_CAM = "Grad-CAM of stage {} (Selvaraju et al., ICCV 2017)", class_activation
_HIRES_CAM = "HiResCAM of stage {} (Draelos and Carin 2020)", local_activation
_OF_RESIDUAL_NETWORKS = {
    "hires_cam_stage3": _stage(3, *_HIRES_CAM),
    "hires_cam": _stage(4, *_HIRES_CAM),
    "grad_cam_stage3": _stage(3, *_GRAD_CAM),
    "grad_cam": _stage(4, *_GRAD_CAM),
}


def ways(config: Any) -> Mapping[str, Way]:
    """Returns the ways to make maps of a tower by name, the default first.

    The default did best in the pointing game on synthetic eyes; see the documentation.

    Args:
      config: sizes of the tower.
    """
    return _OF_TRANSFORMERS if isinstance(config, vit.ViTConfig) else _OF_RESIDUAL_NETWORKS
