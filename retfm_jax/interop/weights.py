"""Reads and writes foreign weight files: PyTorch's, TorchScript archives and safetensors.

The published `.pt` is {"epoch", "step", "name", "state_dict", "optimizer"} with names that begin
with `module.`, or the bare state dict.
"""

import json
import math
import pathlib
import re
from collections.abc import Mapping
from typing import Any, Literal, get_args

import ml_dtypes
import numpy as np

from retfm_jax.errors import UserError
from retfm_jax.files import (
    Path,
    PathLike,
    as_path,
    atomic_write,
    errors,
    local_file,
    read_json,
    reason,
)
from retfm_jax.interop import pickles
from retfm_jax.interop.layouts import state_dict_of
from retfm_jax.interop.pickles import SUFFIXES, Unreadable, printable
from retfm_jax.trees import refuse_nonfinite

Container = Literal["checkpoint", "state_dict"]

#: What Hugging Face folders hold, in the order in which it is looked for.
FOLDER_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.bin",
)
#: How files with weights end.
WEIGHT_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt", ".safetensors")
#: safetensors' names of types that can be read.
_SAFETENSORS = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U64": np.uint64,
    "U32": np.uint32,
    "U16": np.uint16,
    "U8": np.uint8,
    "BOOL": np.bool_,
}
#: What the first bytes of files that are often taken for weights give away.
_STRANGERS: tuple[tuple[bytes, str], ...] = (
    (
        rb"version https://git-lfs",
        "is a Git LFS pointer, not the file itself: run `git lfs pull` in its repository, or "
        "download the file",
    ),
    (
        rb"(\xef\xbb\xbf)?\s*<(!doctype|!--|html|head|body|title|meta|script|\?xml|error)",
        "is a page (HTML or XML), not a weight file: the download gave an error or asked for a "
        "login. Open the file in a browser to see what it says, and download it again",
    ),
    (
        rb"\s*[{\[]\s*[\"{\[\]}]",
        f"is a JSON file, not a weight file: {SUFFIXES}, or from the folder or the .index.json "
        "that they belong to",
    ),
    (
        rb"\x1f\x8b|BZh|\xfd7zXZ|7z\xbc\xaf|Rar!|\x28\xb5\x2f\xfd|\x04\x22\x4d\x18",
        "is a compressed archive: unpack it first",
    ),
    (rb"\x89HDF", f"is an HDF5 file: {SUFFIXES}"),
    (rb"\x93NUMPY", f"is one NumPy array: {SUFFIXES}"),
    (rb"GGUF|ggml", f"is a GGUF file: {SUFFIXES}"),
    (rb".{257}ustar", "is a tar archive: unpack it, and give the weight file in it"),
    (
        rb"(\xef\xbb\xbf)?[\x20-\x7e\t\r\n]{5,}\Z",
        "is no weight file, but a text: where it was downloaded, it says why that failed",
    ),
)


def read_tensors(path: PathLike) -> dict[str, Any]:
    """Reads tensors by name, whatever container they come in; nothing in the file is executed.

    The content of a file decides what it is, not its suffix.

    Args:
      path: a file of PyTorch, a TorchScript archive, a safetensors file, the index of a sharded
        one, or a Hugging Face folder.

    Returns:
      NumPy arrays of the types that they were stored in.

    Raises:
      UserError: missing, damaged, not a weight file, a pickle that holds what only code could make,
        or tensors without values that can be used (sparse, quantized, meta, complex, float8).
    """
    path = as_path(path)
    try:
        if path.is_dir():
            path = weight_file(path)
        if not path.is_file():
            kind = "is no file" if path.exists() else "does not exist"
            raise UserError(f"weight file {path} {kind}")
    except (*errors(), ValueError) as error:
        raise UserError(f"cannot read weight file {printable(path)}: {reason(error)}") from error
    if path.name.endswith(".index.json"):
        return _read_shards(path)
    with local_file(path) as local:
        tensors = _read_file(local, str(path))
    strange = {name: each.why for name, each in tensors.items() if isinstance(each, Unreadable)}
    strange |= {
        name: f"of the type {each.dtype}"
        for name, each in tensors.items()
        if name not in strange and each.dtype.kind == "c"
    }
    if strange:
        raise UserError(
            f"{path}: {len(strange)} tensors have no values that can be used here: "
            + ", ".join(f"{printable(name)} ({why})" for name, why in strange.items())
            + ". Save them dense, as float32, float16 or bfloat16"
        )
    return tensors


