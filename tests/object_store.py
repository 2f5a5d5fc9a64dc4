"""A Google Cloud Storage emulator, as a process of its own on a free port of this machine."""

import contextlib
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator

BUCKET = "test-bucket"


@contextlib.contextmanager
def emulator() -> Iterator[str]:
    """Starts the emulator with one empty bucket; yields its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "gcp_storage_emulator", "start", "--host", "127.0.0.1"]
    options = ["--port", str(port), "--default-bucket", BUCKET, "--in-memory", "--quiet"]
    process = subprocess.Popen([*command, *options], stderr=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}"
    try:
        _wait(process, address)
        yield address
    finally:
        process.kill()
        process.wait()


def _wait(process: subprocess.Popen, address: str) -> None:
    for _ in range(300):
        assert process.poll() is None, "the emulator ended"
        with contextlib.suppress(urllib.error.URLError, ConnectionError):
            urllib.request.urlopen(address, timeout=5).close()
            return
        time.sleep(0.1)
    raise AssertionError("the emulator does not answer")


def environment(address: str) -> dict[str, str]:
    """For commands that are to reach the emulator."""
    return os.environ | {"STORAGE_EMULATOR_HOST": address}
