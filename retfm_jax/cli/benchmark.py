"""`retfm benchmark`: models by tasks by protocols, on one page."""

import argparse
from collections.abc import Collection

from retfm_jax.cli import options
from retfm_jax.cli.options import add_verb
from retfm_jax.cli.tables import Table
from retfm_jax.errors import UserError


def add(verbs) -> None:
    """Adds the verb."""
    parser = add_verb(
        verbs,
        "benchmark",
        run,
        "compare models on tasks by protocols, all alike; resumes by itself",
        extra="all",
    )
    parser.add_argument(
        "suite", metavar="SUITE", help="YAML file, or the name of a bundled suite (docs/benchmark)"
    )
    parser.add_argument(
        "--out", required=True, help="folder of cells and page; several processes may share it"
    )
    options.data_dir(parser)
    options.listed(parser, "--models", help="some of the suite's, with commas between")
    options.listed(parser, "--tasks", help="some of the suite's, with commas between")
    options.listed(parser, "--protocols", help="some of the suite's, with commas between")
    parser.add_argument(
        "--model",
        action="append",
        metavar="NAME=LOAD",
        help="a model beside the suite's: its name, and a workdir or weights; may be given again",
    )
    options.exclude(parser)
    parser.add_argument(
        "--audit",
        metavar="FILE",
        help="audit.json of `retfm data audit`, for copies between pretraining and test sets",
    )


def run(args: argparse.Namespace) -> None:
    """Runs the verb.

    Raises:
      Stopped: a signal ended it.
      UserError: the suite or the folder cannot be used, or cells have failed.
    """
    from retfm_jax.console import say
    from retfm_jax.experiments.benchmark.running import run_benchmark
    from retfm_jax.experiments.benchmark.suite import read_suite
    from retfm_jax.experiments.benchmark.tables import console_rows

    suite = read_suite(args.suite)
    added = [_added(text) for text in args.model or ()]
    suite = suite.with_models(dict(added))
    chosen = {
        kind: _names(getattr(args, kind), getattr(suite, kind))
        for kind in ("models", "tasks", "protocols")
    }
    outcome = run_benchmark(
        suite.only(**chosen),
        args.out,
        data_dir=args.data_dir,
        exclude=args.exclude,
        audit=args.audit,
    )
    if outcome.compared:
        columns, rows = console_rows(outcome.compared)
        table = Table("", columns, words=columns)
        for row in rows:
            table.row(*row)
        table.show()
        say("")
    say(*(f"wrote {path}" for path in outcome.written))
    if outcome.failed:
        raise UserError(
            f"{len(outcome.failed)} of {outcome.cells} cells failed, and are tried again by the "
            "same command: " + "; ".join(outcome.failed[:5]) + "; ..." * (len(outcome.failed) > 5)
        )


def _names(text: str | None, known: Collection[str]) -> list[str]:
    """Splits a list at its commas, but for those within a name that is known."""
    parts, found = text.split(",") if text else [], []
    while parts:
        ends = [end for end in range(len(parts), 0, -1) if ",".join(parts[:end]).strip() in known]
        end = ends[0] if ends else 1
        found.append(",".join(parts[:end]).strip())
        parts = parts[end:]
    return found


def _added(text: str) -> tuple[str, str]:
    name, equals, place = text.partition("=")
    if not (name.strip() and equals and place.strip()):
        raise UserError(f"--model {text}: give a name and what is loaded, NAME=LOAD")
    return name.strip(), place.strip()
