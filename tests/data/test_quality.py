"""Quality falls as a photograph gets worse, and pictures of other things are no fundus."""

import cv2
import numpy as np
import pytest

from retfm_jax.data.quality import quality, small_disc
from retfm_jax.data_builders.synthetic_fundus.drawing import draw_eye
from retfm_jax.data_builders.synthetic_fundus.population import POPULATIONS, draw_patient


@pytest.fixture(scope="module")
def eyes():
    patients = [draw_patient(POPULATIONS["clinic"], 0, "test", number) for number in range(6)]
    return [draw_eye(eye, patient.look, 256) for patient in patients for eye in patient.eyes]


def text_page():
    page = np.full((400, 300, 3), 255, np.uint8)
    for row in range(30, 390, 25):
        cv2.putText(page, "Fundus report 0123", (10, row), 0, 0.7, (0, 0, 0), 2)
    return page


OTHERS = {
    "noise": np.random.default_rng(0).integers(0, 256, (200, 200, 3), np.uint8),
    "page": text_page(),
    "black": np.zeros((64, 64, 3), np.uint8),
    "white": np.full((64, 64, 3), 255, np.uint8),
    "red": np.full((64, 64, 3), (200, 90, 40), np.uint8),
    "sky": np.repeat(np.linspace(40, 255, 200).astype(np.uint8)[:, None, None], 200, 1)
    * np.array([[[0, 0, 1]]], np.uint8),
    "pixel": np.full((1, 1, 3), 9, np.uint8),
    "line": np.full((2, 300, 3), 90, np.uint8),
}


def test_fundus_photographs_look_like_it_and_are_good(eyes):
    found = [quality(eye) for eye in eyes]
    assert all(each.is_fundus for each in found)
    assert np.mean([each.is_low for each in found]) < 0.2
    assert np.median([each.score for each in found]) > 0.9


@pytest.mark.parametrize("name", OTHERS)
def test_other_pictures_do_not(name):
    found = quality(OTHERS[name])
    assert not found.is_fundus
    assert 0 <= found.score <= 1


def test_gray_pictures_are_no_color_photographs(eyes):
    assert not quality(np.repeat(eyes[0][..., 1:2], 3, axis=2)).is_fundus


def test_every_fault_lowers_its_own_measure(eyes):
    for eye in eyes:
        plain = quality(eye)
        blurs = [quality(cv2.GaussianBlur(eye, (0, 0), sigma)) for sigma in (1, 2, 3)]
        sharpness = [each.sharpness for each in (plain, *blurs)]
        assert sharpness == sorted(sharpness, reverse=True)
        assert blurs[2].is_low
        assert blurs[2].score < plain.score
        dark = quality((eye * 0.15).astype(np.uint8))
        assert dark.is_low
        assert dark.illumination < 0.5 * plain.illumination
        cut = eye.copy()
        cut[:, 150:] = 0
        assert quality(cut).field < 0.75 * plain.field or quality(cut).is_low


def test_neither_size_nor_mirror_matters_much(eyes):
    for eye in eyes:
        plain = quality(eye)
        mirrored = quality(np.ascontiguousarray(eye[:, ::-1]))
        assert mirrored.sharpness == pytest.approx(plain.sharpness, rel=0.02)
        larger = quality(cv2.resize(eye, (700, 700), interpolation=cv2.INTER_CUBIC))
        assert larger.sharpness == pytest.approx(plain.sharpness, rel=0.25)
        assert larger.illumination == pytest.approx(plain.illumination, abs=0.03)


def test_the_copy_that_is_looked_at_is_its_own_copy(eyes):
    wide = np.zeros((600, 900, 3), np.uint8)
    wide[50:550, 200:700] = cv2.resize(eyes[0], (500, 500), interpolation=cv2.INTER_CUBIC)
    small = small_disc(wide)
    assert max(small.shape) == 256
    np.testing.assert_array_equal(small_disc(small), small)
    assert quality(small) == quality(wide)
