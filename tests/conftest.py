"""Eight CPU devices for every test, set before JAX is imported; no trace in the user's home.

What functions take and give is held against their annotations while the tests run, shapes and
dtypes of arrays too.
"""

import atexit
import gc
import importlib.util
import os
import shutil
import tempfile
from collections.abc import Iterator

import jaxtyping
import pytest
from object_store import BUCKET, emulator

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JAX_NUM_CPU_DEVICES"] = "8"
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Pages of two runs that are compared are of one day, also at midnight.
os.environ.setdefault("SOURCE_DATE_EPOCH", "1767225600")
# The programs of tests are small and run a few times: compiling them well costs more than it saves.
# Rewriting and fusion stay as users have them, only the machine code is made in a hurry.
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
# Together these halve the time that compiling takes: fusions go straight to LLVM, not through MLIR
# first, and a program is one module of LLVM's, not one for each part of it. The smoke tests, which
# do without beartype, run with versions of XLA that may not know these flags.
if importlib.util.find_spec("beartype"):
    os.environ["XLA_FLAGS"] = (
        "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
    )

import jax

if importlib.util.find_spec("beartype"):  # the smoke tests do without
    import numpy as np

    # NumPy's arrays serve where JAX's are wanted, as they do for `jax.numpy`.
    jaxtyping.Array = jax.Array | np.ndarray
    jaxtyping.install_import_hook(
        [
            "retfm_jax.data.arrays",
            "retfm_jax.data.device_augment",
            "retfm_jax.data.images",
            "retfm_jax.data.records",
            "retfm_jax.data.text",
            "retfm_jax.evaluation.metrics",
            "retfm_jax.evaluation.protocols.adapters",
            "retfm_jax.evaluation.report",
            "retfm_jax.losses",
            "retfm_jax.methods",
            "retfm_jax.models",
            "retfm_jax.rendering.markup",
            "retfm_jax.training.gradient_cache",
            "retfm_jax.training.optimizers",
            "retfm_jax.training.state",
            "retfm_jax.training.step",
        ],
        "typechecker.check",
    )

# A program is compiled once and kept there, while the tests last, for all of their workers
# and subprocesses, which find in their environment what the process that started them has set.
if "PYTEST_XDIST_WORKER" not in os.environ:
    os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="retfm_tests_")
    atexit.register(shutil.rmtree, os.environ["XDG_CACHE_HOME"], ignore_errors=True)

from retfm_jax.runtime.compilation import enable_compilation_cache

enable_compilation_cache()
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)


def pytest_collection_finish() -> None:
    """Modules and tests live to the end: searches for garbage need not look at them.

    Tracing makes objects by the million, few of them in cycles: it is looked for less often.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 10, 10)


@pytest.fixture(autouse=True)
def _annotations(request: pytest.FixtureRequest) -> Iterator[None]:
    """Are not looked at where a test is about what functions refuse by themselves."""
    wrong = request.node.get_closest_marker("wrong_arguments") is not None
    jaxtyping.config.update("jaxtyping_disable", wrong)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="module")
def one_device() -> Iterator[None]:
    """Lets the runs of a file's tests take one device, for which programs compile faster.

    For files whose subject are not meshes: those of the step, the loop and the methods are.
    """
    from retfm_jax.runtime import mesh
    from retfm_jax.training import loop

    first = jax.devices()[:1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "make_mesh", lambda config: mesh.make_mesh(config, first))
        yield


@pytest.fixture(scope="session")
def emulator_address() -> Iterator[str]:
    """Of an object store that runs beside the tests."""
    with emulator() as address:
        yield address


@pytest.fixture
def bucket(emulator_address: str, request: pytest.FixtureRequest, monkeypatch) -> str:
    """A folder of the object store for one test, which this process reaches as well."""
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", emulator_address)
    return f"gs://{BUCKET}/{abs(hash(request.node.nodeid))}"
