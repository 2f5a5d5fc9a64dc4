"""`retfm export`."""

import argparse

from retfm_jax.cli.options import add_verb
from retfm_jax.methods import method_names


def add(verbs) -> None:
    """Adds the verb."""
    parser = add_verb(verbs, "export", run, "write weights for the published code")
    parser.add_argument("--workdir", required=True, help="workdir or checkpoint folder")
    parser.add_argument(
        "--to",
        required=True,
        help=f"the network's own method ({', '.join(method_names())}), chinese_clip: a folder "
        "that transformers' ChineseCLIPModel opens, or hub_folder: one for the Hugging Face Hub, "
        "with a model card, which `retfm_jax.load` reads",
    )
    parser.add_argument(
        "--out",
        required=True,
        help=".pt, .pth or .safetensors file (chinese_clip, hub_folder: new folder)",
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


def run(args: argparse.Namespace) -> None:
    """Runs the verb; raises as `experiments.weights.export`."""
    from retfm_jax.console import say
    from retfm_jax.experiments.weights import export
    from retfm_jax.interop.hub_folder import HUB_FOLDER

    tensors = export(args.workdir, args.to, args.out, args.container, args.evaluation)
    if args.to == HUB_FOLDER:
        say(f"retfm_jax.load reads {args.out}; read its README.md before you upload it")
    elif tensors is None:
        say(f"transformers' ChineseCLIPModel opens {args.out}")
    else:
        say(f"{tensors} tensors in {args.out}")
