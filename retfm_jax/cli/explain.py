"""`retfm explain`."""

import argparse

from retfm_jax.cli import options
from retfm_jax.cli.options import add_verb


def add(verbs) -> None:
    """Adds the verb."""
    parser = add_verb(verbs, "explain", run, "show what in photographs speaks for a finding")
    parser.add_argument("--workdir", required=True, help="workdir or checkpoint folder")
    options.images(parser)
    parser.add_argument(
        "--target",
        action="append",
        default=[],
        help="a class of the network; of one with texts a condition (drusen) or any text; may be "
        "given several times; without one, the rollout of a vision transformer",
    )
    parser.add_argument("--out", required=True, help="new folder: overlays, a table and a page")
    parser.add_argument(
        "--method",
        help="relevance or rollout of a vision transformer; of a ResNet, see the documentation "
        "(the network's default if not given)",
    )
    parser.add_argument("--language", default="en", help="of the prompts of conditions, en or zh")
    options.on_error(parser)


def run(args: argparse.Namespace) -> None:
    """Runs the verb; raises as `experiments.explaining.explain`."""
    from retfm_jax.console import say
    from retfm_jax.experiments.explaining import PAGE, explain

    made = explain(
        args.workdir,
        args.images,
        args.target,
        args.out,
        method=args.method,
        language=args.language,
        on_error=args.on_error,
    )
    left_out = made.left_out
    if left_out:
        say(f"{len(left_out)} images left out:", *left_out[:50], *["..."] * (len(left_out) > 50))
    say(f"{made.count} photographs, {made.targets} maps of each by {made.method}, in {args.out}")
    say(f"page  {args.out}/{PAGE}")
