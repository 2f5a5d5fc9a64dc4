"""Model cards: what a network is, where it comes from and how it takes images, in Markdown."""

import html
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import yaml

from retfm_jax import hub
from retfm_jax.config import ExperimentConfig
from retfm_jax.console import printable
from retfm_jax.data.images import describe
from retfm_jax.dataset_folders import is_synthetic
from retfm_jax.decisions import Decisions
from retfm_jax.errors import UserError
from retfm_jax.interop.huggingface import image_processor
from retfm_jax.interop.zoo import UNKNOWN, Origin, entry_of, zoo
from retfm_jax.mask_decisions import MaskDecisions

#: Rows of the table beyond which a reader would look into the evaluation itself.
_MOST_ROWS = 100
_MARKS = re.compile(r"([\\`*_\[\]|~$#]|^[-+])")
_SYNTHETIC = (
    "**Synthetic images.** These numbers say that the system works, not how well the network reads "
    "real photographs."
)


_ABOUT_PREPROCESSING = "`preprocessing.json` says the same to programs."


class Export(NamedTuple):
    """What a folder is that others read.

    Attributes:
      library: that reads it, by the name that the Hub has for it.
      use: lines of Markdown on how it is used.
    """

    library: str
    use: Sequence[str]


def model_card(
    config: ExperimentConfig,
    origin: Origin | None,
    notes: Sequence[str],
    *,
    parameters: int,
    began_with: Sequence[str] = (),
    evaluation: Mapping[str, Any] | None = None,
    export: Export | None = None,
    decisions: Decisions | None = None,
    mask_decisions: MaskDecisions | None = None,
) -> str:
    """Writes the card of a network, with its YAML header.

    Args:
      config: the experiment, without paths.
      origin: of imported weights; None of those of a training run.
      notes: sentences on where the weights come from.
      parameters: number of the network's parameters.
      began_with: what the training began with: addresses, names of the zoo, or names of files.
      evaluation: document of an evaluation; None for none.
      export: what the folder is without this package; None: one that `retfm_jax.load` reads.
      decisions: of the network's own classes; None where it has none.
      mask_decisions: of the structures that it finds; None where it finds none.

    Returns:
      Markdown, in which texts of users are text.

    Raises:
      UserError: the evaluation holds no number.
    """
    title = (origin and origin.title) or f"{config.method} network"
    license_, terms = _license(origin, began_with)
    texts = getattr(config.model, "text", None) is not None
    classes, masks = decisions is not None, mask_decisions is not None
    reports = getattr(config.model, "vocabulary", None) is not None
    header: dict[str, Any] = {"license": license_}
    if license_ == "other":
        header |= {
            "license_name": "see-source",
            "license_link": (origin and origin.page) or UNKNOWN,
        }
    header |= {
        "library_name": "retfm_jax" if export is None else export.library,
        "pipeline_tag": "image-to-text" if reports else _task(texts, classes, masks),
        "tags": ["retina", "ophthalmology", "medical", "jax", "flax", config.method],
    }
    parts = [
        "---",
        yaml.safe_dump(header, sort_keys=False, allow_unicode=True).rstrip(),
        "---",
        "",
        f"# {_text(title)}",
        "",
        f"A network of the method `{config.method}` with {parameters:,} parameters, for "
        "photographs of the retina. It is no medical device.",
        "",
        "## Use",
        "",
        *(_use(texts, classes, masks, reports) if export is None else export.use),
        "",
        "## Images",
        "",
        f"`{describe(config.data.image)}`",
        "",
        *([_geometry(config), ""] if masks else []),
        *(_loading(config, masks) if export is None else [_ABOUT_PREPROCESSING]),
        "",
        *_tokenizer(config, texts),
        *_classes(decisions),
        *_structures(mask_decisions),
        *(_reports(config) if reports else []),
        "## Origin",
        "",
        *_origin(config, origin, began_with, license_, terms),
        *(f"- {_sentence(_text(note))}" for note in notes),
        "",
    ]
    if evaluation is not None:
        parts += ["## Evaluation", "", *_evaluation(evaluation), ""]
    return "\n".join(parts)


def _task(texts: bool, classes: bool, masks: bool) -> str:
    """The Hub's name for what the network does."""
    if classes or masks:
        return "image-segmentation" if masks else "image-classification"
    return "zero-shot-image-classification" if texts else "image-feature-extraction"


