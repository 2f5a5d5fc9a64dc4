"""Parses a command line, runs its verb, and says what went wrong."""

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from typing import TypeVar

from retfm_jax import extras
from retfm_jax.cli import (
    ablate,
    bench,
    benchmark,
    caption,
    configs,
    data_audit,
    data_build,
    data_check,
    data_import,
    data_list,
    demo,
    embed,
    evaluate,
    explain,
    export,
    import_weights,
    label,
    models,
    plan,
    predict,
    quickstart,
    segment,
    tasks,
    train,
)
from retfm_jax.console import finish, say
from retfm_jax.errors import UserError
from retfm_jax.extras import MissingExtra
from retfm_jax.runtime.signals import Ended, ending
from retfm_jax.runtime.xla_flags import set_gpu_flags

#: In the order of the help.
_VERBS = (
    quickstart,
    train,
    ablate,
    plan,
    configs,
    evaluate,
    benchmark,
    tasks,
    predict,
    segment,
    caption,
    embed,
    explain,
    demo,
    label,
    models,
    import_weights,
    export,
    bench,
)
_Status = TypeVar("_Status", bound=int | str)
_DATA_VERBS = data_build, data_import, data_list, data_check, data_audit


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Returns:
      0, or 1 where the user's input cannot be used (the message is on stderr), or 75 where a signal
      stopped a run that the same command resumes, or 128 and the number of a signal that ended
      something else. Wrong usage exits with 2. A reader that has had enough of the output
      (`retfm configs | head`) changes nothing.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    _open_standard_files()
    try:
        return _finished(_main(arguments))
    except SystemExit as end:  # help, the version, wrong usage
        raise SystemExit(_finished(end.code or 0)) from None


def _finished(status: _Status) -> _Status | int:
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
            set_gpu_flags()
            _run(args)
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


def _run(args: argparse.Namespace) -> None:
    """Runs a verb, which misses all that it works with at once, not one after the other."""
    try:
        args.run(args)
    except MissingExtra as error:
        wanted = set(extras.requirements(error.extra))
        if args.extra is None or not wanted <= set(extras.requirements(args.extra)):
            raise
        raise MissingExtra(args.extra, error.name) from error


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
    """The parser of all verbs; `args.run` is the function of the verb that was given."""
    parser = argparse.ArgumentParser(
        prog="retfm",
        description="Retinal vision-language foundation models in JAX.",
        epilog="`retfm configs` lists configs and their entries, `retfm tasks` protocols and "
        "published tasks, `retfm data list` dataset builders and built datasets.",
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for verb in _VERBS:
        verb.add(verbs)
    data = verbs.add_parser("data", help="build, import, list, check and audit datasets")
    verbs = data.add_subparsers(dest="data_verb", required=True, metavar="VERB")
    for verb in _DATA_VERBS:
        verb.add(verbs)
    return parser


class _Version(argparse.Action):
    """Reads the version only when it is asked for."""

    def __call__(self, parser, namespace, values, option_string=None):
        import importlib.metadata

        say(importlib.metadata.version("retfm-jax"))
        parser.exit()
