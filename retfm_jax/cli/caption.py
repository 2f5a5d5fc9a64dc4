"""`retfm caption`."""

import argparse

from retfm_jax.cli import options
from retfm_jax.cli.options import add_verb


def add(verbs) -> None:
    """Adds the verb."""
    parser = add_verb(verbs, "caption", run, "write the reports of cases into a table")
    parser.add_argument(
        "--workdir",
        required=True,
        help="workdir or checkpoint folder of a network that writes reports",
    )
    parser.add_argument(
        "--images",
        required=True,
        help="CSV or JSON Lines with a column `image`, `images` or `left` and `right`, where rows "
        "of one `case_id` are a case; a folder, one photograph, or - for a list of paths on "
        "standard input, whose photographs are a case each",
    )
    parser.add_argument("--out", required=True, help=".csv, .jsonl or .parquet file to write")
    options.search(parser)
    options.rows_on_error(parser)


def run(args: argparse.Namespace) -> None:
    """Runs the verb; raises as `experiments.captioning.caption`."""
    from retfm_jax.captioning import Search
    from retfm_jax.cli.rows import say_rows
    from retfm_jax.experiments.captioning import caption
    from retfm_jax.runtime import distributed

    distributed.start()
    made = caption(
        args.workdir,
        args.images,
        args.out,
        search=Search(args.beams, args.length, args.length_penalty),
        on_error=args.on_error,
    )
    if made is not None:
        say_rows(made, args.out, "cases")
