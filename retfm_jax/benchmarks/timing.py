"""Timings, ratios of timings taken in turn, and a second process that works only when asked."""

import contextlib
import dataclasses
import importlib
import multiprocessing
import statistics
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from retfm_jax.errors import UserError


class Timing(NamedTuple):
    """Duration of one run.

    Other work on the machine lengthens its wall-clock time and hardly its CPU time.

    Attributes:
      seconds: of wall-clock time.
      cpu_seconds: of all its threads together; None where unknown.
    """

    seconds: float
    cpu_seconds: float | None = None


@contextlib.contextmanager
def stopwatch() -> Iterator[list[Timing]]:
    """Times its block; the list holds the timing afterwards."""
    taken: list[Timing] = []
    wall, cpu = time.perf_counter(), time.process_time()
    yield taken
    taken.append(Timing(time.perf_counter() - wall, time.process_time() - cpu))


def timed(action: Callable[[], Any]) -> Timing:
    """Times one run.

    Args:
      action: what runs; its result is dropped.
    """
    with stopwatch() as taken:
        action()
    return taken[0]


@dataclasses.dataclass(frozen=True)
class Measurement:
    """Runs of one thing, warm-up left out.

    Attributes:
      name: of what ran.
      timings: of every run, at least one.
      amount, unit: what one run works through: 8 "patients".
      facts: further numbers about it, by name with their unit: {"model TFLOP": 2.1}.
    """

    name: str
    timings: tuple[Timing, ...]
    amount: float = 1
    unit: str = "runs"
    facts: Mapping[str, float | str | None] = dataclasses.field(default_factory=dict)

    @property
    def seconds(self) -> list[float]:
        """Wall-clock seconds of every run."""
        return [timing.seconds for timing in self.timings]

    @property
    def rate(self) -> float:
        """Units a second, of the median run."""
        return self.amount / statistics.median(self.seconds)

    @property
    def cpu_rate(self) -> float | None:
        """Units a CPU-second, of the median run."""
        used = [each.cpu_seconds for each in self.timings if each.cpu_seconds is not None]
        if len(used) < len(self.timings):
            return None
        return self.amount / max(statistics.median(used), 1e-9)

    def to_dict(self) -> dict[str, Any]:
        """Converts every raw timing and what follows from them to JSON values."""
        return {
            "name": self.name,
            "amount": self.amount,
            "unit": self.unit,
            "seconds": self.seconds,
            "cpu_seconds": [timing.cpu_seconds for timing in self.timings],
            "median_seconds": statistics.median(self.seconds),
            "spread_seconds": [min(self.seconds), max(self.seconds)],
            "per_second": self.rate,
            "per_cpu_second": self.cpu_rate,
            "facts": dict(self.facts),
        }


@dataclasses.dataclass(frozen=True)
class Comparison:
    """A ratio of two measurements whose runs took turns.

    Attributes:
      name: of the ratio, in words.
      numerator, denominator: their k-th runs followed one another.
      goal: what it should reach, in words; "" where there is none.
    """

    name: str
    numerator: Measurement
    denominator: Measurement
    goal: str = ""

    @property
    def ratios(self) -> list[float]:
        """Numerator's time over denominator's for one unit of work each, by turn."""
        work = self.denominator.amount / self.numerator.amount
        return [
            work * above / below
            for above, below in zip(self.numerator.seconds, self.denominator.seconds, strict=True)
        ]

    def to_dict(self) -> dict[str, Any]:
        """Converts the comparison to JSON values."""
        return {
            "name": self.name,
            "numerator": self.numerator.name,
            "denominator": self.denominator.name,
            "goal": self.goal,
            "ratios": self.ratios,
            "median": statistics.median(self.ratios),
            "spread": [min(self.ratios), max(self.ratios)],
        }


def take_turns(
    sides: Mapping[str, Callable[[], Timing]], rounds: int, warm_up: int = 1
) -> dict[str, tuple[Timing, ...]]:
    """Runs every side once a round, A B A B ..., so that a slow spell of the machine hits all.

    Args:
      sides: by name; each runs once and returns how long it took.
      rounds: that count.
      warm_up: rounds before them that do not count.
    """
    taken: dict[str, list[Timing]] = {name: [] for name in sides}
    for turn in range(warm_up + rounds):
        for name, run in sides.items():
            timing = run()
            if turn >= warm_up:
                taken[name].append(timing)
    return {name: tuple(timings) for name, timings in taken.items()}


class Partner:
    """A child process that holds one object and calls its methods when asked.

    Between calls it waits on a pipe, so that this process and the child never compute at once: each
    has all cores to itself.
    """

    def __init__(self, factory: str, **arguments: Any):
        """Starts the process; the object is made at the first call.

        Args:
          factory: "module:name", called with the arguments.
          arguments: by name; they travel pickled.
        """
        # Spawned, since a process with JAX's threads in it cannot be forked safely.
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(theirs, factory, arguments), daemon=False
        )
        self._process.start()
        theirs.close()

    def call(self, method: str, *arguments: Any) -> Any:
        """Calls a method of the object and waits for what it returns.

        Args:
          method: its name.
          arguments: of the method; they travel pickled.

        Raises:
          UserError: as the object raised it.
          RuntimeError: the object failed otherwise, or the process ended.
        """
        try:
            self._pipe.send((method, arguments))
            kind, value = self._pipe.recv()
        except (EOFError, OSError) as error:
            self._process.join(1)
            raise RuntimeError(
                f"the other process ended (exit code {self._process.exitcode}); killed, it may "
                "have been out of memory"
            ) from error
        if kind == "refused":
            raise UserError(value)
        if kind == "failed":
            raise RuntimeError(f"the other process failed:\n{value}")
        return value

    def close(self) -> None:
        """Ends the process."""
        self._pipe.close()
        self._process.join(10)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()


def _serve(pipe: Any, factory: str, arguments: dict[str, Any]) -> None:
    held = None
    with contextlib.suppress(EOFError, KeyboardInterrupt):
        while True:
            method, values = pipe.recv()
            try:
                if held is None:
                    module, _, name = factory.partition(":")
                    held = getattr(importlib.import_module(module), name)(**arguments)
                answer = "done", getattr(held, method)(*values)
            except UserError as error:
                answer = "refused", str(error)
            except Exception:
                answer = "failed", traceback.format_exc()
            pipe.send(answer)
