"""Eight CPU devices for every test, set before JAX is imported; no trace in the user's home."""

import atexit
import os
import shutil
import tempfile

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
os.environ.setdefault("HF_HUB_OFFLINE", "1")

# Runs keep their compiled programs there, for the length of the tests.
os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="retfm_tests_")
atexit.register(shutil.rmtree, os.environ["XDG_CACHE_HOME"], ignore_errors=True)