def holds_weights(folder: PathLike) -> bool:
    """Tells whether a folder is a Hugging Face folder with weights.

    Args:
      folder: local or in a store; false where it does not exist.
    """
    return any((as_path(folder) / name).is_file() for name in FOLDER_FILES)


def weight_file(folder: Path) -> Path:
    """Weight file of a Hugging Face folder, or the index of several.

    Args:
      folder: an existing folder.

    Raises:
      UserError: there is none.
    """
    for name in FOLDER_FILES:
        if (folder / name).is_file():
            return folder / name
    near = sorted(child.name for child in folder.iterdir() if child.suffix in WEIGHT_SUFFIXES)
    raise UserError(
        f"{folder} has neither model.safetensors nor pytorch_model.bin"
        + (f"; give one of its files: {', '.join(near[:5])}" if near else "")
    )


def _read_file(path: pathlib.Path, shown: str) -> dict[str, Any]:
    """Tensors of a local file, as they are there; `shown` is its name in messages."""
    try:
        with open(path, "rb") as file:
            first = file.read(512)
    except OSError as error:
        raise UserError(f"cannot read {shown}: {reason(error)}") from error
    if not first:
        raise UserError(f"{shown} is empty (0 bytes): download or copy it again")
    # A safetensors file begins with the length of its header, which is JSON.
    headed = first[8:9] == b"{" and (len(first) < 11 or first[9:10] in (b'"', b"}", b" "))
    stranger = None if headed else _stranger(first)
    if stranger:
        raise UserError(f"{shown} {stranger}")
    if first.startswith((b"PK\x03\x04", b"\x80")) and not headed:
        return pickles.read(path, lambda value: state_dict_of(value, shown), shown)
    # No header is longer than this, and none of its lengths has another last byte than 0.
    if headed or (path.suffix == ".safetensors" and first[7:8] in (b"", b"\0")):
        return _read_safetensors(path, shown)
    what = "not a readable safetensors" if path.suffix == ".safetensors" else "no weight"
    raise UserError(
        f"{shown} is {what} file, or is damaged (it begins with {first[:8]!r}): {SUFFIXES}"
    )


def _stranger(first: bytes) -> str | None:
    for pattern, what in _STRANGERS:
        if re.match(pattern, first, re.IGNORECASE | re.DOTALL):
            return what
    return None


def _read_safetensors(path: Path, shown: str) -> dict[str, Any]:
    from safetensors import SafetensorError, safe_open

    try:
        # Looks through header, types, shapes and offsets, against the size of the file.
        with safe_open(path, framework="numpy"):
            pass
        with open(path, "rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
            start = file.tell()
            tensors: dict[str, Any] = {}
            for name, entry in header.items():
                if name == "__metadata__":
                    continue
                shape, kind = tuple(entry["shape"]), entry["dtype"]
                if kind not in _SAFETENSORS:
                    tensors[name] = Unreadable(f"of the type {kind}", shape)
                    continue
                begin, end = entry["data_offsets"]
                dtype = np.dtype(_SAFETENSORS[kind])
                if math.prod(shape) * dtype.itemsize != end - begin:
                    raise ValueError(f"{name} has {end - begin} bytes for the shape {shape}")
                file.seek(start + begin)
                tensors[name] = np.frombuffer(file.read(end - begin), dtype).reshape(shape)
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{shown} is not a readable safetensors file, or is cut short: {printable(error)}"
        ) from error
    if not tensors:
        raise UserError(f"{shown} holds no tensor")
    return tensors


def _read_shards(index: Path) -> dict[str, Any]:
    """All tensors of a network that lies in several files, which an index names.

    A file that is named may be a link to anywhere, as in the cache of Hugging Face: who has the
    folder made it. An index comes from others; what it names lies in its folder.
    """
    content = read_json(index)
    weight_map = content.get("weight_map") if isinstance(content, Mapping) else None
    if not isinstance(weight_map, Mapping) or not all(
        isinstance(file, str) for file in weight_map.values()
    ):
        raise UserError(f"{index} has no weight_map, which names the file of every tensor")
    shards = {name: _shard(index, name) for name in sorted(set(weight_map.values()))}
    missing = [name for name, shard in shards.items() if shard is None]
    if missing:
        raise UserError(
            f"{index} names {len(shards)} files, of which {len(missing)} are not there: "
            f"{', '.join(map(printable, missing[:5]))}. Download them into the same folder"
        )
    tensors: dict[str, Any] = {}
    for shard in filter(None, shards.values()):
        found = read_tensors(shard)
        for name in sorted(tensors.keys() & found.keys()):
            if not np.array_equal(tensors[name], found[name]):
                raise UserError(
                    f"{shard} and another file of {index} hold {printable(name)} with different "
                    "values: they come from two downloads or two steps of a training"
                )
        tensors |= found
    absent = [name for name in weight_map if name not in tensors]
    if absent:
        raise UserError(
            f"{index} names tensors that its files do not hold: "
            f"{', '.join(map(printable, absent[:5]))}"
        )
    return tensors


