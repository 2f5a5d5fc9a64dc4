"""Reads and writes foreign weight files: `.pt`, `.pth`, `.bin` and `.safetensors`.

The published `.pt` is {"epoch", "step", "name", "state_dict", "optimizer"} with names that begin
with `module.`, or the bare state dict.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from retfm_jax.errors import UserError
from retfm_jax.files import atomic_write

Container = Literal["checkpoint", "state_dict"]
_TORCH = (".pt", ".pth", ".bin")


def read_tensors(path: str | Path) -> dict[str, Any]:
    """Tensors by name, whatever container they come in; nothing in the file is executed.

    Raises:
      UserError: missing, damaged, not a weight file, or a pickle that holds anything but tensors
        and plain values.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"weight file {path} does not exist")
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        try:
            return load_file(path)
        except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path} is not a readable safetensors file: {error}") from error
    if path.suffix not in _TORCH:
        raise UserError(f"{path}: weights are read from .pt, .pth, .bin or .safetensors files")
    return _state_dict(_torch_load(path), path)


def _torch_load(path: Path) -> Any:
    torch = _torch(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises pickle, zip, runtime and key errors alike
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"{path} is refused: it is damaged, or holds more than tensors and plain values, "
            f"which could run code when it is read ({first}). Save its state dict as "
            ".safetensors where you trust it, and import that"
        ) from error


def _torch(path: Path) -> Any:
    try:
        import torch
    except ImportError as error:
        raise UserError(
            f"{path.suffix} files need PyTorch: pip install 'retfm-jax[torch]', or use .safetensors"
        ) from error
    return torch


def _state_dict(loaded: Any, path: Path) -> dict[str, Any]:
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
            loaded = loaded[key]
            break
    if not isinstance(loaded, Mapping) or not loaded:
        raise UserError(f"{path} holds no state dict, but {type(loaded).__name__}")
    strange = [name for name, value in loaded.items() if not hasattr(value, "shape")]
    if strange:
        raise UserError(f"{path}: entries that are no tensors: {', '.join(map(str, strange[:5]))}")
    return dict(loaded)


def write_tensors(
    path: str | Path,
    tensors: Mapping[str, np.ndarray],
    *,
    container: Container = "checkpoint",
    name: str = "retfm_jax",
    step: int = 0,
) -> None:
    """Writes published tensors as users of the published code expect them, atomically.

    Args:
      path: ends in .safetensors (names as they are) or .pt / .pth.
      container: of a .pt: "checkpoint" with names that begin with `module.`, which the published
        code loads, or the bare "state_dict".
      name, step: what the checkpoint says of itself.

    Raises:
      UserError: another suffix, PyTorch is needed and not installed, or the disk is full.
    """
    path = Path(path)
    if path.suffix == ".safetensors":
        from safetensors.numpy import save

        with atomic_write(path, "wb") as file:
            file.write(save({key: np.asarray(value, order="C") for key, value in tensors.items()}))
        return
    if path.suffix not in (".pt", ".pth"):
        raise UserError(f"{path}: exports are written as .pt, .pth or .safetensors")
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
