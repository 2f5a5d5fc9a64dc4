"""No process and no shared memory outlives the process that it works for."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from retfm_jax.runtime.workers import remove_abandoned_memory

_PARENT = """
import multiprocessing, time
from multiprocessing import shared_memory
from retfm_jax.runtime.workers import end_with_parent

def work(queue):
    end_with_parent()
    memory = shared_memory.SharedMemory(create=True, size=100)
    queue.put(memory.name)
    time.sleep(1000)

if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    workers = [context.Process(target=work, args=(queue,), daemon=True) for _ in range(2)]
    for worker in workers:
        worker.start()
    names = [queue.get(), queue.get()]
    print(*[worker.pid for worker in workers], *names, flush=True)
    time.sleep(1000)
"""


def _gone(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


def _wait_for(condition, seconds=20):
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    return condition()


@pytest.mark.parametrize("everything", [False, True])
def test_workers_and_their_memory_end_with_a_killed_parent(tmp_path, everything):
    script = tmp_path / "parent.py"
    script.write_text(_PARENT)
    parent = subprocess.Popen(
        [sys.executable, script], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        start_new_session=True,
    )  # fmt: skip
    first, second, *names = parent.stdout.readline().split()
    memory = [Path("/dev/shm") / name for name in names]
    assert all(path.exists() for path in memory)
    if everything:  # as a scheduler does it: nobody is left who could clean up
        os.killpg(parent.pid, signal.SIGKILL)
    else:
        parent.kill()
    parent.wait()
    assert _wait_for(lambda: _gone(first) and _gone(second))
    if everything:
        assert _wait_for(lambda: not Path(f"/proc/{parent.pid}").exists())
        remove_abandoned_memory()
    assert _wait_for(lambda: not any(path.exists() for path in memory))


def test_signals_to_all_processes_are_the_parents_matter(tmp_path):
    # Control-C, `timeout`, schedulers: the parent saves, and may want one more batch for it.
    script = tmp_path / "parent.py"
    script.write_text("import signal; signal.signal(signal.SIGTERM, lambda *_: None)\n" + _PARENT)
    parent = subprocess.Popen(
        [sys.executable, script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    first, second, *_ = parent.stdout.readline().split()
    for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        for pid in (first, second):
            os.kill(int(pid), number)
    os.killpg(parent.pid, signal.SIGTERM)
    time.sleep(0.3)
    assert not _gone(first)
    assert not _gone(second)
    parent.kill()
    assert _wait_for(lambda: _gone(first) and _gone(second))
    assert "Traceback" not in parent.communicate()[1]


def test_memory_of_another_container_is_not_ours_to_remove():
    # `docker run --ipc=host`: one /dev/shm, and tables of processes of their own.
    theirs = Path("/dev/shm/r1_999999999_abcd")
    ours = Path(f"/dev/shm/r{os.stat('/proc/self/ns/pid').st_ino}_999999999_abcd")
    for path in (theirs, ours):
        path.touch()
    try:
        remove_abandoned_memory()
        assert theirs.exists()
        assert not ours.exists()
    finally:
        theirs.unlink()
        ours.unlink(missing_ok=True)
