"""Losses of segmentation are the published ones, and count what is seen and known alone."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_files import Golden, assert_near

from retfm_jax.errors import UserError
from retfm_jax.losses import segmentation as losses

GOLDEN = Golden("segmentation_losses.npz")
BATCH = GOLDEN.batch()
POOLED = {"pooled": True, "iterations": GOLDEN.config["soft_cldice_iterations"]}
PUBLISHED = {
    "one_dice": (losses.dice, "one_logits", "one_mask", {}),
    "one_dice_ce": (losses.dice_ce, "one_logits", "one_mask", {}),
    "four_dice": (losses.dice, "four_logits", "four_mask", {}),
    "four_dice_ce": (losses.dice_ce, "four_logits", "four_mask", {}),
    "soft_cldice": (losses.soft_cldice, "vessel_probability", "vessel_mask", POOLED),
    "soft_dice_cldice": (losses.dice_cldice, "vessel_probability", "vessel_mask", POOLED),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_loss_and_its_gradient_are_the_published_ones(name):
    loss, values, masks, options = PUBLISHED[name]

    @jax.jit
    @jax.value_and_grad
    def mean(values):
        return loss(values, BATCH[masks], smooth=GOLDEN.config["smooth"], **options).mean()

    value, gradient = mean(BATCH[values])
    assert_near({name: value}, {name: GOLDEN["out"][name]}, 2e-5)
    gradient = np.moveaxis(np.asarray(gradient), -1, 1)
    assert_near({name: gradient}, {name: GOLDEN["grad"][name]}, 2e-4)


def _many(seed=0, shape=(3, 12, 10, 2)):
    rng = np.random.default_rng(seed)
    logits = 2 * rng.normal(size=shape).astype(np.float32)
    targets = (rng.random(shape) < 0.3).astype(np.uint8)
    fov = (rng.random(shape[:3]) < 0.8).astype(np.uint8)
    labels = rng.integers(0, shape[-1], shape[:3]).astype(np.int32)
    return logits, targets, fov, labels


def _sigmoid(z):
    return 1 / (1 + np.exp(-z.astype(np.float64)))


def test_dice_and_cross_entropy_are_their_equations():
    logits, targets, fov, labels = _many()
    targets[1, :, :, 0] = 255
    targets[0, :3] = 255
    dices, entropies = [], []
    for z, t, f in zip(logits, targets, fov, strict=True):
        each, all_terms = [], []
        for k in range(2):
            counted = (f > 0) & (t[..., k] <= 1)
            if not counted.any():
                continue
            p, y = _sigmoid(z[..., k])[counted], t[..., k][counted]
            each.append(1 - (2 * (p * y).sum() + 1) / (p.sum() + y.sum() + 1))
            all_terms.append(-np.log(np.where(y == 1, p, 1 - p)))
        dices.append(np.mean(each))
        entropies.append(np.concatenate(all_terms).mean())
    np.testing.assert_allclose(losses.dice(logits, targets, fov), dices, rtol=1e-5)
    got = losses.binary_cross_entropy(logits, targets, fov)
    np.testing.assert_allclose(got, entropies, rtol=1e-5)
    labels[2, 4:] = -1
    dices, entropies = [], []
    for z, y, f in zip(logits, labels, fov, strict=True):
        counted = (f > 0) & (y >= 0)
        p = np.exp(z - z.max(-1, keepdims=True))
        p = (p / p.sum(-1, keepdims=True))[counted]
        hot = np.eye(2)[y[counted]]
        entropies.append(-np.log((p * hot).sum(-1)).mean())
        dices.append(np.mean(1 - (2 * (p * hot).sum(0) + 1) / (p.sum(0) + hot.sum(0) + 1)))
    np.testing.assert_allclose(losses.cross_entropy(logits, labels, fov), entropies, rtol=1e-5)
    np.testing.assert_allclose(losses.softmax_dice(logits, labels, fov), dices, rtol=1e-5)
    both = losses.softmax_dice_ce(logits, labels, fov)
    np.testing.assert_allclose(both, np.add(dices, entropies), rtol=1e-5)


_MULTI_LABEL = {
    "dice": losses.dice,
    "dice_ce": losses.dice_ce,
    "soft_cldice": lambda z, *rest: losses.soft_cldice(jax.nn.sigmoid(z), *rest, iterations=3),
    "dice_cldice": lambda z, *rest: losses.dice_cldice(jax.nn.sigmoid(z), *rest, iterations=3),
    "pooled": lambda z, *rest: losses.dice_cldice(
        jax.nn.sigmoid(z), *rest, iterations=3, pooled=True
    ),
}


@pytest.mark.parametrize("name", _MULTI_LABEL)
def test_what_is_outside_of_the_field_of_view_or_unknown_has_no_gradient(name):
    logits, targets, fov, _ = _many()
    targets[0, ..., 1] = targets[2, :5] = 255
    counted = (targets <= 1) & (fov[..., None] > 0)
    loss = jax.jit(lambda z, t: _MULTI_LABEL[name](z, t, fov).sum())
    gradient = np.asarray(jax.jit(jax.grad(loss))(logits, targets))
    assert (gradient[~counted] == 0).all()
    assert np.abs(gradient[counted]).max() > 0
    other = np.where(counted, logits, 9.0)
    np.testing.assert_allclose(loss(other, targets), loss(logits, targets), rtol=1e-5)


@pytest.mark.parametrize("name", ["cross_entropy", "softmax_dice"])
def test_an_unknown_pixel_of_exclusive_classes_has_no_gradient(name):
    logits, _, fov, labels = _many()
    labels[:, :4], labels[:, 4:6] = -1, 255
    counted = (labels >= 0) & (labels < 2) & (fov > 0)
    gradient = jax.grad(lambda z: getattr(losses, name)(z, labels, fov).sum())(logits)
    assert (np.asarray(gradient)[~counted] == 0).all()
    assert np.abs(gradient[counted]).max() > 0


def test_any_number_outside_of_the_range_stands_for_unknown():
    logits, targets, fov, _ = _many()
    targets[0, ..., 1] = 255
    signed = np.where(targets == 255, -1, targets).astype(np.int8)
    for loss in (losses.dice_ce, losses.binary_cross_entropy):
        np.testing.assert_array_equal(loss(logits, targets, fov), loss(logits, signed, fov))


@pytest.mark.parametrize("name", ["dice_ce", "soft_cldice", "dice_cldice"])
def test_an_image_of_which_nothing_is_known_is_no_nan(name):
    logits, targets, fov, _ = _many()
    targets[1] = 255
    fov[2] = 0

    def loss(z):
        return _MULTI_LABEL[name](z, targets, fov)

    values = loss(logits)
    assert values[1] == values[2] == 0 < values[0]
    assert np.isfinite(jax.grad(lambda z: loss(z).sum())(logits)).all()


def test_an_empty_mask_asks_for_an_empty_prediction():
    empty = np.zeros((1, 8, 8, 1), np.uint8)
    quiet, loud = (losses.dice(jnp.full((1, 8, 8, 1), z), empty)[0] for z in (-20.0, 3.0))
    assert quiet < 1e-5
    assert loud > 0.9


@pytest.mark.parametrize("name", [name for name in _MULTI_LABEL if name != "pooled"])
def test_an_image_of_a_batch_is_computed_as_if_alone(name):
    logits, targets, fov, _ = _many()
    run = jax.jit(_MULTI_LABEL[name])
    alone = [run(logits[i : i + 1], targets[i : i + 1], fov[i : i + 1])[0] for i in range(3)]
    np.testing.assert_allclose(run(logits, targets, fov), alone, rtol=1e-5)


@pytest.mark.parametrize("name", _MULTI_LABEL)
def test_bfloat16_costs_the_rounding_of_logits_alone(name):
    """Sums over a million pixels in bfloat16 would stand still at 256."""
    logits, targets, fov, _ = _many(shape=(1, 256, 256, 1))
    rounded = jnp.asarray(logits, jnp.bfloat16)
    run = jax.jit(_MULTI_LABEL[name])
    rough, exact = run(rounded, targets, fov), run(rounded.astype(jnp.float32), targets, fov)
    assert rough.dtype == jnp.float32
    np.testing.assert_allclose(rough, exact, rtol=2e-2 if "cl" in name or name == "pooled" else 0)


def test_the_skeleton_of_a_wide_line_is_its_middle():
    line = np.zeros((1, 21, 40, 1), np.float32)
    line[:, 8:13] = 1
    middle = np.asarray(losses.soft_skeleton(line, 4))[0, :, 10:30, 0]
    np.testing.assert_array_equal(middle.argmax(0), 10)
    assert middle[10].min() == 1
    assert middle[[8, 9, 11, 12]].max() == 0


def test_a_thin_vessel_that_breaks_costs_more_centerline_than_overlap():
    truth = np.zeros((1, 40, 40, 1), np.float32)
    truth[:, 18:22] = 1
    truth[:, :18, 20] = 1
    thin_lost = truth.copy()
    thin_lost[:, :18, 20] = 0
    run = functools.partial(losses.soft_cldice, iterations=4)
    assert run(thin_lost, truth)[0] > 1.5 * losses.dice_cldice(thin_lost, truth, share=0.0)[0]
    assert run(truth, truth)[0] < 1e-6


@pytest.mark.wrong_arguments
@pytest.mark.parametrize(
    ("loss", "arguments", "message"),
    [
        (losses.dice, ((2, 8, 8, 1), (2, 8, 8, 3)), "targets"),  # masks loaded as RGB
        (losses.dice, ((2, 8, 8, 1), (2, 8, 9, 1)), "targets"),
        (losses.dice_ce, ((2, 8, 8, 1), (2, 8, 8)), "targets must have the shape"),
        (losses.soft_cldice, ((2, 8, 8, 1), (2, 8, 8, 1), (2, 8, 4)), "fov"),
        (losses.cross_entropy, ((2, 8, 8, 3), (2, 8, 8)), "must be integers"),
    ],
)
def test_masks_that_do_not_fit_are_named(loss, arguments, message):
    with pytest.raises(UserError, match=message):
        loss(*(jnp.zeros(shape) for shape in arguments))
