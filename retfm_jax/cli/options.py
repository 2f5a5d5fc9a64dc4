"""Options that several verbs share, and how an option is added."""

import argparse
from collections.abc import Callable
from typing import Any

from retfm_jax.errors import UserError
from retfm_jax.ranges import LARGEST, Range

#: What numbers of options can be, as in a configuration.
POSITIVE, COUNT = Range(low=1, high=LARGEST), Range(low=0, high=LARGEST)
SEED, RATE = Range(low=0, high=2**32 - 1), Range(low=0)
FACTOR, SHARE = Range(above=0, high=1), Range(low=0, below=1)


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    """Says a default where there is one: not of what must be given, nor of switches."""

    def _get_help_string(self, action):
        if action.default in (None, False) or action.required:
            return action.help
        return super()._get_help_string(action)


def add_verb(
    verbs: Any,
    name: str,
    run: Callable[[argparse.Namespace], None],
    text: str,
    extra: str | None = None,
) -> argparse.ArgumentParser:
    """Adds a verb.

    Args:
      verbs: the subparsers of `retfm` or of `retfm data`.
      run: is called with the parsed options.
      text: of its help.
      extra: optional dependencies that it works with; None: what every installation has is enough.

    Returns:
      its parser, without options.
    """
    parser = verbs.add_parser(name, help=text, description=text, formatter_class=_Help)
    parser.set_defaults(run=run, extra=extra)
    return parser


def number(parser: Any, option: str, rule: Range, kind: type = int, **more: Any) -> None:
    """Adds an option that takes a number of a range.

    Args:
      kind: int or float.
      more: as `add_argument` takes it.
    """

    def convert(text: str) -> int | float:
        value = kind(text)
        if problem := rule.problem(value):
            raise UserError(f"{option} {problem}")
        return value

    convert.__name__ = kind.__name__  # argparse names it where the text is no number
    parser.add_argument(option, type=convert, **more)


class _Given(str):
    """Text of a list that was given, not its default."""


class _Joined(argparse.Action):
    """Joins what an option is given, once or several times, with commas."""

    def __call__(self, parser, namespace, values, option_string=None):
        before = getattr(namespace, self.dest)
        joined = f"{before},{values}" if isinstance(before, _Given) else str(values)
        setattr(namespace, self.dest, _Given(joined))


def listed(parser: Any, option: str, **more: Any) -> None:
    """Adds an option that takes texts with commas between; one given again adds to them.

    Args:
      more: as `add_argument` takes it.
    """
    parser.add_argument(option, action=_Joined, **more)


def config(parser: argparse.ArgumentParser) -> None:
    """Adds `--config`."""
    parser.add_argument(
        "--config",
        required=True,
        help="bundled name or path of a config (`retfm configs` lists them and their entries); "
        "--config.a.b=VALUE overrides an entry",
    )


def data_dir(parser: argparse.ArgumentParser) -> None:
    """Adds `--data_dir`."""
    parser.add_argument("--data_dir", default="datasets", help="where datasets are")


def images(parser: Any) -> None:
    """Adds `--images`, which photographs are read."""
    parser.add_argument(
        "--images",
        required=True,
        help="folder, CSV with a column `image`, one photograph, or - for a list of paths on "
        "standard input",
    )


def on_error(parser: Any) -> None:
    """Adds `--on_error` for photographs that are read."""
    parser.add_argument(
        "--on_error",
        choices=("skip", "refuse"),
        default="skip",
        help="images that cannot be used are left out and named, or end everything",
    )


def rows_on_error(parser: Any) -> None:
    """Adds `--on_error` for photographs that have a row each."""
    parser.add_argument(
        "--on_error",
        choices=("skip", "refuse"),
        default="skip",
        help="images that cannot be used get a row that says so, or end everything",
    )


def reading(parser: Any) -> None:
    """Adds how the files of a folder or release are read."""
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


def exclude(parser: Any) -> None:
    """Adds `--exclude`, the list of records that are left out."""
    parser.add_argument(
        "--exclude",
        metavar="FILE",
        help="exclusion list, as `retfm data audit` writes it: its records are left out",
    )


def search(parser: Any) -> None:
    """Adds how the likeliest report is searched for."""
    number(parser, "--beams", POSITIVE, default=3, help="reports followed side by side; 1: greedy")
    number(parser, "--length", POSITIVE, help="words of a report at most (training's if not given)")
    number(
        parser,
        "--length_penalty",
        Range(low=0, high=10),
        float,
        default=0.0,
        help="more makes longer reports: log-probabilities are divided by words to this power",
    )


def storing(parser: argparse.ArgumentParser) -> None:
    """Adds how a dataset is written, for `retfm data build` and `retfm data import`."""
    number(parser, "--image_size", COUNT, help="store at this size; 0 keeps originals")
    parser.add_argument("--on_error", choices=("skip", "refuse"), help="what faulty records do")
    reading(parser)
    parser.add_argument("--shares", help="train,validation,test shares of patients: 0.8,0.1,0.1")
    number(parser, "--seed", SEED, help="of what is random, and of splits")
    number(parser, "--workers", POSITIVE, help="how many work in parallel")
    parser.add_argument("--overwrite", action="store_true", help="replace a built dataset")
    parser.add_argument("--beam_runner", help="Apache Beam runner of a cluster that does the work")
    parser.add_argument("--beam_options", help="of that runner: name=value,name=value")
