"""A pixel that is marked on a photograph is found there again, whatever the preprocessing was."""

import numpy as np
import pytest

from retfm_jax.config import ImageConfig
from retfm_jax.data.field_of_view import disc_square
from retfm_jax.data.images import fit
from retfm_jax.data.placement import onto_photograph, scaled_frame

SHAPES = [(90, 90), (120, 80), (75, 131), (40, 33), (64, 64)]


@pytest.mark.parametrize("resize", ["squash", "squash_bilinear", "pad", "crop"])
@pytest.mark.parametrize(("height", "width"), SHAPES)
def test_a_marked_place_is_found_where_it_was(resize, height, width):
    config = ImageConfig(size=64, resize=resize)
    rows, columns = np.mgrid[:height, :width] + 0.5
    for down, across in ((0.3, 0.6), (0.5, 0.5), (0.7, 0.35)):
        y, x = down * height, across * width
        spot = np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / (2 * (0.05 * height) ** 2))
        photograph = np.repeat(np.rint(255 * spot).astype(np.uint8)[..., None], 3, 2)
        seen = fit(photograph, config)[..., 0].astype(np.float32)
        laid = onto_photograph(seen[None], height, width, config)[0]
        assert laid.shape == (height, width)
        center = [(laid * axis).sum() / laid.sum() for axis in (rows, columns)]
        assert abs(center[0] - y) < 0.5
        assert abs(center[1] - x) < 0.5
        # Shape and size come back as well, not only the place.
        assert np.abs(laid - 255 * spot).max() < 64


@pytest.mark.parametrize("resize", ["squash", "pad", "crop"])
def test_what_was_not_seen_is_zero_and_padding_is_gone(resize):
    config = ImageConfig(size=32, resize=resize)
    laid = onto_photograph(np.ones((2, 4, 4), np.float32), 70, 100, config)
    assert laid.shape == (2, 70, 100)
    if resize == "crop":
        (high, wide), (top, left) = scaled_frame(70, 100, config)
        margin_y, margin_x = int(-top * 70 / high), int(-left * 100 / wide)
        assert margin_y > 0
        assert margin_x > margin_y
        assert not laid[:, : margin_y - 1].any()
        assert not laid[:, :, : margin_x - 1].any()
        assert not laid[:, -margin_y + 1 :].any()
        assert not laid[:, :, -margin_x + 1 :].any()
        assert (laid[:, margin_y + 2 : -margin_y - 2, margin_x + 2 : -margin_x - 2] == 1).all()
    else:
        assert (laid == 1).all()


@pytest.mark.parametrize("resize", ["squash", "pad", "crop"])
def test_another_resolution_shows_the_same_map(resize):
    config = ImageConfig(size=32, resize=resize)
    maps = np.random.default_rng(0).uniform(size=(1, 8, 8)).astype(np.float32)
    large = onto_photograph(maps, 80, 120, config)[0]
    small = onto_photograph(maps, 80, 120, config, (40, 60))[0]
    means = large.reshape(40, 2, 60, 2).mean((1, 3))
    inside = means > 0 if resize == "crop" else np.ones_like(means, bool)
    assert np.abs(means - small)[inside].mean() < 0.01


@pytest.mark.parametrize("resize", ["squash", "squash_bilinear", "pad", "crop"])
@pytest.mark.parametrize(("height", "width"), [(90, 140), (110, 100), (70, 130)])
def test_a_marked_place_is_found_behind_the_field_of_view(resize, height, width):
    """The disc is cut at top and bottom in the flat pictures, and beside the middle."""
    config = ImageConfig(size=64, resize=resize, field_of_view="crop")
    rows, columns = np.mgrid[:height, :width] + 0.5
    radius, center = 42.0, (height / 2, width / 2 - 3)
    disc = (rows - center[0]) ** 2 + (columns - center[1]) ** 2 < radius**2
    y, x = center[0] - 9, center[1] + 12
    spot = np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / (2 * 4.0**2))
    plain = np.repeat(np.where(disc, 100, 0).astype(np.uint8)[..., None], 3, 2)
    marked = plain.copy()
    marked[..., 0] += np.rint(150 * spot * disc).astype(np.uint8)
    square = disc_square(marked)
    assert square == disc_square(plain)
    assert square is not None
    seen = fit(marked, config)[..., 0].astype(np.float32) - fit(plain, config)[..., 0]
    laid = onto_photograph(seen[None], height, width, config, square=square)[0]
    laid = np.where(laid > 10, laid, 0)
    found = [(laid * axis).sum() / laid.sum() for axis in (rows, columns)]
    assert abs(found[0] - y) < 1
    assert abs(found[1] - x) < 1
    outside = np.ones((height, width), bool)
    top, left = max(square.top, 0), max(square.left, 0)
    outside[top : square.top + square.side, left : square.left + square.side] = False
    full = onto_photograph(np.ones((1, 4, 4), np.float32), height, width, config, square=square)[0]
    assert not full[outside].any()
