"""Photographs of a folder: the one rule, for every verb, of which files are photographs.

- *Content decides*, never the suffix: a file is an image where its first bytes say that it is a
  JPEG, PNG, TIFF, BMP, WebP, PNM (.ppm, .pgm, .pbm), GIF, JPEG 2000 or DICOM.
- *Hidden files never are*: names that begin with a dot (`._x.jpg`, `.ipynb_checkpoints`), and what
  systems leave behind (`Thumbs.db`, `desktop.ini`, `__MACOSX`, `@eaDir`, ...). A folder of such a
  name is not entered and is no class.
- *Masks and annotations are not photographs*: an image that lies, below the folder that is looked
  through, in a folder whose name holds one of the words of `ANNOTATION_WORDS` (`Masks`,
  `Annotation-Training400`, `Ground truth`, `GT`) or that is called as annotations are (`label`,
  `1st_manual`), or whose own name begins with `mask` or ends with one of the words (`1_mask.png`,
  `1_mask_2.png`); and an image without lossy compression of 2 to 8 colors, all of whose channels
  hold the values of masks and label maps only (0 to 8, 255, and halves, thirds and quarters of
  255; 0 and 65535).
- *Thumbnails, backups and parts of downloads are not*: `thumbs/1.jpg`, `1_thumb.jpg`, `1.jpg.bak`.
- Everything else that is passed over is counted by its reason, and reported.

Of most files the first bytes are all that is read, so that a million files take seconds.
"""

import collections
import contextlib
import dataclasses
import hashlib
import itertools
import os
import re
import stat
import unicodedata
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from retfm_jax import files
from retfm_jax.data.dicom import is_dicom
from retfm_jax.data.image_files import MAX_BYTES, folded
from retfm_jax.errors import UserError
from retfm_jax.files import special_kind
from retfm_jax.runtime.threads import in_threads

#: What makes a folder or the end of a file's name one of masks or annotations.
ANNOTATION_WORDS = frozenset({
    "mask", "masks", "annotation", "annotations", "annot", "annots", "groundtruth", "groundtruths",
    "gt", "gts", "overlay", "overlays", "heatmap", "heatmaps", "gradcam", "mascara", "mascaras",
    "máscara", "máscaras", "masque", "masques", "maske", "masken", "マスク"
})  # fmt: skip
_ANNOTATION_ENDINGS = ANNOTATION_WORDS | {
    "segmentation", "segmented", "seg", "manual", "1stho", "2ndho", "label", "labels", "vessel",
    "vessels", "fov", "contour", "contours", "annotated"
}  # fmt: skip
#: Whole names of the folder in which an annotation lies.
_ANNOTATION_FOLDERS = frozenset({
    "label", "labels", "labelsah", "labelsvk", "seg", "segs", "segmentation", "segmentations",
    "segmented", "manual", "1stmanual", "2ndmanual", "1stho", "2ndho", "fov", "fovs", "av",
    "vessel", "vessels", "disccup", "分割", "分割图", "分割结果", "标注", "标注图", "標註", "標注"
})  # fmt: skip
#: Chinese names are not divided into words.
_ANNOTATION_IN_CHINESE = re.compile("掩码|掩膜|掩模|蒙版|金标准|掩碼|遮罩")
_COPY_FOLDERS = frozenset({
    "thumb", "thumbs", "thumbnail", "thumbnails", "preview", "previews", "缩略图", "縮略圖"
})  # fmt: skip
_COPY_WORDS = frozenset({"thumb", "thumbnail", "thumbs", "缩略图"})
_COPY_SUFFIXES = (
    "~", ".bak", ".backup", ".orig", ".old", ".tmp", ".temp", ".part", ".partial", ".crdownload",
    ".download", ".filepart", ".swp"
)  # fmt: skip

#: Suffixes whose owner means a photograph: content that is none is a fault worth naming.
PHOTOGRAPH_SUFFIXES = frozenset({
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".tif", ".tiff", ".bmp", ".dib", ".webp", ".ppm",
    ".pgm", ".pbm", ".pnm", ".gif", ".jp2", ".j2k", ".jpx", ".jpf", ".mpo", ".dcm", ".dicom"
})  # fmt: skip

