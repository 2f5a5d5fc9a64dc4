"""Exceptions that a user is meant to read, and what their messages share."""

import difflib
from collections.abc import Iterable, Sequence


class UserError(Exception):
    """Input that cannot be used: a file, a row, a tensor, a configuration key.

    The message is one sentence or a short list that names the input and the remedy. The command
    line prints it without a traceback and exits with `exit_status`.
    """

    #: With which the command line ends.
    exit_status = 1


class Unusable(UserError):
    """One picture or row of a source that cannot be used; the rest of the source can.

    Attributes:
      kind: the heading under which the problem is counted, such as "broken_image".
    """

    def __init__(self, kind: str, message: str):
        super().__init__(message)
        self.kind = kind


class Stopped(UserError):
    """Stop of a run by a signal; its state is saved, and the same command resumes it.

    The exit status tells this to schedulers: EX_TEMPFAIL of sysexits.h, "try again".
    """

    exit_status = 75


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """Suggests a known name, for the end of a message.

    Args:
      name: what was given; upper and lower case do not matter.
      known: the names that are allowed.

    Returns:
      a text such as "; did you mean 'retclip'?"; empty where no name is similar.
    """
    by_folded = {other.casefold(): other for other in known}
    near = difflib.get_close_matches(str(name).casefold(), by_folded, n=1)
    return f"; did you mean {by_folded[near[0]]!r}?" if near else ""


def first_of(names: Sequence[str], most: int) -> str:
    """Lists names with commas between, for a message.

    Args:
      names: any number of them.
      most: how many are listed; "..." stands for the others.
    """
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")
