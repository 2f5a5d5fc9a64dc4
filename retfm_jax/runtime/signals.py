"""Signals: a request to stop, noticed between steps; elsewhere an end that runs all cleanup."""

import contextlib
import signal
import threading
import types
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

Result = TypeVar("Result")

#: From schedulers and clouds, from a keyboard, from a terminal that is closed.
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Ended(KeyboardInterrupt):
    """SIGTERM or SIGHUP that came inside of `ending`.

    Attributes:
      number: of the signal.
    """

    def __init__(self, number: int):
        super().__init__(signal.Signals(number).name)
        self.number = number


@contextlib.contextmanager
def ending() -> Iterator[None]:
    """Lets SIGTERM and SIGHUP end the block as Control-C does, so that its cleanup runs.

    The system's default ends a process at once, with half of a file in a temporary folder. A second
    signal does that. A signal that is ignored stays ignored.

    Raises:
      Ended: one of them came.
    """
    before: dict[int, Any] = {}  # handlers as `signal` takes and gives them

    def restore() -> None:
        while before:
            signal.signal(*before.popitem())

    def end(number: int, _: types.FrameType | None) -> None:
        restore()
        raise Ended(number)

    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) == signal.SIG_DFL:
                before[number] = signal.signal(number, end)
    try:
        yield
    finally:
        restore()


class _CutShort(BaseException):
    """Raised where the signal comes, inside of `StopSignal.cut_short`."""


class StopSignal:
    """Turns the first SIGTERM, SIGINT or SIGHUP into a flag; a second one acts as usual.

    A SIGHUP that is ignored stays ignored: so runs under `nohup` outlive their terminal. A context
    manager, at whose end the earlier handlers are restored.

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
        """Calls `action`, and ends it at once when a signal comes.

        Args:
          action: work that may be ended anywhere; not called where a signal came before.

        Returns:
          its result; None where a signal came.
        """
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
