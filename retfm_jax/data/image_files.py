"""Image files that a table, a task or a user names: where they are, and their bytes.

A name is looked for under its root as it is written. Where no such file exists, the one file that
is spelled the same but for letter case, Unicode form and separators is taken and reported; names
that are close stand in the error's message. A name never leaves its root: not by `..`, not by an
absolute path, and by a symbolic link only where the caller allows that (`follow_links`).
"""

import collections
import dataclasses
import difflib
import errno
import functools
import os
import threading
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from retfm_jax import files
from retfm_jax.errors import Unusable, UserError
from retfm_jax.files import special_kind

#: No photograph is larger: what lies behind the name is something else.
MAX_BYTES = 1 << 30

#: Files below a root that are looked through for what may have been meant.
_LOOKED_THROUGH = 500_000
_SUGGESTED = 3
_index_lock = threading.Lock()


@dataclasses.dataclass(frozen=True, slots=True)
class Found:
    """A file, and its real spelling where that is not the one that was given.

    Attributes:
      path: of the file.
      spelled: its path below the root as it is really spelled, "" where it was named so.
    """

    path: files.Path
    spelled: str = ""


def folded(name: str) -> str:
    """Folds a path for comparison: composed Unicode, no letter case, forward slashes.

    Args:
      name: a path or a part of one.
    """
    return unicodedata.normalize("NFC", name.replace("\\", "/")).casefold()


def read(path: files.PathLike) -> bytes:
    """Reads the bytes of a regular file.

    Nothing else is opened, so that reading never waits for a pipe.

    Args:
      path: of a local file or of an object in a store.

    Raises:
      Unusable: there is no such file, it cannot be read, it is a pipe, a socket, a device or a
        folder, or it is larger than `MAX_BYTES`.
    """
    if files.is_remote(path):
        try:
            return files.as_path(path).read_bytes()
        except FileNotFoundError as error:
            raise Unusable("missing_image", f"{path} does not exist") from error
        except files.errors() as error:
            raise Unusable("missing_image", f"cannot read {path}: {files.reason(error)}") from error
    try:
        # Not to wait: a pipe without a writer would hold the reader for ever.
        flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
        with os.fdopen(os.open(path, flags), "rb") as file:
            found = os.fstat(file.fileno())
            _require_photograph_file(path, found)
            return file.read(MAX_BYTES + 1)
    except FileNotFoundError as error:
        raise Unusable("missing_image", f"{path} does not exist") from error
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error


def _require_photograph_file(path: files.PathLike, found: os.stat_result) -> None:
    if what := special_kind(found.st_mode):
        raise Unusable("broken_image", f"{path} is {what}, not an image file")
    if found.st_size > MAX_BYTES:
        raise Unusable(
            "broken_image",
            f"{path} has {found.st_size:,} bytes; images have at most {MAX_BYTES:,}",
        )


def _unreadable(path: files.PathLike, error: Exception) -> Unusable:
    # Sockets and devices without a driver cannot be opened at all.
    try:
        what = special_kind(os.stat(path).st_mode)
    except (OSError, ValueError):
        what = ""
    if what:
        return Unusable("broken_image", f"{path} is {what}, not an image file")
    return Unusable("missing_image", f"cannot read {path}: {getattr(error, 'strerror', error)}")


def locate(root: files.PathLike, relative: str, *, follow_links: bool = False) -> Found:
    """Finds the file under a root that a name means.

    Args:
      root: the folder that the name starts from.
      relative: the name as somebody wrote it.
      follow_links: takes a file that symbolic links inside the root lead to, wherever it lies.

    Raises:
      Unusable: it is missing (the message names what is close), or outside the root.
    """
    if files.is_remote(root):
        try:
            return Found(files.inside(root, relative))
        except UserError as error:
            raise Unusable("outside_root", str(error)) from error
    if "\0" in relative:
        raise Unusable("outside_root", f"{relative!r} holds a NUL byte; no file has such a name")
    root = Path(os.path.abspath(root))
    path = Path(os.path.normpath(root / relative))
    if not path.is_relative_to(root):
        # An absolute path may name the root by way of a link; anything else has left it.
        real = Path(os.path.realpath(path))
        if ".." in Path(relative).parts or not real.is_relative_to(os.path.realpath(root)):
            raise Unusable("outside_root", _outside(relative, root))
        root, path = Path(os.path.realpath(root)), real
    spelled = ""
    if not os.path.lexists(path):
        found = _same_spelling(root, path.relative_to(root).as_posix())
        if found is None:
            raise Unusable("missing_image", f"{path} does not exist{_close_by(root, relative)}")
        path, spelled = root / found, found
    _check_links(root, path, follow_links)
    return Found(path, spelled)


