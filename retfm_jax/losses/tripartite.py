"""RET-CLIP's objective: left eye, right eye and patient, each against its own text embedding."""

import functools
import operator
from collections.abc import Mapping

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from retfm_jax.errors import UserError
from retfm_jax.losses.contrastive import info_nce
from retfm_jax.losses.shapes import check_shapes

#: The levels at which image and text are aligned.
LEVELS = ("patient", "left", "right")


def tripartite(
    embeddings: Mapping[str, Float[Array, "b d"]],
    scales: Mapping[str, Float[Array, ""] | float],
    has_left: Bool[Array, " b"] | None = None,
    has_right: Bool[Array, " b"] | None = None,
    block_size: int | None = None,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    r"""Sums three symmetric InfoNCE losses.

    .. math:: L = L_{patient}(s_p) + L_{left}(s_l) + L_{right}(s_r)

    A patient without a left eye takes no part in the left loss, neither as query nor as
    candidate; likewise the right eye; a patient without any image is absent from all three. With
    no missing eye this is the published loss. Source: Du et al. (RET-CLIP), arXiv 2405.14137.

    Args:
      embeddings: unit-norm `image_patient`, `image_left`, `image_right` and `text_patient`,
        `text_left`, `text_right`, each (b, d).
      scales: factor on the similarities, (), of the levels `patient`, `left` and `right`.
      has_left, has_right: which patients have that eye, (b,) bool; None: all.
      block_size: see `contrastive.cross_entropy`.

    Returns:
      the sum, and its parts `loss_patient`, `loss_left`, `loss_right`.

    Raises:
      UserError: an embedding or a scale is missing, or the shapes do not fit together.
    """
    names = [f"{kind}_{level}" for level in LEVELS for kind in ("image", "text")]
    absent = [name for name in names if name not in embeddings]
    absent += [f"the scale of {level}" for level in LEVELS if level not in scales]
    if absent:
        raise UserError(f"the tripartite loss needs {', '.join(absent)}")
    check_shapes(
        **{name: (embeddings[name], "b d") for name in names},
        has_left=(has_left, "b"),
        has_right=(has_right, "b"),
    )
    everyone = jnp.ones(embeddings["image_patient"].shape[0], bool)
    left = everyone if has_left is None else has_left
    right = everyone if has_right is None else has_right
    masks = {"patient": left | right, "left": left, "right": right}
    parts = {
        f"loss_{level}": info_nce(
            embeddings[f"image_{level}"],
            embeddings[f"text_{level}"],
            scales[level],
            masks[level],
            block_size,
        )
        for level in LEVELS
    }
    return functools.reduce(operator.add, parts.values()), parts
