"""`retfm data import`: a group's own patients, or the published containers, as a dataset."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from retfm_jax.cli import options
from retfm_jax.cli.data_build import beam_settings, build_options, show
from retfm_jax.cli.options import add_verb
from retfm_jax.errors import UserError


def add(verbs) -> None:
    """Adds the verb."""
    parser = add_verb(verbs, "import", run, "import patients of your own", extra="data")
    parser.add_argument("--name", required=True, help="of the new dataset")
    options.data_dir(parser)
    parser.add_argument("--manifest", help="CSV, .xlsx or JSONL, a row a patient")
    parser.add_argument("--images", help="folder that the manifest's paths start from")
    options.listed(parser, "--columns", help="what the manifest calls its columns: case_id=Visit")
    parser.add_argument("--encoding", default="utf-8-sig", help="of the manifest")
    parser.add_argument("--tsv", action="append", help="published images, <split>_imgs.tsv")
    parser.add_argument("--texts", action="append", help="published texts, <split>_texts.jsonl")
    parser.add_argument("--lmdb", help="published LMDB folder")
    parser.add_argument("--masks", help="folder of photographs and masks, see `data.mask_folders`")
    options.storing(parser)


def run(args: argparse.Namespace) -> None:
    """Runs the verb. Exactly one source is given: `manifest`, `tsv`, `lmdb` or `masks`.

    Raises:
      UserError: options contradict each other, or the source cannot be used.
    """
    from retfm_jax.console import say
    from retfm_jax.data.building.validation import ProblemLog
    from retfm_jax.data.importing import manifest, published
    from retfm_jax.data.importing.importers import check_name, import_masks, import_rows

    problems = ProblemLog()
    given = [name for name in ("manifest", "tsv", "lmdb", "masks") if getattr(args, name)]
    if len(given) > 1:
        raise UserError(f"--{given[0]} and --{given[1]} are two sources: import them one by one")
    for option, source in (("images", "manifest"), ("columns", "manifest"), ("texts", "tsv")):
        if getattr(args, option, None) and given and source not in given:
            raise UserError(f"--{option} goes with --{source}, not with --{given[0]}")
    if not given:
        raise UserError(
            "give --manifest FILE, --tsv FILE with --texts FILE, --lmdb FOLDER, or --masks FOLDER"
        )
    pairs = _pairs(args.tsv or [], args.texts or []) if "tsv" in given else []
    # Before a long table is read.
    check_name(args.name)
    options, beam = build_options(args), beam_settings(args)
    if args.masks:
        show(
            import_masks(
                args.masks, args.name, args.data_dir, options, overwrite=args.overwrite, beam=beam
            )
        )
        return
    if args.manifest:
        if not args.images:
            raise UserError("--manifest wants --images ROOT, the folder that its paths start from")
        rows, unused = manifest.read_manifest(
            args.manifest, args.images, problems, args.encoding, _columns(args.columns)
        )
        if unused:
            say(f"columns that mean nothing here: {', '.join(unused)}")
    elif args.tsv:
        rows = []
        for images, texts in pairs:
            rows += published.rows_of_tsv(images, texts, problems)
    else:
        rows = published.rows_of_lmdb(Path(args.lmdb), problems)
    folder = import_rows(rows, problems, args.name, args.data_dir, options, args.overwrite, beam)
    show(folder)


def _columns(text: str | None) -> dict[str, str]:
    given = [entry.partition("=") for entry in (text or "").split(",") if entry.strip()]
    if any(not name.strip() or not theirs.strip() for name, _, theirs in given):
        raise UserError(f"--columns {text!r}: give NAME=COLUMN, such as case_id=Visit")
    return {name.strip(): theirs.strip() for name, _, theirs in given}


def _pairs(images: Sequence[str], texts: Sequence[str]) -> list[tuple[Path, Path]]:
    if len(images) != len(texts):
        raise UserError(
            f"--tsv names {len(images)} files and --texts {len(texts)}: give one --texts for every "
            "--tsv, in the same order"
        )
    return [(Path(image), Path(text)) for image, text in zip(images, texts, strict=True)]
