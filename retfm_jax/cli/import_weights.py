"""`retfm import`."""

import argparse

from retfm_jax.cli.options import POSITIVE, add_verb, number
from retfm_jax.methods import method_names


def add(verbs) -> None:
    """Adds the verb."""
    parser = add_verb(verbs, "import", run, "read weights of other systems")
    parser.add_argument(
        "weights",
        help=".pt, .pth, .bin, .ckpt or .safetensors file, a Hugging Face folder, "
        "hf:owner/name[@revision][:file], or a name that `retfm models` lists",
    )
    parser.add_argument(
        "--method",
        help=f"one of {', '.join(method_names())}; default: what the tensors' names tell; an "
        "image tower of any system becomes a network of images alone",
    )
    parser.add_argument("--workdir", required=True, help="new folder to write")
    parser.add_argument(
        "--zoo",
        metavar="NAME",
        help="published model of `retfm models` that a file is, which was downloaded by hand: its "
        "preprocessing, pooling and license belong to it",
    )
    parser.add_argument(
        "--pooling",
        choices=("class", "mean", "mean_norm"),
        help="features of an image tower alone: class token, mean of the patches, or a norm of "
        "their mean; default: what is known of the model, or what names and shapes tell",
    )
    parser.add_argument(
        "--tokenizer",
        help="of the text tower: vocabulary file or folder, or hf:owner/name; default: what is "
        "known of the model",
    )
    parser.add_argument(
        "--words",
        help="of a network that writes reports: JSON file of its words in the order of their ids; "
        "default: NAME.words.json beside NAME.pth",
    )
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

    model = import_weights(
        args.weights,
        args.method,
        args.workdir,
        args.text_num_heads,
        zoo=args.zoo,
        pooling=args.pooling,
        tokenizer=args.tokenizer,
        words=args.words,
    )
    size = sum(leaf.size for leaf in jax.tree.leaves(model.params))
    for note in model.notes:
        say(note)
    say(f"{model.config.method} network with {size:,} parameters in {args.workdir}")
    say(*repr(model).splitlines()[1:])
