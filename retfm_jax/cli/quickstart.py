"""`retfm quickstart`: from nothing to a trained, evaluated and exported RET-CLIP."""

import argparse

from retfm_jax.cli.options import add_verb


def add(verbs) -> None:
    """Adds the verb."""
    parser = add_verb(
        verbs,
        "quickstart",
        run,
        "build synthetic patients, train a small RET-CLIP on them, evaluate it and export it",
        extra="all",
    )
    parser.add_argument("--workdir", default="quickstart", help="where everything goes")


def run(args: argparse.Namespace) -> None:
    """Runs the verb; raises as `experiments.quickstart.quickstart`."""
    from retfm_jax.cli.evaluate import tables
    from retfm_jax.console import say
    from retfm_jax.experiments.quickstart import quickstart

    say(
        "From nothing to a trained, evaluated and exported network, in a few minutes on two cores. "
        "Patients are synthetic: numbers say that the software works, and nothing of patients."
    )
    made = quickstart(args.workdir, say)
    for table in tables(made.results):
        table.show()
    say("", *made.answer, "", "Look at")
    say(
        f"  {made.page}  the answer, what was done, some patients", f"  {made.weights}  the weights"
    )
    say("Next")
    for command, said in made.commands.items():
        say(f"  {said}", f"    {command}")
