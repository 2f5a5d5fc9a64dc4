"""Losses of class heads: one class of several, findings that do not exclude each other, grades.

All are of single samples, so that parts of a batch add up, and take soft targets, so that mixed
samples (mixup, CutMix) and smoothed labels need no form of their own.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from retfm_jax.losses.shapes import check_shapes


def smooth(targets: Float[Array, "b c"], smoothing: float) -> Float[Array, "b c"]:
    r"""Mixes class probabilities with equal ones: :math:`t' = (1 - \epsilon) t + \epsilon / c`.

    Source: Szegedy et al., CVPR 2016, section 7; in timm the targets of mixup as well.

    Args:
      targets: t, class probabilities (b, c) whose rows sum to 1.
      smoothing: epsilon, from 0 to 1.
    """
    return (1 - smoothing) * targets + smoothing / targets.shape[-1]


def cross_entropy(
    logits: Float[Array, "b c"],
    targets: Shaped[Array, "b c"],
    class_weights: Float[Array, " c"] | None = None,
    smoothing: float = 0.0,
) -> Float[Array, " b"]:
    r"""Cross-entropy of classes that exclude each other, with soft targets.

    .. math:: L_i = - \sum_k w_k t'_{ik} \log \mathrm{softmax}(z_i)_k

    where t' are the targets after `smooth`.

    Args:
      logits: z, (b, c) floats.
      targets: t, class probabilities (b, c), rows summing to 1; one-hot of certain classes.
      class_weights: w, (c,); None: 1 of each.
      smoothing: of the targets, from 0 to 1.

    Returns:
      the loss of each sample, (b,) float32.

    Raises:
      UserError: the shapes do not fit together.
    """
    check_shapes(
        logits=(logits, "b c"), targets=(targets, "b c"), class_weights=(class_weights, "c")
    )
    targets = smooth(jnp.asarray(targets, jnp.float32), smoothing)
    if class_weights is not None:
        targets = targets * class_weights
    return -(targets * jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)).sum(-1)


def binary_cross_entropy(
    logits: Float[Array, "b c"],
    labels: Shaped[Array, "b c"],
    weights: Float[Array, "2 c"] | None = None,
    smoothing: float = 0.0,
) -> Float[Array, " b"]:
    r"""Mean binary cross-entropy of the findings that are known.

    .. math::
        L_i = - \frac{1}{|K_i|} \sum_{k \in K_i}
            \left( w_{1k} t'_{ik} \log \sigma(z_{ik})
            + w_{0k} (1 - t'_{ik}) \log (1 - \sigma(z_{ik})) \right)

    where K are the known findings and t' = (1 - epsilon) t + epsilon / 2.

    Args:
      logits: z, (b, c) floats.
      labels: t, (b, c), from 0 (absent) to 1 (present), -1 where unknown.
      weights: w, (2, c), of absent and of present findings; None: 1 of each.
      smoothing: epsilon, from 0 to 1.

    Returns:
      the loss of each sample, (b,) float32; 0 where nothing is known.

    Raises:
      UserError: the shapes do not fit together.
    """
    check_shapes(logits=(logits, "b c"), labels=(labels, "b c"), weights=(weights, "sides c"))
    logits, labels = logits.astype(jnp.float32), jnp.asarray(labels, jnp.float32)
    known = labels >= 0
    targets = (1 - smoothing) * jnp.maximum(labels, 0) + smoothing / 2
    absent, present = (1.0, 1.0) if weights is None else (weights[0], weights[1])
    each = present * targets * jax.nn.softplus(-logits)
    each += absent * (1 - targets) * jax.nn.softplus(logits)
    return (each * known).sum(-1) / jnp.maximum(known.sum(-1), 1)


def ranked_probability_score(
    logits: Float[Array, "b c"], targets: Shaped[Array, "b c"]
) -> Float[Array, " b"]:
    r"""Ranked probability score of grades: how far the distribution is off along their order.

    .. math::
        S_i = \frac{1}{c - 1} \sum_{k=1}^{c-1} \left( \sum_{j \le k} p_{ij} - t_{ij} \right)^2,
        \quad p_i = \mathrm{softmax}(z_i)

    A grade that is missed by two costs more than one that is missed by one, and the score is
    proper: the true distribution has the least. Source: Epstein, J. Appl. Meteorol. 8, 1969;
    Gneiting and Raftery, JASA 102, 2007, section 4.2.

    Args:
      logits: z, (b, c) floats of two or more grades, the lowest first.
      targets: t, probabilities of the grades (b, c), rows summing to 1.

    Returns:
      the score of each sample, (b,) float32, from 0 to 1.

    Raises:
      UserError: the shapes do not fit together.
    """
    check_shapes(logits=(logits, "b c"), targets=(targets, "b c"))
    apart = jax.nn.softmax(logits.astype(jnp.float32), axis=-1) - targets
    return jnp.square(jnp.cumsum(apart, axis=-1)[:, :-1]).sum(-1) / (logits.shape[-1] - 1)


def graded(
    logits: Float[Array, "b c"],
    targets: Shaped[Array, "b c"],
    class_weights: Float[Array, " c"] | None = None,
    smoothing: float = 0.0,
) -> Float[Array, " b"]:
    r"""Loss of ordered grades: `cross_entropy` + `ranked_probability_score`.

    The cross-entropy alone knows no order. The score alone has next to no gradient where a
    confident distribution is wrong, which a network in training has often.

    Args:
      logits: (b, c) floats of two or more grades, the lowest first.
      targets: probabilities of the grades (b, c), rows summing to 1.
      class_weights: of the grades, (c,), of the cross-entropy; the score of a sample is weighted
        by those of its grade; None: 1 of each.
      smoothing: of the cross-entropy's targets, from 0 to 1.

    Returns:
      the loss of each sample, (b,) float32.

    Raises:
      UserError: the shapes do not fit together.
    """
    score = ranked_probability_score(logits, targets)
    if class_weights is not None:
        score = score * (targets * class_weights).sum(-1)
    return cross_entropy(logits, targets, class_weights, smoothing) + score