#: Reason for which a file is passed over -> what is said of it.
REASONS = {
    "broken": "named as images, but hold none",
    "annotation": "masks or annotations",
    "copy": "thumbnails, backups or parts of downloads",
    "foreign": "of an image format that is not read",
    "special": "pipes, sockets or devices",
    "link": "symbolic links that lead nowhere, in a loop or outside",
    "other": "no images",
    "outside": "in no class folder",
    "hidden": "hidden files",
}

_HIDDEN = frozenset({
    "thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "icon\r", "__macosx",
    "@eadir", "@tmp", "@sharebin", "@recycle", "#recycle", "$recycle.bin", "lost+found",
    "system volume information", "network trash folder", "temporary items", "zbthumbnail.info",
    "__pycache__", "dicomdir"
})  # fmt: skip

#: A file's first bytes are enough to know what it is.
_HEAD = 144
#: Where photographs of one size differ, if they do.
_TAIL = 4096
_LOOKERS = 16
_PORTION = 256
_NAMED, _NAMED_BROKEN = 5, 50

_MASK_VALUES = np.isin(np.arange(256), [*range(9), 63, 64, 85, 127, 128, 170, 191, 192, 254, 255])
_MOST_MASK_COLORS = 8
#: Losslessly compressed photographs take more bytes for a pixel; masks take less.
_MASK_BYTES_A_PIXEL = 0.25
_LOSSLESS = ("PNG", "TIFF", "BMP", "PNM", "GIF")


@dataclasses.dataclass(frozen=True)
class Listing:
    """Contents of a folder.

    Attributes:
      root: the folder.
      photographs: their paths below it, with forward slashes, sorted.
      passed_over: reason (see `REASONS`) -> paths below the root of the files that are no
        photographs, sorted.
    """

    root: files.Path
    photographs: tuple[str, ...]
    passed_over: Mapping[str, tuple[str, ...]]

    def paths(self) -> list[files.Path]:
        """Lists the photographs' paths."""
        return [self.root / relative for relative in self.photographs]

    @property
    def broken(self) -> tuple[str, ...]:
        """Files that are named as photographs and hold none."""
        return self.passed_over.get("broken", ())


class Tally(Collection[str]):
    """Counts of names, of which only the first ones are kept: any number of them takes no room."""

    def __init__(self) -> None:
        self._first: list[str] = []
        self._count = 0

    def add(self, name: str) -> None:
        """Counts a name.

        Args:
          name: of a file that was passed over.
        """
        self._count += 1
        if len(self._first) < _NAMED_BROKEN:
            self._first.append(name)

    def __len__(self) -> int:
        """Number of all names."""
        return self._count

    def __iter__(self) -> Iterator[str]:
        """Yields the first names."""
        return iter(self._first)

    def __contains__(self, name: object) -> bool:
        """Tells whether a name is among the first ones."""
        return name in self._first


def sentence(passed_over: Mapping[str, Collection[str]]) -> str:
    """Counts the files that were passed over, by reason, with examples, as a sentence.

    Args:
      passed_over: reason (see `REASONS`) -> paths of the files that are no photographs.

    Returns:
      the sentence; "" where no file was passed over.
    """
    said = []
    for reason, what in REASONS.items():
        names = passed_over.get(reason, ())
        if names:
            # Hidden files are of no interest; broken ones are wanted by name.
            most = {"hidden": 0, "broken": _NAMED_BROKEN}.get(reason, _NAMED)
            shown = list(itertools.islice(names, most))
            more = ", ..." if shown and len(names) > len(shown) else ""
            said.append(f"{len(names)} {what}" + f" ({', '.join(shown)}{more})" * bool(shown))
    return f"passed over: {'; '.join(said)}" if said else ""


def to_json(passed_over: Mapping[str, Iterable[str]]) -> dict[str, Any]:
    """Counts the files that were passed over, by reason, as JSON holds it.

    Args:
      passed_over: reason (see `REASONS`) -> paths of the files that are no photographs.

    Returns:
      reason -> the number of files ("count") and at most 20 of their paths ("first"); reasons of no
      file are left out.
    """
    return {
        reason: {"count": len(names), "first": names[:20]}
        for reason in REASONS
        if (names := list(passed_over.get(reason, ())))
    }


def merged(*passed_over: Mapping[str, Iterable[str]]) -> dict[str, tuple[str, ...]]:
    """Joins several records of files that were passed over, each path once.

    Args:
      passed_over: records to join, each reason (see `REASONS`) -> paths of the files that are no
        photographs.
    """
    joint = collections.defaultdict(dict)
    for each in passed_over:
        for reason, names in each.items():
            joint[reason].update(dict.fromkeys(names))
    return {reason: tuple(names) for reason, names in joint.items() if names}


