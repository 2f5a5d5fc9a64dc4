"""What is compiled for the stage of a run that is in force."""

from collections.abc import Callable, Mapping
from typing import Generic, TypeVar

from retfm_jax.training.setup import Setup

Made = TypeVar("Made")


class InForce(Generic[Made]):
    """What is made for the stage that a step belongs to, once; that of other stages is dropped.

    Args:
      stages: by their first step; see `Setup.stages`.
      make: makes what a stage needs, such as its compiled step.
    """

    def __init__(self, stages: Mapping[int, Setup], make: Callable[[Setup], Made]):
        self._stages, self._make = stages, make
        self._made: tuple[int, Made] | None = None

    def at(self, step: int) -> Made:
        """Gives what was made for the stage of a step, and makes it where the stage begins.

        Args:
          step: number of updates made before it, from 0 on.
        """
        first = max(first for first in self._stages if first <= step)
        if self._made is None or self._made[0] != first:
            self._made = first, self._make(self._stages[first])
        return self._made[1]
