"""From a network's logits to what is said of a photograph: probabilities, classes, prediction sets.

Pure NumPy: what is fitted on a validation split once (`evaluation.decision_fitting`) is kept as
JSON beside the weights, and repeated by every export.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Literal, Protocol, Self, TypeVar, get_args

import numpy as np
from jaxtyping import Bool, Float, Float32, Int

from retfm_jax.errors import UserError, did_you_mean
from retfm_jax.files import PathLike, as_path, read_json, write_json

#: "exclusive": every photograph has exactly one class. "grades": so it is, and the classes go from
#: the lowest grade to the highest. "findings": any number of them, each present or absent.
Outcome = Literal["exclusive", "findings", "grades"]

#: The name of the file in a workdir.
FILE = "decisions.json"
#: Entry of `fitted_on`: checksum of the arrays that the decisions were fitted for.
WEIGHTS = "weights"
_MOST_CLASSES = 100_000


@dataclasses.dataclass(frozen=True)
class Conformal:
    """Split conformal prediction: a class is in the set of a photograph where 1 - p is small.

    Attributes:
      coverage: share of photographs, of patients that were not seen, whose set holds their class
        (of findings: for each, the share of those that have it); 0 < coverage < 1.
      quantiles: largest 1 - p with which a class is in the set: one for all classes, of findings
        one for each. 1 puts it in every set: there were too few patients to rule it out.
    """

    coverage: float
    quantiles: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class Decisions:
    """What turns logits into statements.

    Attributes:
      classes: their names, in the order of the logits; grades from the lowest on.
      outcome: what the classes are to each other.
      temperature: logits are divided by it before the softmax, of findings the sigmoid.
      thresholds: of findings: probability from which each is said to be present; () otherwise,
        where the most probable class is said.
      conformal: prediction sets; None without.
      fitted_on: dataset, split, numbers of images and patients, and metrics there, as JSON values;
        {} of decisions that nothing was fitted for.
    """

    classes: tuple[str, ...]
    outcome: Outcome
    temperature: float = 1.0
    thresholds: tuple[float, ...] = ()
    conformal: Conformal | None = None
    fitted_on: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        if problem := self._problem():
            raise UserError(f"decisions: {problem}")

    def _problem(self) -> str | None:
        count, findings = len(self.classes), self.outcome == "findings"
        if self.outcome not in get_args(Outcome):
            hint = did_you_mean(self.outcome, get_args(Outcome))
            return f"outcome is one of {', '.join(get_args(Outcome))}, not {self.outcome!r}{hint}"
        if not 0 < count <= _MOST_CLASSES or len(set(self.classes)) < count:
            return f"classes must be names, each once, not {str(self.classes)[:200]}"
        if not findings and count < 2:
            return f"classes that exclude each other are two or more, not only {self.classes[0]!r}"
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            return f"temperature must be a number above 0, not {self.temperature!r}"
        wanted = count if findings else 0
        if len(self.thresholds) != wanted or not all(0 <= each <= 1 for each in self.thresholds):
            return f"thresholds must be {wanted} numbers from 0 to 1, not {self.thresholds!r:.200}"
        if self.conformal is None:
            return None
        if not 0 < self.conformal.coverage < 1:
            return f"conformal.coverage must be between 0 and 1, not {self.conformal.coverage!r}"
        quantiles, wanted = self.conformal.quantiles, count if findings else 1
        if len(quantiles) != wanted or not all(0 <= each <= 1 for each in quantiles):
            return f"conformal.quantiles must be {wanted} from 0 to 1, not {quantiles!r:.200}"
        return None

    def probabilities(self, logits: Float[np.ndarray, "n c"]) -> Float32[np.ndarray, "n c"]:
        """Computes calibrated probabilities: softmax(logits / T), of findings sigmoid(logits / T).

        Args:
          logits: of the network, one column a class; rows of NaN stay NaN.

        Returns:
          (n, c) float32; of classes that exclude each other every row sums to 1.
        """
        scaled = np.asarray(logits, np.float64) / self.temperature
        if self.outcome == "findings":
            # Both branches of the sigmoid without overflow.
            small = np.exp(-np.abs(scaled))
            return (np.where(scaled >= 0, 1, small) / (1 + small)).astype(np.float32)
        powers = np.exp(scaled - scaled.max(1, keepdims=True))
        return (powers / powers.sum(1, keepdims=True)).astype(np.float32)

    def predicted(
        self, probabilities: Float[np.ndarray, "n c"]
    ) -> Int[np.ndarray, " n"] | Bool[np.ndarray, "n c"]:
        """Decides which classes a photograph is said to have.

        Grades, too, are told by the most probable one, so that what is said is what has the largest
        probability beside it; their mean is `expected_grade`.

        Args:
          probabilities: of `probabilities`; rows of NaN are photographs that could not be used.

        Returns:
          indices (n,) of the most probable class, of equal ones the first, -1 for a row of NaN; of
          findings bool (n, c), present where the probability reaches the threshold.
        """
        if self.outcome == "findings":
            return np.asarray(probabilities) >= np.asarray(self.thresholds, np.float32)
        known = ~np.isnan(probabilities).any(1)
        return np.where(known, np.nan_to_num(probabilities).argmax(1), -1)

    def expected_grade(self, probabilities: Float[np.ndarray, "n c"]) -> Float[np.ndarray, " n"]:
        """Computes the mean grade, `sum_k p_k k`, where the lowest grade is 0.

        Args:
          probabilities: of `probabilities`.
        """
        return np.asarray(probabilities) @ np.arange(len(self.classes))

    def sets(self, probabilities: Float[np.ndarray, "n c"]) -> Bool[np.ndarray, "n c"] | None:
        """Tells which classes cannot be ruled out; None without `conformal`.

        The set of a photograph may be empty, where none of the classes fits as well as nearly all
        photographs of the validation split fit theirs. Nothing is said of which class is likelier.

        Args:
          probabilities: of `probabilities`; rows of NaN have every class in their set.

        Returns:
          (n, c) bool; of a new patient's photograph the set holds the true class with probability
          `coverage` or more, where it comes from where the validation split came from.
        """
        if self.conformal is None:
            return None
        scores = 1 - np.asarray(probabilities, np.float64)
        return ~(scores > np.asarray(self.conformal.quantiles))

    def to_json(self) -> dict[str, Any]:
        """JSON values that `from_json` reads."""
        conformal = self.conformal and {
            "coverage": self.conformal.coverage,
            "quantiles": list(self.conformal.quantiles),
        }
        return {
            "classes": list(self.classes),
            "outcome": self.outcome,
            "temperature": self.temperature,
            "thresholds": list(self.thresholds),
            "conformal": conformal,
            "fitted_on": dict(self.fitted_on),
        }

    @classmethod
    def from_json(cls, said: Any, where: str) -> "Decisions":
        """Reads what `to_json` wrote.

        Args:
          said: JSON values.
          where: name of what was read, for the message.

        Raises:
          UserError: it is something else.
        """
        try:
            entries = entries_of(said, cls, "decisions")
            conformal = entries.get("conformal")
            if conformal is not None:
                found = entries_of(conformal, Conformal, "conformal")
                quantiles = numbers_of(found, "quantiles")
                entries["conformal"] = Conformal(_number(found, "coverage"), quantiles)
            if not isinstance(entries["outcome"], str):
                raise UserError(f"decisions: outcome is no text: {entries['outcome']!r:.80}")
            entries["fitted_on"] = fitted_on_of(entries)
            entries["classes"] = names_of(entries, "classes")
            if "temperature" in entries:
                entries["temperature"] = _number(entries, "temperature")
            if "thresholds" in entries:
                entries["thresholds"] = numbers_of(entries, "thresholds")
            return cls(**entries)
        except UserError as error:
            raise UserError(f"{where}: {error}") from error


def default_decisions(classes: tuple[str, ...], outcome: Outcome) -> Decisions:
    """Decisions that nothing was fitted for: temperature 1, thresholds of one half, no sets.

    Args:
      classes: names, in the order of the logits.
      outcome: what they are to each other.

    Raises:
      UserError: there are too few classes, or one occurs twice.
    """
    thresholds = (0.5,) * len(classes) if outcome == "findings" else ()
    return Decisions(tuple(classes), outcome, thresholds=thresholds)


class Stored(Protocol):
    """Decisions that stand in the JSON file of a workdir."""

    def to_json(self) -> dict[str, Any]:
        """JSON values that `from_json` reads."""
        ...

    @classmethod
    def from_json(cls, said: Any, where: str) -> Self:
        """Reads what `to_json` wrote.

        Args:
          said: JSON values.
          where: name of what was read, for the message.

        Raises:
          UserError: it is something else.
        """
        ...


_Stored = TypeVar("_Stored", bound=Stored)


def read_decisions(folder: PathLike, kind: type[_Stored]) -> _Stored | None:
    """Reads the decisions of a workdir; None where it has none.

    Args:
      folder: with the file `decisions.json`.
      kind: `Decisions` of classes, or `mask_decisions.MaskDecisions`.

    Raises:
      UserError: the file cannot be read, or holds something else.
    """
    path = as_path(folder) / FILE
    return kind.from_json(read_json(path), str(path)) if path.is_file() else None


def write_decisions(folder: PathLike, decisions: Stored) -> None:
    """Writes the decisions of a workdir, in place of those before.

    Args:
      folder: gets the file `decisions.json`, as a whole or not at all.
      decisions: what is written.

    Raises:
      UserError: it cannot be written.
    """
    write_json(as_path(folder) / FILE, decisions.to_json())


def entries_of(said: Any, kind: type, what: str) -> dict[str, Any]:
    """Reads the entries of a mapping, all of them known and none missing.

    Args:
      said: JSON values.
      kind: dataclass whose fields are the entries; those without a default must be there.
      what: how messages call it.

    Raises:
      UserError: it is no mapping, or an entry is unknown or missing.
    """
    if not isinstance(said, Mapping):
        raise UserError(f"{what} must be a mapping with entries, not {said!r:.80}")
    fields = {field.name: field for field in dataclasses.fields(kind)}
    for name in said:
        if name not in fields:
            raise UserError(f"{what} has no entry {name!r:.80}{did_you_mean(name, fields)}")
    for name, field in fields.items():
        required = field.default is field.default_factory is dataclasses.MISSING
        if required and name not in said:
            raise UserError(f"{what}: {name} is missing")
    return dict(said)


def _number(entries: Mapping[str, Any], name: str) -> float:
    value = entries[name]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UserError(f"decisions: {name} must be a number, not {value!r:.80}")
    return float(value)


def numbers_of(entries: Mapping[str, Any], name: str) -> tuple[float, ...]:
    """Reads an entry that is a list of numbers.

    Args:
      entries: see `entries_of`.
      name: of the entry.

    Raises:
      UserError: it is something else.
    """
    values = entries[name]
    if not isinstance(values, list | tuple):
        raise UserError(f"decisions: {name} must be a list of numbers, not {values!r:.80}")
    return tuple(_number({name: value}, name) for value in values)


def names_of(entries: Mapping[str, Any], name: str) -> tuple[str, ...]:
    """Reads an entry that is a list of names.

    Args:
      entries: see `entries_of`.
      name: of the entry.

    Raises:
      UserError: it is something else.
    """
    values = entries[name]
    if not isinstance(values, list) or not all(
        isinstance(each, str) and each.strip() for each in values
    ):
        raise UserError(f"decisions: {name} must be a list of names")
    return tuple(values)


def fitted_on_of(entries: Mapping[str, Any]) -> Mapping[str, Any]:
    """Reads what decisions were fitted on, {} where nothing is said.

    Args:
      entries: see `entries_of`.

    Raises:
      UserError: it is no mapping.
    """
    said = entries.get("fitted_on", {})
    if not isinstance(said, Mapping):
        raise UserError("decisions: fitted_on must be a mapping")
    return said
