"""From the probabilities of pixels to masks: where a network says that a structure is.

Pure NumPy: thresholds are chosen on a validation split once, and kept as JSON beside the weights.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from retfm_jax.decisions import entries_of, fitted_on_of, names_of, numbers_of
from retfm_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class MaskDecisions:
    """What turns probabilities of pixels into masks.

    Attributes:
      structures: their names, in the order of the probabilities.
      thresholds: of each; a pixel shows it where its probability is greater.
      fitted_on: dataset, split, numbers of images and patients, and metrics there, as JSON values;
        {} of thresholds that were not chosen.
    """

    structures: tuple[str, ...]
    thresholds: tuple[float, ...]
    fitted_on: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        count = len(self.structures)
        if not count or len(set(self.structures)) < count:
            raise UserError(
                f"decisions: structures must be names, each once, not {str(self.structures)[:200]}"
            )
        if len(self.thresholds) != count or not all(0 <= each <= 1 for each in self.thresholds):
            raise UserError(
                f"decisions: thresholds must be {count} numbers from 0 to 1, not "
                f"{self.thresholds!r:.200}"
            )

    @property
    def by_name(self) -> dict[str, float]:
        """The thresholds by the names of the structures."""
        return dict(zip(self.structures, self.thresholds, strict=True))

    def masks(self, probabilities: Float[np.ndarray, "... c"]) -> Bool[np.ndarray, "... c"]:
        """Decides which pixels show a structure.

        Args:
          probabilities: of pixels, (..., structures) floats.
        """
        # Compared at the precision of the probabilities' counts, which is that of thresholds.
        return np.asarray(probabilities) > np.asarray(self.thresholds, np.float64)

    def to_json(self) -> dict[str, Any]:
        """JSON values that `from_json` reads."""
        return {
            "structures": list(self.structures),
            "thresholds": list(self.thresholds),
            "fitted_on": dict(self.fitted_on),
        }

    @classmethod
    def from_json(cls, said: Any, where: str) -> "MaskDecisions":
        """Reads what `to_json` wrote.

        Args:
          said: JSON values.
          where: name of what was read, for the message.

        Raises:
          UserError: it is something else.
        """
        try:
            entries = entries_of(said, cls, "decisions")
            return cls(
                names_of(entries, "structures"),
                numbers_of(entries, "thresholds"),
                fitted_on_of(entries),
            )
        except UserError as error:
            raise UserError(f"{where}: {error}") from error


def default_mask_decisions(structures: tuple[str, ...]) -> MaskDecisions:
    """Decisions that nothing was fitted for: thresholds of one half.

    Args:
      structures: names, in the order of the probabilities.

    Raises:
      UserError: there is none, or one occurs twice.
    """
    return MaskDecisions(tuple(structures), (0.5,) * len(structures))
