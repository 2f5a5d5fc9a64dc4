"""Progress of long work: a bar on a terminal, plain lines in a log."""

import contextlib
import sys
from typing import Any

from tqdm import tqdm

#: Seconds between two lines in a log.
EVERY = 30.0


class _Lines(tqdm):
    """Says now and then how far the work is, in a line that stays."""

    @staticmethod
    def status_printer(file: Any) -> Any:
        said = ""

        def show(text: str) -> None:
            nonlocal said
            state = text.partition(" [")[0]
            if state and state != said:
                said = state
                with contextlib.suppress(OSError):  # nobody reads it, or its disk is full
                    file.write(text.rstrip() + "\n")
                    file.flush()

        return show

    def close(self) -> None:
        if not self.disable:
            self.refresh()
            self.disable = True
            # The stubs of tqdm leave out what its classes share.
            self._decr_instances(self)  # pyright: ignore[reportAttributeAccessIssue]


def on_terminal() -> bool:
    """Tells whether stderr is a terminal, not a file that keeps all that is written to it."""
    try:
        return sys.stderr.isatty()
    except (AttributeError, ValueError):  # there is none, or it is closed
        return False


def progress_bar(
    iterable: Any = None, desc: str | None = None, total: float | None = None, **options: Any
) -> tqdm:
    """Makes a `tqdm`: a bar where stderr is a terminal, else a line every half a minute.

    Args:
      iterable: what to iterate over; None where the caller calls `update`.
      desc: text before the bar.
      total: number of items; None where it is that of `iterable` or unknown.
      options: further arguments of `tqdm`, such as `unit` and `disable`.
    """
    if on_terminal():
        return tqdm(iterable, desc, total, dynamic_ncols=True, **options)
    shape = "{desc}: {n_fmt}/{total_fmt} {unit} [{elapsed}<{remaining}, {rate_fmt}]"
    every = {"mininterval": EVERY, "maxinterval": EVERY}
    return _Lines(iterable, desc, total, bar_format=shape, **every, **options)
