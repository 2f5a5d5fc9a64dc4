"""Segmentation by the network's own decoder: its masks against what is drawn on a split."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Float, Float32

from retfm_jax.data.segmented import SegmentedSource
from retfm_jax.errors import UserError
from retfm_jax.evaluation import segmentation
from retfm_jax.evaluation.metrics.segmentation import Tally, is_counted_at, mean_absolute_error
from retfm_jax.evaluation.metrics.shapes import disc_and_cup, vertical_cup_disc_ratio
from retfm_jax.evaluation.protocols.base import Protocol
from retfm_jax.evaluation.results import MaskExample, MaskSection, Shown
from retfm_jax.evaluation.segmentation import Segmented
from retfm_jax.evaluation.study import Options, Study, undecodable
from retfm_jax.mask_decisions import MaskDecisions
from retfm_jax.rendering import overlays

#: Long side of a photograph on the page, pixels.
_SIDE = 560


class Segment(Protocol):
    """The structures that a network was trained for, with the thresholds that it keeps."""

    name = "segment"
    of_masks = True
    needs_labels = False

    def check(self, study: Study) -> None:
        model = study.model
        model.require_structures()
        segmentation.check_structures(model, study.source)
        decisions: MaskDecisions = model.mask_decisions
        for name, threshold in decisions.by_name.items():
            if not is_counted_at(threshold):
                near = round(threshold * 255) / 255
                raise UserError(
                    f"the threshold of {name} is {threshold:g}, and pixels are counted at multiples"
                    f" of 1/255 and 1/10: take {near!r} in the network's decisions.json"
                )

    def run(self, study: Study) -> Mapping[str, Any]:
        model, options, source = study.model, study.options, study.source
        assert isinstance(source, SegmentedSource), "of_masks asks for it"
        decisions: MaskDecisions = model.mask_decisions
        counted = Tally(model.structures, segmentation.centerlines(model, decisions.by_name))
        pair = disc_and_cup(model.structures)
        damaged: list[str] = []
        rows: list[int] = []
        ratios: list[tuple[float, float]] = []
        for each in segmentation.segmented(
            model, source, unusable=damaged, on_error=options.on_error
        ):
            segmentation.add(counted, source, each)
            rows.append(each.row)
            if pair is not None:
                ratios.append(_ratios(model, each, pair))
        segmentation.check_counted(source, counted, damaged)
        _say(study, damaged)
        chosen = decisions.by_name if decisions.fitted_on else None
        metrics = counted.measured(chosen, options.draws, options.seed)
        numbers = metrics.to_json() | {"thresholds": decisions.by_name}
        drawn = any(not math.isnan(truth) for _, truth in ratios)
        shown = (_cups(ratios, counted.groups, numbers, study),) if drawn else ()
        if decisions.fitted_on:
            numbers["decisions"] = decisions.to_json()
        counts, scores = counted.pixels_by_image(decisions.by_name), counted.scores_by_image()
        dices, present = counts.each("dice"), (counts.hits + counts.missed) > 0
        study.results.masks = MaskSection(
            metrics,
            decisions.by_name,
            _fitted_on(decisions),
            scores={name: scores[:, i].sum(0) for i, name in enumerate(model.structures)},
            dices={name: dices[present[:, i], i] for i, name in enumerate(model.structures)},
            examples=_examples(study, rows, dices, present),
            shown=shown,
        )
        return numbers

    def settings(self, options: Options) -> Mapping[str, Any]:
        return {
            "pixels": "at the size of the photographs, within the field of view",
            "present": "where the probability is above the threshold",
        }


def _fitted_on(decisions: MaskDecisions) -> str:
    said = decisions.fitted_on
    if not said:
        return ""
    where = ", ".join(str(said[name]) for name in ("dataset", "split") if name in said)
    images = said.get("images", "an unknown number of")
    patients = f" of {said['patients']} patients" if said.get("patients_known") else ""
    return (
        f"The thresholds have the highest Dice on {images} photographs{patients}"
        f"{where and f' ({where})'}."
    )


def _say(study: Study, damaged: Sequence[str]) -> None:
    """Notes on what the numbers are of."""
    model, source = study.model, study.source
    for sentence in undecodable(damaged):
        study.note(sentence)
    missing = [name for name in model.structures if name not in source.structures]
    if missing:
        study.note(f"{source.name} has no masks of {', '.join(missing)}, which count nowhere")
    if model.method.exclusive_structures:
        study.note(
            "the network's structures exclude each other: where masks overlap, the last one counts "
            f"of {', '.join(model.structures)}"
        )
    if not model.mask_decisions.fitted_on:
        study.note("no thresholds were chosen for the network: masks are what is above one half")


def _ratios(model: Any, found: Segmented, pair: tuple[int, int]) -> tuple[float, float]:
    """The vertical cup-disc ratio as predicted and as drawn; NaN without a disc or its mask."""
    disc, cup = pair
    truth, inside = found.truth.masks, found.truth.field > 0
    if (truth[..., [disc, cup]] > 1)[inside].any():
        return math.nan, math.nan
    masks = model.mask_decisions.masks(found.probabilities) & inside[..., None]
    drawn = (truth == 1) & inside[..., None]
    return _ratio(model, masks, disc, cup), _ratio(model, drawn, disc, cup)


def _ratio(model: Any, masks: Bool[np.ndarray, "h w c"], disc: int, cup: int) -> float:
    """Of structures that exclude each other the disc lacks its cup."""
    whole = masks[..., disc]
    if model.method.exclusive_structures:
        whole = whole | masks[..., cup]
    return vertical_cup_disc_ratio(whole, masks[..., cup])


def _cups(
    ratios: Sequence[tuple[float, float]],
    groups: Sequence[str],
    numbers: dict[str, Any],
    study: Study,
) -> Shown:
    """The error of the vertical cup-disc ratio."""
    predicted, truth = np.array(ratios, np.float64).T
    options = study.options
    error = mean_absolute_error(predicted, truth, groups, options.draws, options.seed)
    both = ~np.isnan(predicted) & ~np.isnan(truth)
    without = int((np.isnan(predicted) & ~np.isnan(truth)).sum())
    bias = float((predicted - truth)[both].mean()) if both.any() else None
    numbers["vertical_cup_disc_ratio"] = {
        "mean_absolute_error": error.to_json(),
        "bias": bias,
        "images": int(both.sum()),
        "images_without_a_disc_found": without,
    }
    return Shown(
        "Vertical cup-disc ratio",
        ("photographs", "mean absolute error", "bias", "without a disc found"),
        [(int(both.sum()), error, "–" if bias is None else f"{bias:+.3f}", without)],
        "Heights of the largest part of the cup and of the disc; bias is predicted less drawn.",
    )


class _Wanted(NamedTuple):
    """A photograph of the report: `position` among those that were counted."""

    column: int
    standing: str
    position: int


def _examples(
    study: Study,
    rows: Sequence[int],
    dices: Float[np.ndarray, "n c"],
    present: Bool[np.ndarray, "n c"],
) -> tuple[MaskExample, ...]:
    """Photographs with the worst, the median and the best masks of each structure, seen again."""
    wanted = [
        each for column in range(dices.shape[1]) for each in _standing(column, dices, present)
    ]
    again = sorted({each.position for each in wanted})
    found: dict[_Wanted, MaskExample] = {}
    assert isinstance(study.source, SegmentedSource), "of_masks asks for it"
    seen = segmentation.segmented(
        study.model, study.source, [rows[position] for position in again], progress=False
    )
    for position, photograph in zip(again, seen, strict=True):
        for each in wanted:
            if each.position == position:
                dice = float(dices[position, each.column])
                found[each] = _example(study.model, photograph, each, dice)
    return tuple(found[each] for each in wanted)


def _standing(
    column: int, dices: Float[np.ndarray, "n c"], present: Bool[np.ndarray, "n c"]
) -> list[_Wanted]:
    """Of the photographs that show a structure the worst, the median and the best, each once."""
    there = np.flatnonzero(present[:, column])
    order = there[np.argsort(dices[there, column], kind="stable")]
    if not len(order):
        return []
    if len(order) < 3:
        chosen = dict(zip(("worst", "best") if len(order) == 2 else ("only",), order, strict=True))
    else:
        chosen = {"worst": order[0], "median": order[len(order) // 2], "best": order[-1]}
    return [_Wanted(column, standing, int(position)) for standing, position in chosen.items()]


def _example(model: Any, found: Segmented, wanted: _Wanted, dice: float) -> MaskExample:
    image, (height, width) = found.truth.image, found.truth.field.shape
    scale = min(1.0, _SIDE / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    column, truth = wanted.column, found.truth.masks[..., wanted.column]
    drawn, inside = truth == 1, found.truth.field > 0
    counted = (truth <= 1) & inside
    mask = model.mask_decisions.masks(found.probabilities)[..., column] & inside

    def shares(*masks: Bool[np.ndarray, "h w"]) -> Float32[np.ndarray, "_h _w masks"]:
        small = [
            cv2.resize(each.astype(np.float32), size, interpolation=cv2.INTER_AREA)
            for each in masks
        ]
        return np.stack(small, axis=-1)

    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    kinds = drawn & mask, mask & ~drawn, drawn & ~mask
    return MaskExample(
        model.structures[column],
        wanted.standing,
        found.name,
        dice,
        overlays.shares_over(small, shares(drawn)),
        overlays.shares_over(small, shares(mask)),
        overlays.differences_over(small, shares(*(kind & counted for kind in kinds))),
    )
