"""`retfm label`."""

import argparse

from retfm_jax.cli.options import add_verb


def add(verbs) -> None:
    """Adds the verb."""
    parser = add_verb(verbs, "label", run, "read findings out of reports (JSONL)", extra="eval")
    parser.add_argument("input", help="JSONL: objects with `report`, or `left` and `right`")
    parser.add_argument("--out", required=True, help="JSONL file to write")
    parser.add_argument("--vocabulary", help="YAML that replaces the conditions")
    parser.add_argument("--extend", help="YAML that adds to the conditions")


def run(args: argparse.Namespace) -> None:
    """Runs the verb; raises as `experiments.labeling.label`."""
    from retfm_jax.console import say
    from retfm_jax.experiments.labeling import label, picture_of

    counts = label(args.input, args.out, args.vocabulary, args.extend)
    picture = picture_of(args.out)
    say(
        f"{counts.reports} reports labeled, {counts.unknown} of them say nothing that the "
        f"vocabulary knows ({counts.empty} are empty); labels are in {args.out}"
        + (f", their frequencies in {picture}" if picture else "")
    )