def _use(texts: bool, classes: bool, masks: bool, reports: bool) -> list[str]:
    lines = [
        "```python",
        "import retfm_jax",
        "",
        'model = retfm_jax.load("hf:OWNER/NAME")  # or this folder',
    ]
    if masks:
        return [
            *lines,
            'probabilities = model.segment("photograph.jpg")  # (h, w, structures) at its size',
            "print(model.structures)",
            "masks = model.mask_decisions.masks(probabilities)  # (h, w, structures) bool",
            "```",
        ]
    if reports:
        return [*lines, 'print(model.caption(["left.jpg", "right.jpg"]))  # of one case', "```"]
    lines += [
        'images = model.encode_images(["photograph.jpg"])  # unit-norm float32',
    ]
    if texts:
        lines += [
            'texts = model.encode_texts(["drusen at the macula"])',
            'print(model.zero_shot(["photograph.jpg"], ["normal", "drusen"]))',
        ]
    if classes:
        lines.append('print(model.classes, model.predict(["photograph.jpg"]))')
    return [*lines, "```"]


#: What classes are to each other, in words.
_OUTCOMES = {
    "exclusive": "exactly one of them holds",
    "grades": "one of them holds, from the lowest grade to the highest",
    "findings": "each is there or not",
}
#: Of more classes a card shows the first; the file has all.
_MOST_CLASSES = 60


def _classes(decisions: Decisions | None) -> list[str]:
    """The classes, and what was fitted to their probabilities."""
    if decisions is None:
        return []
    named, left = decisions.classes[:_MOST_CLASSES], len(decisions.classes) - _MOST_CLASSES
    listed = ", ".join(map(_text, named)) + (f", and {left} more" if left > 0 else "")
    lines = [f"{len(decisions.classes)}, of which {_OUTCOMES[decisions.outcome]}: {listed}.", ""]
    if not decisions.fitted_on:
        nothing = "Nothing was fitted to their probabilities, which are as trained."
        return ["## Classes", "", *lines, nothing, ""]
    lines += [
        f"Logits are divided by {decisions.temperature:.4g}, as fitted on "
        f"{_split_of(decisions.fitted_on)}.",
    ]
    if decisions.conformal is not None:
        lines.append(
            f"Prediction sets hold the true class of {decisions.conformal.coverage:.0%} of new "
            "patients' images, where these come from where those came from."
        )
    if decisions.thresholds:
        lines.append("A finding is said to be present from its threshold on.")
    lines.append("All of it is in `classes.json`. Not one of these numbers is a promise elsewhere.")
    return ["## Classes", "", *lines, ""]


def _split_of(said: Mapping[str, Any]) -> str:
    """The split that decisions were fitted on, in words."""
    who = "patients" if said.get("patients_known", True) else "images, whose patients are not known"
    return (
        f"{_text(str(said.get('dataset', 'unknown')))}, {_text(str(said.get('split', 'unknown')))}:"
        f" {_text(str(said.get('images', '?')))} images of {_text(str(said.get('patients', '?')))} "
        f"{who}"
    )


def _structures(decisions: MaskDecisions | None) -> list[str]:
    """The structures that a network finds, and their thresholds."""
    if decisions is None:
        return []
    named, left = decisions.structures[:_MOST_CLASSES], len(decisions.structures) - _MOST_CLASSES
    listed = [
        f"{_text(name)} ({threshold:.4g})"
        for name, threshold in zip(named, decisions.thresholds, strict=False)
    ]
    more = f", and {left} more" if left > 0 else ""
    chosen = "The thresholds were not fitted."
    if decisions.fitted_on:
        split = _split_of(decisions.fitted_on)
        chosen = f"The thresholds were chosen for the largest Dice on {split}."
    lines = [
        "A pixel shows a structure where its probability is greater than its threshold: "
        f"{', '.join(listed)}{more}. {chosen}",
    ]
    lines.append("All is in `structures.json`. Not one of these numbers is a promise elsewhere.")
    return ["## Structures", "", *lines, ""]


def _reports(config: ExperimentConfig) -> list[str]:
    """What the reports of a network consist of."""
    text = config.data.text
    said = (
        f"Reports consist of {len(text.words):,} words and have at most {text.context_length} of "
        f"them, their end among them; photographs of a case that are seen: "
        f"{config.data.case_images} at most. What a report says resembles the training reports: it "
        "may leave out findings and invent some."
    )
    return ["## Reports", "", said, ""]


def _geometry(config: ExperimentConfig) -> str:
    """How a network sees photographs whose pixels it tells apart."""
    size, masks = config.data.image.size, config.data.masks
    if masks.geometry == "whole":
        return "It sees photographs as a whole; masks have the photograph's own size."
    at = f"a long side of {masks.working_size} pixels" if masks.working_size else "their own size"
    return (
        f"It sees photographs at {at}, in windows of {size} pixels that overlap by half and are "
        "blended; masks have the photograph's own size."
    )


def _loading(config: ExperimentConfig, masks: bool) -> list[str]:
    return ["`retfm_jax.load` does all of it.", *([] if masks else _processor(config))]


