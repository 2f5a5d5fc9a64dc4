"""Eight CPU devices for every test, set before JAX is imported; no trace in the user's home."""

import atexit
import os
import shutil
import tempfile
from collections.abc import Iterator

import pytest
from object_store import BUCKET, emulator

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# The programs of tests are small and run a few times: compiling them well costs more than it saves.
# Rewriting and fusion stay as users have them, only the machine code is made in a hurry.
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"

# Runs keep their compiled programs there, for the length of the tests and for all of their workers,
# which find in their environment what the process that started them has set.
if "PYTEST_XDIST_WORKER" not in os.environ:
    os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="retfm_tests_")
    atexit.register(shutil.rmtree, os.environ["XDG_CACHE_HOME"], ignore_errors=True)


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
