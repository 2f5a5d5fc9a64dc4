"""What is computed in blocks is the same however often it was stopped."""

import numpy as np
import pytest

from retfm_jax.errors import UserError
from retfm_jax.experiments.benchmark.blocks import in_blocks


def make(rows):
    names = np.array([f"photograph {row}" * (row % 5) for row in rows], str)
    return {"vector": np.array([[row, row**2] for row in rows], np.float32), "name": names}


def run(folder, make=make, count=23):
    return in_blocks(folder, count, make, "testing", size=5)


def test_blocks_are_put_together(tmp_path):
    found = run(tmp_path)
    expected = make(range(23))
    for name, of in expected.items():
        np.testing.assert_array_equal(found[name], of)
    assert len(list(tmp_path.iterdir())) == 5


def test_what_is_there_is_not_made_again(tmp_path):
    made = []

    def until_the_third(rows):
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append(rows)
        return make(rows)

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, until_the_third)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert len(before) == 2
    again = []
    found = run(tmp_path, lambda rows: again.append(rows) or make(rows))
    assert [rows.start for rows in again] == [10, 15, 20]
    np.testing.assert_array_equal(found["vector"], make(range(23))["vector"])
    assert all((tmp_path / name).read_bytes() == content for name, content in before.items())


def test_a_damaged_block_is_named(tmp_path):
    run(tmp_path)
    path = tmp_path / "block_000001.npz"
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(UserError, match=r"block_000001.npz cannot be read .* remove it"):
        run(tmp_path)


def test_blocks_of_another_number_of_photographs_are_refused(tmp_path):
    run(tmp_path)
    with pytest.raises(UserError, match="holds 3 rows where 5 belong"):
        run(tmp_path, count=25)
