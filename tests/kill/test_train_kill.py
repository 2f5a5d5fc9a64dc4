"""Training killed at any moment ends with the same bits; `train_kill.py` does it for long."""

import train_kill


def test_three_kills_at_random_moments_change_nothing(tmp_path):
    assert train_kill.run(tmp_path, kills=3, seed=1).kills == 3
