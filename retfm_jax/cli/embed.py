"""`retfm embed`."""

import argparse

from retfm_jax.cli import options
from retfm_jax.cli.options import add_verb


def add(verbs) -> None:
    """Adds the verb."""
    parser = add_verb(verbs, "embed", run, "embed photographs of a folder or a CSV")
    parser.add_argument("--workdir", required=True, help="workdir or checkpoint folder")
    options.images(parser)
    parser.add_argument("--out", required=True, help=".npz or .parquet file to write")
    options.on_error(parser)


def run(args: argparse.Namespace) -> None:
    """Runs the verb; raises as `experiments.embedding.embed`."""
    from retfm_jax.console import say
    from retfm_jax.experiments.embedding import embed

    made = embed(args.workdir, args.images, args.out, args.on_error)
    left_out = made.left_out
    if left_out:
        say(f"{len(left_out)} images left out:", *left_out[:50], *["..."] * (len(left_out) > 50))
    say(f"{made.count} embeddings of width {made.width} in {args.out}")