def is_hidden(name: str) -> bool:
    """Tells whether a file or folder of that name is hidden, or left behind by a system.

    Args:
      name: of a file or folder, without the folders above it.
    """
    return name.startswith(".") or name.casefold() in _HIDDEN


def find(
    root: files.PathLike,
    *,
    wanted: Callable[[str], bool] = lambda relative: True,
    links_leave: bool = True,
) -> Listing:
    """Looks through a folder and all folders below it.

    Symbolic links are followed, each folder once, so that loops of links end.

    Args:
      root: the folder.
      wanted: which paths below it (with forward slashes) are meant at all; others are neither
        photographs nor passed over.
      links_leave: whether links may lead out of the root; where not, such a link is passed over.

    Raises:
      UserError: the folder cannot be read.
    """
    photographs, passed_over = [], collections.defaultdict(list)
    with looked_through(root, wanted=wanted, links_leave=links_leave) as found:
        for relative, reason in found:
            (passed_over[reason] if reason else photographs).append(relative)
    return Listing(
        files.as_path(root),
        tuple(sorted(photographs)),
        {reason: tuple(sorted(names)) for reason, names in passed_over.items()},
    )


@contextlib.contextmanager
def looked_through(
    root: files.PathLike,
    *,
    wanted: Callable[[str], bool] = lambda relative: True,
    links_leave: bool = True,
) -> Iterator[Iterator[tuple[str, str]]]:
    """Looks through a folder as `find` does, without keeping what it finds.

    Args:
      root, wanted, links_leave: as for `find`.

    Yields:
      an iterator of paths below the root, sorted, and of the reason against each (see `REASONS`),
      "" for photographs. It raises UserError where a folder cannot be read.
    """
    root = files.as_path(root)
    bound = None if links_leave or files.is_remote(root) else os.path.realpath(root)
    base = os.fspath(root)

    def look(found: list[tuple[str, str]]) -> list[tuple[str, str]]:
        return [
            (relative, reason or reason_against(f"{base}/{relative}", relative))
            for relative, reason in found
        ]

    found = (each for each in _walk(root, bound) if wanted(each[0]))
    # A thread gets many at a time: to hand one over takes longer than to look at it.
    portions = iter(lambda: list(itertools.islice(found, _PORTION)), [])
    with in_threads(look, portions, threads=_LOOKERS, ahead=2 * _LOOKERS) as looked_at:
        yield itertools.chain.from_iterable(looked_at)


def folders(root: files.Path) -> list[files.Path]:
    """Lists the folders in a folder that are not hidden, sorted.

    Args:
      root: the folder to look into, not below.

    Raises:
      UserError: the folder cannot be read.
    """
    try:
        return sorted(
            child for child in root.iterdir() if child.is_dir() and not is_hidden(child.name)
        )
    except OSError as error:
        raise UserError(f"cannot read the folder {root}: {error.strerror}") from error


def names(root: files.Path) -> list[str]:
    """Lists paths of all files below a folder that are not hidden, whatever they hold.

    Args:
      root: the folder.

    Returns:
      paths below the folder, with forward slashes.

    Raises:
      UserError: a folder cannot be read.
    """
    return [relative for relative, reason in _walk(root, None) if not reason]


def beside(folder: files.PathLike, prefix: str) -> dict[str, tuple[str, ...]]:
    """Lists files that lie in a folder of class folders and in none of these.

    Args:
      folder: of class folders, on a local disk.
      prefix: stands before the names, with a slash between.

    Returns:
      the paths under the reason "outside", as `Listing.passed_over` has them.
    """
    with os.scandir(folder) as entries:
        found = [
            entry.name for entry in entries if not is_hidden(entry.name) and not entry.is_dir()
        ]
    return {"outside": tuple(f"{prefix}/{name}" for name in sorted(found))}


