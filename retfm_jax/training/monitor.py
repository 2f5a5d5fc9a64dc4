"""Messages and metrics of a run while it trains."""

import collections
import contextlib
import math
import time
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from tqdm import tqdm

from retfm_jax import console
from retfm_jax.config import TrainConfig
from retfm_jax.errors import UserError
from retfm_jax.files import Path, write_json
from retfm_jax.methods.base import Batch, Metrics
from retfm_jax.progress import on_terminal
from retfm_jax.runtime import distributed
from retfm_jax.runtime.checkpoints import Checkpoints, not_finite
from retfm_jax.runtime.signals import StopSignal
from retfm_jax.runtime.writers import MetricWriter
from retfm_jax.training.state import TrainState

#: Steps by which the host reads metrics late, so that the devices never wait for it.
LAG = 2
#: Record ids of a bad batch that its message names; all of them go to a file.
NAMED_RECORDS = 16


class _Step(NamedTuple):
    """A step whose metrics the devices may still be computing."""

    step: int
    metrics: Metrics
    arrays: Batch
    record_ids: list[str]
    work: int


def resume_point(checkpoints: Checkpoints) -> str:
    """Tells people where a run that ends now resumes.

    Args:
      checkpoints: those of the run.
    """
    latest = checkpoints.latest
    return f"the last good checkpoint is {latest}" if latest else "there is no checkpoint yet"


