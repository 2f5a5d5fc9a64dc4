"""Flags of XLA that a run on a GPU starts with, in one place.

XLA reads `XLA_FLAGS` once, when JAX starts its devices, and a process with a flag that its XLA does
not know ends there. Flags come and go with XLA's versions, so that only those are set whose names
stand in the libraries that will read them.

Which flags, and what their makers say of them:

- `xla_gpu_enable_latency_hiding_scheduler`: collectives between GPUs run beside computation.
  https://docs.jax.dev/en/latest/gpu_performance_tips.html and
  https://docs.nvidia.com/jax-toolbox/environment-variables, where NVIDIA's images set it.
- `xla_gpu_enable_while_loop_double_buffering`: a round of a loop (of a tower's layers) need not
  copy what it hands to the next.
  https://docs.nvidia.com/jax-toolbox/performance-profiling/gpu-performance
- `xla_gpu_enable_triton_gemm`: products are tried in Triton's kernels beside cuBLAS's, and the
  faster one is taken when a program is compiled.
  https://docs.nvidia.com/jax-toolbox/performance-profiling/gpu-performance
"""

import importlib.util
import mmap
import os
import pkgutil
from collections.abc import Iterable, Mapping, MutableMapping
from pathlib import Path

#: Name -> value. A user's `XLA_FLAGS` go before these, flag for flag.
GPU_FLAGS: Mapping[str, str] = {
    "xla_gpu_enable_latency_hiding_scheduler": "true",
    "xla_gpu_enable_while_loop_double_buffering": "true",
    "xla_gpu_enable_triton_gemm": "true",
}

#: By these JAX, too, tells whether there is a GPU of NVIDIA's; the last is that of WSL 2.
_DEVICES = ("/dev/nvidia0", "/dev/nvidiactl", "/dev/dxg")
_VARIABLE = "XLA_FLAGS"


def set_gpu_flags(environment: MutableMapping[str, str] = os.environ) -> None:
    """Adds `GPU_FLAGS` to `XLA_FLAGS` where JAX is going to use a GPU.

    Call it before JAX starts. Flags that the variable names already stay as they are, and one that
    names a file of flags is left alone.

    Args:
      environment: of the process.
    """
    given = environment.get(_VARIABLE, "")
    libraries = _libraries(environment)
    if not libraries or (given.strip() and not given.lstrip().startswith("-")):
        return
    missing = [name for name in GPU_FLAGS if name not in _names(given)]
    for library in libraries:
        missing = known(library, missing)
    ours = [f"--{name}={GPU_FLAGS[name]}" for name in missing]
    if ours:
        environment[_VARIABLE] = " ".join([*given.split(), *ours])


def in_force(environment: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """Lists the flags of a process, each as "name=value"; a file of flags as its name.

    Args:
      environment: of the process.
    """
    return tuple(flag.lstrip("-") for flag in environment.get(_VARIABLE, "").split())


def known(library: Path, names: Iterable[str]) -> list[str]:
    """Finds the flags that a compiled library has, in the order given.

    A flag's name stands there as a string of its own; those that were taken out of XLA stand there
    only within other strings.

    Args:
      library: a shared library that contains XLA.
      names: of flags, without the dashes.
    """
    with open(library, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
        return [name for name in names if text.find(b"\0" + name.encode() + b"\0") >= 0]


def _names(flags: str) -> set[str]:
    return {flag.lstrip("-").partition("=")[0] for flag in flags.split()}


def _libraries(environment: Mapping[str, str]) -> list[Path]:
    """The libraries that read the flags of a process on a GPU; none where it will not use one."""
    platforms = environment.get("JAX_PLATFORMS", "")
    if platforms and not {"cuda", "gpu"} & set(platforms.lower().split(",")):
        return []
    plugins = importlib.util.find_spec("jax_plugins")
    if plugins is None or not any(map(os.path.exists, _DEVICES)):
        return []
    folders = [
        Path(place, module.name)
        for place in plugins.submodule_search_locations or ()
        for module in pkgutil.iter_modules([place])
    ]
    found = [file for folder in folders for file in sorted(folder.glob("xla_cuda_plugin*.so"))]
    jaxlib = importlib.util.find_spec("jaxlib")
    if not found or jaxlib is None:
        return []
    return [*found, *_own(Path(place) for place in jaxlib.submodule_search_locations or ())]


def _own(folders: Iterable[Path]) -> list[Path]:
    """The largest library, which of jaxlib's is the one with XLA; it reads the flags as well."""
    files = [file for folder in folders for file in folder.glob("*.so")]
    return [max(files, key=lambda file: file.stat().st_size)] if files else []
