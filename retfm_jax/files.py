"""Files on local disks and in object stores alike: whole or not at all, and inside their root.

A path is a `pathlib.Path`, or an `epath.Path` where it begins with `gs://`; both have the same
methods, except that stores have no links, no recursion in `glob` and no appending. Object stores
are reached through gcsfs (the extra `gcs`).
"""

import contextlib
import fcntl
import glob
import importlib.util
import io
import json
import os
import pathlib
import posixpath
import re
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from typing import IO, Any

from etils import epath

from retfm_jax import extras
from retfm_jax.errors import UserError

# One way into a store, whether TensorFlow happens to be installed or not.
os.environ.setdefault("EPATH_USE_TF", "false")

#: A local path, or one in an object store.
Path = pathlib.Path | epath.Path
#: What users and callers give for one.
PathLike = str | os.PathLike[str]

_STORE = "gs://"
_SCHEME = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]+)://")
_STREAMS = {"/dev/stdout": 1, "/dev/stderr": 2}
_DESCRIPTOR = re.compile(r"/(?:dev|proc/self)/fd/([0-9]+)")


def as_path(path: PathLike) -> Path:
    """Turns what was given into a path on a local disk, `~` expanded, or in a store.

    Args:
      path: a local path, or an address in a store that begins with `gs://`.

    Raises:
      UserError: it is no path, it is of a store that is not supported, it names no bucket, or the
        extra for object stores is not installed.
    """
    if not isinstance(path, str | os.PathLike):
        raise UserError(f"{path!r:.60} is no path, but {type(path).__name__}")
    text = os.fspath(path)
    if not isinstance(text, str):
        raise UserError(f"{path!r:.60} is no path, but bytes: os.fsdecode makes it one")
    if not text:
        raise UserError("an empty path names nothing")
    if "\0" in text:
        raise UserError(f"{text!r} is no path: it holds a NUL character")
    scheme = _SCHEME.match(text)
    if scheme is None:
        try:
            return pathlib.Path(text).expanduser()
        except RuntimeError as error:  # ~nobody
            raise UserError(f"{text}: {error}") from error
    if scheme[0] != _STORE:
        raise UserError(f"{text}: paths are local ones or begin with {_STORE}")
    if not text[len(_STORE) :].strip("/"):
        raise UserError(f"{text} names no bucket: give {_STORE}BUCKET/FOLDER")
    _reach_stores(text)
    return epath.Path(text)


def changed(path: Path) -> float:
    """Time of the last write to a file, in seconds since 1970, by the clock of its disk or store.

    Args:
      path: an existing file or object.

    Raises:
      OSError: it is not there, or cannot be looked at; a store may raise another of `errors`.
    """
    return path.stat().mtime if isinstance(path, epath.Path) else path.stat().st_mtime


def is_remote(path: PathLike) -> bool:
    """Tells whether a path is in an object store.

    Args:
      path: any path; it need not exist.
    """
    return os.fspath(path).startswith(_STORE)


def _reach_stores(path: str) -> None:
    """Sets up what gcsfs, tensorstore, Orbax and array_record each need to reach a store."""
    emulator = os.environ.get("STORAGE_EMULATOR_HOST")
    if emulator:
        # The name that Google's clients share; others have names of their own for it.
        url = emulator if "://" in emulator else f"http://{emulator}"
        os.environ["STORAGE_EMULATOR_HOST"] = url
        os.environ.setdefault("TENSORSTORE_GCS_HTTP_URL", url)
        os.environ.setdefault("CLOUD_STORAGE_EMULATOR_ENDPOINT", url)
        os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
        # Nobody looks for an account or a project of this machine.
        os.environ.setdefault("NO_GCE_CHECK", "true")
        os.environ.setdefault("GOOGLE_CLOUD_PROJECT", "emulator")
    if importlib.util.find_spec("gcsfs") is None:
        raise UserError(f"{path}: object stores want `{extras.install('gcs')}`")
    import fsspec.config

    # Other processes write, too: a listing is asked for, never remembered.
    fsspec.config.conf.setdefault("gcs", {}).setdefault("use_listings_cache", False)


