"""`retfm data build` and `retfm data list`: the bundled builders, and what they have built."""

import argparse
import importlib
import importlib.util
import pkgutil
from pathlib import Path
from types import ModuleType
from typing import Any

from retfm_jax.console import Table, say
from retfm_jax.data import datasets
from retfm_jax.data.building import splits
from retfm_jax.data.building.beam import BeamSettings
from retfm_jax.data.building.builder import (
    PROBLEMS_FILE,
    SUMMARY_FILE,
    BuildOptions,
    RowsBuilder,
    quiet_tfds,
    write_dataset,
)
from retfm_jax.errors import UserError, did_you_mean
from retfm_jax.files import Path as AnyPath
from retfm_jax.files import read_json

_BUILDERS = "retfm_jax.data_builders"

#: Written by `retfm data import`, not by a name.
_IMPORTER = "manifest"


def builder_names() -> list[str]:
    """Names of the bundled builders."""
    package = importlib.import_module(_BUILDERS)
    names = [module.name for module in pkgutil.iter_modules(package.__path__) if module.ispkg]
    return sorted(name for name in names if importlib.util.find_spec(_module_name(name)))


def _module_name(name: str) -> str:
    return f"{_BUILDERS}.{name}.{name}_dataset_builder"


def builder_module(name: str) -> ModuleType:
    """The module of a bundled builder; it has the class `Builder`, as TFDS wants it.

    Raises:
      UserError: there is none of that name.
    """
    names = builder_names()
    if name not in names:
        bundled = ", ".join(other for other in names if other != _IMPORTER)
        raise UserError(
            f"no builder {name!r}; there are {bundled}. Patients of your own come in with "
            f"`retfm data import`{did_you_mean(name, names)}"
        )
    return importlib.import_module(_module_name(name))


def builder_class(name: str) -> Any:
    """The TFDS builder class of a bundled builder; raises `UserError` where there is none."""
    return builder_module(name).Builder


def options_of(args: argparse.Namespace) -> BuildOptions:
    """The options of a build of real data, from the command line's; None is the default."""
    given = {
        name: value
        for name in ("image_size", "on_error", "seed", "patient_regex", "follow_links")
        if (value := getattr(args, name, None)) is not None
    }
    if getattr(args, "shares", None):
        given["shares"] = splits.parse_shares(args.shares)
    if getattr(args, "workers", None):
        given["threads"] = args.workers
    return BuildOptions(**given)


def beam_of(args: argparse.Namespace) -> BeamSettings | None:
    """The cluster that the command line names; None for this machine's threads."""
    runner = getattr(args, "beam_runner", None)
    options = getattr(args, "beam_options", None)
    if options and not runner:
        raise UserError("--beam_options wants --beam_runner, such as DataflowRunner")
    return BeamSettings(runner, options or "") if runner else None


def run_build(args: argparse.Namespace) -> None:
    """Runs `retfm data build`."""
    if args.name == _IMPORTER:
        raise UserError("patients of your own come in with `retfm data import`")
    # TFDS's way to write a configuration: mm_retinal/ffa.
    name, _, config = args.name.partition("/")
    module = builder_module(name)
    if issubclass(module.Builder, RowsBuilder):
        _refuse(args, ("patients", "population"))
        if not args.source:
            wanted = " ".join(module.Builder.MANUAL_DOWNLOAD_INSTRUCTIONS.split())
            raise UserError(f"{name} wants --source FOLDER. {wanted}")
        if config not in ("", *module.Builder.builder_configs):
            known = ", ".join(module.Builder.builder_configs) or "none"
            raise UserError(f"{name} has no configuration {config!r}; it has {known}")
        builder = module.Builder(
            options=options_of(args), data_dir=args.data_dir, config=config or None
        )
        folder = write_dataset(builder, args.source, args.overwrite, beam_of(args))
    else:
        unread = "source", "on_error", "shares", "overwrite", "beam_runner"
        _refuse(args, (*unread, "patient_regex", "follow_links"))
        settings = {
            "patients": args.patients,
            "processes": args.workers,
            "image_size": args.image_size,
            "seed": args.seed,
            "population": args.population,
        }
        given = {name: value for name, value in settings.items() if value is not None}
        with quiet_tfds(bars=True):
            folder = module.build(args.data_dir, **given)
    print_summary(folder)


def _refuse(args: argparse.Namespace, options: tuple[str, ...]) -> None:
    for option in options:
        if getattr(args, option, None):
            raise UserError(f"--{option} means nothing to the builder {args.name}")


def print_summary(folder: AnyPath) -> None:
    """Says what lies in a dataset's folder, and how much of its source was in order."""
    info = datasets.open_builder(folder).info
    sizes = ", ".join(f"{name} {split.num_examples}" for name, split in info.splits.items())
    say(f"{info.full_name}: {sizes} records", f"  in {folder}")
    if not (folder / SUMMARY_FILE).is_file():
        return
    summary = read_json(folder / SUMMARY_FILE)
    for note in summary.get("notes", ()):
        say(f"  {note}")
    problems = summary["problems"]
    if not problems:
        say("  no problem in the source")
        return
    counts = ", ".join(f"{count} {kind}" for kind, count in problems.items())
    say(
        f"  problems in the source: {counts}; each is in {folder / PROBLEMS_FILE} with its row "
        "and what was done",
        style="yellow",
    )


def run_list(args: argparse.Namespace) -> None:
    """Runs `retfm data list`: the bundled builders and the datasets in `args.data_dir`."""
    builders = Table("bundled builders", ["name", "what it builds"], ["what it builds"])
    for name in builder_names():
        readme = Path(importlib.import_module(f"{_BUILDERS}.{name}").__file__).parent / "README.md"
        verb = "import" if name == _IMPORTER else name
        builders.row(verb, readme.read_text(encoding="utf-8").partition("\n")[0])
    builders.show()
    built = datasets.below(args.data_dir)
    if not built:
        say("", f"no dataset in {args.data_dir}")
        return
    columns = ("name", "version", "records", "folder")
    table = Table(f"datasets in {args.data_dir}", columns, columns)
    for folder in built:
        info = read_json(folder / datasets.INFO)
        sizes = ", ".join(
            f"{split['name']} {sum(map(int, split.get('shardLengths', [])))}"
            for split in info.get("splits", [])
        )
        name = "/".join(filter(None, (info["name"], info.get("configName"))))
        table.row(name, info["version"], sizes, folder)
    table.show()
