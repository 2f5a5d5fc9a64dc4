"""Threads: how many of them pay, and results that they compute ahead."""

import collections
import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def cores() -> int:
    """Number of cores that this process may use; on macOS, of all cores."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextlib.contextmanager
def in_threads(
    function: Callable[[Item], Result], items: Iterable[Item], *, threads: int, ahead: int
) -> Iterator[Iterator[Result]]:
    """Computes `map(function, items)` in threads, in order, while the caller uses earlier results.

    Leaving the context ends the threads. A generator could not ensure this: after a failure of the
    caller it would be closed by the garbage collector, perhaps in one of those threads, which would
    then wait for itself.

    Args:
      function: called in threads, several at a time.
      items: its arguments, taken in the caller's thread.
      threads: number of threads.
      ahead: greatest number of results that are made before the caller asks for them; it bounds
        memory.

    Yields:
      an iterator of the results; what `function` raises is raised at the position of its result.
    """
    waiting: collections.deque[Future[Result]] = collections.deque()
    pool = ThreadPoolExecutor(threads)

    def results() -> Iterator[Result]:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

    try:
        yield results()
    finally:
        pool.shutdown(cancel_futures=True)
