"""`retfm evaluate`: protocols over a dataset; numbers as JSON, pictures and one HTML page."""

import argparse
import dataclasses
import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from retfm_jax.config import EvaluationConfig
from retfm_jax.data.sources import RecordSource
from retfm_jax.errors import UserError
from retfm_jax.evaluation import pictures
from retfm_jax.evaluation.embeddings import EmbeddedSplit, ImageTextModel, embed_split
from retfm_jax.evaluation.predictions import Measured
from retfm_jax.evaluation.retrieval import RECALL_AT, Retrieval, retrieve
from retfm_jax.evaluation.tasks import open_task, prompts_of, unknown_classes
from retfm_jax.evaluation.zero_shot import zero_shot
from retfm_jax.files import write_json

LANGUAGE_NAMES = {"en": "English", "zh": "Chinese"}
PROTOCOLS = ("zero_shot", "retrieval")


@dataclasses.dataclass(frozen=True)
class Options:
    """How the protocols run.

    Attributes:
      languages: of prompts and reports; None: those of the model's configuration.
      prompts: "report", "name" or "knowledge" (see `tasks.prompts_of`); None: "knowledge" for a
        model that was trained on categories, "report" for one that was trained on reports.
      draws: of the bootstrap; None: as in the model's configuration.
      seed: of the bootstrap and of everything that a protocol draws.
    """

    languages: tuple[str, ...] | None = None
    prompts: str | None = None
    draws: int | None = None
    seed: int = 0


@dataclasses.dataclass
class Results:
    """What the protocols found, as it goes into JSON, pictures and the page.

    Attributes:
      numbers: by protocol, JSON values.
      measured: by a readable title, classification results.
      retrievals: by language.
      split: the embedded split, where one was made.
    """

    numbers: dict[str, Any] = dataclasses.field(default_factory=dict)
    measured: dict[str, Measured] = dataclasses.field(default_factory=dict)
    retrievals: dict[str, Retrieval] = dataclasses.field(default_factory=dict)
    split: EmbeddedSplit | None = None


def run(args: argparse.Namespace) -> None:
    """`retfm evaluate`.

    Raises:
      UserError: the workdir, the protocol, the dataset or the split cannot be used.
    """
    from retfm_jax.model import load

    model = load(args.workdir)
    config = model.data_config
    evaluate(
        model,
        protocols=args.task.split(","),
        dataset=args.dataset or config.dataset,
        data_dir=args.data_dir or config.data_dir,
        split=args.split,
        out=args.out,
        options=Options(languages=tuple(args.language) if args.language else None),
    )


