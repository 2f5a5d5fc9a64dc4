"""`retfm train`."""

import argparse

from retfm_jax.cli import options
from retfm_jax.cli.options import add_verb
from retfm_jax.ranges import Range

#: What says of new photographs what a network tells.
_VERBS = {
    "classes": "predict --workdir {0} --images FOLDER --out predictions.csv",
    "structures": "segment --workdir {0} --images FOLDER --out masks",
    "reports": "caption --workdir {0} --images FOLDER --out reports.jsonl",
}


def add(verbs) -> None:
    """Adds the verb."""
    parser = add_verb(
        verbs,
        "train",
        run,
        "train; resumes by itself where the workdir has a checkpoint",
        extra="train",
    )
    parser.epilog = (
        "Exit status: 0 finished; 75 stopped by SIGTERM, SIGINT or SIGHUP and saved, so that the "
        "same command resumes; 1 an error, whose message names the remedy."
    )
    options.config(parser)
    parser.add_argument("--workdir", required=True, help="checkpoints, metrics and config go there")
    options.number(
        parser,
        "--folds",
        Range(low=2, high=100),
        help="cross-validate a network with classes or structures: as many runs, in "
        "WORKDIR/fold-0 and so on, each tested on patients of its own, and their summary in "
        "WORKDIR/folds.json",
    )


def run(args: argparse.Namespace) -> None:
    """Runs the verb.

    Raises:
      Stopped: a signal ended it before its last step.
      UserError: see `experiments.training.run_training`.
    """
    import jax

    from retfm_jax.config import load_config
    from retfm_jax.console import say
    from retfm_jax.experiments.cross_validation import cross_validate
    from retfm_jax.experiments.finetuning import told
    from retfm_jax.experiments.training import train_to_the_end
    from retfm_jax.runtime import distributed

    config = load_config(args.config, args.overrides)
    distributed.start()
    if args.folds is not None:
        cross_validate(config, args.workdir, args.folds)
        return
    train_to_the_end(config, args.workdir)
    if jax.process_index() == 0:
        say(f"curves: {args.workdir}/training.html")
        say(f"next: retfm evaluate --workdir {args.workdir} --out {args.workdir}/evaluation.json")
        if (what := told(config)) is not None:
            say(f"then: retfm {_VERBS[what].format(args.workdir)}")
