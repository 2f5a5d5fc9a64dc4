"""Host batches -> sharded arrays on the mesh, ahead of the step that takes them."""

import queue
import threading
from collections.abc import Callable, Generator, Iterator
from typing import NamedTuple

import jax
import numpy as np

from retfm_jax.data.pipeline import HostBatch


class DeviceBatch(NamedTuple):
    """A global batch on the mesh.

    Attributes:
      arrays: global arrays, sharded by rows.
      record_ids: of this process's rows, on the host.
      index: of the batch in its run. A checkpoint after its step stores `index + 1`, not the
        iterator's own state, which has run ahead.
    """

    arrays: dict[str, jax.Array]
    record_ids: list[str]
    index: int  # pyright: ignore[reportIncompatibleMethodOverride] (nobody searches a batch)


def device_batches(
    batches: Iterator[HostBatch],
    place: Callable[[dict[str, np.ndarray]], dict[str, jax.Array]],
    depth: int = 2,
) -> Generator[DeviceBatch, None, None]:
    """Reads `batches` in a thread and keeps up to `depth` of them ready on the devices.

    Closing the generator (leaving a `for` by break and dropping it, or `.close()`) ends the thread
    and waits for it, so that `batches` can be restored or closed afterwards.

    Args:
      batches: host batches; must not be read or closed before the generator is closed.
      place: puts this process's rows of arrays by name on the mesh.
      depth: batches made ready ahead of the one that is in use, at least 1.

    Raises:
      Exception: whatever `batches` raises, where the batch would have come.
    """
    ready: queue.Queue = queue.Queue(depth)
    stop = threading.Event()

    def put(item: object) -> None:
        while not stop.is_set():
            try:
                ready.put(item, timeout=0.1)
                return
            except queue.Full:
                continue

    def produce() -> None:
        try:
            for arrays, record_ids, index in batches:
                put(DeviceBatch(place(arrays), record_ids, index))
                if stop.is_set():
                    return
            put(None)
        except BaseException as error:  # re-raised where the batch is taken
            put(error)

    thread = threading.Thread(target=produce, name="device-batches", daemon=True)
    thread.start()
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stop.set()
        thread.join()
