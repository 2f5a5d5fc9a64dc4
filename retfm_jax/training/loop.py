"""The course of a run: save, then take a batch, then step, then log."""

import contextlib
import dataclasses
import functools
import importlib.metadata
import math
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Int

from retfm_jax.config import ExperimentConfig, model_entries, to_dict
from retfm_jax.config.stored_paths import portable
from retfm_jax.errors import UserError
from retfm_jax.files import Path, PathLike, as_path, write_json
from retfm_jax.knowledge.wording import ReportWording
from retfm_jax.methods import make_method
from retfm_jax.methods.base import Batch, Method, MethodState, Metrics, Params
from retfm_jax.ranges import LARGEST
from retfm_jax.runtime import distributed
from retfm_jax.runtime.best import Best
from retfm_jax.runtime.checkpoints import Checkpoints
from retfm_jax.runtime.lock import Lock, hold
from retfm_jax.runtime.mesh import batch_sharding, make_mesh, place_batch
from retfm_jax.runtime.profiler import Profiler
from retfm_jax.runtime.signals import StopSignal
from retfm_jax.training import flops
from retfm_jax.training.monitor import Log, resume_point
from retfm_jax.training.optimizers import name_beside_clipping
from retfm_jax.training.padding import cut_padding
from retfm_jax.training.requirements import check_mixing, check_structures, check_vocabularies
from retfm_jax.training.setup import Setup
from retfm_jax.training.stages import InForce
from retfm_jax.training.state import TrainState
from retfm_jax.training.step import Prepare, TrainStep
from retfm_jax.trees import differences

if TYPE_CHECKING:
    from retfm_jax.data.sources import RecordSource

#: Called with parameters and method state; the numbers that it returns go to the metrics, and one
#: of them may decide which network is the best.
Evaluate = Callable[[Params, MethodState], Mapping[str, float]]

#: Called where there is no checkpoint: parameters and batch statistics to begin with.
Weights = Callable[[], tuple[Params, dict[str, Any]]]


@dataclasses.dataclass(frozen=True)
class TrainingData:
    """Training data as the loop takes it.

    Attributes:
      open: called with an index and the mesh; an endless generator of batches on the mesh
        (`arrays`, `record_ids`, `index`) from the batch of that index on. The same index is the
        same global batch whenever it is read.
      prepare: preprocessing on the device, under the step's jit.
      identity: JSON values that fix what the batches hold.
      steps_in: counts the batches of the run's first epochs, parts of a batch included.
      records: number of records in the training split, for people; None where it is unknown.
      wording: gives the wording of the split's reports, which is kept with the network; None where
        it is trained with prompts.
    """

    open: Callable[[int, Mesh], Generator[Any, None, None]]
    prepare: Prepare
    identity: dict[str, Any]
    steps_in: Callable[[float], float]
    records: int | None = None
    wording: Callable[[], ReportWording | None] = lambda: None

    @classmethod
    def of(
        cls, config: ExperimentConfig, method: Method, source: "RecordSource | None" = None
    ) -> "TrainingData":
        """Opens the training split of an experiment.

        Args:
          config: the experiment, whose `data` names the split.
          method: tells what one sample is (`Method.sample_kind`).
          source: the training split, where somebody has opened it, of a method with one stream.

        Raises:
          UserError: a dataset is missing, too small, or of a kind that the method cannot use.
        """
        from retfm_jax.data import device_augment as device
        from retfm_jax.data.pipeline import TrainIterator, open_training
        from retfm_jax.data.prefetch import device_batches

        check_vocabularies(config)
        check_mixing(config, method)
        expert = None
        if source is None:
            source, expert = open_training(config.data, method.sample_kind)
        elif config.data.curriculum is not None:
            raise UserError(
                f"config.data.curriculum: {method.name} learns without one; leave it out"
            )
        check_structures(config, source)
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
            steps_in=iterator.epochs.steps,
            records=len(source),
            wording=functools.cache(lambda: _wording(source, method)),
        )


def _wording(source: "RecordSource", method: Method) -> ReportWording | None:
    from retfm_jax.data.kinds import get_kind
    from retfm_jax.data.report_wording import split_wording

    return split_wording(source) if get_kind(method.sample_kind).texts == "report" else None


def train(
    config: ExperimentConfig,
    workdir: PathLike,
    *,
    weights: Weights | None = None,
    evaluate: Evaluate | None = None,
) -> TrainState:
    """Runs an experiment on its training split; see `run`.

    Args:
      config: the experiment; its `method` and `model` name the method.
      workdir: folder of the run, made where it is missing.
      weights, evaluate: see `run`.

    Returns:
      the state after the last step made.

    Raises:
      UserError: see `TrainingData.of` and `run`.
    """
    method = make_method(config.method, config.model)
    data = TrainingData.of(config, method)
    return run(config, workdir, method, data, weights=weights, evaluate=evaluate)


