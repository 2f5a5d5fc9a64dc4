"""The course of a run: save, then take a batch, then step, then log."""

import collections
import contextlib
import dataclasses
import importlib.metadata
import math
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Int
from tqdm import tqdm

from retfm_jax.config import ExperimentConfig, to_dict
from retfm_jax.errors import UserError
from retfm_jax.files import Path, PathLike, as_path, write_json
from retfm_jax.methods import get_method_class
from retfm_jax.methods.method import Batch, Method, MethodState, Metrics, Params
from retfm_jax.runtime import distributed, flops
from retfm_jax.runtime.checkpoints import Checkpoints
from retfm_jax.runtime.mesh import batch_sharding, check_batch_size, make_mesh, place_batch
from retfm_jax.runtime.profiler import Profiler
from retfm_jax.runtime.signals import StopSignal
from retfm_jax.runtime.writers import MetricWriter
from retfm_jax.training.optimizers import Partition, learning_rate_schedule, make_optimizer
from retfm_jax.training.padding import cut_padding
from retfm_jax.training.state import TrainState, abstract_state, create_state
from retfm_jax.training.step import Prepare, make_train_step

#: Steps by which the host reads metrics late, so that the devices never wait for it.
LAG = 2
#: Record ids of a bad batch that its message names; all of them go to a file.
NAMED_RECORDS = 16

#: Called with parameters and method state; the numbers that it returns go to the metrics.
Evaluate = Callable[[Params, MethodState], Mapping[str, float]]


@dataclasses.dataclass(frozen=True)
class TrainingData:
    """What the loop needs of the data.

    Attributes:
      open: called with an index and the mesh; an endless generator of batches on the mesh
        (`arrays`, `record_ids`, `index`) from the batch of that index on. The same index is the
        same global batch whenever it is read.
      prepare: preprocessing on the device, under the step's jit.
      identity: JSON values that fix what the batches hold.
      steps_per_epoch: batches in one pass over the training split.
    """

    open: Callable[[int, Mesh], Generator[Any, None, None]]
    prepare: Prepare
    identity: dict[str, Any]
    steps_per_epoch: int

    @classmethod
    def of(cls, config: ExperimentConfig, method: Method) -> "TrainingData":
        """The batches of an experiment's training split.

        Raises:
          UserError: a dataset is missing, too small, or of a kind that the method cannot use.
        """
        from retfm_jax.data import device
        from retfm_jax.data.pipeline import TrainIterator, open_training
        from retfm_jax.data.prefetch import device_batches

        source, expert = open_training(config.data, method.sample_kind)
        iterator = TrainIterator(
            source,
            method.sample_kind,
            config.data,
            batch_size=config.train.batch_size,
            seed=config.train.seed,
            expert=expert,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )

        def open_at(index: int, mesh: Mesh) -> Generator[Any, None, None]:
            iterator.restore(index)
            try:
                yield from device_batches(iterator, lambda arrays: place_batch(arrays, mesh))
            finally:
                iterator.close()

        return cls(
            open=open_at,
            prepare=lambda batch, key: device.prepare(
                batch, config.data.image, config.data.augment, key
            ),
            identity=iterator.identity,
            steps_per_epoch=iterator.batches_per_epoch,
        )


def train(
    config: ExperimentConfig,
    workdir: PathLike,
    *,
    weights: tuple[Params, dict[str, Any]] | None = None,
    evaluate: Evaluate | None = None,
) -> TrainState:
    """Runs an experiment on its training split; see `run`."""
    method = get_method_class(config.method)(config.model)
    data = TrainingData.of(config, method)
    return run(config, workdir, method, data, weights=weights, evaluate=evaluate)


def run(
    config: ExperimentConfig,
    workdir: PathLike,
    method: Method,
    data: TrainingData,
    *,
    weights: tuple[Params, dict[str, Any]] | None = None,
    evaluate: Evaluate | None = None,
) -> TrainState:
    """Trains from the newest checkpoint of the workdir, or from the beginning, to the last step.

    Stopped at any moment and started again, a run ends with the same bits. SIGTERM and SIGINT save
    a checkpoint and return. The workdir holds `config.json`, `metrics.jsonl`, TensorBoard events
    and `checkpoints/`.

    Args:
      weights: parameters and batch statistics to begin with where there is no checkpoint; None
        draws them at random.
      evaluate: called every `config.train.evaluate_every` steps and at the end, on every process.

    Returns:
      the state after the last step made.

    Raises:
      UserError: the loss is not finite, the disk is full, or the workdir's checkpoints belong to
        other data or to another network.
    """
    workdir = as_path(workdir)
    checkpoints = Checkpoints(workdir, config.train.keep)
    with distributed.watch(lambda: _resume_point(checkpoints)), _explained(checkpoints):
        return _run(config, workdir, checkpoints, method, data, weights, evaluate)


