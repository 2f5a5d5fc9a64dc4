"""A program that one run compiled is read, not compiled, by the next."""

import jax
import jax.numpy as jnp
import pytest
from jax.experimental.compilation_cache import compilation_cache

from retfm_jax.runtime.compilation import enable_compilation_cache


@pytest.fixture(autouse=True)
def _own_settings():
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: getattr(jax.config, name) for name in names}
    for name, value in zip(names, (None, 0.0), strict=True):
        jax.config.update(name, value)
    compilation_cache.reset_cache()
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


def test_programs_are_kept_and_found_again(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    enable_compilation_cache()
    found = []
    jax.monitoring.register_event_listener(lambda event, **_: found.append(event))
    for _ in range(2):
        # A new function each time, as a new process has it.
        jax.jit(lambda x: jnp.tanh(x) @ x)(jnp.ones((3, 3)))
    assert found.count("/jax/compilation_cache/cache_hits") >= 1
    (folder,) = (tmp_path / "retfm_jax" / "compiled").iterdir()
    assert folder.name.startswith("cpu-")
    assert any("lambda" in path.name for path in folder.iterdir())


def test_a_folder_of_one_s_own_and_several_processes_are_left_alone(monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(jax, "process_count", lambda: 2)
        enable_compilation_cache()
    assert jax.config.jax_compilation_cache_dir is None
    jax.config.update("jax_compilation_cache_dir", "/somewhere")
    enable_compilation_cache()
    assert jax.config.jax_compilation_cache_dir == "/somewhere"
