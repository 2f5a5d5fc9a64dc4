"""`retfm configs`: the bundled configs, or the entries of one."""

import argparse

from retfm_jax.cli.options import add_verb
from retfm_jax.cli.tables import Table


def add(verbs) -> None:
    """Adds the verb."""
    parser = add_verb(
        verbs,
        "configs",
        run,
        "list the bundled configs, or the entries of one with their types and meanings",
    )
    parser.add_argument("name", nargs="?", help="bundled name or path of a config")
    parser.set_defaults(config=None)


def run(args: argparse.Namespace) -> None:
    """Runs the verb.

    Raises:
      UserError: no such config.
    """
    from retfm_jax.config import bundled_configs, load_config, load_variants, summary
    from retfm_jax.config.reference import entries
    from retfm_jax.console import say
    from retfm_jax.errors import UserError

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