def copies(named: Mapping[str, files.PathLike]) -> list[tuple[str, ...]]:
    """Finds files that hold the same bytes: a group of names for every content that comes twice.

    Most files are told apart by their size, others by their last bytes; only what is alike in both
    is read whole.

    Args:
      named: name -> the file; one that cannot be read is a copy of none.
    """
    groups = [list(named)]
    for key in (_size, _last_bytes, _digest):
        apart: dict[Any, list[str]] = collections.defaultdict(list)
        for number, group in enumerate(groups):
            for name in group:
                with contextlib.suppress(OSError):
                    apart[number, key(named[name])].append(name)
        groups = [group for group in apart.values() if len(group) > 1]
    return [tuple(group) for group in groups]


def _size(path: files.PathLike) -> int:
    found = os.stat(path)
    if not stat.S_ISREG(found.st_mode) or not found.st_size:
        raise OSError  # a pipe would be waited for; all empty files are alike
    return found.st_size


def _last_bytes(path: files.PathLike) -> bytes:
    with open(path, "rb") as file:
        file.seek(max(0, os.path.getsize(path) - _TAIL))
        return file.read(_TAIL)


def _digest(path: files.PathLike) -> bytes:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "blake2b").digest()


def _walk(root: files.Path, bound: str | None) -> Iterator[tuple[str, str]]:
    """Paths of files below a root, each with the reason against it that needs no look inside."""
    if files.is_remote(root):
        for path in files.files_below(root):
            relative = path.relative_to(root)
            hidden = any(map(is_hidden, relative.parts))
            yield relative.as_posix(), "hidden" if hidden else ""
        return
    # A link to a folder above is a loop, too: by it, everything beside the root would be in it.
    seen = _folders_above(root)
    # Folders that are being walked through, the innermost last: what is left of each.
    within: list[tuple[str, Iterator[str]]] = [("", iter(["/\0d"]))]
    while within:
        relative, entries = within[-1]
        entry = next(entries, None)
        if entry is None:
            within.pop()
            continue
        name, _, kind = entry.partition("\0")
        name = name.removesuffix("/")
        path = f"{relative}/{name}" if relative else name
        if is_hidden(name):
            yield path, "hidden"
            continue
        full = os.path.join(root, path)
        reason, is_folder = _entry(full, kind, bound)
        if reason or not is_folder:
            yield path, reason
            continue
        try:
            found = os.stat(full)
            if (found.st_dev, found.st_ino) in seen:
                yield path, "link"
                continue
            seen.add((found.st_dev, found.st_ino))
            within.append((path, iter(_sorted_entries(full))))
        except OSError as error:
            raise UserError(f"cannot read the folder {full}: {error.strerror}") from error


def _sorted_entries(folder: str) -> list[str]:
    """Names and kinds of what a folder holds, in the order of the paths below it.

    A text for each, and no more, as a folder may hold a million.
    """
    found = []
    with os.scandir(folder) as entries:
        for entry in entries:
            kind = _kind(entry)
            is_folder = kind == _FOLDER or (kind == _LINK and os.path.isdir(entry.path))
            found.append(f"{entry.name}{'/' * is_folder}\0{kind}")
    return sorted(found)


def _folders_above(root: files.Path) -> set[tuple[int, int]]:
    """Device and inode of every folder above a folder, by its name and by where it really lies."""
    above = {*Path(os.path.abspath(root)).parents, *Path(os.path.realpath(root)).parents}
    found = set()
    for folder in above:
        with contextlib.suppress(OSError):
            stated = os.stat(folder)
            found.add((stated.st_dev, stated.st_ino))
    return found


#: What an entry of a folder is, without following links.
_FOLDER, _FILE, _LINK, _SPECIAL = "dfls"


def _kind(entry: os.DirEntry) -> str:
    try:
        if entry.is_symlink():
            return _LINK
        if entry.is_dir(follow_symlinks=False):
            return _FOLDER
        return _FILE if entry.is_file(follow_symlinks=False) else _SPECIAL
    except OSError:
        return _SPECIAL


def _entry(path: str, kind: str, bound: str | None) -> tuple[str, bool]:
    """The reason against an entry of a folder, and whether it is a folder."""
    if kind in (_FOLDER, _FILE):
        return "", kind == _FOLDER
    try:
        if kind == _LINK and bound is not None:
            real = os.path.realpath(path, strict=True)
            if os.path.commonpath([real, bound]) != bound:
                return "link", False
        mode = os.stat(path).st_mode
    except (OSError, ValueError):  # ValueError: on another drive
        return "link" if kind == _LINK else "broken", False
    if stat.S_ISDIR(mode) or stat.S_ISREG(mode):
        return "", stat.S_ISDIR(mode)
    return ("special" if special_kind(mode) else "other"), False


