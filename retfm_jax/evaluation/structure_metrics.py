"""How well a network finds its structures, as plain numbers: for the metrics of a run."""

import math
from collections.abc import Mapping
from typing import Any

from retfm_jax.data.segmented import SegmentedSource
from retfm_jax.evaluation.metrics.segmentation import Tally
from retfm_jax.evaluation.segmentation import tally

#: Metrics that are told as means over the structures, and of each.
_TOLD = ("dice", "average_precision")
#: Metrics that are told as means over the structures alone.
_MEANS = ("auroc", "iou", "image_dice")


def structure_metrics(
    model: Any, source: SegmentedSource, thresholds: Mapping[str, float] | None = None
) -> dict[str, float]:
    """Segments a split and measures it.

    Args:
      model: a `RetinalModel` with structures.
      source: photographs with masks of these.
      thresholds: of all structures, as they were chosen on other photographs; None: there are none.

    Returns:
      numbers by name, NaN where undefined: see `measured`.

    Raises:
      UserError: see `segmentation.tally`.
    """
    return measured(tally(model, source, progress=False), thresholds)


def measured(found: Tally, thresholds: Mapping[str, float] | None = None) -> dict[str, float]:
    """Measures what was counted.

    Args:
      found: counts of photographs.
      thresholds: see `structure_metrics`.

    Returns:
      `dice` (at threshold 0.5), `average_precision`, `auroc`, `iou` and `image_dice`, means over
      the structures that some photograph shows; of every structure `STRUCTURE/dice` and
      `STRUCTURE/average_precision`; and where thresholds are given `best_dice`, at these, likewise.
      See `SegmentationMetrics`.

    Raises:
      UserError: no photograph was counted.
    """
    metrics = found.measured(thresholds, draws=1)
    told = _TOLD if thresholds is None else (*_TOLD, "best_dice")
    numbers = {
        name: float(metrics.macro[name].value) if name in metrics.macro else math.nan
        for name in (*told, *_MEANS)
    }
    for structure in found.classes:
        row = metrics.classes.get(structure, {})
        for name in told:
            numbers[f"{structure}/{name}"] = float(row[name].value) if name in row else math.nan
    return numbers
