"""The base class of protocols, ways to ask what a network knows of a split."""

import abc
from collections.abc import Mapping
from typing import Any, ClassVar

from retfm_jax.evaluation.study import Options, Study


class Protocol(abc.ABC):
    """One way to ask what a network knows of a split.

    A protocol holds no state: what it works on is in the study, and what several protocols share is
    made once there (`Study.once`). It is made without arguments.

    Attributes:
      name: under which its numbers are found in the document.
      compares_texts: whether it compares images with texts, which takes a method that embeds both.
      learns: whether it learns from the labels of a training split, `Study.train`.
      of_masks: whether it compares with masks, of a split that is opened with them; such protocols
        use no labels, and are asked for without others.
      of_cases: whether it compares with the reports of cases; as `of_masks`, of a split that is
        opened as cases.
      needs_labels: whether the splits must have labels; where they have none, their reports label
        them.
    """

    name: ClassVar[str]
    compares_texts: ClassVar[bool] = False
    learns: ClassVar[bool] = False
    of_masks: ClassVar[bool] = False
    of_cases: ClassVar[bool] = False
    needs_labels: ClassVar[bool] = True

    def check(self, study: Study) -> None:  # noqa: B027 - some need nothing
        """Checks that the protocol can run, before anything is embedded.

        Args:
          study: what it would run on.

        Raises:
          UserError: the protocol cannot run on this data.
        """

    @abc.abstractmethod
    def run(self, study: Study) -> Mapping[str, Any]:
        """Runs the protocol; adds what reports show to `study.results`.

        Args:
          study: what it runs on.

        Returns:
          the numbers as JSON values.

        Raises:
          UserError: the protocol cannot run on this data.
        """

    def settings(self, options: Options) -> Mapping[str, Any]:
        """Lists the options that the protocol used beside those that all use, as JSON values.

        Args:
          options: of the evaluation.
        """
        return {}
