"""A wish to stop, noticed between steps."""

import signal
import threading
import types
from collections.abc import Callable
from typing import Any, TypeVar

Result = TypeVar("Result")

#: From schedulers and clouds, from a keyboard, from a terminal that is closed.
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class _CutShort(BaseException):
    """Raised where the signal comes, inside of `StopSignal.cut_short`."""


class StopSignal:
    """Turns the first SIGTERM, SIGINT or SIGHUP into a flag; a second one acts as usual.

    A SIGHUP that is ignored stays ignored: so runs under `nohup` outlive their terminal. A context
    manager; handlers of before come back at its end.

    Attributes:
      received: name of the signal, None as long as none came.
    """

    def __init__(self) -> None:
        self.received: str | None = None
        self._before: dict[int, Any] = {}
        self._cutting = False

    def __enter__(self) -> "StopSignal":
        if threading.current_thread() is not threading.main_thread():
            return self  # signals are the main thread's, as in a notebook's or a server's threads
        for number in SIGNALS:
            before = signal.getsignal(number)
            if number == signal.SIGHUP and before == signal.SIG_IGN:
                continue
            self._before[number] = before
            signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def cut_short(self, action: Callable[[], Result]) -> Result | None:
        """The result of `action`, which ends at once when a signal comes; then None."""
        try:
            try:
                self._cutting = True
                return action() if self.received is None else None
            finally:
                self._cutting = False
        except _CutShort:
            return None

    def _handle(self, number: int, _: types.FrameType | None) -> None:
        self.received = signal.Signals(number).name
        self._restore()
        if self._cutting:
            raise _CutShort

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()
