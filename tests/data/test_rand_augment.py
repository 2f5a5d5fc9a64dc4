"""RandAugment's operations are Pillow's, and their choice is as published."""

import collections

import cv2
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from retfm_jax.config import AugmentConfig, ImageConfig
from retfm_jax.data import rand_augment as ours
from retfm_jax.data.images import augmented

FILL = (123, 116, 104)


def picture(seed: int = 0, height: int = 40, width: int = 48) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(20, 230, (5, 6, 3), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


ODD = np.full((8, 8, 3), 7, np.uint8)


@pytest.mark.parametrize("image", [picture(0), picture(1), ODD], ids=["first", "second", "flat"])
@pytest.mark.parametrize(
    ("operation", "pillow"),
    [
        (ours.auto_contrast, ImageOps.autocontrast),
        (ours.equalize, ImageOps.equalize),
        (lambda x: ours.posterize(x, 1), lambda x: ImageOps.posterize(x, 1)),
        (lambda x: ours.posterize(x, 8), lambda x: ImageOps.posterize(x, 8)),
        (lambda x: ours.solarize(x, 100), lambda x: ImageOps.solarize(x, 100)),
        (lambda x: ours.solarize(x, 256), lambda x: x),
        (
            lambda x: ours.solarize_add(x, 99),
            lambda x: x.point([min(255, i + 99) if i < 128 else i for i in range(256)] * 3),
        ),
        (lambda x: ours.OPERATIONS["Invert"](x, 1.0, 1, FILL), ImageOps.invert),
    ],
)
def test_tables_are_those_of_pillow(operation, pillow, image):
    wanted = np.asarray(pillow(Image.fromarray(image)))
    np.testing.assert_array_equal(operation(image), wanted)


@pytest.mark.parametrize("factor", [0.1, 0.55, 1.0, 1.9])
@pytest.mark.parametrize(
    ("operation", "pillow"),
    [
        (ours.brightness, ImageEnhance.Brightness),
        (ours.contrast, ImageEnhance.Contrast),
        (ours.color, ImageEnhance.Color),
    ],
)
def test_colors_are_those_of_pillow(operation, pillow, factor):
    wanted = np.asarray(pillow(Image.fromarray(picture())).enhance(factor))
    # A product that is nearly whole is cut to either side.
    found = operation(picture(), factor).astype(int)
    assert np.abs(found - wanted).max() <= 1
    assert np.mean(found != wanted) < 0.01


@pytest.mark.parametrize("factor", [0.1, 1.9])
def test_sharpness_is_that_of_pillow(factor):
    image = picture()
    smooth = np.asarray(Image.fromarray(image).filter(ImageFilter.SMOOTH)).astype(int)
    assert np.abs(ours.sharpness(image, 0.0).astype(int) - smooth).max() <= 1
    wanted = np.asarray(ImageEnhance.Sharpness(Image.fromarray(image)).enhance(factor))
    assert np.abs(ours.sharpness(image, factor).astype(int) - wanted).max() <= 2
    np.testing.assert_array_equal(ours.sharpness(image, 1.0), image)


MATRICES = {
    "shear_x": (1, 0.2, 0, 0, 1, 0),
    "shear_y": (1, 0, 0, -0.2, 1, 0),
    "shift": (1, 0, 7.5, 0, 1, -4.25),
}


@pytest.mark.parametrize("matrix", MATRICES.values(), ids=MATRICES)
def test_geometry_is_that_of_pillow(matrix):
    image = picture()
    wanted = Image.fromarray(image).transform(
        (48, 40), Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC, fillcolor=FILL
    )
    same_inside(ours.affine(image, matrix, FILL), np.asarray(wanted))


@pytest.mark.parametrize("degrees", [-30, 12.5])
def test_rotation_is_that_of_pillow(degrees):
    image = picture()
    wanted = Image.fromarray(image).rotate(degrees, Image.Resampling.BICUBIC, fillcolor=FILL)
    same_inside(ours.rotate(image, degrees, FILL), np.asarray(wanted))


def same_inside(found: np.ndarray, wanted: np.ndarray) -> None:
    """Alike but for the edge of what comes into view, where OpenCV blends and Pillow does not."""
    outside = (wanted == FILL).all(-1).astype(np.uint8)
    inside = cv2.dilate(outside, np.ones((5, 5), np.uint8)) == 0
    inside[:3] = inside[-3:] = inside[:, :3] = inside[:, -3:] = False
    assert inside.mean() > 0.3
    assert np.abs(found.astype(int) - wanted)[inside].max() <= 4  # another cubic kernel
    far = cv2.erode(outside, np.ones((5, 5), np.uint8), borderValue=1) == 1
    assert (found[far] == FILL).all()


@pytest.mark.parametrize("name", ours.OPERATIONS)
def test_a_larger_magnitude_changes_more(name):
    operation, image = ours.OPERATIONS[name], picture()
    found = [operation(image, strength, 1, FILL) for strength in (0.3, 0.6, 1.0)]
    if name in ("Rotate", "ShearX", "ShearY", "TranslateXRel", "TranslateYRel"):
        far = [(each == FILL).all(-1).mean() for each in found]
    else:
        far = [np.abs(each.astype(float) - image).mean() for each in found]
    assert far == sorted(far)
    assert far[-1] > 0


@pytest.mark.parametrize(
    "name", [n for n in ours.OPERATIONS if n not in ("AutoContrast", "Equalize", "Invert")]
)
def test_no_magnitude_changes_nothing_but_posterize(name):
    image = picture()
    found = ours.OPERATIONS[name](image, 0.0, -1, FILL)
    wanted = image & 0xF0 if name.startswith("Posterize") else image
    np.testing.assert_array_equal(found, wanted)


def test_operations_are_drawn_alike_and_applied_to_every_second_image(monkeypatch):
    applied = collections.Counter()
    strengths = []

    def counted(name):
        def operation(image, strength, sign, fill):
            applied[name, sign] += 1
            strengths.append(strength)
            return image

        return operation

    monkeypatch.setattr(ours, "OPERATIONS", {name: counted(name) for name in ours.OPERATIONS})
    rng = np.random.default_rng(0)
    for _ in range(6000):
        ours.rand_augment(ODD, 2, 9.0, FILL, rng)
    assert len(applied) == 30, "fifteen operations with either sign"
    counts = np.array(list(applied.values()))
    assert abs(counts.sum() - 6000) < 250
    assert counts.min() > 140
    assert counts.max() < 260
    assert abs(np.mean(strengths) - 0.9) < 0.01
    assert max(strengths) <= 1
    assert 0.035 < np.std(strengths) < 0.055


def test_training_images_have_it_from_the_configuration_alone():
    config = ImageConfig(size=32, mean=(0.5, 0.5, 0.5))
    still = AugmentConfig(crop_area=(1.0, 1.0))
    strong = AugmentConfig(crop_area=(1.0, 1.0), rand_augment=2)

    def made(augment, seed):
        rng = np.random.default_rng(seed)
        return augmented(picture(), config, augment, rng, mirror=False), rng.random()

    plain, after = made(still, 3)
    assert after == np.random.default_rng(3).random(), "nothing is drawn where it is off"
    changed = [made(strong, seed)[0] for seed in range(12)]
    assert all(each.shape == plain.shape and each.dtype == np.uint8 for each in changed)
    assert 4 < sum(not np.array_equal(each, plain) for each in changed) <= 12
    np.testing.assert_array_equal(made(strong, 5)[0], changed[5])