def run(
    config: ExperimentConfig,
    workdir: PathLike,
    method: Method,
    data: TrainingData,
    *,
    weights: Weights | None = None,
    evaluate: Evaluate | None = None,
) -> TrainState:
    """Trains from the newest checkpoint of the workdir, or from the beginning, to the last step.

    Stopped at any moment and started again, a run ends with the same bits. SIGTERM, SIGINT and
    SIGHUP save a checkpoint and return. The workdir holds `config.json`, `metrics.jsonl`,
    TensorBoard events and `checkpoints/`, and belongs to one run at a time.

    Args:
      config: the experiment.
      workdir: folder of the run, made where it is missing.
      method: made from `config.model`.
      data: batches of the training split.
      weights: makes parameters and batch statistics to begin with, called where there is no
        checkpoint; None initializes them at random.
      evaluate: called every `config.train.evaluate_every` steps and at the end, on every process,
        after the state was saved where that is due; its numbers go to the metrics. A signal cuts it
        short; a run that resumes makes up for it.

    Returns:
      the state after the last step made.

    Raises:
      UserError: the loss is not finite, the disk is full, another run writes the workdir, or its
        checkpoints belong to other data or to another network.
    """
    workdir, config = as_path(workdir), in_steps(config, data)
    with _only_run(workdir) as lock:
        checkpoints = Checkpoints(workdir, config.train.keep)
        with distributed.watch(lambda: resume_point(checkpoints)), _explained(checkpoints):
            return _run(config, workdir, checkpoints, lock, method, data, weights, evaluate)


@contextlib.contextmanager
def _only_run(workdir: Path) -> Iterator[Lock | None]:
    """Holds the workdir: process 0 for all processes of the run."""
    with contextlib.ExitStack() as stack:
        lock, refusal = None, None
        if jax.process_index() == 0:
            try:
                lock = stack.enter_context(hold(workdir))
            except UserError as error:
                refusal = error
        if distributed.any_process(refusal is not None):
            raise refusal or UserError(f"process 0 of this run cannot have {workdir}: see there")
        yield lock


def _run(
    config: ExperimentConfig,
    workdir: Path,
    checkpoints: Checkpoints,
    lock: Lock | None,
    method: Method,
    data: TrainingData,
    weights: Weights | None,
    evaluate: Evaluate | None,
) -> TrainState:
    train = config.train
    mesh = make_mesh(config.mesh)
    total = total_steps(config, data)
    horizon = total
    if train.horizon_epochs is not None:
        horizon = _steps(train.horizon_epochs, data, "train.horizon_epochs")

    setup = Setup.of(config, method, mesh, horizon=horizon)
    stages = setup.stages(data.steps_in)

    restored = checkpoints.restore(
        setup.abstract.network(),
        setup.abstract.training(),
        lambda stored, meta: _check_resume(config, data, workdir, stored["identity"], meta),
        name_beside_clipping,
    )
    if restored is None:
        state = setup.create(None if weights is None else weights())
        step = 0
    else:
        state = TrainState.from_parts(restored.network, restored.training)
        step = restored.data["next_batch"]

    meta = {"config": portable(to_dict(config), workdir), "versions": _versions()}
    if (wording := data.wording()) is not None:
        meta["wording"] = wording.to_json()
    if jax.process_index() == 0:
        write_json(workdir / "config.json", meta["config"])
    profiler = Profiler(workdir, train.profile)
    best = Best(workdir, train.best) if evaluate and train.best else None
    saved = step

    evaluate_every = train.evaluate_every if evaluate else 0

    def due(every: int) -> bool:
        return bool(every) and step > 0 and (step % every == 0 or step == total)

    with (
        StopSignal() as signal,
        Log(train, workdir, checkpoints, step, total, _peak_flops(config, mesh)) as log,
        checkpoints,
        contextlib.closing(profiler),
        contextlib.closing(_batches(config, method, data, step, mesh)) as batches,
    ):
        log.say(*_header(setup, workdir, data, step, total))
        if restored is not None:
            log.say(
                f"resuming from {checkpoints.folder / str(step)}",
                *_changes(restored.meta["config"], meta["config"]),
            )
        evaluated = step if log.evaluated(step) else None

        def compiled(stage: Setup) -> tuple[Callable[..., Any], Callable[[Batch], int]]:
            log.begin(stage.title)
            return stage.jit(_with_votes(stage.step(data.prepare))), _work_counter(stage)

        in_force = InForce(stages, compiled)
        while True:
            stopping = log.stop_agreed(signal)
            evaluating = due(evaluate_every) and evaluated != step
            # Before an evaluation as well, where no signal can cut that short.
            saving = stopping or due(train.checkpoint_every)
            saving |= evaluating and jax.process_count() > 1
            if step > saved and saving:
                log.drain()  # A state is saved only after its loss was looked at,
                log.check_state(step, state)  # and itself.
                if lock is not None:
                    lock.check()
                position = {"next_batch": step, "identity": data.identity}
                checkpoints.save(step, state.network(), state.training(), position, meta)
                saved = step
            if evaluate and evaluating and not (stopping and step < total):
                log.drain()
                evaluated = step
                # The last one goes to its end: behind it the run is finished, and says so.
                whole = step == total or jax.process_count() > 1
                _evaluate(evaluate, step, state, None if whole else signal, log, best, meta)
                continue
            if stopping or step >= total:
                break
            train_step, work = in_force.at(step)
            batch = next(batches)
            if batch.index != step:
                raise RuntimeError(f"the data gave batch {batch.index} for step {step}")
            profiler.before_step(step, state)
            state, metrics = train_step(state, (batch.arrays, _votes(signal, mesh)))
            step += 1
            log.add(step, metrics, batch.arrays, batch.record_ids, work(batch.arrays))
            checkpoints.check()
    if step < total:
        log.say(
            f"stopped by {signal.received or 'a signal to another process'} after step {step} of "
            f"{total}; saved in {checkpoints.folder / str(saved)}. The same command resumes from "
            "there"
        )
    else:
        log.say(f"finished after step {step} of {total}; saved in {checkpoints.latest}")
    return state


