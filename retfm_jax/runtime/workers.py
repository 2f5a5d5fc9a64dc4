"""Worker processes: they and their shared memory end with their parent."""

import multiprocessing
import multiprocessing.connection
import os
import re
import signal
import threading
from multiprocessing import shared_memory
from pathlib import Path

#: Seconds for which a worker outlives a SIGTERM, should its parent not end before.
GRACE = 20.0

#: Where Linux shows shared memory; its names begin with the process that they belong to.
_SHARED = Path("/dev/shm")
_NAME = re.compile(r"r(\d+)_(\d+)_[0-9a-f]+")


def end_with_parent(*_: object) -> None:
    """Ends this worker process when the process that began it ends; call it first in the worker.

    It does so however the parent ends, by kill -9 as well, and whatever the worker is waiting for.
    Signals are left to the parent: a terminal and `timeout` send them to both, and a parent that
    saves and stops may want one more batch. A SIGTERM to a worker alone ends it after `GRACE`.

    Args:
      _: ignored; it lets this be an initializer that is called with arguments.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        return
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _end_later)
    # Names that tell whose memory it is, should all processes be killed at once. Macs have no
    # room for them, and no place where they could be looked up.
    if _SHARED.is_dir():
        # Not in the stubs: nobody else is to know them.
        prefix = f"/r{_processes()}_{parent.pid}_"
        setattr(shared_memory, "_SHM_NAME_PREFIX", prefix)  # noqa: B010
        setattr(shared_memory, "_SHM_SAFE_NAME_LENGTH", len(prefix) + 8)  # noqa: B010

    def watch() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, name="end-with-parent", daemon=True).start()


def _end_later(*_: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    timer = threading.Timer(GRACE, os._exit, [1])
    timer.daemon = True
    timer.start()


def _processes() -> int:
    """The table that a process's number is of: containers may share memory, but have their own."""
    return Path("/proc/self/ns/pid").stat().st_ino


def remove_abandoned_memory() -> None:
    """Frees shared memory of workers whose parent is gone, which no process can reach any more."""
    if not _SHARED.is_dir():
        return
    for path in _SHARED.glob("r*_*"):
        match = _NAME.fullmatch(path.name)
        if match is None or int(match[1]) != _processes():
            continue
        if not Path(f"/proc/{match[2]}").exists():
            path.unlink(missing_ok=True)
