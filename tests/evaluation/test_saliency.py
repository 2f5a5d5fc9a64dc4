"""Curves and the pointing game on maps whose worth is known."""

import numpy as np
import pytest

from retfm_jax.evaluation.metrics import saliency

IMAGE = np.full((10, 10, 3), 100, np.uint8)
IMAGE[2:4, 5:7] = 200
PLACE = np.zeros((10, 10), bool)
PLACE[2:4, 5:7] = True
BLACK = np.zeros_like(IMAGE)


def share_seen(images):
    """The score: how much of the bright spot is there."""
    return (images[:, PLACE][..., 0] == 200).mean(1)


def test_curves_run_from_one_image_to_the_other():
    heat = np.random.default_rng(0).uniform(size=(10, 10))
    out = saliency.deletion(share_seen, IMAGE, heat, BLACK, steps=7)
    back = saliency.insertion(share_seen, IMAGE, heat, BLACK, steps=7)
    assert (out.scores[0], out.scores[-1]) == (1, 0)
    assert (back.scores[0], back.scores[-1]) == (0, 1)
    np.testing.assert_allclose(out.shares[[0, -1]], [0, 1])
    # What is covered in one is what is uncovered in the other.
    np.testing.assert_allclose(out.scores + back.scores, 1)


def test_the_true_map_has_the_best_areas_and_its_opposite_the_worst():
    areas = {}
    for name, heat in {"true": PLACE, "opposite": ~PLACE}.items():
        heat = heat.astype(float)
        areas[name] = [
            curve(share_seen, IMAGE, heat, BLACK, steps=100).area
            for curve in (saliency.deletion, saliency.insertion)
        ]
    # Four pixels of a hundred: a triangle of base 0.04 on the right side.
    np.testing.assert_allclose(areas["true"], [0.02, 0.98])
    np.testing.assert_allclose(areas["opposite"], [0.98, 0.02])


def test_a_constant_score_has_its_own_value_as_area():
    flat = saliency.deletion(lambda images: np.full(len(images), 0.3), IMAGE, PLACE * 1.0, BLACK)
    assert flat.area == pytest.approx(0.3)


def test_blurring_hides_the_spot_and_keeps_the_brightness():
    blurred = saliency.blurred(np.repeat(np.repeat(IMAGE, 10, 0), 10, 1), 0.2)
    assert blurred.max() < 130
    assert abs(float(blurred.mean()) - IMAGE.mean()) < 8


@pytest.mark.parametrize(
    ("at", "tolerance", "hit"), [((2, 5), 0, True), ((2, 8), 0, False), ((2, 8), 2, True)]
)
def test_a_map_points_where_it_is_largest(at, tolerance, hit):
    heat = np.full((10, 10), 0.1)
    heat[at] = 1
    assert saliency.peak(heat) == at
    assert saliency.near(PLACE, tolerance)[at] == hit


def test_equal_values_point_at_their_middle_and_zeros_nowhere():
    heat = np.zeros((10, 10))
    assert saliency.peak(heat) is None
    heat[:, :3] = 1
    assert saliency.peak(heat) in ((4, 1), (5, 1))


def test_chance_is_the_share_of_the_field():
    field = np.zeros((10, 10), bool)
    field[:5] = True
    assert saliency.chance(PLACE, field) == pytest.approx(4 / 50)
    assert saliency.chance(saliency.near(PLACE, 100), field) == 1
    assert np.isnan(saliency.chance(PLACE, ~field & field))
    assert saliency.chance(saliency.near(PLACE & False, 3), field) == 0