def _processor(config: ExperimentConfig) -> list[str]:
    if image_processor(config.data.image) is not None:
        return ["transformers' image processors read the same from `preprocessor_config.json`."]
    return [
        "transformers has no terms for this rule, so that there is no `preprocessor_config.json`."
    ]


def _tokenizer(config: ExperimentConfig, texts: bool) -> list[str]:
    if not texts:
        return []
    length = config.data.text.context_length
    said = f"Texts have at most {length} tokens of the vocabulary in this folder."
    return ["## Texts", "", said, ""]


def _origin(
    config: ExperimentConfig,
    origin: Origin | None,
    began_with: Sequence[str],
    license_: str,
    terms: str | None,
) -> list[str]:
    if origin is None:
        lines = [f"- Trained on: {_text(config.data.dataset)} ({_text(config.data.train_split)})."]
        if is_synthetic(config.data.dataset):
            lines.append("- Its images are synthetic.")
        lines += [f"- Training began with {_text(source)}." for source in began_with]
    else:
        known = [name for name in origin.trained_on if name != UNKNOWN]
        more = UNKNOWN in origin.trained_on
        named = ", ".join(map(_text, known))
        trained = f"{named}{', and sets that are not established' if more else ''}"
        lines = [
            f"- Weights: {_text(origin.source)}.",
            f"- Trained on: {trained if known else 'not established'}.",
        ]
        if origin.citation:
            lines.append(f"- Paper: {_sentence(_text(origin.citation))}")
        if origin.page:
            lines.append(f"- Page of the owners: <{_link(origin.page)}>")
    said = "not known; who uses the weights has to find out" if license_ == UNKNOWN else license_
    lines.append(f"- License of the weights: {_text(said)}{f' ({_text(terms)})' if terms else ''}.")
    return lines


def _license(origin: Origin | None, began_with: Sequence[str]) -> tuple[str, str | None]:
    """License of the weights, or of the one published model that a training began with."""
    if origin is not None:
        return origin.license, origin.terms
    models = [
        zoo().get(each) or (entry_of(hub.address(each)) if hub.is_address(each) else None)
        for each in began_with
    ]
    found = {(model.license, model.terms) for model in models if model is not None}
    if len(found) == 1 and None not in models:
        return found.pop()
    return UNKNOWN, None


def _evaluation(document: Mapping[str, Any]) -> list[str]:
    data = document.get("data") if isinstance(document, Mapping) else None
    rows = list(_numbers(document, ())) if isinstance(document, Mapping) else []
    if not isinstance(data, Mapping) or not rows:
        raise UserError("the evaluation holds no numbers: give the JSON file of `retfm evaluate`")
    dataset, split = str(data.get("dataset", "?")), str(data.get("split", "?"))
    lines = [
        f"On {_text(dataset)}, split {_text(split)}, {_text(str(data.get('records', '?')))} images "
        f"or patients; 95% intervals by {_text(str(data.get('intervals_by', 'patient')))}.",
        "",
    ]
    if is_synthetic(dataset):
        lines += [_SYNTHETIC, ""]
    lines += ["| protocol | metric | value | 95% interval |", "|---|---|---|---|"]
    for path, number in rows[:_MOST_ROWS]:
        *where, metric = path
        low, high = number.get("low"), number.get("high")
        interval = f"{low:.3f} to {high:.3f}" if _is_number(low) and _is_number(high) else "none"
        lines.append(
            f"| {_text(', '.join(where))} | {_text(metric)} | {number['value']:.3f} | {interval} |"
        )
    if len(rows) > _MOST_ROWS:
        lines.append(f"\n{len(rows) - _MOST_ROWS} further rows are left out.")
    return lines


#: Of single classes, settings and counts there are too many for a card.
_LEFT_OUT = (
    "classes", "conditions", "settings", "data", "model", "counts", "confusion",
    "words_of_whole_references",
)  # fmt: skip


def _numbers(
    values: Mapping[str, Any], path: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], Mapping[str, Any]]]:
    """Every estimate of a document, with the keys that lead to it."""
    if path and _is_number(values.get("value")):
        yield path, values
        return
    for key, each in values.items():
        if isinstance(each, Mapping) and key not in _LEFT_OUT and len(path) < 12:
            yield from _numbers(each, path if key in ("levels", "macro") else (*path, str(key)))


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _text(value: str) -> str:
    """Text of a user or a file, as Markdown that shows it as it is, in one line."""
    return _MARKS.sub(r"\\\g<1>", html.escape(printable(" ".join(value.split())), quote=False))


def _link(address: str) -> str:
    return re.sub(r"[<>\s]", "", printable(address))


def _sentence(text: str) -> str:
    text = text[:1].upper() + text[1:]
    return text if text.endswith(".") else f"{text}."
