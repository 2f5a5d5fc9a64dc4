"""CLAHE belongs to the preprocessing, wherever a photograph becomes the network's input."""

import json

import cv2
import numpy as np
import pytest

from retfm_jax.config import AugmentConfig, ImageConfig, from_dict, load_config, to_dict
from retfm_jax.data.contrast import equalized
from retfm_jax.data.field_of_view import around_disc
from retfm_jax.data.images import augmented, describe, fit
from retfm_jax.interop.huggingface import image_processor


def dull_eye(height=300, width=420, radius=130):
    """A dark disc of little contrast, with a lesion that is hardly darker."""
    rows, columns = np.mgrid[:height, :width]
    distance = np.hypot(rows - height / 2, columns - width / 2)
    image = np.zeros((height, width, 3), np.float32)
    image[distance < radius] = (90, 50, 25)
    image[np.hypot(rows - 120, columns - 200) < 15] -= (8, 8, 5)
    noise = np.random.default_rng(0).normal(0, 1.5, image.shape)
    return (image + noise).clip(0, 255).astype(np.uint8)


def lightness(image):
    return cv2.cvtColor(image, cv2.COLOR_RGB2LAB)[..., 0].astype(float)


def test_contrast_grows_where_there_is_little_and_colors_stay():
    image = dull_eye()
    found = equalized(image)
    assert found.dtype == np.uint8
    assert found.shape == image.shape
    lesion, beside = (slice(115, 125), slice(195, 205)), (slice(115, 125), slice(225, 235))

    def step(picture):
        return lightness(picture)[beside].mean() - lightness(picture)[lesion].mean()

    assert step(found) > 1.8 * step(image) > 0
    before, after = (cv2.cvtColor(x, cv2.COLOR_RGB2LAB)[..., 1:] for x in (image, found))
    assert np.abs(before.astype(int) - after).mean() < 2


def test_mirrored_photographs_are_equalized_alike():
    # The grid of tiles is symmetric where it divides the picture.
    image = dull_eye(320, 320)
    mirrored = equalized(np.ascontiguousarray(image[:, ::-1]))[:, ::-1]
    assert np.abs(mirrored.astype(int) - equalized(image)).max() <= 2


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (9, 200), (64, 64)])
def test_small_and_flat_pictures_have_a_result(shape):
    image = np.full((*shape, 3), 120, np.uint8)
    found = equalized(image)
    assert found.shape == image.shape
    assert (found == found[0, 0]).all()


def test_evaluation_and_training_equalize_behind_the_crop():
    image, config = dull_eye(), ImageConfig(size=64, field_of_view="crop", contrast="clahe")
    plain = ImageConfig(size=64)
    wanted = equalized(around_disc(image))
    np.testing.assert_array_equal(fit(image, config), fit(wanted, plain))
    still, rng = AugmentConfig(crop_area=(1.0, 1.0)), np.random.default_rng
    ours = augmented(image, config, still, rng(0), mirror=False)
    np.testing.assert_array_equal(ours, augmented(wanted, plain, still, rng(0), mirror=False))
    assert (ours != augmented(image, plain, still, rng(0), mirror=False)).any()


def test_a_model_says_it_and_older_configurations_have_none():
    config = ImageConfig(contrast="clahe")
    assert "RGB, CLAHE of L* (8 x 8 tiles, clip limit 2), squashed" in describe(config)
    assert "CLAHE" not in describe(ImageConfig())
    assert image_processor(config) is None
    experiment = load_config("quickstart")
    said = json.loads(json.dumps(to_dict(experiment)))
    assert said["data"]["image"].pop("contrast") == "none"
    assert from_dict(said) == experiment
