"""Threads give results in order, no further ahead than asked, and end with their context."""

import threading
import time

import pytest

from retfm_jax.runtime.threads import cores, in_threads


def _threads():
    return {thread for thread in threading.enumerate() if "ThreadPoolExecutor" in thread.name}


def test_results_come_in_order_and_only_so_many_ahead():
    begun = []

    def work(item):
        begun.append(item)
        time.sleep(0.001 * (item % 3))
        return item * item

    with in_threads(work, iter(range(40)), threads=4, ahead=5) as results:
        for item in range(40):
            assert next(results) == item * item
            assert max(begun) <= item + 5
        assert next(results, None) is None


def test_what_a_thread_raises_comes_in_its_place():
    def work(item):
        return 1 // (item - 2)

    with in_threads(work, range(5), threads=2, ahead=4) as results:
        assert [next(results), next(results)] == [-1, -1]
        with pytest.raises(ZeroDivisionError):
            next(results)


def test_a_failure_of_the_caller_ends_the_threads_and_drops_the_rest():
    before, done = _threads(), []

    def work(item):
        time.sleep(0.01)
        done.append(item)

    def fail():
        with in_threads(work, range(1000), threads=2, ahead=500) as results:
            next(results)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert _threads() <= before
    assert len(done) < 100


def test_there_is_a_core():
    assert cores() >= 1
