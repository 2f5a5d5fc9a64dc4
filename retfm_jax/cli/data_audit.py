"""`retfm data audit`: photographs that several sets hold, and what is better left out."""

import argparse
from typing import TYPE_CHECKING, Any

from retfm_jax.cli import options
from retfm_jax.cli.options import add_verb
from retfm_jax.cli.tables import Table
from retfm_jax.console import say

if TYPE_CHECKING:
    from retfm_jax.data.audit.embedded import Embedder


def add(verbs) -> None:
    """Adds the verb."""
    parser = add_verb(
        verbs,
        "audit",
        run,
        "find copies within and across sets, and list what is to be left out",
        extra="data",
    )
    parser.add_argument(
        "names", nargs="+", metavar="SET", help="built dataset, task, or folder of class folders"
    )
    options.data_dir(parser)
    options.reading(parser)
    parser.add_argument(
        "--out", required=True, help="folder of the audit; the same command continues one"
    )
    parser.add_argument(
        "--model",
        help="workdir, checkpoint, weight file or address of a network whose embeddings propose "
        "further copies",
    )


def run(args: argparse.Namespace) -> None:
    """Runs the verb: writes `audit.json`, `audit.html` and `exclusions.csv` into `args.out`.

    Raises:
      UserError: a set cannot be opened, or nothing can be written there.
    """
    from retfm_jax.data.audit.audit import audit
    from retfm_jax.data.class_files import Reading
    from retfm_jax.files import as_path

    reading = Reading(args.patient_regex, args.follow_links)
    embedder = None if args.model is None else _embedder(args.model)
    document = audit(args.names, args.data_dir, args.out, reading, embedder)
    _show(document)
    say(f"wrote audit.json, audit.html and exclusions.csv into {as_path(args.out)}")


def _embedder(place: str) -> "Embedder":
    import json

    from retfm_jax.config import to_dict
    from retfm_jax.data.audit.embedded import Embedder
    from retfm_jax.model import load
    from retfm_jax.trees import digest

    model = load(place)
    preprocessing = json.dumps(to_dict(model.data_config.image), sort_keys=True, default=str)
    return Embedder(
        lambda images: model.encode_images(images, unusable=[]),
        place,
        f"{digest(model.params, model.state.batch_stats)} {preprocessing}",
    )


def _show(document: dict[str, Any]) -> None:
    table = Table("photographs", ["", "compared", "nothing to compare", "broken"])
    for name, split in document["splits"].items():
        table.row(name, *(str(split[key]) for key in ("hashed", "plain", "broken")))
    table.show()
    copies = document["copies"]
    if copies["between"]:
        table = Table("copies", ["in", "and in", "pairs"])
        for row in copies["between"]:
            table.row(row["first"], row["second"], str(row["pairs"]))
        table.show()
    torn = document["patients_in_several_splits"]["count"]
    excluded = document["excluded"]
    why = ", ".join(f"{many} {reason}" for reason, many in excluded.items())
    say(
        f"{copies['pairs']} pairs of copies ({copies['equal_bytes']} equal byte for byte), "
        f"{document['doubtful_pairs']} pairs to be looked at, {document['label_conflicts']} with "
        f"conflicting labels; {torn} patients in several splits",
        f"exclusions.csv leaves out {sum(excluded.values())} records" + f" ({why})" * bool(why),
    )
    if by := document.get("embeddings"):
        say(
            f"embeddings of {by['model']} added {by['added']} pairs to the comparisons: "
            f"{by['same']} of them are copies, {by['doubtful']} are to be looked at"
        )
