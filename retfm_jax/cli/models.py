"""`retfm models`: published models that are known by name."""

import argparse

from retfm_jax.cli.options import add_verb
from retfm_jax.cli.tables import Table


def add(verbs) -> None:
    """Adds the verb."""
    about = "list published models: where they are, under which license, how they take images"
    parser = add_verb(verbs, "models", run, about)
    parser.add_argument("name", nargs="?", help="of the list: show all that is known of it")


def run(args: argparse.Namespace) -> None:
    """Runs the verb.

    Raises:
      UserError: no published model has the name.
    """
    from retfm_jax.console import say

    if args.name is not None:
        _show(args.name)
        return
    from retfm_jax.interop.zoo import zoo

    columns = ["name", "tower", "input", "license", "address", "trained on"]
    table = Table("published models (nothing is hosted here)", columns, columns)
    for model in zoo().values():
        address = model.address or f"by hand, {model.page}"
        if model.unreadable is not None:
            address = f"not readable, {model.page}"
        table.row(
            model.name,
            f"{model.tower}{' (tower alone)' if model.reads == 'tower' else ''}",
            f"{', '.join(model.modality)}, {model.image.size} px",
            model.license,
            address,
            ", ".join(model.trained_on),
        )
    table.show()
    say(
        "",
        "`retfm models NAME` shows all of one. `retfm import NAME --workdir W` downloads and reads "
        "it;",
        "`retfm import FILE --zoo NAME --workdir W` reads a file that you downloaded by hand.",
    )


def _show(name: str) -> None:
    from retfm_jax.console import say
    from retfm_jax.data.images import describe
    from retfm_jax.interop.zoo import zoo_model

    model = zoo_model(name)
    reads = {"network": "the whole network", "tower": "its image tower alone"}[model.reads]
    rows = (
        ("model", model.title),
        ("tower", model.tower),
        ("read here", f"not at all: {model.unreadable}" if model.unreadable else reads),
        ("modality", ", ".join(model.modality)),
        ("images", describe(model.image)),
        ("pooling", model.pooling or "as the file tells, or a guess that is said"),
        ("tokenizer", model.tokenizer),
        ("license", model.described_license),
        ("address", model.source),
        ("page", model.page),
        ("sha256", model.sha256),
        ("trained on", ", ".join(model.trained_on)),
        ("paper", model.citation),
        *(("note", note) for note in model.notes),
    )
    for key, value in rows:
        if value is not None:
            say(f"{key:<11} {value}")