def evaluate(
    model: Any,
    *,
    protocols: Sequence[str],
    dataset: str,
    data_dir: str,
    split: str,
    out: str | Path,
    options: Options = Options(),
) -> dict[str, Any]:
    """Runs protocols and writes `out` (JSON), a PNG or two and an HTML page beside it.

    Args:
      model: a `RetinalModel`.
      protocols: names out of `PROTOCOLS`.
      dataset: a built dataset, a task of `tasks.yaml`, or a folder of class folders.
      out: the JSON file; pictures take its name.

    Returns:
      what went into the JSON file.

    Raises:
      UserError: a protocol is unknown or cannot run on this data.
    """
    for name in protocols:
        if name not in PROTOCOLS:
            near = difflib.get_close_matches(name, PROTOCOLS, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise UserError(f"--task {name}: no such protocol ({', '.join(PROTOCOLS)}){hint}")
    out = Path(out)
    if out.suffix != ".json":
        raise UserError(f"--out {out}: the numbers are written as JSON, name a .json file")
    evaluation: EvaluationConfig = model.config.evaluation
    by_category = model.method.sample_kind == "category"
    options = dataclasses.replace(
        options,
        languages=options.languages or evaluation.languages,
        prompts=options.prompts or ("knowledge" if by_category else "report"),
        draws=options.draws or evaluation.bootstrap,
    )
    source = open_task(dataset, split, data_dir)
    results = Results()
    results.split = embed_split(
        model, source, source.label_names, options.languages, evaluation.batch_size
    )
    if "zero_shot" in protocols:
        _zero_shot(model, results, options)
    if "retrieval" in protocols:
        _retrieval(results, options)
    document = {
        "model": {"method": model.method.name},
        "data": {"dataset": source.name, "split": source.split, "records": len(source)},
        "settings": {
            **dataclasses.asdict(options),
            "interval": "95%, percentiles of a bootstrap by patient",
        },
        **results.numbers,
    }
    write_json(out, document)
    written = [out, *_draw(results, f"{source.name}, {source.split}", out)]
    console = Console()
    for table in _tables(results, f"{source.name}, {source.split}"):
        console.print(table)
    console.print(*(f"wrote {path}" for path in written), sep="\n", highlight=False)
    return document


def _zero_shot(model: ImageTextModel, results: Results, options: Options) -> None:
    split = results.split
    skip = unknown_classes(split.label_names)
    numbers = {}
    for language in options.languages:
        found = zero_shot(model, split, language, prompts_of(options.prompts), skip)
        measured = {
            level: predictions.measured(options.draws, options.seed)
            for level, predictions in found.levels.items()
        }
        for level, value in measured.items():
            title = f"zero-shot, {LANGUAGE_NAMES[language]} prompts, per {level}"
            results.measured[title] = value
        numbers[language] = {
            "classes_left_out": list(found.left_out),
            **{level: value.to_json() for level, value in measured.items()},
        }
    results.numbers["zero_shot"] = numbers


def _retrieval(results: Results, options: Options) -> None:
    split = results.split
    languages = [language for language in options.languages if any(split.reports[language])]
    if not languages:
        raise UserError(
            f"retrieval needs reports in {' or '.join(options.languages)}; the split has none"
        )
    for language in languages:
        found = retrieve(split, language, options.draws, options.seed)
        results.retrievals[language] = found
    results.numbers["retrieval"] = {
        language: found.to_json() for language, found in results.retrievals.items()
    }


def _draw(results: Results, data: str, out: Path) -> list[Path]:
    """Writes the pictures: curves under the name of the JSON file, galleries beside it."""
    written = []
    if results.measured:
        path = out.with_suffix(".png")
        pictures.save(pictures.curves(results.measured, f"{data}"), path)
        written.append(path)
    for language, retrieval in results.retrievals.items():
        path = out.with_name(f"{out.stem}_gallery_{language}.png")
        shown = printable_reports(results.split, language)
        pictures.save(pictures.retrieval_gallery(results.split, retrieval, shown), path)
        written.append(path)
    return written


def printable_reports(split: EmbeddedSplit, language: str) -> Sequence[str]:
    """Reports for which there is a font: without one for Chinese, their English counterparts."""
    if language != "zh" or pictures.cjk_family():
        return split.reports[language]
    english = [
        record.report["en"] if hasattr(record, "report") else record.caption["en"]
        for record in split.records
    ]
    return [
        text or f"(report of {record}: no font for Chinese is installed)"
        for text, record in zip(english, split.record_ids, strict=True)
    ]


def _tables(results: Results, data: str) -> list[Table]:
    tables = []
    for title, measured in results.measured.items():
        table = Table(title=f"{title}: {data}", title_justify="left")
        table.add_column("class")
        names = [
            name
            for name in ("auroc", "average_precision", "sensitivity", "specificity")
            if any(name in row for row in measured.metrics.classes.values())
        ]
        for name in names:
            table.add_column(pictures.readable(name), justify="right")
        table.add_column("samples", justify="right")
        for label, row in measured.metrics.classes.items():
            count = row.get("positives", row.get("samples"))
            table.add_row(
                pictures.readable(label), *(str(row.get(n, "–")) for n in names), str(count)
            )
        overall = [str(measured.overall.get(name, "–")) for name in names]
        table.add_section()
        table.add_row("macro", *overall, str(len(measured.predictions.samples)), style="bold")
        for name, value in measured.overall.items():
            if name not in names:
                table.add_row(pictures.readable(name), str(value), style="bold")
        for label, why in measured.metrics.left_out.items():
            table.add_row(pictures.readable(label), why, style="dim")
        tables.append(table)
    for language, retrieval in results.retrievals.items():
        table = Table(
            title=f"retrieval, {LANGUAGE_NAMES[language]} reports: {data}, "
            f"{len(retrieval.rows)} records",
            title_justify="left",
        )
        table.add_column("direction")
        for k in RECALL_AT:
            table.add_column(f"recall at {k}", justify="right")
        for direction, recalls in retrieval.recalls.items():
            table.add_row(pictures.readable(direction), *map(str, recalls.values()))
        tables.append(table)
    return tables


def quick_metrics(
    model: ImageTextModel, source: RecordSource, config: EvaluationConfig
) -> Mapping[str, float]:
    """Zero-shot AUROC and recall at 1 and 5 as plain numbers, for the metrics of a run.

    A split without labels has no AUROC, a language without reports no recall.
    """
    split = embed_split(
        model, source, source.label_names, config.languages, config.batch_size, progress=False
    )
    skip = unknown_classes(split.label_names)
    labelled = any((view.labels >= 0).any() for view in split.views.values())
    metrics = {}
    for language in config.languages:
        if labelled and len(skip) < len(split.label_names):
            found = zero_shot(model, split, language, prompts_of("report"), skip)
            for level, predictions in found.levels.items():
                value = predictions.measured(draws=1).overall["auroc"].value
                metrics[f"zero_shot/{language}/{level}/auroc"] = value
        if sum(map(bool, split.reports[language])) > 1:
            found = retrieve(split, language, draws=1)
            for direction, recalls in found.recalls.items():
                for name in ("recall_at_1", "recall_at_5"):
                    metrics[f"retrieval/{language}/{direction}/{name}"] = recalls[name].value
    return metrics
