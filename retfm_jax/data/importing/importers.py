"""`retfm data import`: a group's own patients, or the published containers, as a dataset."""

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

from retfm_jax.console import say
from retfm_jax.data.building import registry as build
from retfm_jax.data.building.beam import BeamSettings
from retfm_jax.data.building.builder import BuildOptions, write_dataset
from retfm_jax.data.building.rows import Row
from retfm_jax.data.building.validation import ProblemLog
from retfm_jax.data.importing import manifest, published
from retfm_jax.errors import UserError

_NAME = re.compile(r"[a-z][a-z0-9_]*")


def check_name(name: str) -> None:
    """Raises a `UserError` for a dataset's name that TFDS does not take."""
    if not _NAME.fullmatch(name):
        raise UserError(
            f"--name {name!r}: a dataset's name is small letters, digits and underscores, and "
            "begins with a letter"
        )


def import_rows(
    rows: Sequence[Row],
    problems: ProblemLog,
    name: str,
    data_dir: str | Path,
    options: BuildOptions | None = None,
    overwrite: bool = False,
    beam: BeamSettings | None = None,
) -> Path:
    """Writes rows as the dataset `name` and returns its folder.

    Raises:
      UserError: see `rows_builder.write_dataset`; or the name is none that TFDS takes.
    """
    check_name(name)
    builder = build.builder_class("manifest")(
        name=name, rows=rows, problems=problems, options=options, data_dir=data_dir
    )
    return write_dataset(builder, source=None, overwrite=overwrite, beam=beam)


def run_import(args: argparse.Namespace) -> None:
    """Runs the verb. Exactly one of `args.manifest`, `args.tsv`, `args.lmdb` is given."""
    problems = ProblemLog()
    given = [name for name in ("manifest", "tsv", "lmdb") if getattr(args, name)]
    if len(given) > 1:
        raise UserError(f"--{given[0]} and --{given[1]} are two sources: import them one by one")
    for option, source in (("images", "manifest"), ("texts", "tsv")):
        if getattr(args, option, None) and given and source not in given:
            raise UserError(f"--{option} goes with --{source}, not with --{given[0]}")
    pairs = _pairs(args.tsv or [], args.texts or []) if "tsv" in given else []
    if given:
        # Before a long table is read.
        check_name(args.name)
        options, beam = build.options_of(args), build.beam_of(args)
    if args.manifest:
        if not args.images:
            raise UserError("--manifest wants --images ROOT, the folder that its paths start from")
        rows, unused = manifest.read_manifest(args.manifest, args.images, problems, args.encoding)
        if unused:
            say(f"columns that mean nothing here: {', '.join(unused)}")
    elif args.tsv:
        rows = []
        for images, texts in pairs:
            rows += published.rows_of_tsv(images, texts, problems)
    elif args.lmdb:
        rows = published.rows_of_lmdb(Path(args.lmdb), problems)
    else:
        raise UserError("give --manifest FILE, --tsv FILE with --texts FILE, or --lmdb FOLDER")
    folder = import_rows(rows, problems, args.name, args.data_dir, options, args.overwrite, beam)
    build.print_summary(folder)


def _pairs(images: Sequence[str], texts: Sequence[str]) -> list[tuple[Path, Path]]:
    if len(images) != len(texts):
        raise UserError(
            f"--tsv names {len(images)} files and --texts {len(texts)}: give one --texts for every "
            "--tsv, in the same order"
        )
    return [(Path(image), Path(text)) for image, text in zip(images, texts, strict=True)]
