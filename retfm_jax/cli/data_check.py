"""`retfm data check`: what a built dataset holds, what is wrong with it, and how it looks."""

import argparse
import json
from collections.abc import Iterable
from typing import Any

from retfm_jax.cli import options
from retfm_jax.cli.options import add_verb
from retfm_jax.cli.tables import Table
from retfm_jax.console import say
from retfm_jax.errors import UserError


def add(verbs) -> None:
    """Adds the verb."""
    parser = add_verb(
        verbs,
        "check",
        run,
        "look a built dataset through: counts, faults, a contact sheet",
        extra="data",
    )
    parser.add_argument("name", help="built dataset, or its folder")
    options.data_dir(parser)
    parser.add_argument("--split", help="one split (all if not given)")
    parser.add_argument("--out", required=True, help="folder for the report and the contact sheet")


def run(args: argparse.Namespace) -> None:
    """Runs the verb: prints a table, writes `check.json` and contact sheets into `args.out`.

    Raises:
      UserError: something is broken; everything was written before.
    """
    from retfm_jax.data.inspection.check import check_dataset
    from retfm_jax.files import as_path

    report = check_dataset(args.name, args.data_dir, args.split, args.out)
    _show(report)
    for split, numbers in report["splits"].items():
        flat = numbers["flat_photographs"]
        if flat["count"]:
            named = ", ".join(flat["first"]) + ", ..." * (flat["count"] > len(flat["first"]))
            say(f"{split}: {flat['count']} photographs show one value everywhere: {named}")
    say(report["patients"])
    say(f"report and contact sheets are in {args.out}")
    if report["broken"]:
        raise UserError(
            f"{report['dataset']}: {'; '.join(report['broken'])}; the ids are in "
            f"{as_path(args.out) / 'check.json'}"
        )


def _show(report: dict[str, Any]) -> None:
    from retfm_jax.knowledge.vocabulary import LANGUAGES

    splits = report["splits"]
    table = Table(f"{report['dataset']} ({report['kind']} records)", ["", *splits])

    def row(name: str, values: Iterable[Any], bad: bool = False) -> None:
        values = [str(value) for value in values]
        faulty = bad and any(value != "0" for value in values)
        table.row(name, *values, style="red" if faulty else "")

    counted = list(splits.values())
    row("patients", (n["patients"] for n in counted))
    row("photographs", (n["photographs"] for n in counted))
    if any("cases" in n for n in counted):
        cases = [n.get("cases") for n in counted]
        row("cases of images with a report", (c["count"] if c else "" for c in cases))
        row(
            "images of a case: median, most",
            (f"{c['median_images']:g}, {c['most_images']}" if c else "" for c in cases),
        )
    row("missing eyes", (n["missing_eyes"] for n in counted))
    row("undecodable photographs", (n["undecodable"]["count"] for n in counted), bad=True)
    row(
        "photographs of one value everywhere",
        (n["flat_photographs"]["count"] for n in counted), bad=True,
    )  # fmt: skip
    row("repeated photographs", (n["repeated_photographs"]["count"] for n in counted))
    for language in LANGUAGES:
        row(f"no text ({language})", (n["empty_reports"][language] for n in counted))
    row(
        "neither text nor label",
        (n["neither_report_nor_label"]["count"] for n in counted), bad=True,
    )  # fmt: skip
    for structure in counted[0].get("masks", {}):
        shown = [n["masks"][structure] for n in counted]
        row(f"{structure}: present of known", (f"{n['present']} of {n['known']}" for n in shown))
    if "masks" in counted[0]:
        odd = (n["odd_fields_of_view"]["count"] for n in counted)
        row("odd fields of view", odd, bad=True)
        row("masks that cannot be used", (n["broken_masks"]["count"] for n in counted), bad=True)
    for language in LANGUAGES:
        if any(language in n["tokens"] for n in counted):
            lengths = [n["tokens"].get(language) for n in counted]
            row(
                f"tokens ({language}): median, longest",
                (f"{t['median']}, {t['longest']}" if t else "" for t in lengths),
            )
            row(
                f"texts ({language}) cut at {report['context_length']} tokens",
                (t["cut"] if t else "" for t in lengths),
            )
    row("commonest size", (next(iter(n["sizes"]), "") for n in counted))
    table.section()
    for level in counted[0]["labels"]:
        known = [n["labels"][level]["known"] for n in counted]
        if not any(known):
            continue
        row(f"{level}: labeled", known)
        for label in counted[0]["labels"][level]["present"]:
            row(f"  {label}", (n["labels"][level]["present"][label] for n in counted))
    table.show()
    across = report["across_splits"]
    for what, found in across.items():
        if found["count"]:
            example = json.dumps(found["first"][0], ensure_ascii=False)
            say(f"{found['count']} {what} in more than one split, such as {example}")
