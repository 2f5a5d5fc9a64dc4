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
