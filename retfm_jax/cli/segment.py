"""`retfm segment`."""

import argparse

from retfm_jax.cli import options
from retfm_jax.cli.options import add_verb


def add(verbs) -> None:
    """Adds the verb."""
    parser = add_verb(verbs, "segment", run, "find structures in photographs: masks and areas")
    parser.add_argument(
        "--workdir", required=True, help="workdir or checkpoint folder of a network with structures"
    )
    options.images(parser)
    parser.add_argument(
        "--out", required=True, help="new folder: masks, areas.csv and the page index.html"
    )
    parser.add_argument(
        "--probabilities",
        action="store_true",
        help="write them, too: 16-bit PNG of each photograph and structure",
    )
    parser.add_argument(
        "--overlays", action="store_true", help="write the masks on the photographs, too (JPEG)"
    )
    options.rows_on_error(parser)


def run(args: argparse.Namespace) -> None:
    """Runs the verb; raises as `experiments.segmenting.segment`."""
    from retfm_jax.cli.rows import say_rows
    from retfm_jax.console import say
    from retfm_jax.experiments.segmenting import PAGE, TABLE, segment
    from retfm_jax.runtime import distributed

    distributed.start()
    made = segment(
        args.workdir,
        args.images,
        args.out,
        probabilities=args.probabilities,
        overlays=args.overlays,
        on_error=args.on_error,
    )
    if made is not None:
        say_rows(made, f"{args.out}/{TABLE}")
        say(f"page  {args.out}/{PAGE}")
