"""A wish to stop, noticed between steps."""

import signal
import types


class StopSignal:
    """Turns the first SIGTERM or SIGINT into a flag; a second one ends the process as usual.

    A context manager; handlers of before come back at its end.

    Attributes:
      received: name of the signal, None as long as none came.
    """

    def __init__(self) -> None:
        self.received: str | None = None
        self._before: dict[int, object] = {}

    def __enter__(self) -> "StopSignal":
        for number in (signal.SIGTERM, signal.SIGINT):
            self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def _handle(self, number: int, _: types.FrameType | None) -> None:
        self.received = signal.Signals(number).name
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()
