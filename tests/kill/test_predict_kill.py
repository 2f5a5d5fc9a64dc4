"""`retfm predict` killed between its parts: `predict_kill.py` does it for long."""

import predict_kill


def test_no_row_is_twice_or_missing(tmp_path):
    assert predict_kill.run(tmp_path, kills=1, photographs=120, seed=1) == 120