class Log:
    """Reads metrics a few steps late, looks whether they are finite, shows and writes them.

    Every process reads them all and so comes to the same conclusions at the same step; process 0
    shows and writes: a bar where stderr is a terminal, else a line for each step that is logged.
    """

    def __init__(
        self,
        train: TrainConfig,
        workdir: Path,
        checkpoints: Checkpoints,
        step: int,
        total: int,
        peak_flops: float | None,
    ):
        """Opens the metrics to resume after `step`.

        Args:
          train: `config.train`, for `log_every` and `batch_size`.
          workdir: folder of the run.
          checkpoints: those of the run; the parameters behind a bad step are set aside there.
          step: updates made before this process began.
          total: steps of the whole run.
          peak_flops: peak rate of all devices together in FLOP/s; None where it is not known.

        Raises:
          UserError: they cannot be written.
        """
        self._train = train
        self._workdir = workdir
        self._checkpoints = checkpoints
        self._total = total
        self._peak_flops = peak_flops
        self._pending: collections.deque[_Step] = collections.deque()
        self._stop = False
        self._began = time.perf_counter()
        self._compiled = False
        # Time since, and steps read since, the clock was set: None while the step compiles.
        self._since: float | None = None
        self._steps = 0
        self._work = 0
        chief = jax.process_index() == 0
        self._writer = MetricWriter(workdir, step) if chief else None
        self._bar = tqdm(
            total=total,
            initial=step,
            desc="training",
            unit="step",
            dynamic_ncols=True,
            disable=not (chief and on_terminal()),
        )

    def __enter__(self) -> "Log":
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()
        if self._writer is not None:
            self._writer.close()

    def say(self, *lines: str, error: bool = False) -> None:
        """Prints lines, above the progress bar where there is one.

        A terminal that was closed, or a pipe that nobody reads, ends no run.

        Args:
          lines: texts, each printed on a line of its own.
          error: whether they go to stderr.
        """
        if self._writer is None:
            return
        with contextlib.suppress(OSError, ValueError), tqdm.external_write_mode():
            console.say(*lines, error=error)

    def begin(self, title: str = "") -> None:
        """Says that a stage's first step is waited for, which compiles.

        Args:
          title: of the stage; empty where the run has one.

        Raises:
          UserError: see `drain`.
        """
        self.drain()
        self._began, self._compiled, self._since = time.perf_counter(), False, None
        stage = f" of {title}" if title else ""
        self.say(f"compiling the training step{stage} (the first one takes its time)")

    def add(
        self, step: int, metrics: Metrics, arrays: Batch, record_ids: list[str], work: int
    ) -> None:
        """Takes the metrics of a step, which the devices may still be computing.

        Args:
          step: number of the step, the first one 1.
          metrics: scalars by name, `loss`, `grad_norm` and `stop` among them.
          arrays: the step's batch, on the devices.
          record_ids: of this process's records in the batch.
          work: the step's model FLOPs, 0 where they are unknown.

        Raises:
          UserError: the loss of a step a little before was not finite.
        """
        self._pending.append(_Step(step, metrics, arrays, record_ids, work))
        while len(self._pending) > LAG:
            self._read()

    def drain(self) -> None:
        """Reads and writes everything that is pending.

        Raises:
          UserError: a loss was not finite, or the metrics cannot be written.
        """
        while self._pending:
            self._read()
        if self._writer is not None:
            self._writer.flush()

    def stop_agreed(self, signal: StopSignal) -> bool:
        """Decides whether to stop before the next step: the same answer on every process.

        Args:
          signal: the stop signal of this process.
        """
        # A lone process need not wait until its flag comes back through the metrics.
        return self._stop if jax.process_count() > 1 else signal.received is not None

    def check_state(self, step: int, state: TrainState) -> None:
        """Checks that the state behind a step is worth keeping.

        Args:
          step: number of the step.
          state: the state behind it.

        Raises:
          UserError: an array of it is not finite.
        """
        bad = not_finite(state.network(), norms=True) + not_finite(state.training())
        if bad:
            self._finish_writing()
            more = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
            raise UserError(
                f"step {step}: its update left {bad[0]}{more} not finite, though its loss was; the "
                f"state is not saved; {resume_point(self._checkpoints)}. Check the data, "
                f"{_advice()}"
            )

    def evaluated(self, step: int) -> bool:
        """Tells whether the evaluation of a step was written before this process began.

        Args:
          step: number of the step.
        """
        return distributed.any_process(self._writer is not None and step in self._writer.evaluated)

    def evaluation(self, step: int, metrics: Mapping[str, float], seconds: float) -> None:
        """Writes and shows what an evaluation found; its time does not count as training.

        Args:
          step: number of the step after which it was made.
          metrics: numbers by name; they are written under `eval/`.
          seconds: duration in seconds.
        """
        if self._writer is not None:
            self._writer.write(step, {f"eval/{name}": value for name, value in metrics.items()})
        self.say(
            f"evaluation after step {step} ({seconds:.0f} s)",
            *(f"  {name}  {value:.4f}" for name, value in metrics.items()),
        )
        self._since = None

    def _read(self) -> None:
        read = self._pending.popleft()
        step = read.step
        values = {name: float(value) for name, value in jax.device_get(read.metrics).items()}
        self._stop |= values.pop("stop") > 0
        for name in ("loss", "grad_norm"):
            if not math.isfinite(values[name]):
                raise self._not_finite(read, name, values[name])
        now = time.perf_counter()
        if not self._compiled:
            self._compiled = True
            self.say(f"first step done after {now - self._began:.0f} s")
        if self._since is None:
            self._since, self._steps, self._work = now, 0, 0
        else:
            self._steps += 1
            self._work += read.work
        self._bar.update()
        if step % self._train.log_every == 0 or step == self._total:
            if self._steps:
                seconds = now - self._since
                values["samples_per_second"] = self._steps * self._train.batch_size / seconds
                if self._work:
                    values["model_flops_per_second"] = self._work / seconds
                if self._work and self._peak_flops is not None:
                    values["mfu"] = self._work / seconds / self._peak_flops
                self._since, self._steps, self._work = now, 0, 0
            self._show(step, values)
            if self._writer is not None:
                self._writer.write(step, values)

    def _show(self, step: int, values: Mapping[str, float]) -> None:
        loss, rate = values["loss"], values.get("samples_per_second")
        if not self._bar.disable:
            speed = {"samples_s": f"{rate:.1f}"} if rate else {}
            self._bar.set_postfix({"loss": f"{loss:.4f}"} | speed, refresh=False)
            return
        line = f"step {step}/{self._total}  loss {loss:.4f}"
        if rate:
            left = (self._total - step) * self._train.batch_size / rate
            line += f"  {rate:.1f} samples/s  {tqdm.format_interval(left)} left"
        self.say(line, error=True)

    def _not_finite(self, read: _Step, name: str, value: float) -> UserError:
        self._finish_writing()
        step, record_ids = read.step, read.record_ids
        several = jax.process_count() > 1
        suffix = f"_process_{jax.process_index()}" if several else ""
        path = self._workdir / f"nonfinite_step_{step}{suffix}.json"
        write_json(path, {"step": step, name: str(value), "record_ids": record_ids})
        named = ", ".join(record_ids[:NAMED_RECORDS])
        more = "" if len(record_ids) <= NAMED_RECORDS else f" and {len(record_ids)} in all"
        aside = None
        if _finite(read.arrays):
            # Then it is the parameters. A run that went on from them would end here again.
            aside = self._checkpoints.set_aside(
                step - 1, f"the {name} of the next step, computed with its parameters, is {value}"
            )
        parameters = "" if aside is None else f"; the parameters behind it are kept in {aside}"
        return UserError(
            f"step {step}: the {name} is {value}. Records of its batch: {named}{more} (all in "
            f"{path}); {resume_point(self._checkpoints)}{parameters}. Look at those records, "
            f"{_advice()}"
        )

    def _finish_writing(self) -> None:
        with contextlib.suppress(UserError):
            self._checkpoints.wait()  # One that is being written is good, and named below.


def _advice() -> str:
    advice = "lower config.optimizer.learning_rate or set config.optimizer.clip_norm"
    if jax.default_backend() == "gpu":
        # A product or convolution that XLA chose by its time alone, see docs/machines.md.
        advice += ", on this GPU try XLA_FLAGS=--xla_gpu_autotune_level=0"
    return f"{advice}, and start again"


def _finite(batch: Batch) -> bool:
    floats = [array for array in batch.values() if jnp.issubdtype(array.dtype, jnp.floating)]
    return all(bool(jnp.isfinite(array).all()) for array in floats)
