"""Locks on folders: a folder that one process writes is not written by another one.

The lock is a file `lock.json` in the folder that names its holder and changes every few seconds. On
the machine of the holder the operating system knows whether it is alive. Elsewhere, on shared disks
and in object stores, a lock whose file has stopped changing counts as abandoned. Clocks of two
hosts are not compared, except that a file unchanged for an hour is abandoned at once.
"""

import contextlib
import dataclasses
import fcntl
import json
import os
import socket
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from typing import Any

from retfm_jax import files
from retfm_jax.console import say
from retfm_jax.errors import UserError
from retfm_jax.files import Path, PathLike, absolute, is_remote, write_json

NAME = "lock.json"

#: Seconds between two changes, without one until a holder on another machine counts as gone, and
#: after which nobody waits to see one.
BEAT, SILENCE, LONG_AGO = 10.0, 40.0, 3600.0

#: By folder, the locks of this process.
_held: dict[str, "Lock"] = {}


@dataclasses.dataclass(frozen=True)
class Holder:
    """Process that holds a lock.

    Attributes:
      host: name of its host.
      machine: its boot and its table of processes, which no other running system shares.
      pid, started: of the process; numbers of processes are used again.
      command: as it was typed, cut at 300 characters.
      token: random text, new for every time a lock is held.
    """

    host: str
    machine: str
    pid: int
    started: str
    command: str
    token: str

    @classmethod
    def here(cls) -> "Holder":
        """Holder for this process, with a new token."""
        command = " ".join([os.path.basename(sys.argv[0]), *sys.argv[1:]])[:300]
        pid = os.getpid()
        return cls(socket.gethostname(), _machine(), pid, _started(pid), command, uuid.uuid4().hex)

    def alive(self) -> bool | None:
        """Tells whether the process is running; None where only its own machine could tell."""
        if not self.machine or self.machine != _machine():
            return None
        return _started(self.pid) == self.started != ""

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host} ({self.command})"


def _read_text(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def _machine() -> str:
    boot = _read_text("/proc/sys/kernel/random/boot_id").strip()
    try:
        return f"{boot} {os.readlink('/proc/self/ns/pid')}" if boot else ""
    except OSError:
        return ""


def _started(pid: int) -> str:
    """When a process of this machine began, in ticks; "" where it has ended."""
    # Behind the name, which may hold anything: state, then 18 more fields before the time.
    fields = _read_text(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return fields[19] if len(fields) > 19 and fields[0] not in "ZX" else ""


class Held(UserError):
    """A folder is held by another process, which the message names."""


class Lock:
    """Lock that is held and whose file is rewritten every few seconds; see `hold`.

    Args:
      path: of the lock's file, which names `holder` already.
      holder: this process.
    """

    def __init__(self, path: Path, holder: Holder):
        self._path, self._holder = path, holder
        self._taken_by: Holder | None = None
        self._leaving = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="lock", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Checks that the lock still belongs to this process.

        Raises:
          UserError: another process took it, as this one gave no sign of life for long.
        """
        if self._taken_by is not None:
            raise UserError(
                f"{self._path.parent} was taken over by {self._taken_by}, for this process had "
                "given no sign of life; it ends without writing"
            )

    def _beat(self) -> None:
        beats = 0
        while not self._leaving.wait(BEAT):
            beats += 1
            with contextlib.suppress(UserError):  # a disk that is full, or away for a while
                holder = _read(self._path)[0]
                if holder is not None and holder.token != self._holder.token:
                    self._taken_by = holder
                    return
                _write(self._path, self._holder, beats)

    def release(self) -> None:
        """Removes the file, if it still belongs to this process."""
        self._leaving.set()
        self._thread.join()
        with contextlib.suppress(UserError, *files.errors()):
            holder, _ = _read(self._path)
            if holder is not None and holder.token == self._holder.token:
                self._path.unlink(missing_ok=True)


@contextlib.contextmanager
def hold(folder: PathLike) -> Iterator[Lock]:
    """Keeps other processes from writing a folder as long as the block lasts.

    A process that holds a folder already may hold it again.

    Args:
      folder: the folder to write, local or in a store; made where it is missing.

    Raises:
      Held: another process holds it, named with its host.
      UserError: the folder cannot be written.
    """
    folder = absolute(folder)
    if str(folder) in _held:
        yield _held[str(folder)]
        return
    lock = _held[str(folder)] = Lock(folder / NAME, _acquire(folder))
    try:
        yield lock
    finally:
        del _held[str(folder)]
        lock.release()


def is_held(folder: PathLike) -> bool:
    """Tells whether a folder is held, as far as that can be told at once.

    Args:
      folder: local or in a store. One whose holder is of another machine counts as held until its
        lock is old.

    Raises:
      UserError: its lock cannot be read.
    """
    path = absolute(folder) / NAME
    holder, content = _read(path)
    return content is not None and not _gone(path, holder)


def _acquire(folder: Path) -> Holder:
    path, me = folder / NAME, Holder.here()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except files.errors() as error:
        raise UserError(f"cannot write {folder}: {files.reason(error)}") from error
    silent: bytes | None = None
    while True:
        with _alone(folder) as alone:
            holder, content = _read(path)
            if content is None or content == silent or _gone(path, holder):
                _write(path, me, 0)
                break
            if holder is not None and holder.alive():
                raise _refusal(folder, holder)
        who = holder or "a process that cannot be told"
        say(
            f"{folder} is held by {who}; waiting {SILENCE:.0f} s for a sign that it lives",
            error=True,
        )
        if _changes(path, content):
            raise _refusal(folder, _read(path)[0] or holder)
        silent = content
    if not alone:
        # Nothing kept another one from writing at the same moment: the last one has it.
        time.sleep(1.0)
        holder, _ = _read(path)
        if holder is not None and holder.token != me.token:
            raise _refusal(folder, holder)
    return me


def _gone(path: Path, holder: Holder | None) -> bool:
    if holder is not None and holder.alive() is False:
        return True
    try:
        changed = files.changed(path)
    except files.errors():
        return False
    return time.time() - changed > LONG_AGO


def _changes(path: Path, content: bytes) -> bool:
    """Whether a holder that cannot be asked writes its sign of life."""
    end = time.monotonic() + SILENCE
    while time.monotonic() < end:
        time.sleep(min(1.0, SILENCE / 4))
        now = _read(path)[1]
        if now != content:
            return now is not None
    return False


def _refusal(folder: Path, holder: Holder | None) -> Held:
    return Held(
        f"{folder} is in use: {holder or 'another process'} writes there. Wait until it has ended, "
        "or take another folder"
    )


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[bool]:
    """Keeps others from deciding at the same moment, where the disk can do that."""
    if is_remote(folder):
        yield False
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            alone = True
        except OSError:
            alone = False
        yield alone
    finally:
        os.close(descriptor)


def _read(path: Path) -> tuple[Holder | None, bytes | None]:
    """Who holds a lock, None where the file does not tell, and its bytes, None without a file."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None, None
    except files.errors() as error:
        raise UserError(f"cannot read {path}: {files.reason(error)}") from error
    try:
        values: dict[str, Any] = json.loads(content)
        return Holder(**{field.name: values[field.name] for field in _FIELDS}), content
    except (ValueError, KeyError, TypeError, RecursionError):
        return None, content


_FIELDS = dataclasses.fields(Holder)


def _write(path: Path, holder: Holder, beats: int) -> None:
    write_json(path, {**dataclasses.asdict(holder), "signs_of_life": beats})
