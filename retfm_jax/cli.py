"""`retfm <verb>`: parses, dispatches, and imports a verb's code only when it is called."""

import argparse
import importlib
import os
import signal
import sys
from collections.abc import Sequence
from typing import Any

from retfm_jax.console import finish, say
from retfm_jax.errors import UserError
from retfm_jax.methods import method_names
from retfm_jax.ranges import LARGEST, Range
from retfm_jax.runtime.signals import Ended, ending

#: What numbers of options can be, as in a configuration.
_POSITIVE, _COUNT = Range(low=1, high=LARGEST), Range(low=0, high=LARGEST)
_SEED, _RATE = Range(low=0, high=2**32 - 1), Range(low=0)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Returns:
      0, or 1 where the user's input cannot be used (the message is on stderr), or 75 where a signal
      stopped a run that the same command goes on with, or 128 and the number of a signal that ended
      something else. Wrong usage exits with 2. A reader that has had enough of the output
      (`retfm configs | head`) changes nothing.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    _open_standard_files()
    try:
        return _finished(_main(arguments))
    except SystemExit as end:  # help, the version, wrong usage
        raise SystemExit(_finished(end.code or 0)) from None


def _finished(status: int) -> int:
    """The exit status when the output is written as well."""
    unwritten = finish()
    if unwritten is None:
        return status
    say(f"retfm: cannot write to standard output: {unwritten}", error=True)
    return status or 1


