"""`retfm import`."""

import argparse

from retfm_jax.cli.options import POSITIVE, add_verb, number
from retfm_jax.methods import method_names


def add(verbs) -> None:
    """Adds the verb."""
    parser = add_verb(verbs, "import", run, "read weights of other systems")
    parser.add_argument(
        "weights", help=".pt, .pth, .bin, .ckpt or .safetensors file, or a Hugging Face folder"
    )
    parser.add_argument(
        "--method",
        help=f"one of {', '.join(method_names())}; default: what the tensors' names tell; an "
        "image tower of any system becomes a network of images alone",
    )
    parser.add_argument("--workdir", required=True, help="new folder to write")
    number(
        parser,
        "--text_num_heads",
        POSITIVE,
        help="of the text tower, or of an image tower alone, where heads are not 64 wide",
    )


def run(args: argparse.Namespace) -> None:
    """Runs the verb; raises as `experiments.weights.import_weights`."""
    import jax

    from retfm_jax.console import say
    from retfm_jax.experiments.weights import import_weights

    model = import_weights(args.weights, args.method, args.workdir, args.text_num_heads)
    size = sum(leaf.size for leaf in jax.tree.leaves(model.params))
    for note in model.notes:
        say(note)
    say(f"{model.config.method} network with {size:,} parameters in {args.workdir}")
    say(repr(model).splitlines()[1])
