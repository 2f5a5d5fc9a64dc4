"""Protocols over a dataset: from a network and a split to numbers and a report."""

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from retfm_jax.config import DataConfig, EvaluationConfig
from retfm_jax.console import say
from retfm_jax.data.class_files import ALL, Reading, Said
from retfm_jax.data.labeled import reading_of
from retfm_jax.data.sources import RecordSource
from retfm_jax.data.tasks import (
    counts_by,
    modality_of,
    open_task,
    said_of,
    unknown_classes,
)
from retfm_jax.errors import UserError
from retfm_jax.evaluation import report_labels, requirements
from retfm_jax.evaluation.captioning import cases_by, open_cases
from retfm_jax.evaluation.embeddings import embed_split, refuse_unusable
from retfm_jax.evaluation.metrics.grades import class_order
from retfm_jax.evaluation.metrics.retrieval import retrieve
from retfm_jax.evaluation.mistake_maps import with_mistake_maps
from retfm_jax.evaluation.options import DEFAULTS, Options, ResolvedOptions
from retfm_jax.evaluation.protocols import get_protocols
from retfm_jax.evaluation.protocols.base import Protocol
from retfm_jax.evaluation.protocols.zero_shot import zero_shot
from retfm_jax.evaluation.report.write import write
from retfm_jax.evaluation.results import Results
from retfm_jax.evaluation.segmentation import open_split
from retfm_jax.evaluation.study import Study
from retfm_jax.files import PathLike
from retfm_jax.heatmaps import choose_way
from retfm_jax.knowledge.labels import shared_labeler
from retfm_jax.knowledge.prompts import PROMPT_STYLES
from retfm_jax.zero_shot import ImageTextModel, model_prompts, own_style

_log = logging.getLogger(__name__)


def _decided(options: Options, model: Any) -> ResolvedOptions:
    """The options with everything decided that the model decides, and every value in its range."""
    config: EvaluationConfig = model.config.evaluation
    given = {field.name: getattr(options, field.name) for field in dataclasses.fields(options)}
    decided = {
        "languages": config.languages if options.languages is None else options.languages,
        "prompts": options.prompts or own_style(model),
        "draws": config.bootstrap if options.draws is None else options.draws,
    }
    resolved = ResolvedOptions(**(given | decided))
    requirements.check_name("prompts", resolved.prompts, PROMPT_STYLES)
    requirements.check_languages(resolved.languages)
    requirements.check_numbers(resolved)
    return resolved


def measure(
    model: Any,
    *,
    protocols: Sequence[str],
    dataset: str,
    data_dir: str,
    split: str,
    options: Options = DEFAULTS,
) -> Results:
    """Runs protocols.

    Args:
      model: a `RetinalModel`.
      protocols: names of them, see `protocols.get_protocol`.
      dataset: a built dataset, a task of `tasks.yaml`, or a folder of class folders.
      data_dir: folder of built datasets and of the tasks' own folders.
      split: what is predicted.
      options: how the protocols run.

    Returns:
      the findings, which `report.write` writes.

    Raises:
      UserError: a protocol is unknown or cannot run on this data, or an option is out of its range.
    """
    asked = get_protocols(list(protocols))
    for protocol in asked:
        if protocol.compares_texts and model.method.text is None:
            others = "linear_probe, linear_probe_unprojected or fine_tune"
            if own := "classify, " * bool(model.classes) + "segment, " * bool(model.structures):
                others = own + others
            elif model.method.vocabulary:
                others = f"captioning, {others}"
            raise UserError(
                f"task {protocol.name} compares images with texts, and a {model.method.name} "
                f"network takes images alone: ask for {others}"
            )
    resolved = _decided(options, model)
    if any(protocol.of_masks for protocol in asked):
        _check_alone("of_masks", "photographs with masks", asked, options)
        model.require_structures()
        return _of_masks(model, asked, dataset, data_dir, split, resolved)
    if any(protocol.of_cases for protocol in asked):
        _check_alone("of_cases", "cases with reports", asked, options)
        model.require_words()
        return _of_cases(model, asked, dataset, data_dir, split, resolved)
    reading = _reading(model, dataset, split, options)
    source = open_task(dataset, split, data_dir, reading)
    how_read, by = said_of(source), counts_by(source)
    notes = _say_how_read(how_read, resolved)
    requirements.check_records(source)
    train = None
    if any(protocol.learns for protocol in asked):
        train = open_task(dataset, options.train_split, data_dir, reading)
        notes += _say_how_read(said_of(train), options, notes)
    labels_from = None
    if any(protocol.needs_labels for protocol in asked):
        source, train, labels_from = _labeled(model, source, train)
    modality = modality_of(source)
    order = class_order(source.label_names, getattr(source, "ordered", False))
    if order is not None and order.guessed:
        say(f"taken for grades, in this order: {order} ({order.known_from})")
    study = Study(
        model,
        source,
        train,
        resolved,
        model_prompts(model, resolved.prompts, modality),
        Results(f"{source.name}, {source.split}", order=order, by=by),
        notes,
    )
    if resolved.mistakes:
        choose_way(model.method.config.image, None, targeted=True)
    facts = {
        "modality": modality,
        "labels_from": labels_from,
        "class_order": None if order is None else order.to_json(),
        **how_read.facts,
    }
    words = {
        "languages": list(resolved.languages),
        "prompts": resolved.prompts,
        "prompt_words": _words(model, resolved.prompts),
    }
    return _run(study, asked, facts, words)


