"""`retfm bench`: measures this machine, prints a table and writes JSON."""

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retfm_jax.cli import options
from retfm_jax.cli.options import POSITIVE, add_verb, number
from retfm_jax.cli.tables import Table
from retfm_jax.console import say
from retfm_jax.errors import UserError

if TYPE_CHECKING:
    from retfm_jax.benchmarks.bench import Report

_PARTS = ("data", "step", "embedding", "checkpoint")
#: Where each comparison belongs.
_AGAINST = {"torch": "step", "published-data": "data"}


def add(verbs) -> None:
    """Adds the verb."""
    parser = add_verb(
        verbs,
        "bench",
        run,
        "measure this machine: the data pipeline, the training step, embedding, checkpoints",
        extra="train",
    )
    parser.add_argument("part", choices=(*_PARTS, "all"), help="what to measure")
    options.config(parser)
    parser.add_argument("--out", help="JSON file for every timing")
    number(parser, "--rounds", POSITIVE, default=5, help="timed runs of everything")
    parser.add_argument(
        "--against",
        action="append",
        choices=tuple(_AGAINST),
        help="step: the same step in PyTorch; data: the loader of the published projects",
    )
    parser.add_argument(
        "--microbatches", type=int, help="step: gradient caching in so many parts against one"
    )
    number(
        parser,
        "--patients",
        POSITIVE,
        default=256,
        help="data, embedding: how many to generate if need be",
    )
    parser.add_argument("--folder", help="checkpoint: an existing folder on the disk to measure")


def run(args: argparse.Namespace) -> None:
    """Runs the verb.

    Raises:
      UserError: options contradict each other, or see `benchmarks.bench.bench`.
    """
    parts = _PARTS if args.part == "all" else (args.part,)
    against = tuple(dict.fromkeys(args.against or ()))
    _check(args, parts, against)
    if "torch" in against:
        # The other process needs some of a GPU's memory, which JAX would take whole.
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

    from retfm_jax.benchmarks.bench import bench
    from retfm_jax.config import load_config
    from retfm_jax.files import write_json
    from retfm_jax.runtime import distributed
    from retfm_jax.training.requirements import check_vocabularies

    config = load_config(args.config, args.overrides)
    check_vocabularies(config, present=True)
    distributed.start()
    report = bench(
        config,
        parts,
        against=against,
        microbatches=args.microbatches,
        rounds=args.rounds,
        patients=args.patients,
        folder=args.folder,
        tell=lambda what: say(f"{what} ...", error=True),
    )
    show(report)
    if args.out:
        write_json(args.out, report.to_dict())
        say(f"every timing is in {args.out}")


def _check(args: argparse.Namespace, parts: tuple[str, ...], against: tuple[str, ...]) -> None:
    from retfm_jax.files import check_writable

    for name in against:
        if _AGAINST[name] not in parts:
            raise UserError(f"--against {name} goes with `retfm bench {_AGAINST[name]}`")
    if args.microbatches is not None:
        if "step" not in parts:
            raise UserError("--microbatches goes with `retfm bench step`")
        if args.microbatches < 2:
            raise UserError(f"--microbatches {args.microbatches}: give 2 or more parts")
    if args.folder is not None:
        if "checkpoint" not in parts:
            raise UserError("--folder goes with `retfm bench checkpoint`")
        if not Path(args.folder).is_dir():
            raise UserError(f"--folder {args.folder} is not a folder")
        check_writable(Path(args.folder) / "checkpoints")
    if args.out:
        check_writable(args.out)


def show(report: "Report") -> None:
    """Prints the tables of a report."""
    device = report.about["device"]
    say(
        f"{device['count']} x {device['kind']}; {report.about['cpu']['name']}, "
        f"{report.about['cpu']['cores']} cores; times are medians (least .. most)"
    )
    table = Table("", ("", "seconds", "a second", "a CPU-second", "and"), ["and"])
    for measurement in report.measurements:
        table.row(*measurement_cells(measurement.to_dict()))
    table.show()
    if report.comparisons:
        ratios = Table("", ("ratio", "", "goal"), ["goal"])
        for comparison in report.comparisons:
            ratios.row(*comparison_cells(comparison.to_dict()))
        ratios.show()
    for name, value in report.notes.items():
        if isinstance(value, dict):
            value = ", ".join(f"{key} {part}" for key, part in value.items())
        say(f"{name}: {value}")


def measurement_cells(values: dict[str, Any]) -> tuple[str, ...]:
    """The table's row of a measurement, from its JSON values."""
    low, high = values["spread_seconds"]
    unit = values["unit"]
    rates = ["", ""]
    if unit != "runs":
        rates[0] = f"{_short(values['per_second'])} {unit}"
        if values["per_cpu_second"] is not None:
            rates[1] = _short(values["per_cpu_second"])
    facts = ", ".join(
        f"{name} {value if isinstance(value, str) else _short(value)}"
        for name, value in values["facts"].items()
    )
    seconds = f"{_short(values['median_seconds'])} ({_short(low)} .. {_short(high)})"
    return values["name"], seconds, *rates, facts


def comparison_cells(values: dict[str, Any]) -> tuple[str, ...]:
    """The table's row of a comparison, from its JSON values."""
    low, high = values["spread"]
    return values["name"], f"{values['median']:.2f} ({low:.2f} .. {high:.2f})", values["goal"]


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
