"""`retfm evaluate`: protocols over a dataset; numbers as JSON, pictures and one HTML page."""

import argparse
from typing import TYPE_CHECKING

from retfm_jax.cli import options
from retfm_jax.cli.options import COUNT, FACTOR, POSITIVE, RATE, SEED, SHARE, add_verb, number
from retfm_jax.cli.tables import Table
from retfm_jax.evaluation.protocols import default_protocol, get_protocols, protocol_names

if TYPE_CHECKING:
    from retfm_jax.evaluation.results import MaskSection, ReportSection, Results

#: Sections that fit beside each other on a console; the page has all.
_CLASS_COLUMNS = 5


def add(verbs) -> None:
    """Adds the verb."""
    parser = add_verb(
        verbs,
        "evaluate",
        run,
        "evaluate a trained network by a protocol; writes JSON and pictures",
        extra="eval",
    )
    parser.add_argument("--workdir", required=True, help="workdir or checkpoint folder")
    options.listed(
        parser,
        "--task",
        help=f"protocols with commas between: {', '.join(protocol_names())}; module:Class is one "
        "of your own (classify for a network with classes, segment for one that finds structures, "
        "captioning for one that writes reports, else zero_shot, if not given)",
    )
    parser.add_argument(
        "--dataset",
        help="built dataset, a published task (IDRiD, FIVES, REFUGE, ...) or a folder with "
        "train/CLASS/*.jpg and test/CLASS/*.jpg, or with images and masks (the dataset of training "
        "if not given)",
    )
    parser.add_argument("--data_dir", help="where datasets are (that of training if not given)")
    parser.add_argument(
        "--split",
        default="test",
        help="split to evaluate on; all: of data that the network never saw",
    )
    parser.add_argument("--language", action="append", help="en or zh; may be given twice")
    parser.add_argument("--out", required=True, help="JSON file; pictures and a page beside it")
    parser.add_argument("--prompts", help="report, name or knowledge (by method if not given)")
    number(parser, "--draws", POSITIVE, help="of the bootstrap (the config's if not given)")
    number(
        parser,
        "--mistakes",
        COUNT,
        default=0,
        help="of the most confident ones that get heat maps on the page",
    )
    number(parser, "--seed", SEED, default=0, help="of everything that is random")
    files = parser.add_argument_group("folders and releases of photographs")
    options.on_error(files)
    options.reading(files)
    options.exclude(files)
    learning = parser.add_argument_group("protocols that learn")
    learning.add_argument("--train_split", default="train", help="what they learn from")
    options.listed(
        learning, "--shots", default="all", help="images per class, shares, or all: 1,5,10%%,all"
    )
    number(learning, "--folds", POSITIVE, default=5, help="samples of the shots")
    number(learning, "--fit_augmentations", COUNT, default=0, help="augmented copies to learn from")
    number(
        learning, "--test_augmentations", COUNT, default=0, help="augmented copies to average over"
    )
    writing = parser.add_argument_group("captioning")
    options.search(writing)
    writing.add_argument(
        "--meteor",
        metavar="JAR",
        help="meteor-1.5.jar, beside its folder data: METEOR is computed by it (needs Java)",
    )
    number(
        writing,
        "--training_cases",
        COUNT,
        default=10_000,
        help="among whose reports the baselines choose at most; 0: without baselines",
    )
    tuning = parser.add_argument_group("fine_tune")
    number(tuning, "--backbone_learning_rate", RATE, float, default=2e-6, help="image tower")
    number(tuning, "--head_learning_rate", RATE, float, default=1e-3, help="linear head")
    number(tuning, "--epochs", POSITIVE, default=50, help="passes over the images")
    number(tuning, "--batch_size", POSITIVE, default=16, help="images a step")
    number(tuning, "--layer_decay", FACTOR, float, help="of the image tower's rate, layer by layer")
    number(tuning, "--drop_path", SHARE, float, help="branches that a ViT's last block leaves out")
    number(tuning, "--lora_rank", POSITIVE, help="train low-rank updates of the image tower alone")