def reason_against(path: files.PathLike, relative: str) -> str:
    """Finds why a file is no photograph (a key of `REASONS`); "" where it is one.

    Args:
      path: a regular file.
      relative: its path below the folder that is looked through, with forward slashes.
    """
    named_so = os.path.splitext(relative)[1].lower() in PHOTOGRAPH_SUFFIXES
    try:
        head, size = _first_bytes(path)
    except files.errors():
        return "broken" if named_so else "other"
    if head is None:
        return "special"
    kind = image_format(head)
    if kind is None:
        return "foreign" if foreign_format(head) else "broken" if named_so else "other"
    if size > MAX_BYTES:
        return "broken"
    if _named_as_copy(relative):
        return "copy"
    if named_as_annotation(relative) or _looks_like_a_mask(path, kind, size):
        return "annotation"
    return ""


def _first_bytes(path: files.PathLike) -> tuple[bytes | None, int]:
    """A file's first bytes, None where it is no regular file, and its size."""
    if files.is_remote(path):
        with files.as_path(path).open("rb") as file:
            return file.read(_HEAD), 0
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    descriptor = os.open(path, flags)
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            return None, 0
        return os.read(descriptor, _HEAD), found.st_size
    finally:
        os.close(descriptor)


def is_image(path: files.PathLike) -> bool:
    """Tells whether a file begins as one of the formats that are read.

    Args:
      path: of a file, local or in a store.

    Raises:
      OSError: it cannot be read.
    """
    head, _ = _first_bytes(path)
    return head is not None and image_format(head) is not None


def image_format(head: bytes) -> str | None:
    """Finds the format of a readable image from its first bytes.

    Args:
      head: the first bytes of a file, 144 at best; DICOM is known by 132.

    Returns:
      such as "JPEG" or "PNG"; None for all else.
    """
    for kind, begin in _MAGIC:
        if head.startswith(begin):
            return kind
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    if is_dicom(head):
        return "DICOM"
    # Texts may begin with "BM" and "P5" as well.
    if head[:2] == b"BM" and int.from_bytes(head[14:18], "little") in _BMP_HEADERS:
        return "BMP"
    if re.match(rb"P[1-6]\s+(#[^\n]*\n\s*)*\d+\s+(#[^\n]*\n\s*)*\d+\s", head):
        return "PNM"
    return None


_MAGIC = (
    ("JPEG", b"\xff\xd8\xff"),
    ("PNG", b"\x89PNG\r\n\x1a\n"),
    ("TIFF", b"II*\0"),
    ("TIFF", b"MM\0*"),
    ("TIFF", b"II+\0"),
    ("GIF", b"GIF87a"),
    ("GIF", b"GIF89a"),
    ("JPEG2000", b"\0\0\0\x0cjP  \r\n\x87\n"),
    ("JPEG2000", b"\xff\x4f\xff\x51"),
)
_BMP_HEADERS = (12, 16, 40, 52, 56, 64, 108, 124)


def foreign_format(head: bytes) -> str | None:
    """Finds an image format that is known and not read, from a file's first bytes.

    Args:
      head: the first bytes of a file.

    Returns:
      such as "Photoshop"; None for all else.
    """
    if head[4:8] == b"ftyp" and head[8:12] in (
        b"heic",
        b"heix",
        b"mif1",
        b"msf1",
        b"hevc",
        b"avif",
    ):
        return "HEIC or AVIF"
    for kind, begin in (
        ("Photoshop", b"8BPS"),
        ("JPEG XL", b"\0\0\0\x0cJXL "),
        ("JPEG XL", b"\xff\x0a"),
    ):
        if head.startswith(begin):
            return kind
    return None


def _words(name: str) -> list[str]:
    apart = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", unicodedata.normalize("NFC", name))
    return re.findall(r"[^\W_]+", apart.casefold())


