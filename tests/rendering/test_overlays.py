"""Structures on photographs are colored alike at every size."""

import numpy as np

from retfm_jax.rendering import overlays


def test_what_covers_a_whole_pixel_is_colored_as_at_full_size():
    rng = np.random.default_rng(0)
    photograph = rng.integers(0, 256, (20, 30, 3), np.uint8)
    masks = np.zeros((20, 30, 3), np.uint8)
    masks[2:8, 3:9, 0] = masks[10:15, 20:28, 2] = 1
    shown = overlays.masks_over(photograph, masks, np.zeros((20, 30), np.uint8))
    small = overlays.shares_over(photograph, masks.astype(np.float32))
    np.testing.assert_allclose(small.astype(int), shown, atol=1)
    np.testing.assert_array_equal(small[~masks.any(-1)], photograph[~masks.any(-1)])


def test_thin_structures_stay_visible_and_the_last_is_on_top():
    photograph = np.zeros((1, 4, 3), np.uint8)
    shares = np.array([[[0, 0], [0.04, 0], [1, 0], [1, 1]]], np.float32)
    blue = overlays.shares_over(photograph, shares)[0, :, 2].astype(int)
    assert blue[0] == 0 < blue[1] < blue[2]
    assert blue[1] > 0.15 * blue[2]
    top = overlays.STRUCTURE_COLORS[1][1]
    difference = overlays.shares_over(photograph, shares)[0, 3] - 0.7 * np.array(top)
    assert np.abs(difference).max() < 0.31 * 233


def test_a_field_of_view_is_outlined():
    field = np.zeros((9, 9), np.uint8)
    field[2:7, 2:7] = 1
    picture = overlays.outlined(np.zeros((9, 9, 3), np.uint8), field)
    assert (picture[..., 0] > 0).sum() == 16
    assert picture[4, 4].max() == 0