def _open_standard_files() -> None:
    """Gives a process without standard input or output one that leads to nowhere (`>&-`).

    Else the next file that is opened takes its number, and what is printed goes into it.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDONLY if number == 0 else os.O_WRONLY)


def _main(arguments: list[str]) -> int:
    verb = " ".join(["retfm", *arguments[:1]])
    try:
        with ending():
            args = _parse(arguments)
            verb = f"retfm {args.verb}"
            # What libraries say of themselves is of no use to a user.
            os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
            os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
            module, _, function = args.run.partition(":")
            getattr(importlib.import_module(module), function)(args)
    except UserError as error:
        say(f"{verb}: {error}", error=True)
        return error.exit_status
    except BrokenPipeError:
        # Whoever read a file such as /dev/stdout has had enough of it.
        return 128 + signal.SIGPIPE
    except OSError as error:
        if error.errno is None:
            raise
        # A disk that is full or read-only, a folder that is someone else's.
        where = f": {error.filename}" if error.filename else ""
        say(f"{verb}: {error.strerror}{where}", error=True)
        return 1
    except MemoryError as error:
        say(f"{verb}: there is not enough memory{f': {error}' * bool(str(error))}", error=True)
        return 1
    except Ended as error:
        say(f"{verb}: ended by {error}", error=True)
        return 128 + error.number
    except KeyboardInterrupt:
        say(f"{verb}: interrupted", error=True)
        return 128 + signal.SIGINT
    return 0


def _parse(arguments: list[str]) -> argparse.Namespace:
    overrides = [text[len("--config.") :] for text in arguments if text.startswith("--config.")]
    parser = make_parser()
    args = parser.parse_args([text for text in arguments if not text.startswith("--config.")])
    if overrides and not hasattr(args, "config"):
        parser.error(f"--config.{overrides[0]}: `retfm {args.verb}` takes no config")
    for name, value in vars(args).items():
        values = value if isinstance(value, list) else [value]
        if any(isinstance(given, str) and not given.strip() for given in values):
            # A variable of a script that is not set, most likely: "$OUT".
            option = f"--{name}" if any(t.startswith(f"--{name}") for t in arguments) else name
            raise UserError(f"{option} is empty: give it a value, or leave it out")
    args.overrides = overrides
    return args


def make_parser() -> argparse.ArgumentParser:
    """The parser of all verbs; `args.run` names the function, as `module:function`."""
    parser = argparse.ArgumentParser(
        prog="retfm",
        description="Retinal vision-language foundation models in JAX.",
        epilog="`retfm configs` lists configs and their entries, `retfm tasks` protocols and "
        "published tasks, `retfm data list` dataset builders and built datasets.",
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    _training(verbs)
    _evaluation(verbs)
    _interop(verbs)
    _data(verbs)
    _bench(verbs)
    return parser


class _Version(argparse.Action):
    """Reads the version only when it is asked for."""

    def __call__(self, parser, namespace, values, option_string=None):
        import importlib.metadata

        say(importlib.metadata.version("retfm-jax"))
        parser.exit()


def _verb(verbs, name: str, run: str, text: str) -> argparse.ArgumentParser:
    parser = verbs.add_parser(
        name,
        help=text,
        description=text,
        formatter_class=_Help,
        argument_default=None,
    )
    parser.set_defaults(run=run)
    return parser


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    """Says a default where there is one: not of what must be given, nor of switches."""

    def _get_help_string(self, action):
        if action.default in (None, False) or action.required:
            return action.help
        return super()._get_help_string(action)


def _number(parser, option: str, rule: Range, kind: type = int, **more: Any) -> None:
    """An option that takes a number of a range."""

    def convert(text: str) -> int | float:
        value = kind(text)
        if problem := rule.problem(value):
            raise UserError(f"{option} {problem}")
        return value

    convert.__name__ = kind.__name__  # argparse names it where the text is no number
    parser.add_argument(option, type=convert, **more)


def _config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config",
        required=True,
        help="bundled name or path of a config (`retfm configs` lists them and their entries); "
        "--config.a.b=VALUE overrides an entry",
    )


def _training(verbs) -> None:
    quickstart = _verb(
        verbs,
        "quickstart",
        "retfm_jax.experiments.training:quickstart",
        "build drawn patients, train a small RET-CLIP on them, evaluate it and export it",
    )
    quickstart.add_argument("--workdir", default="quickstart", help="where everything goes")
    train = _verb(
        verbs,
        "train",
        "retfm_jax.experiments.training:train",
        "train; goes on by itself where the workdir has a checkpoint",
    )
    train.epilog = (
        "Exit status: 0 finished; 75 stopped by SIGTERM, SIGINT or SIGHUP and saved, so that the "
        "same command goes on; 1 an error, whose message names the remedy."
    )
    _config(train)
    train.add_argument("--workdir", required=True, help="checkpoints, metrics and config go there")
    ablate = _verb(
        verbs,
        "ablate",
        "retfm_jax.experiments.ablation:run",
        "train the variants of a config with several seeds and compare them; goes on by itself",
    )
    _config(ablate)
    ablate.add_argument("--workdir", required=True, help="a folder for each variant and seed")
    ablate.add_argument("--seeds", default="0,1,2", help="of weights and data, 0,1,2")
    ablate.add_argument("--variants", help="some of the config's, with commas between")
    ablate.add_argument(
        "--dataset",
        help="built dataset, task or folder of classes to compare them on (that of training if "
        "not given)",
    )
    ablate.add_argument("--split", default="test", help="split to compare them on")
    ablate.add_argument(
        "--prompts", help="some of report, name, knowledge, with commas between (by method)"
    )
    _reading(ablate.add_argument_group("folders and releases of photographs"))
    plan = _verb(
        verbs,
        "plan",
        "retfm_jax.planning.plan:run",
        "compile the training step for devices that need not be here: memory, time, collectives",
    )
    _config(plan)
    plan.add_argument(
        "--topology", required=True, help="v5e:16x16, v5p:4x4x8, ..., gpu:h100x8, or here"
    )
    plan.add_argument("--out", help="JSON file to write")
    plan.add_argument(
        "--largest_batch", action="store_true", help="search it; takes several compilations"
    )

    configs = _verb(
        verbs,
        "configs",
        "retfm_jax.listing:run_configs",
        "list the bundled configs, or the entries of one with their types and meanings",
    )
    configs.add_argument("name", nargs="?", help="bundled name or path of a config")
    configs.set_defaults(config=None)


def _evaluation(verbs) -> None:
    evaluate = _verb(
        verbs,
        "evaluate",
        "retfm_jax.evaluation.evaluate:run",
        "evaluate a trained network by a protocol; writes JSON and pictures",
    )
    evaluate.add_argument("--workdir", required=True, help="workdir or checkpoint folder")
    evaluate.add_argument(
        "--task",
        default="zero_shot",
        help="protocols with commas between: zero_shot, retrieval, linear_probe, "
        "linear_probe_unprojected, clip_adapter, tip_adapter, tip_adapter_f, fine_tune",
    )
    evaluate.add_argument(
        "--dataset",
        help="built dataset, a published task (IDRiD, FIVES, REFUGE, ...) or a folder with "
        "train/CLASS/*.jpg and test/CLASS/*.jpg (the dataset of training if not given)",
    )
    evaluate.add_argument("--data_dir", help="where datasets are (that of training if not given)")
    evaluate.add_argument("--split", default="test", help="split to evaluate on")
    evaluate.add_argument("--language", action="append", help="en or zh; may be given twice")
    evaluate.add_argument("--out", required=True, help="JSON file; pictures and a page beside it")
    evaluate.add_argument("--prompts", help="report, name or knowledge (by method if not given)")
    _number(evaluate, "--draws", _POSITIVE, help="of the bootstrap (the config's if not given)")
    _number(evaluate, "--seed", _SEED, default=0, help="of everything that is drawn")
    files = evaluate.add_argument_group("folders and releases of photographs")
    _on_error(files)
    _reading(files)
    learning = evaluate.add_argument_group("protocols that learn")
    learning.add_argument("--train_split", default="train", help="what they learn from")
    learning.add_argument(
        "--shots", default="all", help="images per class, shares, or all: 1,5,10%%,all"
    )
    _number(learning, "--folds", _POSITIVE, default=5, help="draws of the shots")
    _number(
        learning, "--fit_augmentations", _COUNT, default=0, help="augmented copies to learn from"
    )
    _number(
        learning, "--test_augmentations", _COUNT, default=0, help="augmented copies to average over"
    )
    tuning = evaluate.add_argument_group("fine_tune")
    _number(tuning, "--backbone_learning_rate", _RATE, float, default=2e-6, help="image tower")
    _number(tuning, "--head_learning_rate", _RATE, float, default=1e-3, help="linear head")
    _number(tuning, "--epochs", _POSITIVE, default=50, help="passes over the images")
    _number(tuning, "--batch_size", _POSITIVE, default=16, help="images a step")
    _verb(
        verbs,
        "tasks",
        "retfm_jax.listing:run_tasks",
        "list the protocols and the published tasks that `retfm evaluate` knows",
    )
    embed = _verb(
        verbs,
        "embed",
        "retfm_jax.experiments.training:embed",
        "embed photographs of a folder or a CSV",
    )
    embed.add_argument("--workdir", required=True, help="workdir or checkpoint folder")
    embed.add_argument(
        "--images", required=True, help="folder, CSV with a column `image`, or one photograph"
    )
    embed.add_argument("--out", required=True, help=".npz or .parquet file to write")
    _on_error(embed)
    label = _verb(
        verbs, "label", "retfm_jax.experiments.labeling:run", "read findings out of reports (JSONL)"
    )
    label.add_argument("input", help="JSONL: objects with `report`, or `left` and `right`")
    label.add_argument("--out", required=True, help="JSONL file to write")
    label.add_argument("--vocabulary", help="YAML that replaces the conditions")
    label.add_argument("--extend", help="YAML that adds to the conditions")


def _interop(verbs) -> None:
    methods = ", ".join(method_names())
    bring = _verb(
        verbs,
        "import",
        "retfm_jax.experiments.training:import_weights",
        "read published PyTorch weights",
    )
    bring.add_argument(
        "weights", help=".pt, .pth, .bin, .ckpt or .safetensors file, or a Hugging Face folder"
    )
    bring.add_argument("--method", required=True, help=f"one of {methods}")
    bring.add_argument("--workdir", required=True, help="new folder to write")
    _number(bring, "--text_num_heads", _POSITIVE, help="where heads are not 64 wide")
    export = _verb(
        verbs,
        "export",
        "retfm_jax.experiments.training:export",
        "write weights for the published code",
    )
    export.add_argument("--workdir", required=True, help="workdir or checkpoint folder")
    export.add_argument(
        "--to",
        required=True,
        help=f"the network's own method ({methods}), or chinese_clip: a folder that transformers' "
        "ChineseCLIPModel opens",
    )
    export.add_argument(
        "--out", required=True, help=".pt, .pth or .safetensors file (chinese_clip: new folder)"
    )
    export.add_argument(
        "--container",
        choices=("checkpoint", "state_dict"),
        default="checkpoint",
        help="of a .pt: with epoch, step and `module.` names, or the bare state dict",
    )


def _data(verbs) -> None:
    data = verbs.add_parser("data", help="build, import, list and check datasets")
    verbs = data.add_subparsers(dest="data_verb", required=True, metavar="VERB")
    build = _verb(
        verbs, "build", "retfm_jax.data.building.registry:run_build", "build a bundled dataset"
    )
    build.add_argument("name", help="`retfm data list` names them")
    _data_dir(build)
    build.add_argument("--source", help="folder of the files as they were downloaded")
    _number(build, "--patients", _POSITIVE, help="synthetic_fundus: how many to draw")
    build.add_argument("--population", help="synthetic_fundus: which population to draw")
    _storing(build)
    bring = _verb(
        verbs,
        "import",
        "retfm_jax.data.importing.importers:run_import",
        "import patients of your own",
    )
    bring.add_argument("--name", required=True, help="of the new dataset")
    _data_dir(bring)
    bring.add_argument("--manifest", help="CSV, .xlsx or JSONL, a row a patient")
    bring.add_argument("--images", help="folder that the manifest's paths start from")
    bring.add_argument("--encoding", default="utf-8-sig", help="of the manifest")
    bring.add_argument("--tsv", action="append", help="published images, <split>_imgs.tsv")
    bring.add_argument("--texts", action="append", help="published texts, <split>_texts.jsonl")
    bring.add_argument("--lmdb", help="published LMDB folder")
    _storing(bring)
    listing = _verb(
        verbs,
        "list",
        "retfm_jax.data.building.registry:run_list",
        "list builders and built datasets",
    )
    _data_dir(listing)
    check = _verb(
        verbs,
        "check",
        "retfm_jax.data.inspection.check:run_check",
        "look a built dataset through: counts, faults, a contact sheet",
    )
    check.add_argument("name", help="built dataset, or its folder")
    _data_dir(check)
    check.add_argument("--split", help="one split (all if not given)")
    check.add_argument("--out", required=True, help="folder for the report and the contact sheet")


def _bench(verbs) -> None:
    bench = _verb(
        verbs,
        "bench",
        "retfm_jax.benchmarks.bench:run",
        "measure this machine: the data pipeline, the training step, embedding, checkpoints",
    )
    bench.add_argument(
        "part",
        choices=("data", "step", "embedding", "checkpoint", "all"),
        help="what to measure",
    )
    _config(bench)
    bench.add_argument("--out", help="JSON file for every timing")
    _number(bench, "--rounds", _POSITIVE, default=5, help="timed runs of everything")
    bench.add_argument(
        "--against",
        action="append",
        choices=("torch", "published-data"),
        help="step: the same step in PyTorch; data: the loader of the published projects",
    )
    bench.add_argument(
        "--microbatches", type=int, help="step: gradient caching in so many parts against one"
    )
    _number(
        bench,
        "--patients",
        _POSITIVE,
        default=256,
        help="data, embedding: how many to draw if need be",
    )
    bench.add_argument("--folder", help="checkpoint: an existing folder on the disk to measure")


def _data_dir(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data_dir", default="datasets", help="where datasets are")


def _on_error(parser) -> None:
    parser.add_argument(
        "--on_error",
        choices=("skip", "refuse"),
        default="skip",
        help="images that cannot be used are left out and named, or end everything",
    )


def _reading(parser) -> None:
    parser.add_argument(
        "--patient_regex",
        metavar="REGEX",
        help="finds the patient in file names (in paths, where it has a slash): its group "
        "`patient`, else its one group, else all that it matches, such as '^([0-9]+)_'",
    )
    parser.add_argument(
        "--follow_links",
        action="store_true",
        help="read what symbolic links inside the image root or release lead to, also outside of "
        "it: whoever made the links then decides which of your files are read",
    )


def _storing(parser: argparse.ArgumentParser) -> None:
    _number(parser, "--image_size", _COUNT, help="store at this size; 0 keeps originals")
    parser.add_argument("--on_error", choices=("skip", "refuse"), help="what faulty records do")
    _reading(parser)
    parser.add_argument("--shares", help="train,validation,test shares of patients: 0.8,0.1,0.1")
    _number(parser, "--seed", _SEED, help="of drawing and of splits")
    _number(parser, "--workers", _POSITIVE, help="how many work in parallel")
    parser.add_argument("--overwrite", action="store_true", help="replace a built dataset")
    parser.add_argument("--beam_runner", help="Apache Beam runner of a cluster that does the work")
    parser.add_argument("--beam_options", help="of that runner: name=value,name=value")


if __name__ == "__main__":
    sys.exit(main())