def named_as_annotation(relative: str) -> bool:
    """Tells whether a path is that of a mask or an annotation, by its folders and its own name.

    Args:
      relative: below the folder that is looked through, with forward slashes.
    """
    if _ANNOTATION_IN_CHINESE.search(relative):
        return True
    *parents, name = relative.split("/")
    for parent in parents:
        words = [word.rstrip("0123456789") for word in _words(parent)]
        pairs = (first + second for first, second in itertools.pairwise(words))
        if not ANNOTATION_WORDS.isdisjoint(words) or not ANNOTATION_WORDS.isdisjoint(pairs):
            return True
    if parents and _whole(parents[-1]) in _ANNOTATION_FOLDERS:
        return True
    words = _words(os.path.splitext(name)[0])
    while len(words) > 1 and words[-1].isdigit():
        words.pop()
    last = words[-1].rstrip("0123456789") if words else ""
    return len(words) > 1 and (last in _ANNOTATION_ENDINGS or words[0] in ("mask", "masks"))


def _whole(name: str) -> str:
    """A folder's name as one word, without a number that is a part of its last one."""
    *words, last = _words(name) or [""]
    return "".join([*words, last.rstrip("0123456789") or last])


def _named_as_copy(relative: str) -> bool:
    *parents, name = relative.split("/")
    if any(_whole(parent) in _COPY_FOLDERS for parent in parents):
        return True
    words = _words(os.path.splitext(name)[0])
    beginning_or_end = {words[0], words[-1]} if len(words) > 1 else set()
    return name.lower().endswith(_COPY_SUFFIXES) or not _COPY_WORDS.isdisjoint(beginning_or_end)


def _looks_like_a_mask(path: files.PathLike, kind: str, size: int) -> bool:
    if kind not in _LOSSLESS or files.is_remote(path):  # all of an object would be fetched
        return False
    from PIL import Image

    from retfm_jax.data.image_limits import MAX_PIXELS

    try:
        with Image.open(path) as image:
            pixels = image.width * image.height
            compressed = kind in ("PNG", "GIF") or (
                kind == "TIFF" and image.info.get("compression") != "raw"
            )
            if pixels > MAX_PIXELS or (compressed and size > 512 + _MASK_BYTES_A_PIXEL * pixels):
                return False
            if image.mode not in ("1", "L", "P", "RGB", "RGBA", "LA", "I;16", "I;16B", "I", "F"):
                return False
            if image.mode in ("P", "1"):
                image = image.convert("RGB")
            values = np.asarray(image)
    except Exception:  # Pillow raises many kinds: whoever decodes the file will say which
        return False
    return _is_mask(values)


def _is_mask(values: np.ndarray) -> bool:
    colors = values.reshape(values.shape[0] * values.shape[1], -1)[:, :3]
    if values.dtype.itemsize > 1:
        # Deep masks hold 0 and 65535, or 0 and 1.
        if not np.isfinite(colors).all() or (colors != np.rint(colors)).any():
            return False
        colors = colors.astype(np.int64)
        if colors.max() > 255 and not (colors % 257).any():
            colors //= 257
    # A photograph shows it in its first rows of pixels; a mask must be read to its end.
    for part in (colors[:: max(1, len(colors) // 4096)], colors):
        if part.min() < 0 or part.max() > 255 or not _MASK_VALUES[part].all():
            return False
    return 2 <= len(np.unique(colors, axis=0)) <= _MOST_MASK_COLORS


def matcher(pattern: str) -> Callable[[str], bool]:
    """Makes a test of whether a path matches a glob pattern: `*`, `?`, `[...]`, `**/`.

    Letter case and the form of Unicode do not count, as they do not on the disks of most users.

    Args:
      pattern: with forward slashes; `*` and `?` do not match a slash, `**/` matches any folders.

    Returns:
      a function of a path below the folder, with forward slashes.
    """
    parts = folded(pattern).split("/")
    *parents, name = ["(?:[^/]+/)*" if part == "**" else _glob(part) + "/" for part in parts]
    compiled = re.compile("".join(parents) + name.removesuffix("/") + r"\Z")
    return lambda relative: compiled.match(folded(relative)) is not None


def _glob(part: str) -> str:
    """One part of a glob pattern, between slashes, as a regular expression."""
    pieces = re.split(r"(\*|\?|\[!?\]?[^\]]*\])", part)
    ours = {"*": "[^/]*", "?": "[^/]"}
    return "".join(
        ours.get(piece)
        or (_glob_set(piece) if piece.startswith("[") and len(piece) > 2 else re.escape(piece))
        for piece in pieces
    )


def _glob_set(piece: str) -> str:
    inside = piece[1:-1].replace("\\", r"\\").replace("[", r"\[")
    return f"(?!/)[^{inside[1:]}]" if inside.startswith("!") else f"(?!/)[{inside}]"
