"""XLA's flags for GPUs: a user's go first, and one that XLA does not know ends no process."""

import importlib.machinery
import os
import subprocess
import sys
from pathlib import Path

import jaxlib
import pytest

from retfm_jax.runtime import xla_flags
from retfm_jax.runtime.xla_flags import GPU_FLAGS, in_force, known, set_gpu_flags

_START = "import jax; print(jax.devices()[0].platform)"


def _start(flags: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
    return subprocess.run(
        [sys.executable, "-c", _START], env=environment, capture_output=True, text=True, check=False
    )


@pytest.fixture
def machine(monkeypatch, tmp_path) -> Path:
    """A machine with a GPU, whose plugin knows one flag more and one less than jaxlib's library."""
    plugin = tmp_path / "plugins" / "xla_cuda12"
    plugin.mkdir(parents=True)
    (plugin / "__init__.py").touch()
    (library,) = xla_flags._own([Path(jaxlib.__path__[0])])
    names = known(library, GPU_FLAGS)
    strings = [*names[:-1], "xla_gpu_of_tomorrow", f"{names[-1]}_of_yesterday"]
    (plugin / "xla_cuda_plugin.so").write_bytes(b"".join(b"\0%s\0" % s.encode() for s in strings))
    monkeypatch.setattr(xla_flags, "GPU_FLAGS", {**GPU_FLAGS, "xla_gpu_of_tomorrow": "true"})
    monkeypatch.setattr(xla_flags, "_DEVICES", (str(tmp_path),))
    spec = xla_flags.importlib.util.find_spec

    def find_spec(name):
        if name != "jax_plugins":
            return spec(name)
        found = importlib.machinery.ModuleSpec(name, None, is_package=True)
        found.submodule_search_locations = [str(tmp_path / "plugins")]
        return found

    monkeypatch.setattr(xla_flags.importlib.util, "find_spec", find_spec)
    return plugin


def test_jax_starts_with_the_flags_and_would_not_with_an_unknown_one():
    (library,) = xla_flags._own([Path(jaxlib.__path__[0])])
    names = [*GPU_FLAGS, "xla_gpu_of_tomorrow"]
    found = known(library, names)
    assert found, "none of the flags is in this version of XLA"
    started = _start(" ".join(f"--{name}={GPU_FLAGS[name]}" for name in found))
    assert started.stdout == "cpu\n", started.stderr
    for name in {*names} - {*found}:
        assert "Unknown flag" in _start(f"--{name}=true").stderr


def test_only_what_both_libraries_know_is_added_behind_the_user_s_own(machine):
    first, *between, last = known(xla_flags._own([Path(jaxlib.__path__[0])])[0], GPU_FLAGS)
    environment = {"XLA_FLAGS": f"--xla_dump_to=/tmp/x  --{first}=false"}
    set_gpu_flags(environment)
    expected = ("xla_dump_to=/tmp/x", f"{first}=false", *(f"{name}=true" for name in between))
    assert in_force(environment) == expected
    assert last not in environment["XLA_FLAGS"]
    again = dict(environment)
    set_gpu_flags(again)
    assert again == environment


@pytest.mark.parametrize(
    "given", [{"JAX_PLATFORMS": "cpu"}, {"JAX_PLATFORMS": "tpu,cpu"}, {"XLA_FLAGS": "flags.txt"}]
)
def test_other_platforms_and_files_of_flags_are_left_alone(machine, given):
    environment = dict(given)
    set_gpu_flags(environment)
    assert environment == given


def test_machines_without_a_gpu_or_without_its_plugin_are_left_alone(machine, monkeypatch):
    (machine / "xla_cuda_plugin.so").rename(machine / "another.so")
    environment = {}
    set_gpu_flags(environment)
    monkeypatch.setattr(xla_flags, "_DEVICES", ())
    (machine / "another.so").rename(machine / "xla_cuda_plugin.so")
    set_gpu_flags(environment)
    assert not environment
    assert in_force(environment) == ()
