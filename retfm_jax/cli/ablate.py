"""`retfm ablate`."""

import argparse
import statistics
from collections.abc import Mapping
from typing import TYPE_CHECKING

from retfm_jax.cli import options
from retfm_jax.cli.options import add_verb
from retfm_jax.cli.tables import Table
from retfm_jax.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from retfm_jax.experiments.ablation import Spread


def add(verbs) -> None:
    """Adds the verb."""
    parser = add_verb(
        verbs,
        "ablate",
        run,
        "train the variants of a config with several seeds and compare them; resumes by itself",
        extra="all",
    )
    options.config(parser)
    parser.add_argument("--workdir", required=True, help="a folder for each variant and seed")
    options.listed(parser, "--seeds", default="0,1,2", help="of weights and data, 0,1,2")
    options.listed(parser, "--variants", help="some of the config's, with commas between")
    parser.add_argument(
        "--dataset",
        help="built dataset, task or folder of classes to compare them on (that of training if "
        "not given)",
    )
    parser.add_argument("--split", default="test", help="split to compare them on")
    options.listed(
        parser, "--prompts", help="some of report, name, knowledge, with commas between (by method)"
    )
    files = parser.add_argument_group("folders and releases of photographs")
    options.reading(files)
    options.exclude(files)


def run(args: argparse.Namespace) -> None:
    """Runs the verb.

    Raises:
      Stopped: a signal ended a run before its last step.
      UserError: the config has no such variants, the seeds are no numbers, another ablation writes
        the workdir, or see `experiments.ablation.ablate`.
    """
    from retfm_jax.config import load_config, load_variants
    from retfm_jax.console import say
    from retfm_jax.data.class_files import Reading
    from retfm_jax.experiments.ablation import ablate
    from retfm_jax.runtime.lock import hold

    variants = load_variants(args.config)
    if args.variants:
        names = args.variants.split(",")
        unknown = [name for name in names if name not in variants]
        if unknown:
            raise UserError(
                f"--variants: {args.config} has no variant {unknown[0]!r} "
                f"(it has {', '.join(variants)}){did_you_mean(unknown[0], variants)}"
            )
        variants = {name: variants[name] for name in names}
    configs = {
        name: load_config(args.config, [*args.overrides, *overrides])
        for name, overrides in variants.items()
    }
    with hold(args.workdir):
        found = ablate(
            configs,
            _seeds(args.seeds),
            args.workdir,
            dataset=args.dataset,
            split=args.split,
            prompts=args.prompts.split(",") if args.prompts else (),
            reading=Reading(args.patient_regex, args.follow_links, exclude=args.exclude),
        )
    seeds = len(found.seeds)
    title = f"{found.dataset}, {found.split}: mean ± standard deviation of {seeds} seeds"
    _table(found.spreads, title).show()
    say(*(f"wrote {path}" for path in found.written))


def _table(spreads: "Mapping[str, Mapping[str, Spread]]", title: str) -> Table:
    """Mean and spread of every variant, and below them its mean gain over the first."""
    from retfm_jax.experiments.ablation import deviation, short_names, shown

    metrics = shown(spreads)
    shared, names = short_names(metrics)
    heads = [name.replace(" ", "\n") for name in names]
    columns = Table(f"{title}\n{shared}", ["variant", *heads])
    for name, by_metric in spreads.items():
        found = [by_metric[metric] for metric in metrics]
        means = (f"{statistics.fmean(s.values):.3f} ± {deviation(s.values):.3f}" for s in found)
        columns.row(name, *means, style="bold")
        columns.row("  gain", *(f"{statistics.fmean(s.gains):+.3f}" for s in found))
    return columns


def _seeds(text: str) -> list[int]:
    try:
        seeds = [int(part) for part in text.split(",")]
    except ValueError as error:
        raise UserError(f"--seeds {text}: give whole numbers with commas between, 0,1,2") from error
    if len(set(seeds)) < len(seeds):
        raise UserError(f"--seeds {text}: a seed occurs twice")
    if not all(0 <= seed < 2**32 for seed in seeds):
        raise UserError(f"--seeds {text}: seeds are numbers from 0 to {2**32 - 1}")
    return seeds