def _run(
    config: ExperimentConfig,
    workdir: Path,
    checkpoints: Checkpoints,
    method: Method,
    data: TrainingData,
    weights: tuple[Params, dict[str, Any]] | None,
    evaluate: Evaluate | None,
) -> TrainState:
    train = config.train
    mesh = make_mesh(config.mesh)
    check_batch_size(train.batch_size, train.microbatches, mesh)
    total = total_steps(config, data)
    horizon = total
    if train.horizon_epochs is not None:
        horizon = math.ceil(train.horizon_epochs * data.steps_per_epoch)

    schedule = learning_rate_schedule(config.optimizer, horizon)
    optimizer = make_optimizer(config.optimizer, method, schedule)
    params = jax.eval_shape(lambda: method.init(jax.random.key(0))[0])
    partition = Partition.of(method, config.optimizer, params)
    abstract = abstract_state(method, optimizer, partition, mesh)
    train_step = make_train_step(
        method, optimizer, partition, schedule, data.prepare, abstract, mesh, train.microbatches
    )

    work = _work_counter(method, partition, abstract)

    restored = checkpoints.restore(
        abstract.network(),
        abstract.training(),
        lambda stored, meta: _check_resume(config, data, workdir, stored["identity"], meta),
    )
    if restored is None:
        state = create_state(method, optimizer, partition, mesh, train.seed, weights)
        step = 0
    else:
        state = TrainState.from_parts(restored.network, restored.training)
        step = restored.data["next_batch"]

    meta = {"config": to_dict(config), "versions": _versions()}
    if jax.process_index() == 0:
        write_json(workdir / "config.json", meta["config"])
    log = _Log(config, workdir, checkpoints, step, total, _peak_flops(config, mesh))
    if restored is not None:
        log.say(f"resuming from {checkpoints.folder / str(step)}")
    profiler = Profiler(workdir, train.profile)
    saved = step

    def save() -> None:
        nonlocal saved
        log.drain()  # A state is saved only after its loss was looked at.
        position = {"next_batch": step, "identity": data.identity}
        checkpoints.save(step, state.network(), state.training(), position, meta)
        saved = step

    with (
        StopSignal() as signal,
        log,
        contextlib.closing(profiler),
        contextlib.closing(_batches(config, method, data, step, mesh)) as batches,
    ):
        while True:
            stopping = log.stop_agreed(signal)
            if step > saved and (stopping or step == total or step % train.checkpoint_every == 0):
                save()
            if stopping or step >= total:
                break
            batch = next(batches)
            if batch.index != step:
                raise RuntimeError(f"the data gave batch {batch.index} for step {step}")
            profiler.before_step(step, state)
            state, metrics = train_step(state, batch.arrays, _stop_flags(signal, mesh))
            step += 1
            log.add(step, metrics, batch.record_ids, work(batch.arrays))
            due = train.evaluate_every and (step % train.evaluate_every == 0 or step == total)
            if due and evaluate is not None:
                log.drain()
                log.evaluation(step, evaluate(state.params, state.method_state))
            checkpoints.check()
        checkpoints.close()
    if step < total:
        log.say(
            f"stopped by {signal.received or 'a signal to another process'} after step {step} of "
            f"{total}; saved in {checkpoints.folder / str(saved)}. The same command goes on from "
            "there"
        )
    return state


def _batches(
    config: ExperimentConfig, method: Method, data: TrainingData, step: int, mesh: Mesh
) -> Generator[Any, None, None]:
    """The batches from that of `step` on, without padding where that changes no embedding."""
    batches = data.open(step, mesh)
    multiple = config.train.text_multiple
    return cut_padding(batches, multiple) if multiple and method.ignores_padding else batches


def _work_counter(
    method: Method, partition: Partition, abstract: TrainState
) -> Callable[[Batch], int]:
    """Counts the model FLOPs of a step from the shapes of its batch, once for each."""
    counted: dict[tuple[tuple[int, ...], ...], int] = {}

    def count(batch: Batch) -> int:
        shapes = tuple(array.shape for array in batch.values())
        if shapes not in counted:
            work = flops.training_flops(
                method, abstract.params, abstract.method_state, batch, partition.fixed
            )
            counted[shapes] = work or 0  # unknown: the run goes on without this metric
        return counted[shapes]

    return count


def _peak_flops(config: ExperimentConfig, mesh: Mesh) -> float | None:
    """Of all devices together in the experiment's compute type; None where it is not known."""
    device = mesh.devices.flat[0]
    peak = flops.peak_flops(device.device_kind, getattr(config.model, "dtype", "float32"))
    return None if peak is None else peak * mesh.size


def total_steps(config: ExperimentConfig, data: TrainingData) -> int:
    """How many steps make the whole run."""
    return config.train.steps or math.ceil(config.train.epochs * data.steps_per_epoch)


def _check_resume(
    config: ExperimentConfig,
    data: TrainingData,
    workdir: Path,
    identity: dict[str, Any],
    meta: Mapping[str, Any],
) -> None:
    """Refuses to go on with other data or another network than the checkpoint's."""
    from retfm_jax.data.pipeline import check_identity

    before, now = meta["config"], to_dict(config)
    for section in ("method", "model"):
        differences = _differences(before[section], now[section], f"config.{section}")
        if differences:
            raise UserError(
                f"{workdir} holds checkpoints of another network: {differences}. "
                "Resume with that configuration, or take another workdir"
            )
    check_identity(identity, data.identity)


