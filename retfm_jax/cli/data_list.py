"""`retfm data list`: the bundled builders, and what they have built."""

import argparse

from retfm_jax.cli import options
from retfm_jax.cli.options import add_verb
from retfm_jax.cli.tables import Table


def add(verbs) -> None:
    """Adds the verb."""
    options.data_dir(add_verb(verbs, "list", run, "list builders and built datasets", extra="data"))


def run(args: argparse.Namespace) -> None:
    """Runs the verb."""
    from retfm_jax import dataset_folders
    from retfm_jax.console import say
    from retfm_jax.data.building import registry

    builders = Table("bundled builders", ["name", "what it builds"], ["what it builds"])
    for name, title in registry.titles().items():
        builders.row("import" if name == registry.IMPORTER else name, title)
    builders.show()
    built = dataset_folders.below(args.data_dir)
    if not built:
        say("", f"no dataset in {args.data_dir}")
        return
    columns = ("name", "version", "records", "folder")
    table = Table(f"datasets in {args.data_dir}", columns, columns)
    for dataset in map(registry.describe, built):
        sizes = ", ".join(f"{name} {size}" for name, size in dataset.sizes.items())
        table.row(dataset.name, dataset.version, sizes, dataset.folder)
    table.show()