def run(args: argparse.Namespace) -> None:
    """Runs the verb.

    Raises:
      UserError: the workdir, a protocol, the dataset or the split cannot be used.
    """
    from retfm_jax.captioning import Search
    from retfm_jax.config import LoraConfig
    from retfm_jax.console import say
    from retfm_jax.data.class_files import Reading
    from retfm_jax.data.text import check_tokenizer
    from retfm_jax.evaluation.evaluate import measure
    from retfm_jax.evaluation.options import CaptionConfig, FineTuneConfig, Options
    from retfm_jax.evaluation.protocols.few_shot import parse_shots
    from retfm_jax.evaluation.report.write import write
    from retfm_jax.evaluation.requirements import check_out
    from retfm_jax.model import load

    if args.task is not None:
        get_protocols(args.task.split(","))
    shots = parse_shots(args.shots)
    check_out(args.out)
    model = load(args.workdir)
    task = args.task or default_protocol(
        model.classes, model.structures, bool(model.method.vocabulary)
    )
    config = model.data_config
    if model.method.text is not None:
        check_tokenizer(config.text, model.method.text)  # said before hours of images
    results = measure(
        model,
        protocols=task.split(","),
        dataset=args.dataset or config.dataset,
        data_dir=args.data_dir or config.data_dir,
        split=args.split,
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
                layer_decay=args.layer_decay,
                drop_path=args.drop_path,
                lora=None if args.lora_rank is None else LoraConfig(rank=args.lora_rank),
            ),
            caption=CaptionConfig(
                search=Search(args.beams, args.length, args.length_penalty),
                meteor=args.meteor,
                training_cases=args.training_cases,
            ),
            mistakes=args.mistakes,
            reading=Reading(args.patient_regex, args.follow_links, exclude=args.exclude),
            on_error=args.on_error,
        ),
    )
    results.checkpoint = args.workdir
    written = write(results, args.out)
    for table in tables(results):
        table.show()
    say(*(f"wrote {path}" for path in written))


def tables(results: "Results") -> list[Table]:
    """A table over protocols, one over classes, one of the retrieval."""
    from retfm_jax.evaluation.metrics.retrieval import RECALL_AT
    from retfm_jax.evaluation.report.summary import measured_columns
    from retfm_jax.evaluation.results import LANGUAGE_NAMES
    from retfm_jax.rendering.glossary import readable

    found = []
    if results.sections:
        columns = measured_columns(results.sections)
        # A console is narrow: intervals of many metrics stand on the page and in the JSON file.
        interval = len(columns) <= 2
        columns = columns[:5]
        shown = f", 95% intervals by {results.by}" if interval else ""
        heads = [title.replace(" ", "\n") for _, title in columns]
        table = Table(f"{results.data}: overall{shown}", ["protocol", *heads])
        for section in results.sections:
            table.row(section.title, *(section.overall(name, interval) for name, _ in columns))
        found.append(table)
        if len(results.sections) <= _CLASS_COLUMNS:
            found.append(_class_table(results))
    if results.masks is not None:
        found += _mask_tables(results, results.masks)
    if results.reports is not None:
        found.append(_report_table(results, results.reports))
    if results.retrievals:
        heads = [f"recall at {k}" for k in RECALL_AT]
        title = f"{results.data}: retrieval, 95% intervals by {results.by}"
        table = Table(title, ["query", *heads])
        for language, retrieval in results.retrievals.items():
            for direction, recalls in retrieval.recalls.items():
                name = f"{readable(direction)}, {LANGUAGE_NAMES[language]}"
                table.row(name, *recalls.values())
        found.append(table)
    return found


def _mask_tables(results: "Results", masks: "MaskSection") -> list[Table]:
    """A table over structures, and those that stand beside it on the page."""
    from retfm_jax.evaluation.metrics.bootstrap import Estimate
    from retfm_jax.evaluation.report.figures import class_name

    prefix, metrics = "best_" if masks.fitted_on else "", masks.metrics
    columns = {
        "average\nprecision": "average_precision",
        "Dice": f"{prefix}dice",
        "mean Dice of\nphotographs": f"{prefix}image_dice",
    }
    title = f"{results.data}: structures, 95% intervals by {results.by}"
    table = Table(title, ["structure", "present\nabove", *columns])
    for name, row in metrics.classes.items():
        cells = [str(row[each]) for each in columns.values()]
        table.row(class_name(name), f"{masks.thresholds[name]:.3f}", *cells)
    if len(metrics.classes) > 1:
        table.row("mean", "", *(str(metrics.macro.get(each, "–")) for each in columns.values()))
    for name, why in metrics.left_out.items():
        table.row(class_name(name), "", why, "", "")
    found = [table]
    for shown in masks.shown:
        table = Table(shown.heading, [title.replace(" ", "\n", 1) for title in shown.header])
        for row in shown.rows:
            table.row(*(cell if isinstance(cell, Estimate) else str(cell) for cell in row))
        found.append(table)
    return found


def _report_table(results: "Results", reports: "ReportSection") -> Table:
    """A table over the network and the baselines."""
    title = f"{results.data}: reports, 95% intervals by {results.by}"
    table = Table(title, ["writer", "F1 of findings", "BLEU-4", "ROUGE-L", "CIDEr-D"])
    for each in reports.scores:
        words = each.words.values
        shown = each.clinical.values["f1"], words["bleu_4"], words["rouge_l"], words["cider"]
        table.row(each.writer, *shown)
    return table


def _class_table(results: "Results") -> Table:
    from retfm_jax.evaluation.report.figures import class_name

    titles = [section.title.replace(", ", ",\n") for section in results.sections]
    table = Table("AUROC per class", ["class", *titles])
    for name in results.sections[0].measured.predictions.names:
        cells = []
        for section in results.sections:
            row = section.measured.metrics.classes.get(name, {})
            value = row.get("auroc")
            cells.append("–" if value is None else f"{value.value:.3f}")
        table.row(class_name(name), *cells)
    return table
