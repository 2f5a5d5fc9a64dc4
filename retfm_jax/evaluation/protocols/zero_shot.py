"""Zero-shot classification: images against the mean embedding of each class's prompts."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.special import softmax

from retfm_jax.console import say
from retfm_jax.data.tasks import same_conditions, unknown_classes
from retfm_jax.errors import UserError
from retfm_jax.evaluation.embeddings import EmbeddedSplit
from retfm_jax.evaluation.metrics.predictions import Predictions, is_exclusive
from retfm_jax.evaluation.protocols.base import Protocol
from retfm_jax.evaluation.results import LANGUAGE_NAMES, Section
from retfm_jax.evaluation.study import Study
from retfm_jax.heatmaps import Targets, read_targets
from retfm_jax.knowledge.laterality import SIDES
from retfm_jax.knowledge.prompts import Prompts, WeightedPrompt
from retfm_jax.zero_shot import (
    Embedding,
    ImageTextModel,
    class_embeddings,
    finding_directions,
    normal_class,
    weighted,
)


@dataclasses.dataclass(frozen=True)
class ZeroShot:
    """Scores of a split in one language.

    Attributes:
      language: of the prompts.
      levels: "patient" and "eye" for patients, "image" for single images; a level without any
        label is absent.
      left_out: classes that were skipped.
      prompts: view of the images -> class -> text of a prompt -> its weight.
    """

    language: str
    levels: Mapping[str, Predictions]
    left_out: tuple[str, ...]
    prompts: Mapping[str, Mapping[str, Mapping[str, float]]]


def check_classes(names: Sequence[str], skip: Sequence[str]) -> None:
    """Checks that a class is left that can be asked for in words.

    Args:
      names: of all classes.
      skip: classes without prompts.

    Raises:
      UserError: none is left.
    """
    if not set(names) - set(skip):
        raise UserError(
            f"no label of the dataset is known (labels: {', '.join(names) or 'none'}); "
            "zero-shot needs classes that are named after conditions of the vocabulary"
        )


def zero_shot(
    model: ImageTextModel,
    split: EmbeddedSplit,
    language: str,
    prompts: Prompts,
    skip: Sequence[str] = (),
) -> ZeroShot:
    """Scores every labeled sample of a split for its classes.

    Args:
      model: that embedded the split.
      split: what is predicted.
      language: of the prompts, "en" or "zh".
      prompts: from a class, a language and an eye (or None) to the class's prompts.
      skip: classes that cannot be asked for in words ("other").

    Raises:
      UserError: no class is left, nothing is labeled, or a prompt has no finite embedding.
    """
    columns = [index for index, name in enumerate(split.label_names) if name not in skip]
    names = tuple(split.label_names[index] for index in columns)
    left_out = tuple(name for name in split.label_names if name not in names)
    check_classes(split.label_names, skip)
    classes = class_embeddings(model, names, language, prompts, tuple(split.views))
    levels = {}
    groups = {"patient": ("patient",), "eye": SIDES} if "patient" in split.views else {}
    for level, views in (groups or {"image": ("image",)}).items():
        predictions = _level(split, views, columns, names, classes, model.logit_scale)
        if predictions is not None:
            levels[level] = predictions
    if not levels:
        raise UserError("no sample of the split has a label to compare zero-shot scores with")
    asked = {}
    for view in split.views:
        eye = view if view in SIDES else None
        asked[view] = {name: _asked(prompts(name, language, eye)) for name in names}
    return ZeroShot(language, levels, left_out, asked)


def _asked(prompts: Sequence[str | WeightedPrompt]) -> dict[str, float]:
    found: dict[str, float] = {}
    for prompt in weighted(prompts):
        found[prompt.text] = found.get(prompt.text, 0.0) + round(prompt.weight, 6)
    return found


def _level(
    split: EmbeddedSplit,
    views: Sequence[str],
    columns: Sequence[int],
    names: tuple[str, ...],
    classes: Mapping[str, Embedding],
    scale: float,
) -> Predictions | None:
    normal = normal_class(names)
    labels, cosines, logits, patients, samples = [], [], [], [], []
    for name in views:
        view = split.views[name]
        rows = np.flatnonzero(view.seen & (view.labels[:, columns] >= 0).any(1))
        images = view.images[rows]
        labels.append(view.labels[rows][:, columns])
        cosines.append(images @ classes[name].T)
        logits.append(images @ finding_directions(classes[name], normal).T)
        patients += [split.patient_ids[row] for row in rows]
        samples += [(int(row), name if name in SIDES else None) for row in rows]
    if not samples:
        return None
    truth = np.concatenate(labels)
    exclusive = is_exclusive(truth)
    return Predictions(
        names=names,
        labels=truth,
        scores=(
            softmax(scale * np.concatenate(cosines), axis=-1)
            if exclusive
            else scale * np.concatenate(logits)
        ),
        patients=tuple(patients),
        samples=tuple(samples),
        exclusive=exclusive,
    )


def _targets(model: Any, language: str, names: Sequence[str]) -> Targets:
    """What heat maps of classes explain: conditions, a normal eye among them, by their prompts."""
    return read_targets(model, list(dict.fromkeys(names)), language)


class ZeroShotProtocol(Protocol):
    """Classes asked for in words, in every language."""

    name = "zero_shot"
    compares_texts = True

    def check(self, study: Study) -> None:
        names = study.source.label_names
        check_classes(names, unknown_classes(names))
        for alike in same_conditions(names):
            study.note(
                f"{' and '.join(map(repr, alike))} are one condition of the vocabulary: zero-shot "
                "asks for them in the same words, and cannot tell them apart"
            )

    def run(self, study: Study) -> Mapping[str, Any]:
        split, options, results = study.embedded, study.options, study.results
        skip = unknown_classes(split.label_names)
        if skip:
            say(
                "left out of zero-shot, for the vocabulary has no such condition: "
                f"{', '.join(skip)}"
            )
        numbers = {}
        for language in options.languages:
            found = zero_shot(study.model, split, language, study.prompts, skip)
            levels = {}
            for level, predictions in found.levels.items():
                measured = predictions.measured(options.draws, options.seed, results.order)
                title = f"zero-shot, {LANGUAGE_NAMES[language]}, {level}"
                targets = functools.partial(_targets, study.model, language)
                section = Section(title, measured, split.records, targets=targets)
                results.sections.append(section)
                levels[level] = measured.to_json()
            numbers[language] = {
                "classes_left_out": list(found.left_out),
                "prompts": found.prompts,
                "levels": levels,
            }
        return numbers
