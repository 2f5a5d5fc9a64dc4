"""Preprocessing on the device equals the same formulas by Pillow, colorsys and NumPy."""

import colorsys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_files import golden_path
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from PIL import Image, ImageEnhance

from retfm_jax.config import AugmentConfig, ImageConfig
from retfm_jax.data import device_augment as device
from retfm_jax.data.images import fit

STILL = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0}


def pictures(rows: int, size: int = 24) -> np.ndarray:
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (rows, 4, 4, 3), np.uint8)
    return np.stack([np.asarray(Image.fromarray(x).resize((size, size))) for x in coarse])


def test_evaluation_meets_the_golden():
    with np.load(golden_path("preprocess.npz")) as golden:
        config = ImageConfig(size=224)
        batch = {
            "image": jnp.asarray(fit(golden["image"], config)[None]),
            "tokens": jnp.ones((1, 3)),
        }
        prepared = jax.jit(lambda b: device.prepare(b, config))(batch)
        np.testing.assert_allclose(prepared["image"][0], golden["clip_224"], atol=1e-6)
        assert prepared["tokens"] is not None
        config = ImageConfig(size=256, resize="pad", mean=(0, 0, 0), std=(1, 1, 1))
        prepared = device.prepare(
            {"image": jnp.asarray(fit(golden["image"], config)[None])}, config
        )
        np.testing.assert_allclose(prepared["image"][0], golden["keepfit_256"], atol=2e-3)


def planes(images):
    return jnp.moveaxis(jnp.asarray(images, jnp.float32) / 255, -1, 1)


@pytest.mark.parametrize(
    ("change", "enhance"),
    [
        (device.brightness, ImageEnhance.Brightness),
        (device.contrast, ImageEnhance.Contrast),
        (device.saturation, ImageEnhance.Color),
    ],
)
def test_changes_equal_pillow(change, enhance):
    images = pictures(3)
    factors = np.array([0.6, 1.0, 1.5], np.float32)
    ours = np.asarray(change(planes(images), jnp.asarray(factors))) * 255
    for image, factor, got in zip(images, factors, np.moveaxis(ours, 1, -1), strict=True):
        want = np.asarray(enhance(Image.fromarray(image)).enhance(float(factor)))
        np.testing.assert_allclose(got, want, atol=1.6)  # Pillow rounds gray, and the result


def test_hue_equals_colorsys():
    images = np.concatenate([pictures(2, 6), np.full((1, 6, 6, 3), 90, np.uint8)])
    images[0, 0, :4] = [[255, 0, 0], [0, 0, 0], [255, 255, 255], [10, 200, 200]]
    shifts = np.array([0.3, -0.2, 0.5], np.float32)
    ours = np.asarray(device.hue(planes(images), jnp.asarray(shifts)))
    for image, shift, got in zip(images, shifts, np.moveaxis(ours, 1, -1), strict=True):
        for pixel, new in zip(image.reshape(-1, 3) / 255, got.reshape(-1, 3), strict=True):
            h, s, v = colorsys.rgb_to_hsv(*pixel)
            want = colorsys.hsv_to_rgb((h + float(shift)) % 1, s, v)
            np.testing.assert_allclose(new, want, atol=2e-6)


def test_jitter_is_a_sequence_of_its_changes():
    images = planes(pictures(4))
    key = jax.random.key(3)
    only_brightness = AugmentConfig(**STILL | {"brightness": 0.4})
    jittered = np.asarray(device.color_jitter(images, only_brightness, key))
    factors = jittered.sum((1, 2, 3)) / np.asarray(images).sum((1, 2, 3))
    assert np.all((factors > 0.55) & (factors < 1.45))
    assert len(np.unique(factors.round(4))) == 4
    np.testing.assert_array_equal(device.color_jitter(images, AugmentConfig(**STILL), key), images)
    never = AugmentConfig(colour_probability=0.0)
    np.testing.assert_array_equal(device.color_jitter(images, never, key), images)
    half = AugmentConfig(colour_probability=0.5)
    many = jnp.repeat(images[:1], 64, 0)
    same = np.isclose(device.color_jitter(many, half, key), many).all((1, 2, 3))
    assert 16 < same.sum() < 48


def test_erased_rectangles_are_as_published():
    images = jnp.ones((400, 3, 40, 40))
    erased = np.asarray(device.random_erasing(images, 0.5, jax.random.key(0)))[:, 0] == 0
    hit = erased.any((1, 2))
    assert 160 < hit.sum() < 240
    for mask in erased[hit]:
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
        assert mask.sum() == height * width  # one full rectangle
        assert 0.015 < mask.mean() < 0.36
        assert 0.25 < height / width < 4
    np.testing.assert_array_equal(device.random_erasing(images, 0.0, jax.random.key(0)), images)


def test_augmentation_does_not_depend_on_the_sharding():
    images = pictures(8)
    batch = {"image_left": images, "image_right": images, "tokens": np.ones((8, 3), np.int32)}
    config, augment = ImageConfig(size=24), AugmentConfig(erasing_probability=0.5)
    prepare = jax.jit(lambda b, key: device.prepare(b, config, augment, key))
    alone = prepare(batch, jax.random.key(1))
    mesh = Mesh(np.array(jax.devices()), ("data",))
    rows = NamedSharding(mesh, PartitionSpec("data"))
    sharded = prepare(jax.device_put(batch, rows), jax.random.key(1))
    for name, value in alone.items():
        np.testing.assert_allclose(value, sharded[name], atol=2e-5)
    # The two eyes and the rows draw for themselves; another key draws anew.
    assert not np.allclose(alone["image_left"], alone["image_right"])
    again = prepare(batch, jax.random.key(2))
    assert not np.allclose(alone["image_left"], again["image_left"])