def _shard(index: Path, name: str) -> Path | None:
    """A file that an index names, None where there is none."""
    parts = name.replace("\\", "/").split("/")
    if ".." in parts or parts[0].endswith(":") or name.startswith(("/", "\\")):
        raise UserError(
            f"{index} names {printable(name)}, which lies outside of its folder: such a file is "
            "not read"
        )
    if name.endswith(".index.json"):
        raise UserError(f"{index} names {printable(name)} as a weight file, which is an index")
    try:
        path = index.parent / name
        return path if path.is_file() else None
    except (OSError, ValueError):  # a name that no file can have, links that lead in a circle
        return None


def _torch(path: Path) -> Any:
    try:
        import torch
    except ImportError as error:
        raise UserError(
            f"writing {path.suffix} files needs PyTorch: pip install torch, or use .safetensors"
        ) from error
    return torch


def check_suffix(path: PathLike) -> Path:
    """Checks that the suffix of a path names a format in which tensors can be written.

    Args:
      path: the file to write, ending in .pt, .pth or .safetensors.

    Returns:
      the path.

    Raises:
      UserError: it ends in something else, or is a folder.
    """
    path = as_path(path)
    if path.suffix not in (".pt", ".pth", ".safetensors"):
        raise UserError(f"{path}: exports are written as .pt, .pth or .safetensors")
    if path.is_dir():
        raise UserError(f"{path} is a folder: give the name of a file in it")
    return path


def _check_tensors(tensors: Any) -> None:
    """Refuses what is no mapping from names to arrays of numbers."""
    if not isinstance(tensors, Mapping):
        raise UserError(f"give tensors by name, not {type(tensors).__name__}")
    if not tensors:
        raise UserError("there is no tensor to write")
    for name, value in tensors.items():
        if not isinstance(name, str):
            raise UserError(f"a tensor has a name, and {name!r:.60} is none")
        array = value if isinstance(value, np.ndarray | np.generic) else None
        if array is None or (array.dtype.kind not in "fiub" and array.dtype != ml_dtypes.bfloat16):
            kind = type(value).__name__ if array is None else f"an array of {array.dtype}"
            raise UserError(f"{printable(name)} is no array of numbers, but {kind}")


def write_tensors(
    path: PathLike,
    tensors: Mapping[str, np.ndarray],
    *,
    container: Container = "checkpoint",
    name: str = "retfm_jax",
    step: int = 0,
) -> None:
    """Writes published tensors as users of the published code expect them, atomically.

    Args:
      path: ends in .safetensors (names as they are) or .pt / .pth.
      tensors: arrays of numbers by published name, in PyTorch's layout.
      container: of a .pt: "checkpoint" with names that begin with `module.`, which the published
        code loads, or the bare "state_dict".
      name, step: entries of a "checkpoint"; the other formats have none.

    Raises:
      UserError: another suffix, values that are not finite, PyTorch is needed and not installed, or
        the disk is full.
    """
    path = check_suffix(path)
    if container not in get_args(Container):
        raise UserError(f"container is {' or '.join(get_args(Container))}, not {container!r}")
    _check_tensors(tensors)
    refuse_nonfinite(tensors, f"the network to be written into {path}")
    if path.suffix == ".safetensors":
        from safetensors.numpy import save

        with atomic_write(path, "wb") as file:
            file.write(save({key: np.asarray(value, order="C") for key, value in tensors.items()}))
        return
    torch = _torch(path)
    # A read-only array would make PyTorch warn: it shares memory with what it is given.
    ours = {key: torch.from_numpy(np.array(value)) for key, value in tensors.items()}
    if container == "checkpoint":
        prefixed = {f"module.{key}": value for key, value in ours.items()}
        content = {"epoch": 0, "step": step, "name": name, "state_dict": prefixed}
    else:
        content = ours
    with atomic_write(path, "wb") as file:
        torch.save(content, file)
