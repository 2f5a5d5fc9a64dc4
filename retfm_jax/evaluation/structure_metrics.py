"""How well a network finds its structures, as plain numbers: for the metrics of a run."""

import math
from typing import Any

from retfm_jax.data.segmented import SegmentedSource
from retfm_jax.evaluation.metrics.segmentation import Tally
from retfm_jax.evaluation.segmentation import tally

#: Metrics that are told as means over the structures, and of each.
_TOLD = ("dice", "average_precision")
#: Metrics that are told as means over the structures alone.
_MEANS = ("auroc", "iou", "image_dice")


def structure_metrics(model: Any, source: SegmentedSource) -> dict[str, float]:
    """Segments a split and measures it at threshold 0.5, without decisions that were fitted.

    Args:
      model: a `RetinalModel` with structures.
      source: photographs with masks of these.

    Returns:
      numbers by name, NaN where undefined: see `measured`.

    Raises:
      UserError: see `segmentation.tally`.
    """
    return measured(tally(model, source, progress=False))


def measured(found: Tally) -> dict[str, float]:
    """Measures what was counted.

    Args:
      found: counts of photographs.

    Returns:
      `dice`, `average_precision`, `auroc`, `iou` and `image_dice` (see `SegmentationMetrics`),
      means over the structures that some photograph shows; and of every structure
      `STRUCTURE/dice` and `STRUCTURE/average_precision`.

    Raises:
      UserError: no photograph was counted.
    """
    metrics = found.measured(draws=1)
    numbers = {
        name: float(metrics.macro[name].value) if name in metrics.macro else math.nan
        for name in (*_TOLD, *_MEANS)
    }
    for structure in found.classes:
        row = metrics.classes.get(structure, {})
        for name in _TOLD:
            numbers[f"{structure}/{name}"] = float(row[name].value) if name in row else math.nan
    return numbers
