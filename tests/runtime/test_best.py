"""The best network: kept when it is better, whole at any moment, read before any checkpoint."""

import shutil

import jax.numpy as jnp
import numpy as np
import pytest

from retfm_jax.errors import UserError
from retfm_jax.runtime.best import Best, Score
from retfm_jax.runtime.checkpoints import (
    find_checkpoint,
    load_network,
    save_network,
    whole_steps,
    workdir_of,
)


def network(value):
    return {"params": {"kernel": jnp.full((2, 3), float(value))}, "batch_stats": {}}


def offer(best, step, value, name="auroc"):
    return best.offer(step, {name: value, "other": 0.0}, network(step), {"config": {}})


def test_only_what_is_better_is_kept_and_the_first_of_equals(tmp_path):
    best = Best(tmp_path, "auroc")
    kept = [offer(best, step, value) for step, value in enumerate((0.5, 0.4, 0.8, 0.8, 0.7), 1)]
    assert kept == [True, False, True, False, False]
    assert whole_steps(tmp_path / "best") == [3]
    assert Best(tmp_path, "auroc").score == Score("auroc", 0.8, 3)
    params, _, meta = load_network(tmp_path)
    np.testing.assert_array_equal(params["kernel"], np.full((2, 3), 3.0))
    assert meta["best"] == {"metric": "auroc", "value": 0.8, "step": 3}


def test_smaller_can_be_better_and_what_is_not_finite_never_is(tmp_path):
    best = Best(tmp_path, "-nll")
    assert not offer(best, 1, float("nan"), "nll")
    assert not offer(best, 2, float("-inf"), "nll")
    assert offer(best, 3, 2.0, "nll")
    assert offer(best, 4, 1.0, "nll")
    assert not offer(best, 5, 1.5, "nll")
    assert Best(tmp_path, "-nll").score == Score("-nll", 1.0, 4)


def test_the_best_is_read_before_any_checkpoint_and_each_by_its_own_name(tmp_path):
    save_network(tmp_path / "checkpoints" / "9", **network(9), meta={"config": {}})
    assert find_checkpoint(tmp_path).name == "9"
    offer(Best(tmp_path, "auroc"), 4, 0.5)
    assert find_checkpoint(tmp_path) == tmp_path / "best" / "4"
    assert find_checkpoint(tmp_path / "checkpoints").name == "9"
    assert find_checkpoint(tmp_path / "checkpoints" / "9").name == "9"
    for place in ("", "best", "best/4", "checkpoints", "checkpoints/9"):
        assert workdir_of(tmp_path / place) == tmp_path


def test_a_kill_between_writing_and_removing_leaves_the_better_one(tmp_path):
    offer(Best(tmp_path, "auroc"), 1, 0.5)
    shutil.copytree(tmp_path / "best" / "1", tmp_path / "kept")
    offer(Best(tmp_path, "auroc"), 2, 0.6)
    shutil.move(tmp_path / "kept", tmp_path / "best" / "1")
    (tmp_path / "best" / "3.orbax-checkpoint-tmp-0").mkdir()  # a third, half-written
    best = Best(tmp_path, "auroc")
    assert best.score.step == 2
    assert find_checkpoint(tmp_path).name == "2"
    assert not offer(best, 3, 0.55)
    assert offer(best, 3, 0.7)
    assert whole_steps(tmp_path / "best") == [3]
    assert [path.name for path in (tmp_path / "best").iterdir()] == ["3"]


def test_a_step_that_is_evaluated_again_is_not_written_again(tmp_path):
    offer(Best(tmp_path, "auroc"), 2, 0.6)
    written = (tmp_path / "best" / "2").stat().st_mtime_ns
    assert not offer(Best(tmp_path, "auroc"), 2, 0.6 + 1e-9)  # sums in another order
    assert (tmp_path / "best" / "2").stat().st_mtime_ns == written


def test_a_metric_that_is_not_there_or_another_one_is_named(tmp_path):
    with pytest.raises(UserError, match=r"'auroq' is no metric.*auroc, other.*did you mean"):
        offer(Best(tmp_path, "auroq"), 1, 0.5)
    assert not (tmp_path / "best").exists()
    offer(Best(tmp_path, "auroc"), 1, 0.5)
    with pytest.raises(UserError, match=r"best by auroc, and config\.train\.best is kappa"):
        Best(tmp_path, "kappa")