def _run(
    study: Study,
    asked: Sequence[Protocol],
    facts: Mapping[str, Any],
    words: Mapping[str, Any],
) -> Results:
    """Runs protocols on a study, and makes the document."""
    # What is missing is said before anything is computed.
    for protocol in asked:
        protocol.check(study)
    numbers = {protocol.name: protocol.run(study) for protocol in asked}
    with_mistake_maps(study.model, study.results, study.options.mistakes)
    settings = {**words, **_settings(study.options, study.results.by)}
    for protocol in asked:
        settings |= protocol.settings(study.options)
    study.results.document = {
        "model": {"method": study.model.method.name},
        "data": {
            "dataset": study.source.name,
            "split": study.source.split,
            "records": len(study.source),
            "intervals_by": study.results.by,
            **facts,
            "notes": study.notes,
        },
        "settings": settings,
        **study.facts,
        **numbers,
    }
    return study.results


def _of_masks(
    model: Any,
    asked: Sequence[Protocol],
    dataset: str,
    data_dir: str,
    split: str,
    options: ResolvedOptions,
) -> Results:
    """Runs protocols on a split with masks."""
    reading = _reading(model, dataset, split, options)
    opened = open_split(model, dataset, data_dir, split, reading)
    if opened.said:
        say(*opened.said)
    (source,) = opened.sources.values()
    by = "patient" if source.patients_known else "image"
    results = Results(f"{source.name}, {source.split}", by=by)
    study = Study(
        model, source, None, options, model_prompts(model, options.prompts), results,
        list(opened.said),
    )  # fmt: skip
    return _run(study, asked, {"structures": list(source.structures)}, {})


def _of_cases(
    model: Any,
    asked: Sequence[Protocol],
    dataset: str,
    data_dir: str,
    split: str,
    options: ResolvedOptions,
) -> Results:
    """Runs protocols on the cases of a split."""
    source = open_cases(model, dataset, data_dir, split, options.reading)
    results = Results(f"{source.name}, {source.split}", by=cases_by(source))
    study = Study(
        model, source, None, options, model_prompts(model, options.prompts), results,
        dataset=dataset, data_dir=data_dir,
    )  # fmt: skip
    return _run(study, asked, {}, {})


#: Options of protocols that compare with classes, texts or labels.
_OF_LABELS = (
    "languages", "prompts", "train_split", "shots", "folds", "fit_augmentations",
    "test_augmentations", "fine_tune", "mistakes",
)  # fmt: skip


def _check_alone(kind: str, what: str, asked: Sequence[Protocol], options: Options) -> None:
    """Checks what is asked for together with protocols of masks, or of cases.

    Raises:
      UserError: other protocols are asked for as well, or an option is another protocol's.
    """
    others = [protocol.name for protocol in asked if not getattr(protocol, kind)]
    if others:
        raise UserError(
            f"task {', '.join(others)} compares with classes or texts, and {what} are opened "
            "without them: evaluate it for itself"
        )
    for name in _OF_LABELS:
        if getattr(options, name) != getattr(DEFAULTS, name):
            raise UserError(f"{name} is an option of tasks on classes and texts: leave it out")


def evaluate(
    model: Any,
    *,
    protocols: Sequence[str],
    dataset: str,
    data_dir: str,
    split: str,
    out: PathLike,
    options: Options = DEFAULTS,
) -> dict[str, Any]:
    """Runs protocols and writes `out` (JSON), pictures (PNG) and an HTML page beside it.

    Args:
      model, protocols, dataset, data_dir, split, options: see `measure`.
      out: see `report.write.write`.

    Returns:
      the document that the JSON file holds.

    Raises:
      UserError: see `measure`, or nothing can be written there.
    """
    requirements.check_out(out)
    results = measure(
        model,
        protocols=protocols,
        dataset=dataset,
        data_dir=data_dir,
        split=split,
        options=options,
    )
    write(results, out)
    return results.document


