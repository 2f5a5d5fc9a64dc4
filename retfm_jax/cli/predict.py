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
    parser.add_argument(
        "--on_error",
        choices=("skip", "refuse"),
        default="skip",
        help="images that cannot be used get a row that says so, or end everything",
    )
    options.number(
        parser,
        "--batch_size",
        options.POSITIVE,
        help="images in a call of the network over all devices of a host (32 on each if not given)",
    )


def run(args: argparse.Namespace) -> None:
    """Runs the verb; raises as `experiments.predicting.predict`."""
    from retfm_jax.console import say
    from retfm_jax.experiments.predicting import predict
    from retfm_jax.runtime import distributed

    distributed.start()
    made = predict(
        args.workdir, args.images, args.out, on_error=args.on_error, batch_size=args.batch_size
    )
    if made is None:
        return
    if made.unreadable:
        problems = made.first_problems
        more = ["..."] * (made.unreadable > len(problems))
        say(f"{made.unreadable} images cannot be used:", *problems, *more)
    resumed = f" ({made.resumed} of them from before)" if made.resumed else ""
    say(
        f"{made.count} rows in {args.out}{resumed}",
        f"not_fundus {made.not_fundus}, low_quality {made.low_quality}: by rules that nobody has "
        "validated yet",
    )