@contextlib.contextmanager
def _explained(what: str, path: PathLike) -> Iterator[None]:
    try:
        yield
    except errors() as error:
        if isinstance(error, BrokenPipeError) and _descriptor(as_path(path)) is not None:
            raise  # a reader of our own output that has had enough
        raise UserError(f"cannot {what} {path}: {reason(error)}") from error


def errors() -> tuple[type[BaseException], ...]:
    """Exceptions of reading and writing: OSError, and those of the stores' libraries in use."""
    found: list[type[BaseException]] = [OSError]
    for module, names in (
        ("gcsfs.retry", ("HttpError", "ChecksumError", "NonRetryableError")),
        ("google.auth.exceptions", ("GoogleAuthError",)),
        ("aiohttp", ("ClientError",)),
    ):
        found += [getattr(sys.modules[module], name) for name in names if module in sys.modules]
    return tuple(found)


def reason(error: BaseException) -> str:
    """Describes an error of reading or writing in one line.

    Args:
      error: as caught, often one of `errors`; its `strerror` is preferred to its text.
    """
    text = getattr(error, "strerror", None) or str(error).strip() or type(error).__name__
    return text.splitlines()[0]


@contextlib.contextmanager
def atomic_write(path: PathLike, mode: str = "w") -> Iterator[IO]:
    """Opens a temporary file whose content takes the name `path` only when the block succeeds.

    Links are followed. A device, a pipe and a stream of this process (`/dev/stdout`) are written
    to as they are. In a store the upload makes an object as a whole.

    Args:
      path: the final name; its folder is made where it is missing.
      mode: "w" for UTF-8 text, "wb" for bytes.

    Yields:
      the open file.

    Raises:
      UserError: the folder cannot be written, the disk is full, or the path is a folder or a
        disk; what was there is then untouched.
    """
    path = as_path(path)
    with _explained("write", path):
        if isinstance(path, epath.Path):
            writing = _upload(path, mode)
        elif is_stream(path):
            writing = _open_stream(path, mode)
        else:
            writing = _replace(path, mode)
        with writing as file:
            yield file