def _reading(model: Any, dataset: str, split: str, options: Options) -> Reading:
    """How files are read: what a network was fine-tuned on is divided as it was then.

    Else photographs that it was trained on would be in the test split.

    Raises:
      UserError: all of that is asked for.
    """
    own: DataConfig = model.data_config
    learned = model.classes or model.structures
    if not learned or options.reading.division is not None:
        return options.reading
    then = reading_of(own)
    if requirements.was_trained_on(own, dataset):
        if split == ALL:
            raise UserError(
                f"split {ALL} of {dataset} holds, by its name, what the network was trained on: "
                "ask for test, or give another name to what is another set"
            )
        given = options.reading
        return dataclasses.replace(
            then,
            patient_regex=given.patient_regex or then.patient_regex,
            follow_links=given.follow_links or then.follow_links,
            exclude=given.exclude or then.exclude,
        )
    return dataclasses.replace(options.reading, division=then.division)


def _labeled(
    model: Any, source: RecordSource, train: RecordSource | None
) -> tuple[RecordSource, RecordSource | None, str]:
    """The splits with labels, those of their reports where they have none, and whose these are."""
    if requirements.is_labeled(source):
        return source, train, "the dataset"
    say(report_labels.SAID)
    data: DataConfig = model.data_config
    labeler = shared_labeler(data.vocabulary, data.extend)
    splits = [source] if train is None else [source, train]
    found = report_labels.label_by_reports(splits, labeler)
    return found[0], None if train is None else found[1], "the reports, read by the labeler"


def _words(model: Any, style: str) -> str:
    learned = style == "report" and getattr(model, "wording", None) is not None
    return "those of the training reports" if learned else "templates"


def _say_how_read(said: Said, options: Options, already: Sequence[str] = ()) -> list[str]:
    """Prints the notes on how a source was read, and returns them.

    Files that are named as images and hold none go into the log, too.
    """
    if said.broken:
        refuse_unusable(said.broken, options.on_error)
        _log.warning("left out, for they hold no image: %s", ", ".join(said.broken))
    sentences = [sentence for sentence in said.sentences if sentence not in already]
    if sentences:
        say(*sentences)
    return sentences


def _settings(options: ResolvedOptions, by: str) -> dict[str, Any]:
    return {
        "bootstrap_draws": options.draws,
        "interval": f"95%, percentiles of a bootstrap by {by}; of proportions (accuracy, "
        "sensitivity, specificity, recall at k) Clopper-Pearson; every number names its own",
        "seed": options.seed,
    }


def quick_metrics(
    model: ImageTextModel,
    source: RecordSource,
    config: EvaluationConfig,
    prompts: Sequence[str] = (),
) -> Mapping[str, float]:
    """Zero-shot AUROC and recall at 1 and 5 as plain numbers, for the metrics of a run.

    Where every sample has exactly one class, there is ACA beside AUROC. A split without labels has
    neither, a language without reports no recall.

    Args:
      model: that is evaluated.
      source: the split that is predicted.
      config: languages and batch size of the evaluation.
      prompts: styles of class prompts to compare, which the metrics' names then hold; none: the
        model's own style.

    Returns:
      numbers by name, such as "zero_shot/en/eye/auroc"; NaN where undefined.

    Raises:
      UserError: see `embeddings.embed_split` and `protocols.zero_shot.zero_shot`.
    """
    split = embed_split(
        model, source, source.label_names, config.languages, config.batch_size, progress=False
    )
    skip = unknown_classes(split.label_names)
    known = [name not in skip for name in split.label_names]
    labeled = any((view.labels[:, known] >= 0).any() for view in split.views.values())
    modality = modality_of(source)
    metrics = {}
    for language in config.languages:
        if labeled:
            for style in prompts or (own_style(model),):
                asked = model_prompts(model, style, modality)
                found = zero_shot(model, split, language, asked, skip)
                for level, predictions in found.levels.items():
                    overall = predictions.measured(draws=1).overall
                    prefix = f"zero_shot/{language}/{level}" + f"/{style}" * bool(prompts)
                    for name in ("auroc", "aca"):
                        if name in overall:
                            metrics[f"{prefix}/{name}"] = overall[name].value
        if sum(map(bool, split.reports[language])) > 1:
            found = retrieve(split, language)
            for direction, recalls in found.recalls.items():
                for name in ("recall_at_1", "recall_at_5"):
                    metrics[f"retrieval/{language}/{direction}/{name}"] = recalls[name].value
    return metrics
