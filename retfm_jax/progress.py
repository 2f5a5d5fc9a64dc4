"""Progress of long work: a bar on a terminal, plain lines in a log."""

import sys
from typing import Any

from tqdm import tqdm

#: Seconds between two lines in a log.
_EVERY = 30.0


class _Lines(tqdm):
    """Says now and then how far the work is, in a line that stays."""

    @staticmethod
    def status_printer(file: Any) -> Any:
        def show(text: str) -> None:
            if text.strip():
                file.write(text.strip() + "\n")
                file.flush()

        return show


def on_terminal() -> bool:
    """Whether somebody sees what is drawn on stderr, and nobody keeps it."""
    try:
        return sys.stderr.isatty()
    except (AttributeError, ValueError):  # there is none, or it is closed
        return False


def progress(iterable: Any = None, **options: Any) -> tqdm:
    """A `tqdm` for people: a bar where stderr is a terminal, else a line every half a minute.

    Args:
      iterable, options: as of `tqdm`.
    """
    if on_terminal():
        return tqdm(iterable, dynamic_ncols=True, **options)
    return _Lines(
        iterable,
        mininterval=_EVERY,
        maxinterval=_EVERY,
        bar_format="{desc}: {n_fmt}/{total_fmt} {unit} [{elapsed}<{remaining}, {rate_fmt}]",
        **options,
    )
