"""Compiled programs: the cache that saves compiling them again, and the memory that they hold."""

import os
import platform
import zlib
from pathlib import Path
from typing import Any

import jax


def enable_compilation_cache() -> None:
    """Keeps compiled programs in `$XDG_CACHE_HOME/retfm_jax/compiled` (`~/.cache/...`).

    `JAX_COMPILATION_CACHE_DIR` names another folder. A run of several processes keeps programs only
    where that variable is set: processes of which only some find a cached program cannot compile it
    together. Call it after the processes of a run have found each other.
    """
    # JAX gives its config an attribute for each option when it is imported.
    kept = jax.config.jax_compilation_cache_dir  # pyright: ignore[reportAttributeAccessIssue]
    if kept is not None or jax.process_count() > 1:
        return
    try:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:  # a user without a home, as in containers: every run compiles
        return
    folder = folder / "retfm_jax" / "compiled"
    if jax.default_backend() == "cpu":
        # JAX tells chips apart by their kind, which for every processor is "cpu": a home that
        # unlike hosts share would give one of them instructions that it does not have.
        folder = folder / f"cpu-{_processor():08x}"
    jax.config.update("jax_compilation_cache_dir", str(folder))


#: Its name in version 0.1, which programs import.
keep_programs = enable_compilation_cache


def held_bytes(memory: Any) -> int | None:
    """Counts the bytes of a device that a compiled program holds at once.

    Donated arguments, which are counted as arguments and as outputs, count once.

    Args:
      memory: what `memory_analysis` of the program says; None where the device's compiler says
        nothing: so does this.
    """
    if memory is None:
        return None
    whole = memory.argument_size_in_bytes + memory.output_size_in_bytes
    return int(whole + memory.temp_size_in_bytes - memory.alias_size_in_bytes)


def _processor() -> int:
    """A number for what this host's processor can do."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    told = [line for line in lines if line.startswith(("model name", "flags", "Features"))]
    return zlib.crc32("\n".join([platform.machine(), *told[:2]]).encode())
