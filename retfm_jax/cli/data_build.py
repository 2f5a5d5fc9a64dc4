"""`retfm data build`."""

import argparse
from typing import TYPE_CHECKING

from retfm_jax.cli import options
from retfm_jax.cli.options import POSITIVE, add_verb, number
from retfm_jax.errors import UserError

if TYPE_CHECKING:
    from retfm_jax.data.building.beam import BeamSettings
    from retfm_jax.data.building.builder import BuildOptions
    from retfm_jax.files import Path


def add(verbs) -> None:
    """Adds the verb."""
    parser = add_verb(verbs, "build", run, "build a bundled dataset", extra="data")
    parser.add_argument("name", help="`retfm data list` names them")
    options.data_dir(parser)
    parser.add_argument("--source", help="folder of the files as they were downloaded")
    number(parser, "--patients", POSITIVE, help="synthetic_fundus: how many to generate")
    parser.add_argument("--population", help="synthetic_fundus: which population to generate")
    parser.add_argument(
        "--masks", action="store_true", help="synthetic_fundus: eyes with masks, no patients"
    )
    options.storing(parser)


def run(args: argparse.Namespace) -> None:
    """Runs the verb.

    Raises:
      UserError: an option means nothing to the builder, or see `data.building.registry`.
    """
    from retfm_jax.data.building import registry

    name = args.name.partition("/")[0]
    if name == registry.IMPORTER:
        raise UserError("patients of your own come in with `retfm data import`")
    if registry.is_synthetic(name):
        unread = "source", "on_error", "shares", "overwrite", "beam_runner"
        _refuse(args, (*unread, "patient_regex", "follow_links"))
        settings = {
            "patients": args.patients,
            "processes": args.workers,
            "image_size": args.image_size,
            "seed": args.seed,
            "population": args.population,
            "masks": args.masks or None,
        }
        given = {name: value for name, value in settings.items() if value is not None}
        folder = registry.generate(name, args.data_dir, **given)
    else:
        _refuse(args, ("patients", "population", "masks"))
        folder = registry.build(
            args.name,
            args.source,
            args.data_dir,
            build_options(args),
            args.overwrite,
            beam_settings(args),
        )
    show(folder)


def _refuse(args: argparse.Namespace, names: tuple[str, ...]) -> None:
    for option in names:
        if getattr(args, option, None):
            raise UserError(f"--{option} means nothing to the builder {args.name}")


def build_options(args: argparse.Namespace) -> "BuildOptions":
    """How a dataset of real data is written; what is not given is as by default."""
    from retfm_jax.data.building.builder import BuildOptions
    from retfm_jax.data.building.splits import parse_shares

    given = {
        name: value
        for name in ("image_size", "on_error", "seed", "patient_regex", "follow_links")
        if (value := getattr(args, name, None)) is not None
    }
    if getattr(args, "shares", None):
        given["shares"] = parse_shares(args.shares)
    if getattr(args, "workers", None):
        given["threads"] = args.workers
    return BuildOptions(**given)


def beam_settings(args: argparse.Namespace) -> "BeamSettings | None":
    """The cluster that the command line names; None for this machine's threads."""
    from retfm_jax.data.building.beam import BeamSettings

    runner = getattr(args, "beam_runner", None)
    given = getattr(args, "beam_options", None)
    if given and not runner:
        raise UserError("--beam_options wants --beam_runner, such as DataflowRunner")
    return BeamSettings(runner, given or "") if runner else None


def show(folder: "Path") -> None:
    """Says what lies in a dataset's folder, and how much of its source was in order."""
    from retfm_jax.console import say
    from retfm_jax.data.building.registry import describe

    built = describe(folder)
    sizes = ", ".join(f"{name} {size}" for name, size in built.sizes.items())
    say(f"{built.name}/{built.version}: {sizes} records", f"  in {folder}")
    for note in built.notes:
        say(f"  {note}")
    if built.problems is None:
        return
    if not built.problems:
        say("  no problem in the source")
        return
    counts = ", ".join(f"{count} {kind}" for kind, count in built.problems.items())
    say(
        f"  problems in the source: {counts}; each is in {built.listed_in} with its row and what "
        "was done",
        style="yellow",
    )
