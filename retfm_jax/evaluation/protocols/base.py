"""What a protocol is: one way to ask what a network knows of a split."""

import abc
from collections.abc import Mapping
from typing import Any, ClassVar

from retfm_jax.evaluation.study import Options, Study


class Protocol(abc.ABC):
    """One way to ask what a network knows of a split.

    A protocol holds no state: what it works on is in the study, and what several protocols share is
    made once there (`Study.once`). It is made without arguments.

    Attributes:
      name: under which its numbers stand.
      learns: whether it learns from the labels of a training split, `Study.train`.
      needs_labels: whether the splits must have labels; where they have none, those that their
        reports tell are taken.
    """

    name: ClassVar[str]
    learns: ClassVar[bool] = False
    needs_labels: ClassVar[bool] = True

    def check(self, study: Study) -> None:  # noqa: B027 - some need nothing
        """Says what is missing, before anything is embedded.

        Raises:
          UserError: the protocol cannot run on this data.
        """

    @abc.abstractmethod
    def run(self, study: Study) -> Mapping[str, Any]:
        """Asks; adds what reports show to `study.results`.

        Returns:
          the numbers as JSON values.

        Raises:
          UserError: the protocol cannot run on this data.
        """

    def settings(self, options: Options) -> Mapping[str, Any]:
        """What of the options it went by, as JSON values, beside what all protocols go by."""
        return {}
