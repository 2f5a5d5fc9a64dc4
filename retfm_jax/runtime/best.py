"""The network of a run that was best on its validation split, kept beside the checkpoints.

``<workdir>/best/<step>`` is a checkpoint without a training part, which takes its name when all of
it is on the disk; the one before goes when it is there. So a run that is killed at any moment
leaves one that is whole, or two, of which the later one is the better. `load` reads it before any
checkpoint.
"""

import contextlib
import dataclasses
import json
from collections.abc import Iterable, Mapping
from typing import Any

import jax

from retfm_jax.errors import UserError, did_you_mean
from retfm_jax.files import PathLike, errors, remove, rename
from retfm_jax.runtime import distributed
from retfm_jax.runtime.checkpoints import (
    BEST,
    nameable,
    remove_half_written,
    save_network,
    stored_meta,
    whole_steps,
)

#: Where a removed network lies until its files are gone.
_REMOVED = ".removed"


@dataclasses.dataclass(frozen=True)
class Score:
    """What a network was best at.

    Attributes:
      metric: name of the metric.
      value: its value on the validation split.
      step: number of updates of the network.
    """

    metric: str
    value: float
    step: int


class Best:
    """Best network of a workdir; every process of a run makes one and calls it alike."""

    def __init__(self, workdir: PathLike, metric: str):
        """Reads what an earlier process has kept.

        Args:
          workdir: folder of the run, local or in a store.
          metric: name of the metric that decides, larger is better; with "-" before it, smaller.

        Raises:
          UserError: another metric has decided so far.
        """
        self._metric = metric.removeprefix("-")
        self._sign = -1 if metric.startswith("-") else 1
        self.folder = nameable(workdir) / BEST
        if jax.process_index() == 0:
            remove_half_written(self.folder)
        self.score = self._stored()
        if self.score is not None and self.score.metric != metric:
            raise UserError(
                f"{self.folder} is best by {self.score.metric}, and config.train.best is {metric}: "
                "resume with that metric, or take another workdir"
            )

    def _stored(self) -> Score | None:
        steps = whole_steps(self.folder)
        if not steps:
            return None
        said = stored_meta(self.folder / str(steps[-1])).get("best", {})
        return Score(str(said["metric"]), float(said["value"]), steps[-1])

    def offer(
        self, step: int, metrics: Mapping[str, float], network: Any, meta: Mapping[str, Any]
    ) -> bool:
        """Keeps a network that is better than all before it; the first of equals is kept.

        Args:
          step: number of updates so far.
          metrics: of the validation split, by name; a value that is not finite is never best.
          network: pytree of arrays, `params` and `batch_stats`.
          meta: JSON item of a checkpoint.

        Returns:
          whether it is kept.

        Raises:
          UserError: the metric is none of these, or the network cannot be written; what was kept
            before is intact.
        """
        if self._metric not in metrics:
            raise UserError(
                f"config.train.best {self._metric!r} is no metric of the evaluation; there are "
                f"{', '.join(metrics)}{did_you_mean(self._metric, list(metrics))}"
            )
        value = self._sign * metrics[self._metric]
        before = None if self.score is None else self._sign * self.score.value
        # A NaN is larger than nothing. Of the step that is kept already there is nothing to write.
        known = value == value and abs(value) != float("inf")
        better = known and (before is None or value > before)
        better = better and (self.score is None or self.score.step != step)
        if not distributed.any_process(jax.process_index() == 0 and better):
            return False
        name = ("-" if self._sign < 0 else "") + self._metric
        score = Score(name, float(metrics[self._metric]), step)
        said = {**meta, "best": json.loads(json.dumps(dataclasses.asdict(score)))}
        if jax.process_index() == 0:
            self._forget([step])  # of a checkpoint that was removed since
        distributed.barrier(f"room for the best of step {step}")
        save_network(self.folder / str(step), network["params"], network["batch_stats"], said)
        self.score = score
        if jax.process_index() == 0:
            self._forget(other for other in whole_steps(self.folder) if other != step)
        distributed.barrier(f"the best is of step {step}")
        return True

    def _forget(self, steps: Iterable[int]) -> None:
        """Removes networks, which lose their names before anything in them is removed."""
        aside = self.folder / _REMOVED
        for step in steps:
            path = self.folder / str(step)
            with contextlib.suppress(*errors()):
                remove(aside)
                if path.exists():
                    rename(path, aside)
                    remove(aside)
