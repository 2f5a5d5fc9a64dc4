"""Processes of a run, one per host: how they start, wait for each other and notice a lost one."""

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from glob import glob
from typing import Any, NoReturn

import jax
import numpy as np

# The key-value store of the coordinator has no public name; only it can tell who is missing.
from jax._src import distributed as jax_distributed
from jax.experimental import multihost_utils

from retfm_jax.console import say
from retfm_jax.errors import UserError

#: Seconds between signs of life, and without one until a process counts as lost.
_SIGN_EVERY = 3.0
_SILENCE = 25.0
#: Seconds that a process may begin later than another: its disks are colder, its cores slower.
_LATE = 300.0
#: What helps where processes do not find each other.
_BY_HAND = (
    "Check that all of them were started and reach the coordinator; JAX_COORDINATOR_ADDRESS, "
    "JAX_NUM_PROCESSES and JAX_PROCESS_ID state them by hand"
)
#: The last sign of a process that is done.
_LEFT = "left"


def start(timeout: int = 300) -> None:
    """Joins the processes of a run where there are several; does nothing on a single host.

    Several are assumed with `JAX_COORDINATOR_ADDRESS` (host:port; with `JAX_NUM_PROCESSES` and
    `JAX_PROCESS_ID` where no cluster manager gives them), inside a Slurm job of several tasks, and
    on a TPU pod. Call it before anything uses a device.

    Args:
      timeout: seconds to wait for the other processes; after them this one ends with a message.

    Raises:
      UserError: the environment describes the processes inconsistently, or they do not find each
        other.
    """
    if jax.distributed.is_initialized() or not _several_hosts():
        return
    if os.environ.get("JAX_PLATFORMS") == "cpu":
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
    count, index = os.environ.get("JAX_NUM_PROCESSES"), os.environ.get("JAX_PROCESS_ID")
    # At its own time limit the runtime aborts the process without a word for the user.
    limit = threading.Timer(timeout, _end_alone, (timeout, index))
    limit.daemon = True
    limit.start()
    try:
        jax.distributed.initialize(
            num_processes=None if count is None else int(count),
            process_id=None if index is None else int(index),
            initialization_timeout=2 * timeout,
        )
    except (ValueError, RuntimeError) as error:
        raise UserError(
            f"the processes of this run did not find each other: {error}. {_BY_HAND}"
        ) from error
    finally:
        limit.cancel()


def _end_alone(timeout: int, index: str | None) -> None:
    here = "this process" if index is None else f"process {index}"
    say(
        f"\nerror: {here} waited {timeout} s for the others of this run, and not all of them came. "
        "Each one that is there ends with this message: look at those that do not say it. "
        f"{_BY_HAND}",
        error=True,
    )
    os._exit(1)


def _several_hosts() -> bool:
    environment = os.environ
    if environment.get("JAX_COORDINATOR_ADDRESS"):
        return True
    # A batch script without srun has the number of tasks, too, but is none of them.
    tasks = environment.get("SLURM_NTASKS", "")
    if tasks.isdecimal() and int(tasks) > 1 and "SLURM_STEP_NODELIST" in environment:
        return True
    if "MEGASCALE_COORDINATOR_ADDRESS" in environment:
        return True  # Several TPU slices, of which each may be one host.
    if "TPU_WORKER_HOSTNAMES" in environment:
        return "," in environment["TPU_WORKER_HOSTNAMES"]
    # On a TPU virtual machine the pod's hosts stand in its metadata, where jax finds them.
    on_tpu = bool(glob("/dev/accel*") or glob("/dev/vfio/[0-9]*"))
    return on_tpu and environment.get("JAX_PLATFORMS", "tpu") != "cpu"


def any_process(flag: bool) -> bool:
    """Tells every process whether `flag` is true on at least one of them.

    Args:
      flag: of this process; every process of the run calls this.
    """
    if jax.process_count() == 1:
        return flag
    return bool(multihost_utils.process_allgather(np.asarray(flag)).any())


def barrier(name: str, timeout: float = 300.0) -> None:
    """Waits until every process has come here.

    Args:
      name: of the barrier, used once in a run.
      timeout: seconds to wait.

    Raises:
      UserError: some processes did not come; the message names them by number.
    """
    if jax.process_count() == 1:
        return
    client = _client()
    client.key_value_set(f"retfm/{name}/{jax.process_index()}", "here")
    end = time.monotonic() + timeout
    missing = []
    for process in range(jax.process_count()):
        left = max(1, int(1000 * (end - time.monotonic())))
        try:
            client.blocking_key_value_get(f"retfm/{name}/{process}", left)
        except jax.errors.JaxRuntimeError:
            missing.append(process)
    if missing:
        raise UserError(
            f"waited {timeout:.0f} s at {name!r} for process {', '.join(map(str, missing))} of "
            f"{jax.process_count()}: look at what that process printed last, then start all again"
        )


@contextlib.contextmanager
def watch(resume_point: Callable[[], str]) -> Iterator[None]:
    """Ends this process with a message when another one of the run is lost.

    A collective that waits for a dead process waits forever on most devices, and so does the main
    thread. A separate thread therefore watches and ends the process.

    Args:
      resume_point: returns the end of that message: from which step the run can resume.
    """
    if jax.process_count() == 1:
        yield
        return
    client, leaving = _client(), threading.Event()
    others = set(range(jax.process_count())) - {jax.process_index()}

    def sign(text: str) -> None:
        client.key_value_set(f"retfm/alive/{jax.process_index()}", text, allow_overwrite=True)

    def look() -> None:
        seen: dict[int, tuple[str, float]] = {}
        for process in others:
            seen[process] = "", time.monotonic() + _LATE
        while not leaving.wait(_SIGN_EVERY):
            try:
                sign(str(time.monotonic()))
                signs = {
                    int(key.rsplit("/", 1)[1]): text
                    for key, text in client.key_value_dir_get("retfm/alive/")
                }
            except jax.errors.JaxRuntimeError:
                _end("process 0, which keeps the run together,", resume_point())
            now = time.monotonic()
            for process in others:
                text = signs.get(process, "")
                if text == _LEFT or text != seen[process][0]:
                    seen[process] = (text, now)
                elif now - seen[process][1] > _SILENCE:
                    _end(f"process {process} of {jax.process_count()}", resume_point())

    sign("begun")
    watcher = threading.Thread(target=look, name="watch", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        leaving.set()
        watcher.join(timeout=_SIGN_EVERY)
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            sign(_LEFT)


def _client() -> Any:
    """The processes' common table of keys and values."""
    client = jax_distributed.global_state.client
    assert client is not None, "there are several processes, so that they have found each other"
    return client


def _end(who: str, resume_point: str) -> NoReturn:
    say(
        f"\nerror: {who} gives no sign of life: it has ended or its host does not answer. Look at "
        f"what it printed last and start all processes again; {resume_point}",
        error=True,
    )
    os._exit(1)


def to_host(tree: Any) -> Any:
    """Whole arrays of a pytree as NumPy arrays on every process, however they are sharded.

    Args:
      tree: pytree of global arrays; every process of the run calls this.
    """
    if jax.process_count() > 1:
        return multihost_utils.process_allgather(tree, tiled=True)
    return jax.device_get(tree)