def test_erasing_with_noise_has_the_same_rectangles():
    images, key = jnp.full((64, 3, 24, 24), 7.0), jax.random.key(0)
    gray = np.asarray(device.random_erasing(images, 0.5, key)) != 7
    noisy = np.asarray(device.random_erasing(images, 0.5, key, fill="noise"))
    np.testing.assert_array_equal(noisy != 7, gray)
    assert abs(noisy[gray].mean()) < 0.05
    assert abs(noisy[gray].std() - 1) < 0.05


MIXED = {"mixup": AugmentConfig(mixup=0.8), "cutmix": AugmentConfig(cutmix=1.0)}
#: Image k is k everywhere, and its label is its own class.
ROWS = np.broadcast_to(np.arange(8, dtype=np.float32)[:, None, None, None], (8, 3, 12, 16))
LABELS = np.eye(8, dtype=np.float32)


@pytest.mark.parametrize("config", MIXED.values(), ids=MIXED)
def test_labels_are_mixed_as_the_pixels_are(config):
    mixed = jax.jit(lambda key: device.mixed(jnp.asarray(ROWS), jnp.asarray(LABELS), config, key))
    shares = []
    for seed in range(40):
        images, labels = map(np.asarray, mixed(jax.random.key(seed)))
        np.testing.assert_allclose(labels.sum(1), 1, atol=1e-6)
        np.testing.assert_allclose(images.mean((1, 2, 3)), labels @ np.arange(8), atol=1e-4)
        shares.append(labels[0, 0])
        assert set(np.flatnonzero(labels[3])) <= {2, 3}, "neighbors are mixed"
    shares = np.array(shares)
    assert shares.min() < 0.55
    assert shares.max() > 0.8
    assert len(np.unique(shares.round(4))) > 20


def test_mixup_shares_are_of_the_beta_distribution():
    config = AugmentConfig(mixup=0.4)
    keys = jax.random.split(jax.random.key(0), 2000)
    ones, labels = jnp.ones((2, 3, 1, 1)), jnp.asarray(np.eye(2, dtype=np.float32))
    found = jax.vmap(lambda key: device.mixed(ones, labels, config, key)[1][0, 0])(keys)
    assert abs(np.mean(found) - 0.5) < 0.03
    assert abs(np.var(found) - 1 / (4 * 1.8)) < 0.01  # of Beta(a, a): 1 / (4 (2 a + 1))


def test_cutmix_covers_one_rectangle():
    images, labels = jax.vmap(
        lambda key: device.mixed(jnp.asarray(ROWS), jnp.asarray(LABELS), MIXED["cutmix"], key)
    )(jax.random.split(jax.random.key(1), 50))
    for image, label in zip(np.asarray(images)[:, 0, 0], np.asarray(labels)[:, 0], strict=True):
        covered = image == 1
        assert covered.mean() == pytest.approx(label[1], abs=1e-6)
        rows, columns = covered.any(1), covered.any(0)
        np.testing.assert_array_equal(covered, rows[:, None] & columns[None])


def test_with_both_a_batch_has_one_of_them():
    config = AugmentConfig(mixup=0.8, cutmix=1.0)
    images, _ = jax.vmap(
        lambda key: device.mixed(jnp.asarray(ROWS), jnp.asarray(LABELS), config, key)
    )(jax.random.split(jax.random.key(2), 200))
    whole = np.isin(np.asarray(images)[:, :2, 0], (0, 1)).all((1, 2, 3))
    blended = np.ptp(np.asarray(images)[:, 0, 0], axis=(1, 2)) == 0
    assert (whole | blended).all()
    assert 70 < whole.sum() < 140


def test_unknown_labels_stay_unknown_and_an_odd_row_alone():
    labels = np.array([[1, -1, 0], [0, 1, 0], [-1, 1, 1]], np.float32)
    images, found = device.mixed(
        jnp.asarray(ROWS[:3]), jnp.asarray(labels), MIXED["mixup"], jax.random.key(5)
    )
    assert np.asarray(found[:, 1]).tolist() == [-1, -1, 1]
    assert float(found[0, 0]) + float(found[1, 0]) == pytest.approx(1)
    np.testing.assert_array_equal(found[2], labels[2])
    np.testing.assert_allclose(images[2], ROWS[2], atol=1e-6)


def test_mixing_does_not_depend_on_the_sharding():
    batch = {"image": pictures(8), "labels": LABELS}
    config = ImageConfig(size=24)
    augment = AugmentConfig(mixup=0.8, cutmix=1.0, erasing_probability=0.5, erasing_fill="noise")
    prepare = jax.jit(lambda b, key: device.prepare(b, config, augment, key))
    alone = prepare(batch, jax.random.key(1))
    assert not np.allclose(alone["labels"], LABELS)
    for devices in (2, 4):
        mesh = Mesh(np.array(jax.devices()[:devices]), ("data",))
        placed = jax.device_put(batch, NamedSharding(mesh, PartitionSpec("data")))
        sharded = prepare(placed, jax.random.key(1))
        for name, value in alone.items():
            np.testing.assert_allclose(value, sharded[name], atol=2e-5)
        assert "all-gather" not in prepare.lower(placed, jax.random.key(1)).compile().as_text()


def test_evaluation_mixes_nothing():
    batch = {"image": pictures(2), "labels": LABELS[:2]}
    plain = device.prepare(batch, ImageConfig(size=24), AugmentConfig(mixup=1.0), None)
    np.testing.assert_array_equal(plain["labels"], LABELS[:2])
