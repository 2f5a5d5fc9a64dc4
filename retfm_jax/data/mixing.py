"""Two datasets in one training stream, at given rates."""

import dataclasses
import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
from jaxtyping import Int64

from retfm_jax.config import DataConfig
from retfm_jax.data.records import ImageRecord
from retfm_jax.data.sources import Chain, OneKind, OtherLabels, RecordSource
from retfm_jax.errors import UserError

#: A rate is a fraction with no larger denominator.
_FINEST = 10_000


class Mixed(Chain[OneKind]):
    """The records of two sources, each once; `order` says in which turns training sees them.

    An epoch sees every record of both at least once, and one of them no more often than its rate
    asks for: the records of the other one come back.

    Args:
      first, second: of records of one kind.
      rate: share of the samples that are of the second one.
    """

    def __init__(self, first: RecordSource[OneKind], second: RecordSource[OneKind], rate: float):
        super().__init__([first, second])
        self.parts, self.rate = (first, second), rate
        # Exact: 1 - 0.8 is less than 0.2 in floating point.
        self._share = Fraction(rate).limit_denominator(_FINEST)
        self.kind = first.kind
        self.name = f"{first.name}+{second.name}"

    @property
    def structures(self) -> tuple[str, ...]:
        return ()

    @property
    def epoch_length(self) -> int:
        """Samples of an epoch."""
        first, second = map(len, self.parts)
        return max(math.ceil(first / (1 - self._share)), math.ceil(second / self._share))

    def order(self, rng: np.random.Generator) -> Int64[np.ndarray, " n"]:
        """Draws the positions of the records of an epoch, in turns as even as the rate allows.

        Args:
          rng: the source of the order within each part, and of which records come once more.
        """
        turns = np.arange(self.epoch_length + 1) * self._share.numerator // self._share.denominator
        of_second = np.diff(turns) > 0
        found = np.empty(len(of_second), np.int64)
        first, second = self.parts
        found[~of_second] = _draws(len(first), int((~of_second).sum()), rng)
        found[of_second] = len(first) + _draws(len(second), int(of_second.sum()), rng)
        return found

    @property
    def identity(self) -> dict[str, Any]:
        return {**super().identity, "rate": self.rate}


def _draws(size: int, count: int, rng: np.random.Generator) -> Int64[np.ndarray, " count"]:
    """Draws positions: each as often as any other, or once more."""
    passes = [rng.permutation(size) for _ in range(math.ceil(count / size))]
    return np.concatenate([*passes, np.zeros(0, np.int64)])[:count]


class _LabelsAsCategories(OtherLabels):
    """Images whose labels stand as categories beside a source with labels of other names."""

    def categories(self, record: ImageRecord) -> tuple[str, ...]:
        return record.shows(self._source.label_names)

    @property
    def identity(self) -> dict[str, Any]:
        return self._source.identity


def with_mix(
    config: DataConfig,
    open_one: Callable[[DataConfig], RecordSource[OneKind]],
    join: type[Mixed[OneKind]] = Mixed,
) -> RecordSource[OneKind]:
    """Opens a training split, and mixes the one that `config.mix` names into it.

    Args:
      config: of the data.
      open_one: opens the training split that a configuration of data names.
      join: the class of the mixture.

    Raises:
      UserError: one of them cannot be used, or both are the same.
    """
    first: Any = open_one(config)
    wanted = config.mix
    if wanted is None:
        return first
    second: Any = open_one(
        dataclasses.replace(config, dataset=wanted.dataset, train_split=wanted.split, mix=None)
    )
    if first.identity == second.identity:
        raise UserError(f"config.data.mix names {wanted.dataset} {wanted.split}, which is the data")
    if first.kind == "image" and first.label_names != second.label_names:
        second = _LabelsAsCategories(second, first.label_names)
    return join(first, second, wanted.rate)


def refuse_mix(config: DataConfig) -> None:
    """Refuses a second dataset where the classes or structures of one are learned.

    Args:
      config: of the data.

    Raises:
      UserError: `config.mix` names one.
    """
    if config.mix is not None:
        raise UserError(
            "config.data.mix mixes reports, pairs and photographs; classes and structures are "
            "learned from one dataset: leave it out, and join the two when the dataset is built"
        )
