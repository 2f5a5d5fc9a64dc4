"""Epochs of a run: passes over all records, or over those of a stage."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64

from retfm_jax.errors import UserError


class Stage(NamedTuple):
    """Epochs that see some of the records.

    Attributes:
      until: epochs of the run after which the next stage begins; None: the run's end.
      records: positions of the records in their source, (n,) int64.
      title: of the stage, for messages.
    """

    until: int | None
    records: Int64[np.ndarray, " n"]
    title: str


class Epochs:
    """Division of the batches of a run into epochs.

    An epoch is as many whole batches as the records of its stage give.

    Args:
      records: number of records of the source.
      batch_size: of the global batch.
      stages: one after the other, each `until` greater than the one before, the last one None; ()
        where every epoch sees all records.
      draw: draws the positions of the records of an epoch, as many as `records`; None: each comes
        once. Without stages.

    Raises:
      UserError: a stage has fewer records than one batch holds.
    """

    def __init__(
        self,
        records: int,
        batch_size: int,
        stages: Sequence[Stage] = (),
        draw: Callable[[np.random.Generator], Int64[np.ndarray, " n"]] | None = None,
    ):
        self._all, self._stages, self._draw = records, tuple(stages), draw
        for stage in stages:
            if len(stage.records) < batch_size:
                raise UserError(
                    f"{stage.title} of config.data.curriculum has {len(stage.records)} records, "
                    f"less than one batch of {batch_size}: lower config.train.batch_size, or give "
                    "the stage other levels"
                )
        sizes = [len(stage.records) for stage in stages] or [records]
        #: Of every stage: batches of an epoch, and the epoch and batch that it begins with.
        self._lengths = [size // batch_size for size in sizes]
        self._epochs, self._batches = [0], [0]
        for stage, length in zip(stages[:-1], self._lengths, strict=False):
            assert stage.until is not None, "only the last stage goes on to the end"
            self._batches.append(self._batches[-1] + (stage.until - self._epochs[-1]) * length)
            self._epochs.append(stage.until)

    def locate(self, batch: int) -> tuple[int, int]:
        """Finds the epoch of a batch of the run, and its position within.

        Args:
          batch: its index in the run, from 0.
        """
        stage = int(np.searchsorted(self._batches, batch, side="right")) - 1
        epochs, position = divmod(batch - self._batches[stage], self._lengths[stage])
        return self._epochs[stage] + epochs, position

    def order(self, epoch: int, rng: np.random.Generator) -> Int64[np.ndarray, " n"]:
        """Shuffles the positions of the records that an epoch sees.

        Args:
          epoch: of the run, from 0.
          rng: the source of the order.
        """
        if self._draw is not None:
            return self._draw(rng)
        if not self._stages:
            return rng.permutation(self._all)
        stage = int(np.searchsorted(self._epochs, epoch, side="right")) - 1
        return rng.permutation(self._stages[stage].records)

    def steps(self, epochs: float) -> float:
        """Counts the batches of a run's first epochs, parts of a batch included.

        Args:
          epochs: how many, parts of an epoch included; not negative.
        """
        stage = int(np.searchsorted(self._epochs, epochs, side="left"))
        stage = max(stage - 1, 0)
        return self._batches[stage] + (epochs - self._epochs[stage]) * self._lengths[stage]
