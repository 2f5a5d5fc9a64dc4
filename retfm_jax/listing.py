"""`retfm configs` and `retfm tasks`: what can be chosen, and what can be set."""

import argparse

from retfm_jax.config import bundled_configs, load_config, load_variants, summary
from retfm_jax.config.reference import entries
from retfm_jax.console import Table, say
from retfm_jax.errors import UserError


def run_configs(args: argparse.Namespace) -> None:
    """`retfm configs`: the bundled configs, or the entries of one.

    Raises:
      UserError: no such config.
    """
    if args.name is None:
        table = Table(
            "bundled configs", ["config", "method", "what it is"], ["method", "what it is"]
        )
        for name in bundled_configs():
            table.row(name, load_config(name).method, summary(name))
        table.show()
        say("", "`retfm configs NAME` lists the entries of one, for --config.ENTRY=VALUE")
        return
    config = load_config(args.name, args.overrides)
    say(f"{args.name}: {summary(args.name)}")
    for entry in entries(config):
        say("", f"{entry.path} = {entry.value}", style="bold")
        say(f"    {entry.kind}")
        if entry.meaning:
            say(f"    {entry.meaning}")
    try:
        variants = load_variants(args.name)
    except UserError:
        return
    say("", "variants, for `retfm ablate`:")
    say(*(f"    {name}: {', '.join(changes) or 'as it is'}" for name, changes in variants.items()))


def run_tasks(args: argparse.Namespace) -> None:
    """`retfm tasks`: the protocols and the published tasks of `retfm evaluate`."""
    from retfm_jax.evaluation.evaluate import PROTOCOLS
    from retfm_jax.evaluation.tasks import described_tasks

    say("protocols (--task):", *(f"    {name}" for name in PROTOCOLS))
    columns = ["task", "classes", "from", "source"]
    table = Table("published tasks (--dataset)", columns, ["from", "source"])
    for name, task in described_tasks().items():
        where = f"dataset {task['dataset']}" if "dataset" in task else f"folder {task['folder']}"
        table.row(name, len(task["classes"]), where, task.get("source", ""))
    table.show()
    say(
        "",
        "Datasets and folders lie below --data_dir. A folder with train/CLASS/*.jpg and "
        "test/CLASS/*.jpg is a task, too, and so is a YAML file of your own.",
    )
