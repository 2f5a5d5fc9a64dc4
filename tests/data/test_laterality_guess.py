"""The place of the disc tells the eye, or nothing does."""

import numpy as np
import pytest

from retfm_jax.data.laterality_guess import guess_side
from retfm_jax.data_builders.synthetic_fundus.drawing import draw_eye
from retfm_jax.data_builders.synthetic_fundus.population import POPULATIONS, draw_patient
from retfm_jax.knowledge.laterality import OPPOSITE


@pytest.fixture(scope="module")
def cases():
    found = []
    for number in range(20):
        patient = draw_patient(POPULATIONS["clinic"], 1, "test", number)
        found += [(draw_eye(eye, patient.look, 160), eye.side) for eye in patient.eyes]
    return found


def test_most_eyes_are_guessed_and_nearly_all_guesses_are_right(cases):
    guesses = [(guess_side(picture).side, side) for picture, side in cases]
    right = [guess == side for guess, side in guesses if guess is not None]
    assert len(right) > 0.7 * len(guesses)
    assert np.mean(right) > 0.95


def test_a_mirrored_photograph_is_the_other_eye(cases):
    for picture, _ in cases[:10]:
        guess = guess_side(picture)
        mirrored = guess_side(np.ascontiguousarray(picture[:, ::-1]))
        assert mirrored.side == OPPOSITE.get(guess.side or "")
        assert mirrored.offset == pytest.approx(-guess.offset, abs=1e-6)


def test_brightness_and_margins_change_nothing(cases):
    for picture, _ in cases[:10]:
        guess = guess_side(picture)
        darker = guess_side((picture * 0.7).astype(np.uint8))
        assert darker.offset == pytest.approx(guess.offset, abs=0.05)
        wide = np.zeros((200, 320, 3), np.uint8)
        wide[20:180, 90:250] = picture
        assert guess_side(wide).offset == pytest.approx(guess.offset, abs=0.05)


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((60, 80, 3), np.uint8),
        np.full((60, 80, 3), 120, np.uint8),
        np.full((1, 1, 3), 120, np.uint8),
    ],
)
def test_where_nothing_is_seen_nothing_is_guessed(image):
    assert guess_side(image).side is None


def test_a_disc_at_the_center_tells_nothing():
    rows, columns = np.mgrid[:160, :160] - 79.5
    distance = np.hypot(rows, columns)
    image = np.zeros((160, 160, 3), np.uint8)
    image[distance < 75] = (150, 70, 30)
    image[distance < 12] = (240, 200, 120)
    assert guess_side(image).side is None
