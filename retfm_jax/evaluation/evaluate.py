"""`retfm evaluate`: protocols over a dataset; numbers as JSON, pictures and one HTML page."""

import argparse
import dataclasses
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from retfm_jax.config import DataConfig, EvaluationConfig
from retfm_jax.console import say
from retfm_jax.data.sources import RecordSource
from retfm_jax.data.text import check_tokenizer
from retfm_jax.errors import UserError, did_you_mean
from retfm_jax.evaluation import report_labels, requirements
from retfm_jax.evaluation.class_files import AS_RELEASED, Reading, Said
from retfm_jax.evaluation.embeddings import (
    EmbeddedSplit,
    ImageTextModel,
    Prompts,
    embed_split,
    refuse_unusable,
)
from retfm_jax.evaluation.metrics.classification import over_folds
from retfm_jax.evaluation.metrics.grades import class_order
from retfm_jax.evaluation.metrics.predictions import Predictions
from retfm_jax.evaluation.protocols.adapters import clip_adapter, tip_adapter, tip_adapter_f
from retfm_jax.evaluation.protocols.few_shot import Predictor, Shots, Support, parse_shots
from retfm_jax.evaluation.protocols.fine_tune import FineTuneConfig
from retfm_jax.evaluation.protocols.linear_probe import linear_probe
from retfm_jax.evaluation.protocols.retrieval import retrieve
from retfm_jax.evaluation.protocols.supervised import Supervised
from retfm_jax.evaluation.protocols.zero_shot import (
    check_classes,
    model_prompts,
    own_style,
    zero_shot,
)
from retfm_jax.evaluation.report.html import page
from retfm_jax.evaluation.report.summary import (
    LANGUAGE_NAMES,
    Results,
    Section,
    console_tables,
    draw,
)
from retfm_jax.evaluation.tasks import (
    PROMPT_STYLES,
    counts_by,
    modality_of,
    open_task,
    said_of,
    same_conditions,
    unknown_classes,
)
from retfm_jax.files import PathLike, as_path, atomic_write, write_json
from retfm_jax.knowledge.labels import shared_labeler

_log = logging.getLogger(__name__)

#: Protocols that learn from cached embeddings of the training split.
ON_EMBEDDINGS: dict[str, Callable[[Support], Predictor]] = {
    "linear_probe": linear_probe,
    "linear_probe_unprojected": linear_probe,
    "clip_adapter": clip_adapter,
    "tip_adapter": tip_adapter,
    "tip_adapter_f": tip_adapter_f,
}
SUPERVISED = (*ON_EMBEDDINGS, "fine_tune")
PROTOCOLS = ("zero_shot", "retrieval", *SUPERVISED)
_TITLES = {
    "linear_probe": "linear probe",
    "linear_probe_unprojected": "linear probe before projection",
    "clip_adapter": "CLIP-Adapter",
    "tip_adapter": "Tip-Adapter",
    "tip_adapter_f": "Tip-Adapter-F",
    "fine_tune": "fine-tuning",
}


@dataclasses.dataclass(frozen=True)
class Options:
    """How the protocols run.

    Attributes:
      languages: of prompts and reports; adapters take the first; None: as in the model's
        configuration.
      prompts: "report", "name" or "knowledge" (see `tasks.prompts_of`); None: "knowledge" for a
        model that was trained on categories, "report" for one that was trained on reports.
      draws: of the bootstrap; None: as in the model's configuration.
      seed: of the bootstrap and of everything that a protocol draws.
      train_split: what the supervised protocols learn from.
      shots: how much of it.
      folds: draws of the support, with the seeds from `seed` on; the whole split is one fold.
      fit_augmentations: random copies that the support gains.
      test_augmentations: random copies over whose scores the mean is taken; 0 scores the images as
        they are. Fine-tuning augments its support by itself and scores images as they are.
      fine_tune: its recipe.
      reading: how the files of a folder or release are read.
      on_error: "skip" leaves out images that cannot be decoded and names them, "refuse" ends the
        evaluation at them.
    """

    languages: tuple[str, ...] | None = None
    prompts: str | None = None
    draws: int | None = None
    seed: int = 0
    train_split: str = "train"
    shots: tuple[Shots, ...] = (Shots(),)
    folds: int = 5
    fit_augmentations: int = 0
    test_augmentations: int = 0
    fine_tune: FineTuneConfig = dataclasses.field(default_factory=FineTuneConfig)
    reading: Reading = AS_RELEASED
    on_error: str = "skip"