def _differences(before: Any, now: Any, where: str) -> str:
    """Names the entries in which two nested dicts differ."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        return "; ".join(
            _differences(before.get(key), now.get(key), f"{where}.{key}")
            for key in sorted(before.keys() | now.keys())
            if before.get(key) != now.get(key)
        )
    return f"{where} was {before!r} and is {now!r}" if before != now else ""


def _versions() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in ("retfm-jax", "jax", "flax")}


def _stop_flags(signal: StopSignal, mesh: Mesh) -> Int[Array, " devices"]:
    """One number for each device: does its process wish to stop?"""
    flags = np.full(mesh.local_mesh.size, signal.received is not None, np.int32)
    return jax.make_array_from_process_local_data(batch_sharding(mesh), flags)


@contextlib.contextmanager
def _explained(checkpoints: Checkpoints) -> Iterator[None]:
    """Says what errors of the runtime mean for the user."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" in str(error):
            raise UserError(
                "the step does not fit into the devices' memory: raise config.train.microbatches "
                "or config.mesh.fsdp, or lower config.train.batch_size"
            ) from error
        if jax.process_count() > 1:
            raise UserError(
                "the processes of this run lost each other: one of them ended or its host does "
                f"not answer. Start all of them again; {_resume_point(checkpoints)}"
            ) from error
        raise


def _resume_point(checkpoints: Checkpoints) -> str:
    latest = checkpoints.latest
    return f"the last good checkpoint is {latest}" if latest else "there is no checkpoint yet"


class _Log:
    """Reads metrics a few steps late, looks whether they are finite, shows and writes them.

    Every process reads them all and so comes to the same conclusions at the same step; process 0
    shows and writes.
    """

    def __init__(
        self,
        config: ExperimentConfig,
        workdir: Path,
        checkpoints: Checkpoints,
        step: int,
        total: int,
        peak_flops: float | None,
    ):
        self._train = config.train
        self._workdir = workdir
        self._checkpoints = checkpoints
        self._total = total
        self._peak_flops = peak_flops
        self._pending: collections.deque[tuple[int, Metrics, list[str], int]] = collections.deque()
        self._stop = False
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
            disable=not chief,
        )

    def __enter__(self) -> "_Log":
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()
        if self._writer is not None:
            self._writer.close()

    def say(self, text: str) -> None:
        """Prints a line above the progress bar."""
        if self._writer is not None:
            self._bar.write(text)

    def add(self, step: int, metrics: Metrics, record_ids: list[str], work: int) -> None:
        """Takes the metrics of a step, which the devices may still be computing.

        Args:
          work: the step's model FLOPs.

        Raises:
          UserError: the loss of a step a little before was not finite.
        """
        self._pending.append((step, metrics, record_ids, work))
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
        """Whether to stop before the next step: the same answer on every process."""
        # A lone process need not wait until its flag comes back through the metrics.
        return self._stop if jax.process_count() > 1 else signal.received is not None

    def evaluation(self, step: int, metrics: Mapping[str, float]) -> None:
        """Writes what an evaluation found; its time does not count as training."""
        if self._writer is not None:
            self._writer.write(step, {f"eval/{name}": value for name, value in metrics.items()})
        self._since = None

    def _read(self) -> None:
        step, metrics, record_ids, work = self._pending.popleft()
        values = {name: float(value) for name, value in jax.device_get(metrics).items()}
        self._stop |= values.pop("stop") > 0
        for name in ("loss", "grad_norm"):
            if not math.isfinite(values[name]):
                raise self._not_finite(step, name, values[name], record_ids)
        now = time.perf_counter()
        if self._since is None:
            self._since, self._steps, self._work = now, 0, 0
        else:
            self._steps += 1
            self._work += work
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
            self._bar.set_postfix(
                loss=f"{values['loss']:.4f}",
                samples_s=f"{values.get('samples_per_second', math.nan):.1f}",
                refresh=False,
            )
            if self._writer is not None:
                self._writer.write(step, values)

    def _not_finite(self, step: int, name: str, value: float, record_ids: list[str]) -> UserError:
        with contextlib.suppress(UserError):
            self._checkpoints.wait()  # One that is being written is good, and named below.
        several = jax.process_count() > 1
        suffix = f"_process_{jax.process_index()}" if several else ""
        path = self._workdir / f"nonfinite_step_{step}{suffix}.json"
        write_json(path, {"step": step, name: str(value), "record_ids": record_ids})
        named = ", ".join(record_ids[:NAMED_RECORDS])
        more = "" if len(record_ids) <= NAMED_RECORDS else f" and {len(record_ids)} in all"
        return UserError(
            f"step {step}: the {name} is {value}. Records of its batch: {named}{more} (all in "
            f"{path}); {_resume_point(self._checkpoints)}. Look at those records, lower "
            "config.optimizer.learning_rate or set config.optimizer.clip_norm, and start again"
        )