def _evaluate(
    evaluate: Evaluate,
    step: int,
    state: TrainState,
    signal: StopSignal | None,
    log: Log,
    best: Best | None,
    meta: Mapping[str, Any],
) -> None:
    """Evaluates a state and keeps the best one; where a signal is given, that cuts it short.

    Several processes cannot leave an evaluation one by one.
    """
    log.say(f"evaluating after step {step}")
    began = time.perf_counter()

    def measure() -> Mapping[str, float]:
        return evaluate(state.params, state.method_state)

    metrics = measure() if signal is None else signal.cut_short(measure)
    if metrics is None:
        return
    # Before the metrics are written, which say that this step needs no further evaluation.
    kept = best is not None and best.offer(step, metrics, state.network(), meta)
    log.evaluation(step, metrics, time.perf_counter() - began)
    if best is not None and best.score is not None:
        score = best.score
        which = "the best so far, kept" if kept else f"the best is of step {score.step}"
        log.say(f"  {which} ({score.metric} {score.value:.4f})")


def _header(setup: Setup, workdir: Path, data: TrainingData, step: int, total: int) -> list[str]:
    """What is about to happen, for people."""
    config, mesh = setup.config, setup.mesh
    train = config.train

    def count(tree: Params) -> int:
        return sum(leaf.size for leaf in jax.tree.leaves(tree))

    state = setup.abstract
    trained = setup.partition.size(state.params, state.low_rank)
    axes = ", ".join(f"{name} {size}" for name, size in mesh.shape.items())
    device = mesh.devices.flat[0].device_kind
    hosts = f", {jax.process_count()} processes" if jax.process_count() > 1 else ""
    records = "" if data.records is None else f"{data.records:,} records, "
    parts = f", encoded in {train.microbatches} parts" if train.microbatches > 1 else ""
    an_epoch = "an epoch" if config.data.curriculum is None else "in the first epoch"
    return [
        f"training {config.method}",
        f"  devices     {mesh.size} x {device} ({axes}{hosts})",
        f"  parameters  {count(state.params):,}, of which {trained:,} are trained",
        f"  data        {config.data.dataset}, {config.data.train_split}: {records}"
        f"{data.steps_in(1):,.0f} batches of {train.batch_size}{parts} {an_epoch}",
        f"  steps       {step:,} of {total:,} done; a checkpoint every {train.checkpoint_every:,}",
        f"  workdir     {workdir}: checkpoints, metrics.jsonl, TensorBoard events",
    ]


def _batches(
    config: ExperimentConfig, method: Method, data: TrainingData, step: int, mesh: Mesh
) -> Generator[Any, None, None]:
    """The batches from that of `step` on, without padding where that changes no embedding."""
    batches = data.open(step, mesh)
    multiple = config.train.text_multiple
    return cut_padding(batches, multiple) if multiple and method.ignores_padding else batches


def _work_counter(setup: Setup) -> Callable[[Batch], int]:
    """Counts the model FLOPs of a step from the shapes of its batch, once for each."""
    counted: dict[tuple[tuple[int, ...], ...], int] = {}

    def count(batch: Batch) -> int:
        shapes = tuple(array.shape for array in batch.values())
        if shapes not in counted:
            # 0 where it is unknown: the run continues without this metric.
            counted[shapes] = setup.model_flops(batch) or 0
        return counted[shapes]

    return count