def run(args: argparse.Namespace) -> None:
    """`retfm evaluate`.

    Raises:
      UserError: the workdir, a protocol, the dataset or the split cannot be used.
    """
    from retfm_jax.model import load

    protocols = args.task.split(",")
    check_protocols(protocols)
    shots = parse_shots(args.shots)
    model = load(args.workdir)
    config = model.data_config
    check_tokenizer(config.text, model.method.config.text)  # said before hours of images
    evaluate(
        model,
        protocols=protocols,
        dataset=args.dataset or config.dataset,
        data_dir=args.data_dir or config.data_dir,
        split=args.split,
        out=args.out,
        options=Options(
            languages=tuple(args.language) if args.language else None,
            prompts=args.prompts,
            draws=args.draws,
            seed=args.seed,
            train_split=args.train_split,
            shots=shots,
            folds=args.folds,
            fit_augmentations=args.fit_augmentations,
            test_augmentations=args.test_augmentations,
            fine_tune=FineTuneConfig(
                backbone_learning_rate=args.backbone_learning_rate,
                head_learning_rate=args.head_learning_rate,
                epochs=args.epochs,
                batch_size=args.batch_size,
            ),
            reading=Reading(args.patient_regex, args.follow_links),
            on_error=args.on_error,
        ),
    )


def check_protocols(names: Sequence[str]) -> None:
    """Raises a `UserError` for a name that is no protocol, or one that stands twice."""
    if not names:
        raise UserError(f"no protocol is named: give some of {', '.join(PROTOCOLS)}")
    for name in names:
        if name not in PROTOCOLS:
            hint = did_you_mean(name, PROTOCOLS)
            raise UserError(f"--task {name}: no such protocol ({', '.join(PROTOCOLS)}){hint}")
    if len(set(names)) < len(names):
        raise UserError(f"--task {','.join(names)}: a protocol stands twice")


def _decided(options: Options, model: Any) -> Options:
    """The options with everything decided that the model decides, and every value in its range."""
    config: EvaluationConfig = model.config.evaluation
    options = dataclasses.replace(
        options,
        languages=config.languages if options.languages is None else options.languages,
        prompts=options.prompts or own_style(model),
        draws=config.bootstrap if options.draws is None else options.draws,
    )
    requirements.check_name("--prompts", options.prompts, PROMPT_STYLES)
    requirements.check_languages(options.languages)
    requirements.check_numbers(options)
    return options


def evaluate(
    model: Any,
    *,
    protocols: Sequence[str],
    dataset: str,
    data_dir: str,
    split: str,
    out: PathLike,
    options: Options = Options(),
) -> dict[str, Any]:
    """Runs protocols and writes `out` (JSON), pictures (PNG) and an HTML page beside it.

    Args:
      model: a `RetinalModel`.
      protocols: names out of `PROTOCOLS`.
      dataset: a built dataset, a task of `tasks.yaml`, or a folder of class folders.
      data_dir: where built datasets and the tasks' folders are.
      split: what is predicted.
      out: the JSON file; the curves take its name with `.png`, the page with `.html`.

    Returns:
      what went into the JSON file.

    Raises:
      UserError: a protocol is unknown or cannot run on this data.
    """
    check_protocols(protocols)
    requirements.check_out(out)
    out = as_path(out)
    evaluation: EvaluationConfig = model.config.evaluation
    options = _decided(options, model)
    source = open_task(dataset, split, data_dir, options.reading)
    how_read, by = said_of(source), counts_by(source)
    notes = _say_how_read(how_read, options)
    requirements.check_records(source)
    learning = [name for name in protocols if name in SUPERVISED]
    train = None
    if learning:
        train = open_task(dataset, options.train_split, data_dir, options.reading)
        notes += _say_how_read(said_of(train), options, notes)
    source, train, labels_from = _labelled(model, protocols, source, train)
    modality = modality_of(source)
    prompts = model_prompts(model, options.prompts, modality)
    order = class_order(source.label_names, getattr(source, "ordered", False))
    if order is not None and order.guessed:
        say(f"taken for grades, in this order: {order} ({order.known_from})")
    results = Results(f"{source.name}, {source.split}", order=order, by=by)
    # What is missing is said before anything is embedded.
    if "zero_shot" in protocols:
        check_classes(source.label_names, unknown_classes(source.label_names))
        for names in same_conditions(source.label_names):
            note = (
                f"{' and '.join(map(repr, names))} are one condition of the vocabulary: zero-shot "
                "asks for them in the same words, and cannot tell them apart"
            )
            notes.append(note)
            say(note)
    if "retrieval" in protocols:
        requirements.check_reports(source, options.languages)
    supervised = _prepared(model, train, source, prompts, options) if learning else None
    if supervised is not None and supervised.unusable:
        notes += _undecodable(supervised.unusable)
        say(*_undecodable(supervised.unusable))
    numbers: dict[str, Any] = {}
    if {"zero_shot", "retrieval"} & set(protocols):
        results.split = embed_split(
            model,
            source,
            source.label_names,
            options.languages,
            evaluation.batch_size,
            on_error=options.on_error,
        )
        damaged = _undecodable(results.split.damaged)
        notes += [note for note in damaged if note not in notes]
    if "zero_shot" in protocols:
        numbers["zero_shot"] = _zero_shot(model, results, prompts, options)
    if "retrieval" in protocols:
        numbers["retrieval"] = _retrieval(results, options)
    if supervised is not None:
        numbers |= _supervised(supervised, learning, results, options)
    document = {
        "model": {"method": model.method.name},
        "data": {
            "dataset": source.name,
            "split": source.split,
            "records": len(source),
            "modality": modality,
            "labels_from": labels_from,
            "class_order": None if order is None else order.to_json(),
            "intervals_by": by,
            **how_read.facts,
            "notes": notes,
        },
        "settings": _settings(options, _words(model, options.prompts), learning, by),
        **numbers,
    }
    write_json(out, document)
    with atomic_write(out.with_suffix(".html")) as file:
        file.write(page(results, document))
    written = [out, *draw(results, out), out.with_suffix(".html")]
    for table in console_tables(results):
        table.show()
    say(*(f"wrote {path}" for path in written))
    return document


