"""`retfm export`."""

import argparse

from retfm_jax.cli.options import add_verb
from retfm_jax.errors import UserError
from retfm_jax.interop.formats import ABOUT
from retfm_jax.methods import method_names


def add(verbs) -> None:
    """Adds the verb."""
    parser = add_verb(verbs, "export", run, "write weights for the published code")
    parser.add_argument("--workdir", required=True, help="workdir or checkpoint folder")
    parser.add_argument(
        "--to",
        required=True,
        help=f"programs that go without this package: {_programs()}. Weights: the network's own "
        f"method ({', '.join(method_names())}), chinese_clip: a folder that transformers' "
        "ChineseCLIPModel opens, or hub_folder: one for the Hugging Face Hub, with a model card, "
        "which `retfm_jax.load` reads",
    )
    parser.add_argument(
        "--out",
        required=True,
        help="new folder; of the network's own method a .pt, .pth or .safetensors file",
    )
    parser.add_argument(
        "--images",
        help="photographs on which a program is compared with this package: a folder, a CSV with "
        "a column `image`, or one file; generated ones if not given",
    )
    parser.add_argument(
        "--evaluation", help="JSON file of `retfm evaluate`, for the model card of hub_folder"
    )
    parser.add_argument(
        "--container",
        choices=("checkpoint", "state_dict"),
        default="checkpoint",
        help="of a .pt: with epoch, step and `module.` names, or the bare state dict",
    )


def _programs() -> str:
    return ", ".join(f"{name} ({about})" for name, about in ABOUT.items())


def run(args: argparse.Namespace) -> None:
    """Runs the verb; raises as `experiments.weights.export` or `exporting.export_program`."""
    from retfm_jax.console import say
    from retfm_jax.experiments.weights import export
    from retfm_jax.interop.hub_folder import HUB_FOLDER

    if args.to in ABOUT:
        _export_program(args)
        return
    if args.images is not None:
        raise UserError(f"--images is for programs ({', '.join(ABOUT)}), and {args.to} is none")
    tensors = export(args.workdir, args.to, args.out, args.container, args.evaluation)
    if args.to == HUB_FOLDER:
        say(f"retfm_jax.load reads {args.out}; read its README.md before you upload it")
    elif tensors is None:
        say(f"transformers' ChineseCLIPModel opens {args.out}")
    else:
        say(f"{tensors} tensors in {args.out}")


def _export_program(args: argparse.Namespace) -> None:
    from retfm_jax.cli.tables import Table
    from retfm_jax.console import say
    from retfm_jax.experiments.exporting import export_program

    for option, given in (("--evaluation", args.evaluation), ("--container", args.container)):
        if given not in (None, "checkpoint"):
            raise UserError(f"{option} is not for programs such as {args.to}")
    made = export_program(args.workdir, args.to, args.out, args.images)
    table = Table(f"compared on {made.photographs}", ("output", "largest difference", "allowed"))
    for name, each in made.parity.items():
        table.row(name, f"{each.largest:.1e}", f"{each.bound:.0e}")
    table.show()
    say(f"{args.out} goes without retfm_jax; its README.md says how")
