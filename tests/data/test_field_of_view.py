"""The square around the lit disc, and the filters of the rules by which images are scaled."""

import dataclasses
import io

import numpy as np
import pytest
from PIL import Image

from retfm_jax.config import AugmentConfig, ImageConfig
from retfm_jax.data.field_of_view import around_disc
from retfm_jax.data.images import augmented, describe, fit, training_image


def photograph(height, width, radius, center=None, surround=4, seed=0):
    """A disc, brighter in its middle, in a noisy dark surround."""
    rng = np.random.default_rng(seed)
    y, x = center or (height / 2, width / 2)
    rows, columns = np.mgrid[:height, :width]
    distance = np.hypot(rows - y, columns - x)
    pixels = np.full((height, width, 3), float(surround))
    inside = distance < radius
    shade = 1 - 0.5 * (distance[inside] / radius) ** 2
    pixels[inside] = np.array([180, 90, 40]) * shade[:, None]
    return (pixels + rng.normal(0, 2, pixels.shape)).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize(
    ("shape", "radius", "center"),
    [
        ((400, 600), 180, None),
        ((400, 600), 150, (190, 250)),
        ((1000, 1000), 300, (400, 450)),
        ((300, 300), 100, (120, 150)),
    ],
)
def test_a_whole_disc_is_found_to_within_the_pixels_of_the_copy(shape, radius, center):
    image = photograph(*shape, radius, center)
    found = around_disc(image)
    pixel = max(1.0, max(shape) / 256)
    assert found.shape[0] == found.shape[1]
    assert abs(found.shape[0] - 2 * radius) <= 3 * pixel
    y, x = (round(each) for each in center or (shape[0] / 2, shape[1] / 2))
    middle = found.shape[0] // 2
    margin = int(2 * pixel) + 1
    # The middle of the disc is the middle of the square.
    near = image[y - margin : y + margin + 1, x - margin : x + margin + 1].reshape(-1, 3)
    assert (near == found[middle, middle]).all(axis=1).any()


def test_a_disc_that_is_cut_keeps_its_aspect():
    image = photograph(400, 600, 240)
    found = around_disc(image)
    assert found.shape[0] == found.shape[1] == pytest.approx(480, abs=8)
    empty = (found.shape[0] - 400) // 2
    assert not found[: empty - 1].any()
    assert not found[-(empty - 1) :].any()
    np.testing.assert_array_equal(found[empty : empty + 400, 240], image[:, 240 + (600 - 480) // 2])


@pytest.mark.parametrize("radius", [120, 180, 240])
def test_cropping_twice_changes_nothing(radius):
    found = around_disc(photograph(400, 600, radius))
    assert around_disc(found) is found


def test_marks_in_the_margin_are_no_part_of_the_disc():
    image = photograph(400, 600, 150)
    plain = around_disc(image)
    marked = image.copy()
    marked[5:25, 10:90] = 255
    marked[380:395, 560:590] = 200
    np.testing.assert_array_equal(around_disc(marked), plain)


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((50, 70, 3), np.uint8),
        np.full((50, 70, 3), 200, np.uint8),
        np.random.default_rng(0).integers(0, 256, (60, 90, 3), np.uint8),
        np.random.default_rng(0).integers(0, 12, (300, 400, 3)).astype(np.uint8),
        photograph(400, 600, 180, surround=120),
        photograph(200, 200, 20),
        photograph(1, 1, 5),
        photograph(2, 900, 500),
    ],
    ids=["black", "flat", "noise", "dark noise", "bright surround", "speck", "pixel", "line"],
)
def test_without_a_disc_the_picture_stays_whole(image):
    assert around_disc(image) is image


def test_training_evaluation_and_single_images_see_the_same_disc():
    image = photograph(400, 600, 150, (190, 250))
    config = ImageConfig(size=64, field_of_view="crop")
    whole = ImageConfig(size=64)
    cropped = around_disc(image)
    np.testing.assert_array_equal(fit(image, config), fit(cropped, whole))
    still = AugmentConfig(crop_area=(1.0, 1.0))
    rng = np.random.default_rng
    ours = augmented(image, config, still, rng(0), mirror=False)
    np.testing.assert_array_equal(ours, augmented(cropped, whole, still, rng(0), mirror=False))
    np.testing.assert_array_equal(augmented(cropped, config, still, rng(0), mirror=False), ours)
    # A JPEG that is decoded at a part of its size shows the same disc.
    file = io.BytesIO()
    Image.fromarray(photograph(1600, 2400, 600, (760, 1000))).save(file, "JPEG", quality=95)
    one = training_image(file.getvalue(), "eye", config, still, rng(0), mirror=False)
    pixels = np.asarray(Image.open(io.BytesIO(file.getvalue())).convert("RGB"))
    far = np.abs(one.astype(int) - fit(pixels, config)).mean()
    assert far < 4


def triangle(old, new):
    """Weights of an antialiased bilinear filter, (new, old), as PyTorch defines it."""
    scale = old / new
    support = max(scale, 1.0)
    centers = (np.arange(new) + 0.5) * scale
    near = 1 - np.abs(np.arange(old) + 0.5 - centers[:, None]) / support
    weights = near.clip(0)
    return weights / weights.sum(1, keepdims=True)


@pytest.mark.parametrize("shape", [(90, 70), (40, 200), (30, 30)])
def test_the_bilinear_squash_is_the_antialiased_one_of_pytorch(shape):
    import torch

    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    found = fit(image, ImageConfig(size=56, resize="squash_bilinear")).astype(int)
    down, across = triangle(shape[0], 56), triangle(shape[1], 56)
    formula = np.einsum("yh,hwc,xw->yxc", down, image.astype(float), across)
    assert np.abs(found - formula).max() <= 1.01  # Pillow rounds after each axis
    planes = torch.from_numpy(image).permute(2, 0, 1)[None].float()
    theirs = torch.nn.functional.interpolate(
        planes, (56, 56), mode="bilinear", antialias=True, align_corners=False
    )
    np.testing.assert_allclose(formula, theirs[0].permute(1, 2, 0).numpy(), atol=1e-3)


def test_the_other_rules_have_kept_their_bits():
    image = np.random.default_rng(0).integers(0, 256, (90, 70, 3), np.uint8)
    bicubic = np.asarray(Image.fromarray(image).resize((56, 56), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(fit(image, ImageConfig(size=56)), bicubic)
    assert (fit(image, ImageConfig(size=56, resize="squash_bilinear")) != bicubic).any()


def test_every_rule_is_described():
    for resize, said in (
        ("squash", "RGB, squashed to 224 x 224 px (bicubic), (x / 255 - (0.5, 0.5, 0.5)) / ("),
        ("squash_bilinear", "(bilinear, antialiased)"),
        ("pad", "long side to 224 px"),
        ("crop", "short side to 256 px (bicubic), central 224 x 224 px"),
    ):
        config = ImageConfig(resize=resize, mean=(0.5,) * 3)
        assert said in describe(config)
        assert "lit disc" not in describe(config)
        assert "RGB, cropped to the lit disc, " in describe(
            dataclasses.replace(config, field_of_view="crop")
        )