def _labelled(
    model: Any, protocols: Sequence[str], source: RecordSource, train: RecordSource | None
) -> tuple[RecordSource, RecordSource | None, str | None]:
    """The splits with labels, those of their reports where they have none, and whose these are."""
    if set(protocols) == {"retrieval"}:
        return source, train, None
    if requirements.is_labelled(source):
        return source, train, "the dataset"
    say(report_labels.SAID)
    data: DataConfig = model.data_config
    labeler = shared_labeler(data.vocabulary, data.extend)
    splits = [source] if train is None else [source, train]
    found = report_labels.label_by_reports(splits, labeler)
    return found[0], None if train is None else found[1], "the reports, read by the labeler"


def _prepared(
    model: Any, train: RecordSource, test: RecordSource, prompts: Prompts, options: Options
) -> Supervised:
    """What the protocols that learn share; it is there only where every fold can be drawn."""
    supervised = Supervised(
        model,
        train,
        test,
        prompts,
        options.languages[0],
        options.seed,
        model.config.evaluation.batch_size,
        options.on_error,
    )
    for shots in options.shots:
        supervised.check(shots, options.folds)
    return supervised


def _words(model: Any, style: str) -> str:
    learned = style == "report" and getattr(model, "wording", None) is not None
    return "those of the training reports" if learned else "templates"


def _say_how_read(said: Said, options: Options, already: Sequence[str] = ()) -> list[str]:
    """Says what there is to say of how a source was read, and returns it.

    Files that are named as images and hold none go into the log, too.
    """
    if said.broken:
        refuse_unusable(said.broken, options.on_error)
        _log.warning("left out, for they hold no image: %s", ", ".join(said.broken))
    sentences = [sentence for sentence in said.sentences if sentence not in already]
    if sentences:
        say(*sentences)
    return sentences


def _undecodable(names: Sequence[str]) -> list[str]:
    if not names:
        return []
    named = ", ".join(names[:50]) + (", ..." if len(names) > 50 else "")
    return [f"{len(names)} images cannot be decoded and are left out: {named}"]


def _settings(options: Options, words: str, learning: Sequence[str], by: str) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "languages": list(options.languages),
        "prompts": options.prompts,
        "prompt_words": words,
        "bootstrap_draws": options.draws,
        "interval": f"95%, percentiles of a bootstrap by {by}; of proportions (accuracy, "
        "sensitivity, specificity, recall at k) Clopper-Pearson; every number names its own",
        "seed": options.seed,
    }
    if learning:
        settings |= {
            "train_split": options.train_split,
            "shots": [str(shots) for shots in options.shots],
            "folds": options.folds,
            "fit_augmentations": options.fit_augmentations,
            "test_augmentations": options.test_augmentations,
        }
    if "fine_tune" in learning:
        settings["fine_tune"] = dataclasses.asdict(options.fine_tune)
    return settings


