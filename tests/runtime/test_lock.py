"""A folder has one writer at a time, and a dead one keeps nobody out."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from retfm_jax.errors import UserError
from retfm_jax.runtime import lock
from retfm_jax.runtime.lock import Holder, hold

_HOLDING = """
import sys, time
from retfm_jax.runtime.lock import hold
with hold(sys.argv[1]):
    print("held", flush=True)
    time.sleep(100)
"""


@pytest.fixture(autouse=True)
def _in_a_hurry(monkeypatch):
    monkeypatch.setattr(lock, "BEAT", 0.1)
    monkeypatch.setattr(lock, "SILENCE", 0.5)


@pytest.fixture
def other(tmp_path):
    """Another process that holds `tmp_path`."""
    command = [sys.executable, "-c", _HOLDING, str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def _elsewhere(folder, **changes):
    """A lock of a process that this machine knows nothing of."""
    values = vars(Holder.here()) | {"host": "node-7", "machine": "another boot", "token": "theirs"}
    (folder / lock.NAME).write_text(json.dumps(values | changes))


def test_a_second_process_is_refused_and_told_of_the_first(tmp_path, other):
    with pytest.raises(UserError, match=f"process {other.pid} on ") as raised, hold(tmp_path):
        raise AssertionError("two hold one folder")
    assert os.uname().nodename in str(raised.value)
    assert other.poll() is None
    with hold(tmp_path / "beside"):
        pass


def test_a_killed_holder_keeps_nobody_out_even_as_a_zombie(tmp_path, other):
    other.send_signal(signal.SIGKILL)
    os.waitid(os.P_PID, other.pid, os.WEXITED | os.WNOWAIT)  # it has ended; nobody has buried it
    began = time.monotonic()
    with hold(tmp_path):
        assert time.monotonic() - began < lock.SILENCE


def test_a_lock_ends_with_its_block_whatever_ended_it(tmp_path):
    def fails():
        with hold(tmp_path), hold(tmp_path):
            assert (tmp_path / lock.NAME).is_file()
            raise KeyError

    with pytest.raises(KeyError):
        fails()
    assert os.listdir(tmp_path) == []


def test_a_number_that_another_process_has_now_is_not_the_holder(tmp_path):
    _elsewhere(tmp_path, machine=Holder.here().machine, pid=1, started="12")
    with hold(tmp_path):
        pass


def test_silence_on_another_host_is_waited_for_and_then_taken_for_its_end(tmp_path, capsys):
    _elsewhere(tmp_path)
    with hold(tmp_path) as held:
        held.check()
        assert json.loads((tmp_path / lock.NAME).read_text())["pid"] == os.getpid()
    assert "held by process" in capsys.readouterr().err


def test_a_sign_of_life_from_another_host_refuses(tmp_path, monkeypatch):
    _elsewhere(tmp_path)
    monkeypatch.setattr(lock, "SILENCE", 5.0)
    sleep = time.sleep

    def beats(seconds):
        _elsewhere(tmp_path, signs_of_life=1)
        sleep(min(seconds, 0.1))

    monkeypatch.setattr(lock.time, "sleep", beats)
    with pytest.raises(UserError, match="on node-7"), hold(tmp_path):
        pass
    assert json.loads((tmp_path / lock.NAME).read_text())["token"] == "theirs"


@pytest.mark.parametrize(
    "content", [b"", b"\0" * 100, b"[]", b'{"host": "a"}', b"\xff\xfe", b"[" * 100_000]
)
def test_what_a_power_cut_leaves_of_a_lock_keeps_nobody_out_for_long(tmp_path, content):
    (tmp_path / lock.NAME).write_bytes(content)
    with hold(tmp_path):
        pass


def test_hours_without_a_sign_are_not_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "SILENCE", 1000.0)
    _elsewhere(tmp_path)
    os.utime(tmp_path / lock.NAME, (0, time.time() - 2 * lock.LONG_AGO))
    with hold(tmp_path):
        pass


def test_a_holder_that_was_taken_for_dead_notices(tmp_path):
    with hold(tmp_path) as held:
        held.check()
        _elsewhere(tmp_path)
        deadline = time.monotonic() + 10
        while held._taken_by is None and time.monotonic() < deadline:
            time.sleep(0.05)
        with pytest.raises(UserError, match=r"taken over by process .* on node-7"):
            held.check()
    assert (tmp_path / lock.NAME).is_file()


def test_object_stores_have_locks_too(bucket):
    with hold(f"{bucket}/run") as held:
        held.check()
        lock._held.clear()  # as another process would see it
        with pytest.raises(UserError, match=f"process {os.getpid()} on "), hold(f"{bucket}/run"):
            pass
        lock._held[f"{bucket}/run"] = held
    with hold(f"{bucket}/run"):
        pass
