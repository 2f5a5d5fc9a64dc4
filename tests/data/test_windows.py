"""Logits of photographs of any size come from where they belong, and each pixel counts once."""

import dataclasses
import time
import tracemalloc

import numpy as np
import pytest

from retfm_jax.config import DataConfig, ImageConfig, MasksConfig
from retfm_jax.data import windows

SIZE = 32


def config(geometry, working_size=0, **image):
    return DataConfig(
        image=ImageConfig(size=SIZE, **image),
        masks=MasksConfig(geometry=geometry, working_size=working_size),
    )


def picture(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)


def slope(height, width):
    """A smooth picture, which scaling down and up again changes little."""
    down, across = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    planes = [255 * down, 255 * across, 127 * (down + across)]
    return np.stack(planes, -1).astype(np.uint8)


def itself(pictures):
    """The identity network."""
    return pictures.astype(np.float32)


@pytest.mark.parametrize("weighing", ["hann", "equal"])
@pytest.mark.parametrize(
    "shape", [(32, 32), (100, 75), (33, 200), (20, 20), (10, 90), (1, 1)], ids=str
)
def test_windows_of_the_identity_network_give_the_picture(shape, weighing):
    image = picture(*shape)
    found = windows.photograph_logits(image, itself, config("windows"), weighing=weighing)
    np.testing.assert_allclose(found, image, atol=1e-3)


@pytest.mark.parametrize("weighing", ["hann", "equal"])
@pytest.mark.parametrize("shape", [(32, 32), (100, 75), (33, 200), (20, 90)], ids=str)
def test_every_pixel_is_weighed_once(shape, weighing):
    """Whatever a window says, as long as all say the same."""
    ones = windows.blended(
        picture(*shape), lambda x: np.ones((*x.shape[:3], 2), np.float32), SIZE, weighing=weighing
    )
    np.testing.assert_allclose(ones, 1, rtol=1e-6)
    covered = np.zeros(shape, int)
    for top in windows.window_starts(shape[0], SIZE):
        for left in windows.window_starts(shape[1], SIZE):
            covered[top : top + SIZE, left : left + SIZE] += 1
    assert covered.min() >= 1
    # Inside of the picture, where there is room, windows overlap.
    if min(shape) > 2 * SIZE:
        assert covered[SIZE:-SIZE, SIZE:-SIZE].min() >= 4


def test_windows_begin_at_the_edges_and_overlap_by_half():
    assert windows.window_starts(20, 32) == windows.window_starts(32, 32) == (0,)
    assert windows.window_starts(33, 32) == (0, 1)
    for side in (48, 64, 75, 200, 961):
        starts = windows.window_starts(side, 32)
        assert (starts[0], starts[-1]) == (0, side - 32)
        assert max(np.diff(starts)) <= 16


def test_a_network_is_called_with_as_many_windows_every_time():
    seen = []

    def network(pictures):
        seen.append(pictures.shape)
        return itself(pictures)

    windows.blended(picture(100, 75), network, SIZE, batch=5)
    assert set(seen) == {(5, SIZE, SIZE, 3)}


def test_windows_fade_into_each_other():
    """Of a network that errs at the edges of its input, little is left."""

    def network(pictures):
        found = np.zeros((*pictures.shape[:3], 1), np.float32)
        found[:, :2] = found[:, -2:] = 1
        return found

    inner = np.s_[SIZE:-SIZE]
    hann, equal = (
        windows.blended(picture(160, 32), network, SIZE, weighing=weighing)[inner].max()
        for weighing in ("hann", "equal")
    )
    assert hann < 0.1 < equal


@pytest.mark.parametrize("resize", ["squash", "pad"])
@pytest.mark.parametrize("shape", [(64, 64), (90, 60), (47, 81), (20, 25)], ids=str)
def test_whole_photographs_of_the_identity_network_are_themselves(shape, resize):
    image = slope(*shape)
    found = windows.photograph_logits(image, itself, config("whole", resize=resize))
    assert found.shape == image.shape
    assert np.abs(found - image).mean() < 2
    # At the rim the black beside it shines through.
    assert np.abs(found - image)[3:-3, 3:-3].max() < 12


@pytest.mark.parametrize("working_size", [40, 90, 200])
def test_windows_at_a_working_size_give_the_photograph_at_its_own(working_size):
    image = slope(90, 60)
    found = windows.photograph_logits(image, itself, config("windows", working_size))
    assert found.shape == image.shape
    assert np.abs(found - image).mean() < 2


def test_what_a_central_crop_leaves_out_is_unseen():
    image = slope(64, 128)
    found = windows.photograph_logits(image, itself, config("whole", resize="crop"))
    unseen = (found == windows.UNSEEN).all(-1)
    assert unseen[:, :32].all()
    assert unseen[:, -32:].all()
    assert unseen[:4].all()
    inner = np.s_[8:-8, 40:-40]
    assert not unseen[inner].any()
    assert np.abs(found[inner] - image[inner]).max() < 12
    chosen = config("whole", resize="crop")
    other = windows.photograph_logits(image, itself, chosen, background=True)
    assert (other[unseen] == [-windows.UNSEEN, windows.UNSEEN, windows.UNSEEN]).all()
    np.testing.assert_array_equal(other[~unseen], found[~unseen])


def test_a_field_of_view_is_found_and_brought_back_to_its_place():
    image = np.zeros((80, 160, 3), np.uint8)
    down, across = np.mgrid[:80, :160]
    disc = (down - 40) ** 2 + (across - 90) ** 2 < 36**2
    image[disc] = (slope(80, 160) // 2 + 120)[disc]
    for how in ("whole", "windows"):
        chosen = config(how, field_of_view="crop")
        found = windows.photograph_logits(image, itself, chosen)
        assert (found[:, :40] == windows.UNSEEN).all(), how
        inside = (down - 40) ** 2 + (across - 90) ** 2 < 30**2
        assert np.abs(found[inside] - image[inside]).mean() < 3, how


def test_a_photograph_of_a_camera_takes_memory_for_its_logits():
    image = np.zeros((2848, 4288, 3), np.uint8)
    chosen = dataclasses.replace(config("windows", 1440), image=ImageConfig(size=512))
    tracemalloc.start()
    began = time.perf_counter()
    found = windows.photograph_logits(image, lambda x: itself(x)[..., :1], chosen, batch=4)
    seconds = time.perf_counter() - began
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found.shape == (2848, 4288, 1)
    assert peak < 4 * found.nbytes
    assert seconds < 60