def _zero_shot(
    model: ImageTextModel, results: Results, prompts: Prompts, options: Options
) -> dict[str, Any]:
    split: EmbeddedSplit = results.split
    skip = unknown_classes(split.label_names)
    if skip:
        say(f"left out of zero-shot, for the vocabulary has no such condition: {', '.join(skip)}")
    numbers = {}
    for language in options.languages:
        found = zero_shot(model, split, language, prompts, skip)
        numbers[language] = {
            "classes_left_out": list(found.left_out),
            "prompts": found.prompts,
            "levels": {},
        }
        for level, predictions in found.levels.items():
            measured = predictions.measured(options.draws, options.seed, results.order)
            title = f"zero-shot, {LANGUAGE_NAMES[language]}, {level}"
            results.sections.append(Section(title, measured, split.records))
            numbers[language]["levels"][level] = measured.to_json()
    return numbers


def _retrieval(results: Results, options: Options) -> dict[str, Any]:
    split: EmbeddedSplit = results.split
    seen = split.views[split.main_view].seen
    counts = {
        language: int((seen & [bool(text.strip()) for text in split.reports[language]]).sum())
        for language in options.languages
    }
    languages = [language for language, count in counts.items() if count > 1]
    if not languages:
        raise UserError(
            f"retrieval needs reports in {' or '.join(options.languages)}; the split has fewer "
            "than two with an image that can be used"
        )
    for language in set(counts) - set(languages):
        if counts[language]:
            say(f"retrieval in {LANGUAGE_NAMES[language]} is left out: the split has one report")
    for language in languages:
        results.retrievals[language] = retrieve(results.split, language)
    return {language: found.to_json() for language, found in results.retrievals.items()}


def _supervised(
    supervised: Supervised, protocols: Sequence[str], results: Results, options: Options
) -> dict[str, Any]:
    numbers: dict[str, Any] = {
        "training_images": supervised.training_images,
        "dropped_from_training": supervised.dropped,
    }
    for reason, dropped in supervised.dropped.items():
        if dropped:
            named = ", ".join(dropped[:5]) + (", ..." if len(dropped) > 5 else "")
            say(
                f"left out of training, for the test split has the {reason.replace('_', ' ')}: "
                f"{len(dropped)} ({named})"
            )
    for name in protocols:
        numbers[name] = {}
        for shots in options.shots:
            found = list(_folds(supervised, name, shots, options))
            measured = [
                predictions.measured(options.draws, options.seed, results.order)
                for _, predictions in found
            ]
            folds = over_folds([fold.overall for fold in measured]) if len(found) > 1 else None
            title = f"{_TITLES[name]}, {shots}"
            records = supervised.test.source
            results.sections.append(Section(title, measured[0], records, folds))
            numbers[name][str(shots)] = {
                "support": [size for size, _ in found],
                **({} if folds is None else {"over_folds": folds}),
                "folds": [fold.to_json() for fold in measured],
            }
    return numbers


def _folds(
    supervised: Supervised, name: str, shots: Shots, options: Options
) -> Iterator[tuple[int, Predictions]]:
    if name == "fine_tune":
        return supervised.fine_tuned(options.fine_tune, shots, options.folds)
    return supervised.on_embeddings(
        ON_EMBEDDINGS[name],
        shots,
        options.folds,
        options.fit_augmentations,
        options.test_augmentations,
        unprojected=name.endswith("_unprojected"),
    )


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
      prompts: styles of class prompts to compare, which then stand in the metrics' names; none:
        that of the model.
    """
    split = embed_split(
        model, source, source.label_names, config.languages, config.batch_size, progress=False
    )
    skip = unknown_classes(split.label_names)
    labelled = any((view.labels >= 0).any() for view in split.views.values())
    modality = modality_of(source)
    metrics = {}
    for language in config.languages:
        if labelled and len(skip) < len(split.label_names):
            for style in prompts or (own_style(model),):
                asked = model_prompts(model, style, modality)
                found = zero_shot(model, split, language, asked, skip)
                for level, predictions in found.levels.items():
                    overall = predictions.measured(draws=1).overall
                    place = f"zero_shot/{language}/{level}" + f"/{style}" * bool(prompts)
                    for name in ("auroc", "aca"):
                        if name in overall:
                            metrics[f"{place}/{name}"] = overall[name].value
        if sum(map(bool, split.reports[language])) > 1:
            found = retrieve(split, language)
            for direction, recalls in found.recalls.items():
                for name in ("recall_at_1", "recall_at_5"):
                    metrics[f"retrieval/{language}/{direction}/{name}"] = recalls[name].value
    return metrics