def _peak_flops(config: ExperimentConfig, mesh: Mesh) -> float | None:
    """Of all devices together in the experiment's compute type; None where it is not known."""
    device = mesh.devices.flat[0]
    peak = flops.peak_flops(device.device_kind, getattr(config.model, "dtype", "float32"))
    return None if peak is None else peak * mesh.size


def in_steps(config: ExperimentConfig, data: TrainingData) -> ExperimentConfig:
    """Turns what is stated in epochs into steps: warm-up, evaluations, checkpoints.

    Args:
      config: the experiment.
      data: tells the steps of an epoch.

    Raises:
      UserError: there are more steps than 32 bits count.
    """
    train, optimizer = config.train, config.optimizer
    if optimizer.warmup_epochs is not None:
        steps = _steps(optimizer.warmup_epochs, data, "optimizer.warmup_epochs")
        optimizer = dataclasses.replace(optimizer, warmup_steps=steps)
    if train.evaluate_epochs is not None:
        steps = _steps(train.evaluate_epochs, data, "train.evaluate_epochs")
        train = dataclasses.replace(train, evaluate_every=steps)
    if train.checkpoint_epochs is not None:
        steps = _steps(train.checkpoint_epochs, data, "train.checkpoint_epochs")
        steps = min(train.checkpoint_every, steps)
        train = dataclasses.replace(train, checkpoint_every=steps)
    return dataclasses.replace(config, train=train, optimizer=optimizer)


def total_steps(config: ExperimentConfig, data: TrainingData) -> int:
    """Number of steps of the whole run.

    Args:
      config: the experiment; `train.steps` counts, else `train.epochs`.
      data: tells the steps of an epoch.

    Raises:
      UserError: there are more than 32 bits count.
    """
    return config.train.steps or _steps(config.train.epochs, data, "train.epochs")


def _steps(epochs: float, data: TrainingData, entry: str) -> int:
    steps = data.steps_in(epochs)
    if steps > LARGEST:
        raise UserError(f"config.{entry} {epochs:g} makes {steps:.3g} steps: more than {LARGEST}")
    return math.ceil(steps)


def _check_resume(
    config: ExperimentConfig,
    data: TrainingData,
    workdir: Path,
    identity: dict[str, Any],
    meta: Mapping[str, Any],
) -> None:
    """Refuses to resume with other data or another network than the checkpoint's."""
    from retfm_jax.data.pipeline import check_identity

    before, now = meta["config"], to_dict(config)
    if before["method"] == config.method:
        before = before | {"model": model_entries(type(config.model), before["model"])}
    for section in ("method", "model", "lora"):
        found = _said(before.get(section), now[section], f"config.{section}")
        if found:
            raise UserError(
                f"{workdir} holds checkpoints of another network: {'; '.join(found)}. "
                "Resume with that configuration, or take another workdir"
            )
    check_identity(identity, data.identity)


def _changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Says which entries differ from those of the checkpoint and change how the run continues."""
    lines = []
    for where, remark in (
        ("optimizer", ""),
        ("train.steps", " (the learning rate follows it)"),
        ("train.epochs", " (the learning rate follows it)"),
        ("train.horizon_epochs", " (the learning rate follows it)"),
        ("init", " (without effect: the run has begun)"),
    ):
        old, new = before, now
        for key in where.split("."):
            old, new = (values.get(key) if values else None for values in (old, new))
        lines += [f"  {part}{remark}" for part in _said(old, new, f"config.{where}")]
    return lines


def _said(before: Any, now: Any, where: str) -> list[str]:
    """A sentence for each entry in which two sections differ."""
    found = differences(before, now, where)
    return [f"{path} was {old!r} and is {new!r}" for path, old, new in found]


def _versions() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in ("retfm-jax", "jax", "flax")}


def _with_votes(
    step: TrainStep,
) -> Callable[[TrainState, tuple[Batch, Int[Array, " devices"]]], tuple[TrainState, Metrics]]:
    """The step, which also carries the wish of some process to stop to all of them.

    The metric "stop" is the largest of the votes.
    """

    def voting(
        state: TrainState, inputs: tuple[Batch, Int[Array, " devices"]]
    ) -> tuple[TrainState, Metrics]:
        batch, votes = inputs
        state, metrics = step(state, batch)
        return state, metrics | {"stop": votes.max()}

    return voting


def _votes(signal: StopSignal, mesh: Mesh) -> Int[Array, " devices"]:
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
                f"not answer. Start all of them again; {resume_point(checkpoints)}"
            ) from error
        raise
