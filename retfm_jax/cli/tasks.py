"""`retfm tasks`: the protocols and the published tasks of `retfm evaluate`."""

import argparse
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from retfm_jax.cli import options
from retfm_jax.cli.options import add_verb
from retfm_jax.cli.tables import Table
from retfm_jax.evaluation.protocols import protocol_names

if TYPE_CHECKING:
    from retfm_jax.data.public_sets.description import PublicSet


def add(verbs) -> None:
    """Adds the verb."""
    about = "list the protocols and the published tasks that `retfm evaluate` knows"
    parser = add_verb(verbs, "tasks", run, about)
    parser.add_argument(
        "name", nargs="?", help="of a task or a public set: all that is known of it"
    )
    options.data_dir(parser)


def run(args: argparse.Namespace) -> None:
    """Runs the verb.

    Raises:
      UserError: there is no task or public set of that name.
    """
    from retfm_jax.console import say
    from retfm_jax.data.public_sets.bundled import public_sets
    from retfm_jax.data.tasks import described_tasks, whereabouts

    if args.name:
        _show(_found(args.name), args.data_dir)
        return
    say("protocols (--task):", *(f"    {name}" for name in protocol_names()))
    columns = ["task", "classes", "images", "here", "set", "licence"]
    table = Table("published tasks (--dataset)", columns, ["here", "set", "licence"])
    tasks = described_tasks()
    for described in public_sets().values():
        for name in described.tasks:
            task = tasks[name]
            table.row(
                name,
                len(task["classes"]),
                _images(task.get("images")),
                whereabouts(task, args.data_dir),
                described.name,
                described.licence,
            )
    table.show()
    say(
        "",
        f"here: what is below {args.data_dir} (--data_dir); `retfm tasks NAME` says where a set is "
        "to be had, whom to cite, and what to know of it.",
        "A folder with train/CLASS/*.jpg and test/CLASS/*.jpg is a task, too, and so is a YAML "
        "file of your own.",
    )


def _found(name: str) -> "PublicSet":
    """The public set of a name, or with a task of that name."""
    from retfm_jax.data.public_sets.bundled import public_sets
    from retfm_jax.errors import UserError, did_you_mean

    names = {}
    for described in public_sets().values():
        names |= {each.casefold(): described for each in (*described.tasks, described.name)}
    if name.casefold() not in names:
        raise UserError(f"no task or public set {name!r}{did_you_mean(name.casefold(), names)}")
    return names[name.casefold()]


def _show(described: "PublicSet", data_dir: str) -> None:
    """Prints all that is known of a set."""
    from retfm_jax.console import say
    from retfm_jax.data.tasks import described_tasks, whereabouts

    say(described.title, f"    source: {described.source}", f"    licence: {described.licence}")
    say(f"    from: {described.url}", f"    images: {_images(described.images)}")
    for total, what in described.versions.items():
        say(f"    {total}: {what}")
    for layout in described.layouts:
        wanted = [
            part.table[0] if part.files is None else f"files {part.files.pattern}"
            for part in layout.parts
        ]
        say(f"    layout {layout.name}: {'; '.join(wanted)}")
    for label in described.labels.values():
        what = "findings" if label.findings else "grades" if label.ordered else "classes"
        say(f"    label {label.name}, {what}:")
        for condition, codes in label.classes.items():
            many = f" ({label.images[condition]} images)" if label.images else ""
            say(f"        {condition}: {', '.join(codes)}{many}")
        if label.counted:
            say(f"        numbers of images: {label.counted}")
    for structure, files in described.masks.items():
        say(f"    masks of {structure}: {' or '.join(files.file)}")
    for name in described.tasks:
        task = described_tasks()[name]
        say(f"    task {name}: {whereabouts(task, data_dir) or 'not here'}")
    if described.about:
        say("", described.about.strip())
    for sentence in described.unverified:
        say(f"not verified: {sentence}")


def _images(said: int | str | Mapping[str, Any] | None) -> str:
    """A published number of images, of all or by split."""
    if isinstance(said, Mapping):
        return " + ".join(f"{number} {split}" for split, number in said.items())
    return "" if said in (None, "any") else str(said)
