"""Whether heat maps of a network show what its score rests on: insertion and deletion curves."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from retfm_jax.errors import UserError
from retfm_jax.evaluation.metrics.bootstrap import Estimate, Weights, bootstrap, estimates
from retfm_jax.evaluation.metrics.saliency import blurred, deletion, insertion
from retfm_jax.heatmaps import HeatMap, Targets, choose_way, heat_maps, read_targets
from retfm_jax.model import RetinalModel
from retfm_jax.progress import progress_bar


@dataclasses.dataclass(frozen=True)
class Faithfulness:
    """Areas under the curves of a target, means over photographs, with 95% intervals.

    Attributes:
      photographs: their number.
      deletion: of the map; the smaller, the better.
      insertion: of the map; the larger, the better.
      shuffled_deletion, shuffled_insertion: of maps with the same values in random places, which
        say nothing of the photograph.
      deletion_gain: shuffled_deletion - deletion, photograph by photograph: above 0 for a map that
        is better than one at random.
      insertion_gain: insertion - shuffled_insertion likewise.
    """

    photographs: int
    deletion: Estimate
    insertion: Estimate
    shuffled_deletion: Estimate
    shuffled_insertion: Estimate
    deletion_gain: Estimate
    insertion_gain: Estimate


def faithfulness(
    model: RetinalModel,
    images: Sequence[Any],
    target: str,
    *,
    method: str | None = None,
    language: str = "en",
    steps: int = 16,
    patients: Sequence[Any] | None = None,
    seed: int = 0,
) -> Faithfulness:
    """Covers and uncovers photographs in the order of their maps, and of shuffled ones.

    Pixels are covered by the photograph blurred until no finding is seen (Petsiuk et al., BMVC
    2018).

    Args:
      model: that is looked into.
      images: as for `RetinalModel.encode_images`, of which the target should speak: photographs
        that have the finding.
      target: one, as `RetinalModel.heatmap` takes it. The score is the calibrated probability of a
        class; of a condition or a text what the map explains.
      method: of the heat maps; None: the tower's default.
      language: of the prompts of conditions.
      steps: in which all pixels are changed.
      patients: of every photograph, the unit of the intervals; None: each is of its own.
      seed: of the shuffling and of the resamples.

    Returns:
      areas in units of the score.

    Raises:
      UserError: see `RetinalModel.heatmap`; or the way needs no target, and explains none.
    """
    targets = read_targets(model, target, language)
    name, way = choose_way(model.method.config.image, method, targeted=True)
    if not way.needs_target:
        raise UserError(f"{name} explains no target: its curves would say nothing of {target!r}")
    pictures = [model.decode(image, f"image {index}") for index, image in enumerate(images)]
    score, rng = _score(model, targets), np.random.default_rng(seed)
    config = model.data_config.image
    rows = []
    found = heat_maps(model, pictures, targets, way)
    for picture, heat in zip(
        progress_bar(pictures, desc="covering", unit="image"), found, strict=True
    ):
        assert heat is not None, "it was decoded"
        covered = blurred(picture)
        row = []
        for each in (heat, _shuffled(heat, rng)):
            laid = each.onto_photograph(config)[0]
            row += [curve(score, picture, laid, covered, steps).area for curve in _CURVES]
        rows.append(row)
    return _summary(np.array(rows), list(range(len(rows))) if patients is None else patients, seed)


_CURVES = (deletion, insertion)


def _score(model: RetinalModel, targets: Targets) -> Callable[[np.ndarray], np.ndarray]:
    """From photographs to the score: of a class a probability, for its odds have no end."""
    if targets.kinds[0] == "class":
        column = model.classes.index(targets.names[0])
        return lambda frames: model.predict(list(frames))[:, column]
    direction = targets.arrays[0]
    return lambda frames: model.encode_images(list(frames)) @ direction


def _shuffled(heat: HeatMap, rng: np.random.Generator) -> HeatMap:
    """The same values in random cells: as coarse, and saying nothing."""
    maps = heat.maps.reshape(len(heat.maps), -1)
    return heat._replace(maps=rng.permuted(maps, axis=1).reshape(heat.maps.shape))


def _summary(areas: Float[np.ndarray, "n 4"], patients: Sequence[Any], seed: int) -> Faithfulness:
    values = np.column_stack([areas, areas[:, 2] - areas[:, 0], areas[:, 1] - areas[:, 3]])

    def statistic(weights: Weights) -> Float[np.ndarray, "draws 6"]:
        return (weights.T @ values) / weights.sum(0)[:, None]

    means = values.mean(0)
    return Faithfulness(len(areas), *estimates(means, bootstrap(patients, statistic, 1000, seed)))
