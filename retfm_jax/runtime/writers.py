"""Metrics on disk: one JSON line a step, and TensorBoard events."""

import contextlib
import json
import time
from collections.abc import Iterator, Mapping
from typing import Any

from retfm_jax import extras
from retfm_jax.console import say
from retfm_jax.errors import UserError
from retfm_jax.files import Mirror, PathLike, as_path, atomic_write, read_bytes

# It takes in what it finds of these, for tensors and stores that are not written to here.
with extras.needed("train"), extras.absent("torch", "google.cloud.storage", "boto3"):
    from tensorboardX.event_file_writer import EventsWriter
    from tensorboardX.proto.event_pb2 import (  # made at import
        Event,  # pyright: ignore[reportAttributeAccessIssue]
        SessionLog,  # pyright: ignore[reportAttributeAccessIssue]
    )
    from tensorboardX.summary import scalar

_METRICS = "metrics.jsonl"


class MetricWriter:
    """Writes `metrics.jsonl` and TensorBoard events into a workdir.

    A run that resumes at an earlier step writes the later steps again; what the file held of them
    is dropped, so that it holds every step once.

    In an object store, where nothing can be appended, both are copied as a whole: once a minute,
    and whenever `flush` is called.

    Both files are written in `write` itself, which raises what goes wrong. A writing thread would
    end silently on a full disk, and its callers would wait forever.
    """

    def __init__(self, workdir: PathLike, step: int):
        """Opens the files to resume after a step.

        Args:
          workdir: folder of the run, local or in a store.
          step: number of updates so far; lines of later steps are dropped.

        Raises:
          UserError: they cannot be written.
        """
        self._name = as_path(workdir) / _METRICS
        self._mirror = Mirror(workdir, fetch=[_METRICS])
        self._path = self._mirror.local / _METRICS
        #: Steps up to `step` whose evaluation stands in the file.
        self.evaluated: set[int] = set()
        try:
            self._truncate(step)
            self._file = self._path.open("a", encoding="utf-8")
            # A name of its own: the library's changes once a second, and it empties what is there.
            self._events = EventsWriter(str(self._path.with_name("events")), f".{time.time_ns()}")
            if step:
                purge = Event(step=step + 1, session_log=SessionLog(status=SessionLog.START))
                self._event(purge)
            self._events.flush()
        except OSError as error:
            raise self._unwritable(error) from error

    def _truncate(self, step: int) -> None:
        if not self._path.is_file():
            return
        kept, damaged = [], 0
        for line, values in _lines(self._path.read_bytes()):
            if values is None:
                damaged += 1
            elif values["step"] <= step:
                kept.append(line)
                if any(name.startswith("eval/") for name in values):
                    self.evaluated.add(values["step"])
        if damaged:
            say(f"{self._name}: damaged lines are left out ({damaged})", error=True)
        with atomic_write(self._path, "wb") as file:
            file.writelines(line + b"\n" for line in kept)

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Adds the metrics of a step.

        Args:
          step: number of updates so far.
          metrics: values by name, such as "loss" and "eval/...".

        Raises:
          UserError: the disk is full.
        """
        try:
            self._file.write(json.dumps({"step": step, **metrics}) + "\n")
            self._file.flush()
            for name, value in metrics.items():
                self._event(Event(step=step, summary=scalar(name, value)))
            self._events.flush()
        except OSError as error:
            raise self._unwritable(error) from error
        self._mirror.copy_if_due()

    def flush(self) -> None:
        """Waits until all metrics so far are in the workdir.

        Raises:
          UserError: they cannot be written.
        """
        self._mirror.copy()

    def _event(self, event: Event) -> None:
        event.wall_time = time.time()
        self._events.write_event(event)

    def close(self) -> None:
        """Closes both files; all that was written is in them already."""
        for file in (self._file, self._events):
            with contextlib.suppress(OSError):
                file.close()
        self._mirror.close()

    def _unwritable(self, error: OSError) -> UserError:
        return UserError(f"cannot write {self._name}: {error.strerror or error}")


def read_metrics(workdir: PathLike) -> list[dict[str, Any]]:
    """Reads `metrics.jsonl` of a run; damaged lines are left out.

    Args:
      workdir: folder of the run, local or in a store.

    Returns:
      for each line its "step" and its values by name; nothing where there is no such file.

    Raises:
      UserError: it cannot be read.
    """
    path = as_path(workdir) / _METRICS
    if not path.is_file():
        return []
    return [values for _, values in _lines(read_bytes(path)) if values is not None]


def _lines(content: bytes) -> Iterator[tuple[bytes, dict[str, Any] | None]]:
    """The lines that say something, and what; None where a power cut or a kill damaged it."""
    for line in content.split(b"\n"):
        if not line.strip():
            continue
        try:
            values = json.loads(line.decode("utf-8"))
        except (ValueError, RecursionError):
            values = None
        whole = isinstance(values, dict) and type(values.get("step")) is int
        yield line, values if whole else None
