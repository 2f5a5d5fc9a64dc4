"""`retfm predict`."""

import argparse

from retfm_jax.cli import options
from retfm_jax.cli.options import add_verb


def add(verbs) -> None:
    """Adds the verb."""
    parser = add_verb(verbs, "predict", run, "predict the classes of photographs into a table")
    parser.add_argument(
        "--workdir", required=True, help="workdir or checkpoint folder of a network with classes"
    )
    options.images(parser)
    parser.add_argument("--out", required=True, help=".csv, .jsonl or .parquet file to write")
    options.rows_on_error(parser)
    options.number(
        parser,
        "--batch_size",
        options.POSITIVE,
        help="images in a call of the network over all devices of a host (32 on each if not given)",
    )


def run(args: argparse.Namespace) -> None:
    """Runs the verb; raises as `experiments.predicting.predict`."""
    from retfm_jax.cli.rows import say_rows
    from retfm_jax.experiments.predicting import predict
    from retfm_jax.runtime import distributed

    distributed.start()
    made = predict(
        args.workdir, args.images, args.out, on_error=args.on_error, batch_size=args.batch_size
    )
    if made is not None:
        say_rows(made, args.out)
