r"""Losses of segmentation: overlap, cross-entropy of pixels, and the centerlines of vessels.

All are computed in float32 whatever the logits are, and give a value for each image, so that parts
of a batch add up.

Targets of classes that do not exclude each other (lesions, vessels, a disc with its cup) are (b, h,
w, c): 1 present, 0 absent, any value outside of 0..1 unknown, as 255 of masks. Of classes that
exclude each other they are class numbers (b, h, w), any other number where unknown. An unknown
pixel counts nowhere, so that a class that nobody marked in an image has no loss there. A field of
view (b, h, w) from 0 to 1 weighs pixels.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Integer, Shaped

from retfm_jax.losses.shapes import check_integers, check_shapes

#: Window, stride and padding of a pooling that keeps the size.
_ROWS, _COLUMNS, _SQUARE = (1, 3, 1, 1), (1, 1, 3, 1), (1, 3, 3, 1)


def dice(
    logits: Float[Array, "b h w c"],
    targets: Shaped[Array, "b h w c"],
    fov: Shaped[Array, "b h w"] | None = None,
    smooth: float = 1.0,
) -> Float[Array, " b"]:
    r"""Soft Dice loss of classes that do not exclude each other.

    .. math::
        L_i = \frac{1}{|K_i|} \sum_{k \in K_i} \left( 1 -
            \frac{2 \sum_x m_{ixk} p_{ixk} t_{ixk} + s}
                 {\sum_x m_{ixk} p_{ixk} + \sum_x m_{ixk} t_{ixk} + s} \right),
        \quad p = \sigma(z)

    where m is the field of view where the class is known, 0 elsewhere, and K are the classes with
    any m > 0. An empty mask asks for an empty prediction. Source: Milletari et al., 3DV 2016; with
    s = 1 FLAIR's BinaryDice.

    Args:
      logits: z, (b, h, w, c) floats.
      targets: t, (b, h, w, c), 1 present, 0 absent, else unknown.
      fov: field of view (b, h, w), from 0 to 1; None: 1 everywhere.
      smooth: s, in pixels.

    Returns:
      the loss of each image, (b,) float32; 0 where nothing is known.

    Raises:
      UserError: the shapes do not fit together.
    """
    truth, weights = _known(logits, targets, fov)
    return _dice(jax.nn.sigmoid(logits.astype(jnp.float32)), truth, weights, smooth)


def binary_cross_entropy(
    logits: Float[Array, "b h w c"],
    targets: Shaped[Array, "b h w c"],
    fov: Shaped[Array, "b h w"] | None = None,
) -> Float[Array, " b"]:
    r"""Mean binary cross-entropy of pixels and classes.

    .. math::
        L_i = - \frac{1}{\sum_{xk} m_{ixk}} \sum_{xk} m_{ixk} \left(
            t_{ixk} \log \sigma(z_{ixk}) + (1 - t_{ixk}) \log (1 - \sigma(z_{ixk})) \right)

    with m as in `dice`.

    Args:
      logits: z, (b, h, w, c) floats.
      targets: t, (b, h, w, c), 1 present, 0 absent, else unknown.
      fov: field of view (b, h, w), from 0 to 1; None: 1 everywhere.

    Returns:
      the loss of each image, (b,) float32; 0 where nothing is known.

    Raises:
      UserError: the shapes do not fit together.
    """
    truth, weights = _known(logits, targets, fov)
    z = logits.astype(jnp.float32)
    each = truth * jax.nn.softplus(-z) + (1 - truth) * jax.nn.softplus(z)
    return _mean(each, weights)


def dice_ce(
    logits: Float[Array, "b h w c"],
    targets: Shaped[Array, "b h w c"],
    fov: Shaped[Array, "b h w"] | None = None,
    smooth: float = 1.0,
) -> Float[Array, " b"]:
    """Computes `binary_cross_entropy` + `dice`, FLAIR's BinaryDiceCE.

    Args:
      logits, targets, fov, smooth: as of `dice`.

    Returns:
      the loss of each image, (b,) float32; 0 where nothing is known.

    Raises:
      UserError: the shapes do not fit together.
    """
    return binary_cross_entropy(logits, targets, fov) + dice(logits, targets, fov, smooth)


def cross_entropy(
    logits: Float[Array, "b h w c"],
    labels: Integer[Array, "b h w"],
    fov: Shaped[Array, "b h w"] | None = None,
) -> Float[Array, " b"]:
    r"""Mean cross-entropy of pixels whose classes exclude each other.

    .. math::
        L_i = - \frac{1}{\sum_x m_{ix}} \sum_x m_{ix} \log \mathrm{softmax}(z_{ix})_{y_{ix}}

    Args:
      logits: z, (b, h, w, c) floats.
      labels: y, (b, h, w) integers from 0 to c - 1, others where unknown.
      fov: field of view (b, h, w), from 0 to 1; None: 1 everywhere. m is the field of view where
        the class is known, 0 elsewhere.

    Returns:
      the loss of each image, (b,) float32; 0 where nothing is known.

    Raises:
      UserError: the shapes do not fit together, or the labels are no integers.
    """
    truth, weights = _one_hot(logits, labels, fov)
    each = -(truth * jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)).sum(-1)
    return _mean(each[..., None], weights[..., None])


def softmax_dice(
    logits: Float[Array, "b h w c"],
    labels: Integer[Array, "b h w"],
    fov: Shaped[Array, "b h w"] | None = None,
    smooth: float = 1.0,
) -> Float[Array, " b"]:
    """Soft Dice loss of classes that exclude each other: `dice` with p = softmax(z).

    Args:
      logits, labels, fov: as of `cross_entropy`.
      smooth: in pixels.

    Returns:
      the loss of each image, (b,) float32; 0 where nothing is known.

    Raises:
      UserError: the shapes do not fit together, or the labels are no integers.
    """
    truth, weights = _one_hot(logits, labels, fov)
    weights = jnp.broadcast_to(weights[..., None], truth.shape)
    return _dice(jax.nn.softmax(logits.astype(jnp.float32), axis=-1), truth, weights, smooth)


def softmax_dice_ce(
    logits: Float[Array, "b h w c"],
    labels: Integer[Array, "b h w"],
    fov: Shaped[Array, "b h w"] | None = None,
    smooth: float = 1.0,
) -> Float[Array, " b"]:
    """Computes `cross_entropy` + `softmax_dice`.

    Args:
      logits, labels, fov, smooth: as of `softmax_dice`.

    Returns:
      the loss of each image, (b,) float32; 0 where nothing is known.

    Raises:
      UserError: the shapes do not fit together, or the labels are no integers.
    """
    return cross_entropy(logits, labels, fov) + softmax_dice(logits, labels, fov, smooth)


def soft_skeleton(masks: Float[Array, "b h w c"], iterations: int = 10) -> Float[Array, "b h w c"]:
    r"""Soft skeleton: what morphological opening takes away, erosion by erosion.

    .. math::
        s_0 = \mathrm{relu}(x_0 - o(x_0)), \quad x_{n+1} = e(x_n), \quad
        d_n = \mathrm{relu}(x_n - o(x_n)), \quad s_n = s_{n-1} + \mathrm{relu}(d_n - s_{n-1} d_n)

    where e is the smaller one of the minima over 3 x 1 and 1 x 3 pixels, and o the maximum over
    3 x 3 of it. Source: Shit et al., CVPR 2021, algorithm 1.

    Args:
      masks: x, (b, h, w, c), from 0 to 1.
      iterations: erosions, at least the half width of the widest vessel in pixels.

    Returns:
      the skeletons s, (b, h, w, c) float32.
    """
    x = masks.astype(jnp.float32)

    def opened_away(x):
        return jax.nn.relu(x - _dilate(_erode(x)))

    def erode_once(carry, _):
        x, skeleton = carry
        x = _erode(x)
        delta = opened_away(x)
        return (x, skeleton + jax.nn.relu(delta - skeleton * delta)), None

    # What one erosion keeps for its backward pass is as large as ten maps; it is computed again.
    body = jax.checkpoint(erode_once, prevent_cse=False)
    (_, skeleton), _ = jax.lax.scan(body, (x, opened_away(x)), None, length=iterations)
    return skeleton


def soft_cldice(
    probabilities: Float[Array, "b h w c"],
    targets: Shaped[Array, "b h w c"],
    fov: Shaped[Array, "b h w"] | None = None,
    *,
    iterations: int = 10,
    smooth: float = 1.0,
    pooled: bool = False,
) -> Float[Array, " b"]:
    r"""Soft clDice loss: how much of each centerline lies in the other mask.

    .. math::
        P = \frac{\sum S(p) t + s}{\sum S(p) + s}, \quad
        R = \frac{\sum S(t) p + s}{\sum S(t) + s}, \quad L = 1 - \frac{2 P R}{P + R}

    where S is `soft_skeleton`, and p and t are 0 outside of the field of view and where unknown.
    Source: Shit et al., CVPR 2021; their PyTorch class always erodes ten times and pools the batch.

    Args:
      probabilities: p, (b, h, w, c), from 0 to 1.
      targets: t, (b, h, w, c), 1 present, 0 absent, else unknown.
      fov: field of view (b, h, w), from 0 to 1; None: 1 everywhere.
      iterations: see `soft_skeleton`.
      smooth: s, in pixels.
      pooled: sums run over all images and classes, as published; else over an image's pixels, with
        the mean over its classes that are known.

    Returns:
      the loss of each image, (b,) float32; pooled it is the same for all of them.

    Raises:
      UserError: the shapes do not fit together.
    """
    truth, weights = _known(probabilities, targets, fov)
    p, t = probabilities.astype(jnp.float32) * weights, truth * weights
    skeleton_p, skeleton_t = soft_skeleton(p, iterations), soft_skeleton(t, iterations)
    axes = (0, 1, 2, 3) if pooled else (1, 2)

    def inside(skeleton, mask):
        return ((skeleton * mask).sum(axes) + smooth) / (skeleton.sum(axes) + smooth)

    precision, sensitivity = inside(skeleton_p, t), inside(skeleton_t, p)
    loss = 1 - 2 * precision * sensitivity / (precision + sensitivity)
    return jnp.broadcast_to(loss, (len(p),)) if pooled else _over_known(loss, weights)


def dice_cldice(
    probabilities: Float[Array, "b h w c"],
    targets: Shaped[Array, "b h w c"],
    fov: Shaped[Array, "b h w"] | None = None,
    *,
    share: float = 0.5,
    iterations: int = 10,
    smooth: float = 1.0,
    pooled: bool = False,
) -> Float[Array, " b"]:
    r"""Loss of vessels: :math:`(1 - a) \mathrm{Dice} + a \, \mathrm{clDice}`.

    Source: Shit et al., CVPR 2021, equation 4.

    Args:
      probabilities, targets, fov, iterations, smooth, pooled: as of `soft_cldice`.
      share: a, from 0 to 1.

    Returns:
      the loss of each image, (b,) float32; pooled it is the same for all of them.

    Raises:
      UserError: the shapes do not fit together.
    """
    centerlines = soft_cldice(
        probabilities, targets, fov, iterations=iterations, smooth=smooth, pooled=pooled
    )
    truth, weights = _known(probabilities, targets, fov)
    p = probabilities.astype(jnp.float32)
    if pooled:
        overlap = 2 * (p * truth * weights).sum() + smooth
        overlap = 1 - overlap / ((p * weights).sum() + (truth * weights).sum() + smooth)
    else:
        overlap = _dice(p, truth, weights, smooth)
    return (1 - share) * overlap + share * centerlines


def _known(
    values: Float[Array, "b h w c"],
    targets: Shaped[Array, "b h w c"],
    fov: Shaped[Array, "b h w"] | None,
) -> tuple[Float[Array, "b h w c"], Float[Array, "b h w c"]]:
    """Targets with 0 where they are unknown, and weights of the pixels."""
    check_shapes(predictions=(values, "b h w c"), targets=(targets, "b h w c"), fov=(fov, "b h w"))
    targets = jnp.asarray(targets).astype(jnp.float32)
    known = (targets >= 0) & (targets <= 1)
    weights = known.astype(jnp.float32)
    if fov is not None:
        weights = weights * jnp.asarray(fov).astype(jnp.float32)[..., None]
    return jnp.where(known, targets, 0), weights


def _one_hot(
    logits: Float[Array, "b h w c"],
    labels: Integer[Array, "b h w"],
    fov: Shaped[Array, "b h w"] | None,
) -> tuple[Float[Array, "b h w c"], Float[Array, "b h w"]]:
    """One-hot targets, zeros where they are unknown, and weights of the pixels."""
    check_integers(labels=labels)
    check_shapes(logits=(logits, "b h w c"), labels=(labels, "b h w"), fov=(fov, "b h w"))
    labels = jnp.asarray(labels).astype(jnp.int32)
    weights = ((labels >= 0) & (labels < logits.shape[-1])).astype(jnp.float32)
    if fov is not None:
        weights = weights * jnp.asarray(fov).astype(jnp.float32)
    return jax.nn.one_hot(labels, logits.shape[-1]), weights


def _dice(
    p: Float[Array, "b h w c"],
    truth: Float[Array, "b h w c"],
    weights: Float[Array, "b h w c"],
    smooth: float,
) -> Float[Array, " b"]:
    overlap, predicted, there = (
        (x * weights).sum((1, 2)) for x in (p * truth, p, truth)
    )  # each (b, c)
    loss = 1 - (2 * overlap + smooth) / (predicted + there + smooth)
    return _over_known(loss, weights)


def _over_known(loss: Float[Array, "b c"], weights: Float[Array, "b h w c"]) -> Float[Array, " b"]:
    """Mean over the classes of which any pixel counts."""
    known = (weights > 0).any((1, 2))
    return (loss * known).sum(-1) / jnp.maximum(known.sum(-1), 1)


def _mean(each: Float[Array, "b h w c"], weights: Float[Array, "b h w c"]) -> Float[Array, " b"]:
    """Mean over what counts of an image; 0 where nothing does."""
    total = weights.sum((1, 2, 3))
    return (each * weights).sum((1, 2, 3)) / jnp.where(total > 0, total, 1)


def _erode(x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
    return jnp.minimum(-_maximum(-x, _ROWS), -_maximum(-x, _COLUMNS))


def _dilate(x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
    return _maximum(x, _SQUARE)


def _maximum(x: Float[Array, "b h w c"], window: tuple[int, ...]) -> Float[Array, "b h w c"]:
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, window, (1, 1, 1, 1), "SAME")
