"""`retfm demo`."""

import argparse

from retfm_jax.cli import options
from retfm_jax.cli.options import add_verb
from retfm_jax.ranges import Range

_PORT = Range(low=0, high=65535)


def add(verbs) -> None:
    """Adds the verb."""
    parser = add_verb(
        verbs, "demo", run, "serve a page that shows what a network says of photographs"
    )
    parser.add_argument("--workdir", required=True, help="workdir or checkpoint folder")
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen to; any other one opens the page to whoever reaches this machine",
    )
    options.number(parser, "--port", _PORT, default=7860, help="to listen to; 0 for a free one")
    parser.add_argument(
        "--cases",
        metavar="DATASET",
        help="built dataset whose cases and reports the page shows beside a photograph; without "
        "it, none",
    )
    parser.add_argument("--split", default="train", help="of that dataset")
    options.data_dir(parser)
    options.number(
        parser, "--most_cases", options.POSITIVE, default=10_000, help="how many are embedded"
    )


def run(args: argparse.Namespace) -> None:
    """Runs the verb; raises as `experiments.demo.serving.demo`."""
    from retfm_jax.console import say
    from retfm_jax.experiments.demo.serving import demo

    demo(
        args.workdir,
        host=args.host,
        port=args.port,
        cases=args.cases,
        split=args.split,
        data_dir=args.data_dir,
        most_cases=args.most_cases,
        tell=say,
    )
