"""What a comparison of segmentations keeps of each photograph, and its metrics as statistics.

Of scores there are 2,048 bins for each photograph and structure, of masks four numbers at the
threshold that was chosen on validation: any resample of patients is a weighted sum of them.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Int, Shaped

from retfm_jax.errors import UserError
from retfm_jax.evaluation.metrics.paired import Statistic, mean, mean_of
from retfm_jax.evaluation.metrics.segmentation import (
    BY_IMAGE,
    POOLED,
    RANKED,
    Counts,
    Tally,
    resampled_ranking,
)

#: What begins the name of a metric that is a mean over photographs.
_IMAGE = "image_"
#: Of one structure, or means over structures: of the scores of all pixels together, of the masks of
#: all photographs together, and means over photographs.
METRICS = (*RANKED, *POOLED, *(f"{_IMAGE}{name}" for name in BY_IMAGE))


@dataclasses.dataclass(frozen=True)
class MaskCounts:
    """Pixels of photographs with masks, counted.

    Attributes:
      structures: their names (c).
      thresholds: above which a structure is present (c), as chosen on validation.
      patients: of the photographs (n).
      samples: each photograph's position in its split (n).
      scores: pixels of each photograph and structure, absent and present ones, by score from the
        lowest on; (n, c, 2, bins) uint32.
      counts: pixels that are hits, false, missed and the rest, (n, c, 4) int64.
    """

    structures: tuple[str, ...]
    thresholds: tuple[float, ...]
    patients: tuple[str, ...]
    samples: tuple[int, ...]
    scores: Shaped[np.ndarray, "n c 2 bins"]
    counts: Int[np.ndarray, "n c 4"]

    @classmethod
    def of(
        cls, tally: Tally, thresholds: Mapping[str, float], samples: tuple[int, ...]
    ) -> "MaskCounts":
        """Takes what a tally has counted.

        Args:
          tally: of the photographs, whose groups are patients.
          thresholds: of every structure, 0.5 or one of `segmentation.GRID`.
          samples: positions of the photographs in their split.
        """
        return cls(
            structures=tally.classes,
            thresholds=tuple(float(thresholds[name]) for name in tally.classes),
            patients=tuple(tally.groups),
            samples=samples,
            scores=tally.scores_by_image(),
            counts=np.stack(tally.pixels_by_image(thresholds), axis=-1).astype(np.int64),
        )

    @property
    def shown(self) -> tuple[str, ...]:
        """Structures of which some pixel is present and another one is not."""
        pixels = self.scores.sum((0, 3), dtype=np.int64)  # (c, 2)
        return tuple(
            name
            for name, (absent, present) in zip(self.structures, pixels, strict=True)
            if absent and present
        )

    def statistic(self, metric: str) -> Statistic:
        """A metric, the unweighted mean over structures, or that of one of them.

        Args:
          metric: one of `METRICS`; or, of a single structure, such as "vessels/dice".

        Raises:
          UserError: there is no such metric, or no such structure.
        """
        structure, _, name = metric.rpartition("/")
        if name not in METRICS or (structure and structure not in self.structures):
            raise UserError(
                f"masks of {', '.join(self.structures)} have no {metric}; there are "
                f"{', '.join(METRICS)}, each also of one structure"
            )
        if structure:
            return self._of_structure(self.structures.index(structure), name)
        every = [self.structures.index(each) for each in self.shown]
        return mean_of([self._of_structure(index, name) for index in every])

    def _of_structure(self, index: int, metric: str) -> Statistic:
        if metric in RANKED:
            scores, which = self.scores[:, index], RANKED.index(metric)
            return lambda weights: resampled_ranking(scores, weights)[which]
        counts = Counts(*self.counts[:, index].T)
        if metric.startswith(_IMAGE):
            return mean(counts.each(metric.removeprefix(_IMAGE)))
        return lambda weights: getattr(counts.pooled(weights), metric)


def sample_facts(counts: MaskCounts) -> dict[str, Any]:
    """What the counts of all models of a comparison must have in common.

    Args:
      counts: of one model.
    """
    return {
        "structures": counts.structures,
        "photographs": counts.samples,
        "patients": counts.patients,
        "masks": counts.scores.sum(3, dtype=np.int64).tobytes(),
    }
