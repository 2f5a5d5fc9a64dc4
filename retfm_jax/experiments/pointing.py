"""The pointing game on synthetic eyes, whose generator knows where it put each finding."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from retfm_jax.data_builders.synthetic_fundus.drawing import draw_eye, places_of
from retfm_jax.data_builders.synthetic_fundus.population import (
    LABELS,
    POPULATIONS,
    draw_patient,
)
from retfm_jax.errors import UserError, first_of
from retfm_jax.evaluation.metrics.bootstrap import Estimate
from retfm_jax.evaluation.metrics.intervals import proportion
from retfm_jax.evaluation.metrics.saliency import chance, near, peak
from retfm_jax.heatmaps import choose_way, heat_maps, read_targets
from retfm_jax.model import RetinalModel


@dataclasses.dataclass(frozen=True)
class Pointing:
    """Result of the game for one finding, over the eyes that have it.

    Attributes:
      eyes: their number.
      hits: share whose map is largest in the finding, with a 95% interval by patient.
      others: share whose maps of the other targets are, the mean over these: a map that says
        nothing of its target has as many hits.
      random: expected share of a random point of the field of view.
      center: share where the photograph's center is in the finding.
    """

    eyes: int
    hits: Estimate
    others: float
    random: float
    center: float


def pointing_game(
    model: RetinalModel,
    *,
    method: str | None = None,
    targets: Any = None,
    findings: Sequence[str] | None = None,
    patients: int = 300,
    size: int = 224,
    population: str = "clinic",
    seed: int = 0,
    tolerance: float = 0.03,
) -> Mapping[str, Pointing]:
    """Plays the pointing game on the eyes of generated test patients.

    Args:
      model: that is looked into.
      method: of the heat maps; None: the tower's default.
      targets: one for each finding, in their order, as `RetinalModel.heatmap` takes them; None: the
        network's classes of these names, or the findings' conditions.
      findings: labels of the generator; None: all but "normal", of a network with classes those
        that are its own.
      patients: their number; those that `synthetic_fundus` puts in its split "test" come first.
      size: height and width of the photographs in pixels.
      population: see `data_builders.synthetic_fundus`.
      seed: of the patients.
      tolerance: distance from a finding that counts as a hit, as a share of `size`.

    Returns:
      a result by finding; findings that no eye has are left out. The numbers are of synthetic eyes
      and say nothing of real ones.

    Raises:
      UserError: the network's classes are none of the generator's, or see `RetinalModel.heatmap`.
    """
    findings = _findings(model) if findings is None else findings
    asked = read_targets(model, list(findings) if targets is None else targets)
    _, way = choose_way(model.method.config.image, method, True)
    cases = []
    for number in range(patients):
        patient = draw_patient(POPULATIONS[population], seed, "test", number)
        cases += [
            (number, eye, patient.look) for eye in patient.eyes if {*findings} & {*eye.findings}
        ]
    pictures = [draw_eye(eye, look, size) for _, eye, look in cases]
    found: dict[str, list[tuple[float, ...]]] = {name: [] for name in findings}
    maps = heat_maps(model, pictures, asked, way)
    for (number, eye, look), picture, heat in zip(cases, pictures, maps, strict=True):
        assert heat is not None, "generated pictures can be used"
        laid = heat.onto_photograph(model.data_config.image)
        peaks = [peak(each) for each in laid]
        field = picture.max(2) > 0
        for name, place in places_of(eye, look, size).items():
            if name in found:
                wide = near(place, tolerance * size)
                hits = [at is not None and bool(wide[at]) for at in peaks]
                own = hits.pop(list(findings).index(name))
                found[name].append(
                    (
                        number,
                        own,
                        float(np.mean(hits)) if hits else np.nan,
                        chance(wide, field),
                        bool(wide[size // 2, size // 2]),
                    )
                )
    return {name: _counted(rows) for name, rows in found.items() if rows}


def _findings(model: RetinalModel) -> tuple[str, ...]:
    own = tuple(name for name in LABELS[1:] if name in model.classes or not model.classes)
    if not own:
        raise UserError(
            f"the network tells {first_of(model.classes, 8)} apart, of which the generator draws "
            f"none; it draws {', '.join(LABELS[1:])}"
        )
    return own


def _counted(rows: Sequence[tuple[float, ...]]) -> Pointing:
    patients, own, *rest = np.array(rows, np.float64).T
    return Pointing(len(rows), proportion(own > 0, patients), *(float(x.mean()) for x in rest))
