"""Ranges of a configuration's entries: written beside their types, checked when a section is made.

`crop_area: Annotated[tuple[PositiveShare, PositiveShare], Increasing()] = (0.9, 1.0)`
"""

import dataclasses
import functools
import math
import types
import typing
from typing import Annotated, Any

from retfm_jax.errors import UserError

#: Larger whole numbers are slips of the hand, and overflow where arrays count in 32 bits.
LARGEST = 2**31 - 1


class RangeError(UserError, ValueError):
    """Value outside of its entry's range; the message begins with the entry's name."""


@dataclasses.dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both included; `above` and `below` are ends that are excluded.

    Attributes:
      low, high: smallest and largest allowed number.
      above, below: numbers that a value must be greater and less than.
      also: single numbers outside of these ends that are allowed too.
    """

    low: float = -math.inf
    high: float = math.inf
    above: float = -math.inf
    below: float = math.inf
    also: tuple[float, ...] = ()

    def problem(self, value: float) -> str | None:
        """Describes what is wrong with a value; None where nothing is.

        Args:
          value: the entry's number; NaN and infinities are wrong unless `also` holds them.
        """
        inside = (
            math.isfinite(value)
            and self.low <= value <= self.high
            and self.above < value < self.below
        )
        if inside or value in self.also:
            return None
        if value > self.high and self.high >= LARGEST:
            return f"must be at most {self.high}, not {value!r}"
        return f"must be {self}, not {value!r}"

    def __str__(self) -> str:
        ends = {"at least": self.low, "greater than": self.above}
        ends |= {"at most": self.high, "less than": self.below}
        parts = [f"{words} {end:g}" for words, end in ends.items() if abs(end) < LARGEST]
        return " or ".join([" and ".join(parts), *(f"{value:g}" for value in self.also)])


@dataclasses.dataclass(frozen=True)
class Increasing:
    """Pair whose first value is not larger than the second."""

    def problem(self, value: tuple[float, float]) -> str | None:
        """Describes what is wrong with a value; None where nothing is.

        Args:
          value: the entry's pair of numbers.
        """
        return None if value[0] <= value[1] else f"must be {self}, not {list(value)}"

    def __str__(self) -> str:
        return "the smaller one first"


@dataclasses.dataclass(frozen=True)
class Filled:
    """Text or list that is not empty and, as a list, has no value twice."""

    def problem(self, value: str | tuple[Any, ...]) -> str | None:
        """Describes what is wrong with a value; None where nothing is.

        Args:
          value: the entry's text, of which spaces alone count as empty, or its tuple.
        """
        if not value or (isinstance(value, str) and not value.strip()):
            return "must not be empty"
        twice = not isinstance(value, str) and len(set(value)) < len(value)
        return f"names something twice: {list(value)}" if twice else None

    def __str__(self) -> str:
        return "not empty"


#: Kinds of numbers that most entries are.
Positive = Annotated[int, Range(low=1, high=LARGEST)]
Count = Annotated[int, Range(low=0, high=LARGEST)]
PositiveFloat = Annotated[float, Range(above=0)]
NonNegative = Annotated[float, Range(low=0)]
Share = Annotated[float, Range(low=0, high=1)]
PositiveShare = Annotated[float, Range(above=0, high=1)]
#: Of dropout and moving averages: all of it would leave nothing.
Rate = Annotated[float, Range(low=0, below=1)]
#: Threads, processes, batches ahead: more would take the machine down.
FewOrNone = Annotated[int, Range(low=0, high=1024)]
Few = Annotated[int, Range(low=1, high=1024)]
#: What both JAX and Grain take.
Seed = Annotated[int, Range(low=0, high=2**32 - 1)]
Name = Annotated[str, Filled()]


class Section:
    """Base of the sections of a configuration: frozen dataclasses.

    Raises:
      RangeError: an entry is outside of what its type is annotated with.
    """

    def __post_init__(self):
        for name, hint in hints(type(self)).items():
            problem = _problem(hint, getattr(self, name))
            if problem:
                raise RangeError(f"{name} {problem}")


@functools.cache
def hints(section: type) -> dict[str, Any]:
    """Types of a section's entries by name, with the ranges that annotate them.

    Args:
      section: a dataclass, of which only the fields count.
    """
    found = typing.get_type_hints(section, include_extras=True)
    return {field.name: found[field.name] for field in dataclasses.fields(section)}


def _problem(hint: Any, value: Any) -> str | None:
    origin, options = typing.get_origin(hint), typing.get_args(hint)
    if value is None or not options:
        return None
    if origin is Annotated:
        inner, *rules = options
        problems = (rule.problem(value) for rule in rules)
        return next(filter(None, problems), None) or _problem(inner, value)
    if origin in (types.UnionType, typing.Union):
        return next(filter(None, (_problem(option, value) for option in options)), None)
    if origin is tuple:
        if options[-1] is not Ellipsis and len(value) != len(options):
            return f"needs {len(options)} values, not {len(value)}"
        return next(filter(None, (_problem(options[0], item) for item in value)), None)
    return None
