"""Heat maps of the most confident mistakes: where a network looked when it was wrong."""

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import UInt8

from retfm_jax.data.images import thumbnail
from retfm_jax.data.records import ImageRecord
from retfm_jax.evaluation.report.summary import Mistake, MistakeMap, mistakes
from retfm_jax.evaluation.results import Results, Section
from retfm_jax.heatmaps import choose_way, heat_maps
from retfm_jax.progress import progress_bar
from retfm_jax.rendering.overlays import overlay

#: Longer side of a photograph on the page, pixels.
_SIDE = 320


def with_mistake_maps(model: Any, results: Results, count: int) -> None:
    """Adds maps to the mistakes of every section whose classes can be explained.

    Args:
      model: a `RetinalModel`, which made the predictions.
      results: whose sections are replaced by those with maps.
      count: mistakes of each section that are shown; 0 changes nothing.

    Raises:
      UserError: the image tower has no heat maps.
    """
    if count:
        results.sections[:] = [
            section if section.targets is None else _mapped(model, section, count)
            for section in results.sections
        ]


def _mapped(model: Any, section: Section, count: int) -> Section:
    worst = mistakes(section.measured.predictions, count)
    bar = progress_bar(worst, desc="explaining mistakes", unit="image")
    found = [mistake._replace(maps=_maps(model, section, mistake)) for mistake in bar]
    return dataclasses.replace(section, mistakes=tuple(found))


def _maps(model: Any, section: Section, mistake: Mistake) -> tuple[MistakeMap, ...]:
    """One map for each class that the mistake is about; none of a patient as a whole."""
    assert section.targets is not None, "the caller looked"
    record = section.records[mistake.row]
    if isinstance(record, ImageRecord):
        data = record.image
    elif mistake.eye is None:
        return ()
    else:
        data = getattr(record, mistake.eye)
    targets = section.targets(mistake.classes)
    _, way = choose_way(model.method.config.image, None, targeted=True)
    photograph: UInt8[np.ndarray, "h w 3"] = thumbnail(data, record.record_id, _SIDE)
    (heat,) = heat_maps(model, [data], targets, way)
    assert heat is not None, "what was predicted can be decoded"
    laid = heat.onto_photograph(model.data_config.image, photograph.shape[:2])
    return tuple(
        MistakeMap(name, overlay(photograph, each))
        for name, each in zip(targets.names, laid, strict=True)
    )