def _outside(relative: str, root: files.PathLike) -> str:
    return f"{relative!r} leads outside the image root {root}; give paths relative to that root"


def _check_links(root: Path, path: Path, follow_links: bool) -> None:
    try:
        real = Path(os.path.realpath(path, strict=True))
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise Unusable("missing_image", f"{path}: its symbolic links run in a loop") from error
        if error.errno == errno.ENOENT:
            raise Unusable(
                "missing_image", f"{path} is a symbolic link to a file that does not exist"
            ) from error
        raise Unusable("missing_image", f"cannot read {path}: {error.strerror}") from error
    if not follow_links and not real.is_relative_to(os.path.realpath(root)):
        raise Unusable(
            "outside_root",
            f"{path} is a symbolic link that leads outside the image root {root}, to {real}; "
            "follow_links reads whatever links inside the root lead to",
        )


def _same_spelling(root: Path, relative: str) -> str | None:
    """The one file that is spelled the same but for case, Unicode form and separators, or None."""
    found = ""
    for part in relative.replace("\\", "/").split("/"):
        if part in ("", "."):
            continue
        if part == "..":
            return None
        names = _names(str(root / found)).get(folded(part), ())
        if part in names:
            names = (part,)
        if len(names) != 1:
            return None
        found = f"{found}/{names[0]}" if found else names[0]
    return found or None


def _names(folder: str) -> dict[str, tuple[str, ...]]:
    """The names in a folder by their folded form."""
    try:
        changed = os.stat(folder).st_mtime_ns
    except OSError:
        return {}
    return _names_at(folder, changed)


@functools.lru_cache(maxsize=256)
def _names_at(folder: str, changed: int) -> dict[str, tuple[str, ...]]:
    names: dict[str, tuple[str, ...]] = collections.defaultdict(tuple)
    try:
        for name in os.listdir(folder):
            names[folded(name)] += (name,)
    except OSError:
        return {}
    return dict(names)


def _close_by(root: Path, relative: str) -> str:
    """What a name may have meant, as the end of a message; "" where nothing is close by."""
    found = list(dict.fromkeys(_candidates(root, relative.replace("\\", "/"))))[:_SUGGESTED]
    return f"; close by: {', '.join(map(repr, found))}" if found else ""


def _candidates(root: Path, relative: str) -> Iterator[str]:
    name = PurePosixPath(relative).name
    parent = PurePosixPath(relative).parent.as_posix()
    parent = _same_spelling(root, parent) or "" if parent != "." else ""
    here = _names(str(root / parent))
    prefix = f"{parent}/" if parent else ""
    yield from (prefix + other for other in here.get(folded(name), ()))
    stem = _stem(folded(name))
    for other, names in here.items():
        if other == folded(name) or _stem(other) in (stem, folded(name)) or other == stem:
            yield from (prefix + each for each in names)
    below = _files_below(str(root))
    yield from below.get(folded(name), ())
    yield from below.get(stem, ())
    if len(here) <= 5_000:
        for other in difflib.get_close_matches(folded(name), here, n=_SUGGESTED, cutoff=0.8):
            yield from (prefix + each for each in here[other])


def _stem(name: str) -> str:
    return name.rpartition(".")[0] or name


def _files_below(root: str) -> dict[str, tuple[str, ...]]:
    with _index_lock:
        return _index(root)


@functools.lru_cache(maxsize=4)
def _index(root: str) -> dict[str, tuple[str, ...]]:
    """Paths below a root by the folded name and by the folded stem of their file."""
    names: dict[str, tuple[str, ...]] = {}
    count = 0
    for folder, folders, members in os.walk(root):
        folders.sort()
        relative = Path(folder).relative_to(root)
        for name in members:
            for key in {folded(name), _stem(folded(name))}:
                if len(names.get(key, ())) < _SUGGESTED:
                    names[key] = (*names.get(key, ()), (relative / name).as_posix())
        count += len(members)
        if count > _LOOKED_THROUGH:
            break
    return names


def respelled(found: Iterable[tuple[str, str]], count: int | None = None) -> str:
    """Reports which names were taken for files that are spelled in another way; "" for none.

    Args:
      found: names as they were written, and the files that were taken.
      count: their number, where `found` holds only some of them.
    """
    found = list(found)
    if not found:
        return ""
    written, spelled = found[0]
    return (
        f"{count or len(found)} names are spelled in another way than their files, which were "
        f"taken ({spelled!r} for {written!r})"
    )
