"""Hosts find each other only where there are several, and a missing one is named."""

import os
import socket
import subprocess
import sys

import numpy as np
import pytest

from retfm_jax.errors import UserError
from retfm_jax.runtime import distributed


@pytest.mark.parametrize(
    ("environment", "several"),
    [
        ({}, False),
        ({"JAX_COORDINATOR_ADDRESS": "host:1234"}, True),
        ({"SLURM_NTASKS": "4", "SLURM_STEP_NODELIST": "n[0-3]"}, True),
        ({"SLURM_NTASKS": "1", "SLURM_STEP_NODELIST": "n0"}, False),
        ({"SLURM_NTASKS": "", "SLURM_STEP_NODELIST": "n0"}, False),
        ({"SLURM_NTASKS": "4", "SLURM_PROCID": "0"}, False),
        ({"MEGASCALE_COORDINATOR_ADDRESS": "a", "TPU_WORKER_HOSTNAMES": "b"}, True),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, False),
        ({"TPU_WORKER_HOSTNAMES": "a,b"}, True),
    ],
)
def test_several_hosts_are_recognized(monkeypatch, environment, several):
    for name in ("JAX_COORDINATOR_ADDRESS", "SLURM_NTASKS", "TPU_WORKER_HOSTNAMES"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert distributed._several_hosts() == several


def test_alone_nothing_is_waited_for():
    distributed.start()
    distributed.barrier("alone", timeout=0)
    assert distributed.any_process(True)
    assert not distributed.any_process(False)
    np.testing.assert_array_equal(distributed.to_host({"a": np.arange(3)})["a"], [0, 1, 2])


def _processes(mode, indices):
    """Those of two processes that come."""
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        address = f"localhost:{listener.getsockname()[1]}"
    return [
        subprocess.Popen(
            [sys.executable, __file__, mode],
            env=os.environ
            | {
                "JAX_COORDINATOR_ADDRESS": address,
                "JAX_NUM_PROCESSES": "2",
                "JAX_PROCESS_ID": str(index),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for index in indices
    ]


def test_a_barrier_names_the_process_that_does_not_come():
    processes = _processes("barrier", [0, 1])
    first, second = (process.communicate(timeout=300)[0] for process in processes)
    assert "met" in first
    assert "met" in second
    assert "waited 2 s at 'second' for process 1 of 2" in first
    assert "[True, False]" in first
    assert "[True, False]" in second


def test_a_process_whose_others_never_come_says_so():
    (alone,) = _processes("alone", [0])
    assert (
        "error: process 0 waited 2 s for the others of this run"
        in alone.communicate(timeout=300)[0]
    )
    assert alone.returncode == 1


def _main():
    import time

    import jax

    distributed.start(timeout=2 if "alone" in sys.argv else 60)
    mine = jax.process_index() == 1
    print([distributed.any_process(mine), distributed.any_process(False)])
    distributed.barrier("first", timeout=30)
    print("met", flush=True)
    if mine:
        time.sleep(6)
        return
    try:
        distributed.barrier("second", timeout=2)
    except UserError as error:
        print(error)


if __name__ == "__main__":
    _main()
