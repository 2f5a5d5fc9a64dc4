"""`retfm tasks`: the protocols and the published tasks of `retfm evaluate`."""

import argparse

from retfm_jax.cli.options import add_verb
from retfm_jax.cli.tables import Table
from retfm_jax.evaluation.protocols import protocol_names


def add(verbs) -> None:
    """Adds the verb."""
    about = "list the protocols and the published tasks that `retfm evaluate` knows"
    add_verb(verbs, "tasks", run, about)


def run(args: argparse.Namespace) -> None:
    """Runs the verb."""
    from retfm_jax.console import say
    from retfm_jax.data.tasks import described_tasks

    say("protocols (--task):", *(f"    {name}" for name in protocol_names()))
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