def write_one_of_many(path: PathLike, data: bytes) -> None:
    """Writes a file as a whole or not at all into a folder of any number of files.

    `atomic_write` looks through the folder for what killed processes left, which takes the longer
    the more files there are. Here whoever writes the file again overwrites what is left, so that
    one process at a time may write it.

    Args:
      path: the file; its folder is made where it is missing.
      data: its content.

    Raises:
      UserError: it cannot be written.
    """
    path = as_path(path)
    if isinstance(path, epath.Path):
        with atomic_write(path, "wb") as file:
            file.write(data)
        return
    with _explained("write", path):
        path.parent.mkdir(parents=True, exist_ok=True)
        writing = path.with_name(f".{path.name}.writing")
        with open(writing, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        writing.replace(path)


def check_writable(path: PathLike) -> None:
    """Checks before long work that a file can be written, as far as that can be known.

    A missing folder is not made, and an existing file is not touched. Stores are not asked.

    Args:
      path: the file that is to be written later.

    Raises:
      UserError: the disk is full or read-only, the path or what holds it is of the wrong kind, or
        permission is missing.
    """
    path = as_path(path)
    if is_remote(path):
        return
    with _explained("write", path):
        if is_stream(path):
            return
        # The name behind links is the one that is written.
        above = next(parent for parent in path.resolve().parents if parent.exists())
        with tempfile.TemporaryFile(dir=above) as file:
            file.write(bytes(4096))


def _encoding(mode: str) -> str | None:
    return None if "b" in mode else "utf-8"


@contextlib.contextmanager
def _upload(path: epath.Path, mode: str) -> Iterator[IO]:
    # Not a file of the store: closing that one would make an object of what there is so far.
    with tempfile.NamedTemporaryFile(mode, encoding=_encoding(mode), suffix=path.suffix) as file:
        yield file
        file.flush()
        upload(pathlib.Path(file.name), path)


@contextlib.contextmanager
def _replace(path: pathlib.Path, mode: str) -> Iterator[IO]:
    # The name behind links: the link itself stays.
    path = path.resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_abandoned(path)
    temporary = None
    try:
        with tempfile.NamedTemporaryFile(
            mode, dir=path.parent, prefix=_prefix(path), delete=False, encoding=_encoding(mode)
        ) as file:
            temporary = pathlib.Path(file.name)
            _lock(file.fileno())
            yield file
            file.flush()
            os.fsync(file.fileno())
            # Before the lock ends with the file.
            temporary.chmod(_permissions(path))
            temporary.replace(path)
            temporary = None
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def _permissions(path: pathlib.Path) -> int:
    if path.exists():
        return stat.S_IMODE(path.stat().st_mode)
    return 0o666 & ~_umask()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


#: What a file can be that is no regular one.
_KINDS = (
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def refuse_special(path: PathLike) -> None:
    """Refuses a table or task that is no regular file: reading a pipe could wait without end.

    Streams of this process (`/dev/stdin`) and paths in stores pass, and so does a missing file,
    which the reader reports.

    Args:
      path: what is to be read.

    Raises:
      UserError: it is a pipe, a socket, a device or a folder.
    """
    if is_remote(path) or str(path).startswith(("/dev/", "/proc/")):
        return
    try:
        what = special_kind(os.stat(path).st_mode)
    except (OSError, ValueError):
        return  # reading it says what is wrong
    if what:
        raise UserError(f"{path} is {what}, not a file")


def special_kind(mode: int) -> str:
    """Names the kind of a file that is no regular one, as "a named pipe"; "" for a regular file.

    Args:
      mode: `st_mode` of the file.
    """
    if stat.S_ISREG(mode):
        return ""
    return next((what for is_kind, what in _KINDS if is_kind(mode)), "no regular file")


def is_stream(path: PathLike) -> bool:
    """Tells whether a path to write is a stream, a device or a pipe instead of a regular file.

    Args:
      path: what is to be written; false where nothing is there yet, and in stores.

    Raises:
      UserError: it is a folder, a disk or a socket, which cannot be written to.
    """
    path = as_path(path)
    if isinstance(path, epath.Path):
        return False
    if _descriptor(path) is not None:
        return True
    try:
        kind = path.stat().st_mode
    except FileNotFoundError:
        return False
    if stat.S_ISDIR(kind):
        raise UserError(f"cannot write {path}: it is a folder; give the name of a file")
    if stat.S_ISBLK(kind) or stat.S_ISSOCK(kind):
        raise UserError(f"cannot write {path}: it is no file")
    return not stat.S_ISREG(kind)


def _descriptor(path: Path) -> int | None:
    """The open file of this process that a name such as /dev/stdout stands for."""
    match = _DESCRIPTOR.fullmatch(str(path))
    return int(match[1]) if match else _STREAMS.get(str(path))


@contextlib.contextmanager
def _open_stream(path: pathlib.Path, mode: str) -> Iterator[IO]:
    descriptor = _descriptor(path)
    if descriptor is None:
        # Without waiting for a reader: a pipe that nobody reads is an error.
        opened = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
        os.set_blocking(opened, True)
    else:
        sys.stdout.flush()
        sys.stderr.flush()
        opened = os.dup(descriptor)
    # All at once: a block that fails has written nothing.
    with io.BytesIO() if "b" in mode else io.StringIO() as buffer:
        try:
            yield buffer
            with os.fdopen(os.dup(opened), mode, encoding=_encoding(mode)) as file:
                file.write(buffer.getvalue())
        finally:
            os.close(opened)


def write_json(path: PathLike, value: Any) -> None:
    """Writes a value as indented JSON, atomically, with non-ASCII text left readable.

    A lone surrogate, which UTF-8 cannot hold, is written as its JSON escape.

    Args:
      path: the final name, see `atomic_write`.
      value: dicts with text keys, lists, texts, numbers, booleans and None, nested.

    Raises:
      UserError: the file cannot be written.
    """
    text = json.dumps(value, indent=2, ensure_ascii=False)
    with atomic_write(path) as file:
        file.write(text.encode("utf-8", "backslashreplace").decode() + "\n")


def read_json(path: PathLike) -> Any:
    """Reads a JSON file.

    Args:
      path: a UTF-8 file.

    Raises:
      UserError: the file is missing, unreadable or no JSON.
    """
    path = as_path(path)
    try:
        with _explained("read", path):
            return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid JSON: {error}") from error


def read_bytes(path: PathLike) -> bytes:
    """Reads a file.

    Args:
      path: a file or an object of a store.

    Raises:
      UserError: it is missing or unreadable.
    """
    path = as_path(path)
    with _explained("read", path):
        return path.read_bytes()


@contextlib.contextmanager
def local_file(path: PathLike) -> Iterator[pathlib.Path]:
    """Yields a local file or folder as it is, or a temporary local copy of one in a store.

    It serves readers that take only names of local files. The copy is removed after the block.

    Args:
      path: a file or a folder; a folder is copied with all that is in it.

    Raises:
      UserError: an object cannot be read.
    """
    path = as_path(path)
    if isinstance(path, pathlib.Path):
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = pathlib.Path(folder) / path.name
        for file in files_below(path) if path.is_dir() else [path]:
            local = copy / file.relative_to(path)
            local.parent.mkdir(parents=True, exist_ok=True)
            with _explained("read", file), file.open("rb") as source, local.open("wb") as target:
                shutil.copyfileobj(source, target)
        yield copy


def upload(source: Path, target: Path) -> None:
    """Copies a local file to an object, which is there as a whole or not at all.

    Args:
      source: the local file.
      target: the object, in a store; one of that name is replaced.

    Raises:
      OSError: the file cannot be read or the store cannot be written; see `errors` for others.
    """
    import fsspec

    store, name = fsspec.url_to_fs(os.fspath(target), finalize_on_close=True)
    store.put_file(os.fspath(source), name)


def files_below(folder: PathLike) -> list[Path]:
    """All files in a folder and its subfolders, sorted; none where the folder does not exist.

    Args:
      folder: a local folder, or a prefix in a store.
    """
    folder = as_path(folder)
    if not is_remote(folder):
        return sorted(path for path in folder.rglob("*") if path.is_file())
    import fsspec

    store, name = fsspec.url_to_fs(os.fspath(folder), finalize_on_close=True)
    return [epath.Path(_STORE + found) for found in sorted(store.find(name))]


class Mirror:
    """Local folder for writers that append to files, and its copy in a store, which cannot append.

    Where the final folder is local, it is used itself, and nothing is copied.

    Attributes:
      local: the folder to write into.
    """

    def __init__(self, folder: PathLike, fetch: Iterable[str] = (), every: float = 60.0):
        """Makes the local folder.

        Args:
          folder: the final folder, local or in a store.
          fetch: names of files in it that are to be continued; missing ones are skipped.
          every: least time between two copies of `copy_if_due`, in seconds.

        Raises:
          UserError: the store cannot be read, or the folder cannot be made.
        """
        self._folder, self._every = as_path(folder), every
        self._copied: dict[Path, tuple[int, int]] = {}
        self._last, self._temporary = time.monotonic(), None
        if isinstance(self._folder, pathlib.Path):
            self.local = self._folder
            with _explained("write", folder):
                self.local.mkdir(parents=True, exist_ok=True)
            return
        self._temporary = tempfile.TemporaryDirectory()
        self.local = pathlib.Path(self._temporary.name)
        with _explained("read", folder):
            for name in fetch:
                with contextlib.suppress(FileNotFoundError):
                    (self.local / name).write_bytes((self._folder / name).read_bytes())

    def copy_if_due(self) -> None:
        """Copies what has changed, where `every` seconds have passed since the last copy.

        Raises:
          UserError: the store cannot be written.
        """
        if time.monotonic() - self._last >= self._every:
            self.copy()

    def copy(self) -> None:
        """Copies every file that has changed since it was last copied.

        Raises:
          UserError: the store cannot be written.
        """
        if self._temporary is None:
            return
        for path in files_below(self.local):
            found = os.stat(path)
            state = found.st_size, found.st_mtime_ns
            if self._copied.get(path) != state:
                target = self._folder / path.relative_to(self.local)
                with _explained("write", target):
                    upload(path, target)
                self._copied[path] = state
        self._last = time.monotonic()

    def close(self) -> None:
        """Copies what has changed and removes the temporary local folder, if there is one.

        Raises:
          UserError: the store cannot be written.
        """
        try:
            self.copy()
        finally:
            if self._temporary is not None:
                self._temporary.cleanup()


def absolute(path: PathLike) -> Path:
    """Absolute form of a path, from the root of the disk or the store; links are kept.

    Args:
      path: relative paths are taken from the working folder.
    """
    path = as_path(path)
    return path if is_remote(path) else path.absolute()


def rename(path: Path, target: Path) -> None:
    """Gives a file or folder another name on the same disk or in the same store.

    In a store every object is copied and then removed: this takes time, and a process that is
    killed meanwhile leaves both.

    Args:
      path: the present name.
      target: the new name; local files of that name are replaced.

    Raises:
      OSError: it cannot be renamed; see `errors` for others.
    """
    if not is_remote(path):
        path.rename(target)
        return
    import fsspec

    store, name = fsspec.url_to_fs(os.fspath(path), finalize_on_close=True)
    _, new = fsspec.url_to_fs(os.fspath(target), finalize_on_close=True)
    for found in store.find(name):
        store.cp_file(found, new + found[len(name) :])
    store.rm(name, recursive=True)


def remove(path: PathLike) -> None:
    """Removes a file, or a folder with all that is in it; fine where there is none.

    Args:
      path: a file, a folder or a link; of a link only the link itself is removed.

    Raises:
      OSError: it cannot be removed; see `errors` for others.
    """
    path = as_path(path)
    if isinstance(path, epath.Path):
        path.rmtree(missing_ok=True)
    elif path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def whole_folder(folder: PathLike, last: str, overwrite: bool = False) -> Iterator[pathlib.Path]:
    """Yields a local folder to fill, whose files make `folder` only when the block succeeds.

    On a local disk the folder takes its name at the end. In a store `last` is uploaded after all
    other files and completes the folder. Where existing files are replaced there by different ones,
    `last` is removed first and is missing until the upload is complete.

    Args:
      folder: the final name; the folder that holds it is made where it is missing.
      last: the file without which readers do not recognize the folder.
      overwrite: whether a folder of that name is replaced; it stays until the new one is complete.

    Raises:
      UserError: the folder exists and is not empty, or it cannot be written.
    """
    folder = as_path(folder)
    if isinstance(folder, epath.Path):
        making = _store_folder(folder, last, overwrite)
    else:
        making = _local_folder(folder, last, overwrite)
    with _explained("write", folder), making as made:
        yield made


def _refuse_existing(folder: Path) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} is not empty: give a new folder")


@contextlib.contextmanager
def _local_folder(folder: pathlib.Path, last: str, overwrite: bool) -> Iterator[pathlib.Path]:
    folder = folder.resolve()
    folder.parent.mkdir(parents=True, exist_ok=True)
    remove_abandoned(folder)
    if not overwrite:
        _refuse_existing(folder)
    made = pathlib.Path(tempfile.mkdtemp(dir=folder.parent, prefix=_prefix(folder)))
    held = os.open(made, os.O_RDONLY)
    try:
        _lock(held)
        yield made
        made.chmod(0o777 & ~_umask())
        for path in files_below(made):
            _sync(path)
        if folder.exists():
            replaced = made.with_name(made.name + _REPLACED)
            folder.rename(replaced)
            made.rename(folder)
            shutil.rmtree(replaced, ignore_errors=True)
        else:
            made.rename(folder)
    finally:
        os.close(held)
        if made.exists():
            shutil.rmtree(made, ignore_errors=True)


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


@contextlib.contextmanager
def _store_folder(folder: epath.Path, last: str, overwrite: bool) -> Iterator[pathlib.Path]:
    if not overwrite:
        _refuse_existing(folder)
    with tempfile.TemporaryDirectory() as name:
        made = pathlib.Path(name)
        yield made
        new = {path.relative_to(made).as_posix() for path in files_below(made)}
        old = {path.relative_to(folder).as_posix() for path in files_below(folder)}
        # What has a name of its own hurts nobody: an upload that fails leaves the old ones whole.
        for relative in sorted(new - old - {last}):
            upload(made / relative, folder / relative)
        changed = [
            relative
            for relative in sorted(new & old - {last})
            if not _is_same(made / relative, folder / relative)
        ]
        if changed and last in old:
            (folder / last).unlink()
        for relative in [*changed, last]:
            upload(made / relative, folder / relative)
        for relative in old - new:
            (folder / relative).unlink()


def _is_same(path: pathlib.Path, target: epath.Path) -> bool:
    """Whether a small file is already there; large ones are not compared."""
    size = path.stat().st_size
    small = size < 1 << 20 and target.stat().length == size
    return small and target.read_bytes() == path.read_bytes()


_REPLACED = ".replaced"


def _prefix(path: pathlib.Path) -> str:
    # Cut, for a name has at most 255 bytes.
    return f".{os.fsdecode(os.fsencode(path.name)[:100])}.writing-"


def _lock(descriptor: int) -> bool:
    """Takes the lock that says "someone is still writing this"; it ends with the process."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # held, or a file system without locks
        return False
    return True


def remove_abandoned(path: pathlib.Path) -> None:
    """Removes what killed processes left of writing the file or folder `path`.

    A folder that was to be replaced when the process was killed gets its name back.

    Args:
      path: the final name, on a local disk.
    """
    for left in path.parent.glob(glob.escape(_prefix(path)) + "*"):
        writing = left.with_name(left.name.removesuffix(_REPLACED))
        if writing.exists() and not _abandoned(writing):
            continue
        with contextlib.suppress(OSError):
            if left != writing and not path.exists():
                left.rename(path)
            else:
                remove(left)


def _abandoned(path: pathlib.Path) -> bool:
    try:
        held = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        return _lock(held)
    finally:
        os.close(held)


def inside(root: PathLike, relative: str) -> Path:
    """Resolves a relative path under a root, links followed.

    Args:
      root: the folder that the result must be in.
      relative: path below it, as a table gives it; an absolute one must lead into `root`.

    Raises:
      UserError: the path leaves the root (`..`, an absolute path elsewhere, a link out of it).
    """
    root = _resolved(as_path(root))
    path = _resolved(root / relative)
    # "/b.jpg" is in no store; since Python 3.13 joining it to a root would make it relative.
    elsewhere = is_remote(root) and posixpath.isabs(relative)
    if elsewhere or not path.is_relative_to(root):
        raise UserError(
            f"{relative!r} leads outside the image root {root}; give paths relative to that root"
        )
    return path


def _resolved(path: Path) -> Path:
    if not is_remote(path):
        return path.resolve()
    # Stores have no links, and `..` is a name like any other; here it means what it does elsewhere.
    name = posixpath.normpath("/" + os.fspath(path)[len(_STORE) :])
    return epath.Path(_STORE + name.lstrip("/"))
