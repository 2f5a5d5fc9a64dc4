"""The real training step, compiled for devices that need not be here.

Nothing of full size is ever allocated: state and batch are shapes with shardings.
"""

import dataclasses
import math
import re
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from retfm_jax.config import ExperimentConfig, to_dict
from retfm_jax.data import device_augment as device
from retfm_jax.data.kinds import get_kind
from retfm_jax.errors import UserError
from retfm_jax.methods import make_method
from retfm_jax.models import target
from retfm_jax.planning.hlo import HloModule, Work
from retfm_jax.planning.machine_code import Bound, Recording, bound
from retfm_jax.planning.topologies import Topology
from retfm_jax.progress import progress_bar
from retfm_jax.runtime.mesh import batch_sharding, make_mesh
from retfm_jax.training.flops import count_program
from retfm_jax.training.setup import Setup
from retfm_jax.training.state import TrainState
from retfm_jax.trees import leaf_name

#: A program that stands in for that of a GPU never runs: no time is spent on its machine code.
_UNRUN = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


class Rule(NamedTuple):
    """How one parameter is sharded; gradients, moments and momentum copies are sharded alike.

    Attributes:
      path: of the parameter in the tree.
      shape: of the whole parameter.
      spec: mesh axes by dimension, such as "None, fsdp", or "whole" where it is replicated.
      bytes_per_device: of its shard.
    """

    path: str
    shape: tuple[int, ...]
    spec: str
    bytes_per_device: int


@dataclasses.dataclass(frozen=True)
class Seconds:
    """Seconds of a step: at least by each limit, and as the compiler expects it.

    Attributes:
      compute: FLOPs of the program at the peak rate of its type; None where they are unknown.
      memory: traffic at the memory's bandwidth.
      network: collectives one after the other over the links.
      schedule: sum of the estimates of the compiler for its instructions and of our kernels for
        themselves, which the others bound from below; None where it gives none.
      machine_code: the bound of the program's machine code, instruction by instruction; None where
        it was not asked for.
    """

    compute: float | None
    memory: float
    network: float
    schedule: float | None
    machine_code: float | None = None

    @property
    def step(self) -> float:
        """Estimate of a step in seconds."""
        return max(self.compute or 0.0, self.memory, self.network, self.schedule or 0.0)

    @property
    def limit(self) -> str:
        """Name of what a step waits for most: "compute", "memory" or "network"."""
        return max(("compute", "memory", "network"), key=lambda name: getattr(self, name) or 0.0)


@dataclasses.dataclass(frozen=True)
class Plan:
    """Needs of one training step.

    Attributes:
      config: the experiment.
      topology: the devices that it was compiled for.
      stage: of the run whose step it is, the one with most FLOPs; empty where a run has one.
      rules: how each parameter is sharded.
      memory: bytes per device by kind: what the state and the batch hold, exactly; of a program
        that was compiled also its `temporaries` (activations, gradients) and `code`.
      needed: bytes per device, the sum of these, or what a compiler that refuses asks for. One that
        accepts may put kinds that are not needed at once in the same memory. For devices whose
        compiler is not here the temporaries are those of the CPU's.
      capacity: bytes per device that programs can have; None where unknown.
      fits: whether a step fits into that memory; False where neither a compiler of the devices nor
        a capacity can tell.
      model_flops: of a step, what the method needs, all devices together; None where they cannot
        be counted, as `program_flops`.
      program_flops: with what is computed again to save memory.
      work: of the compiled program; None where the compiler refused it.
      seconds: None where the chip is unknown or the program was refused.
      compilation: seconds that the compiler took.
      bound: of the machine code; None where it was not asked for or not written.
    """

    config: ExperimentConfig
    topology: Topology
    stage: str
    rules: tuple[Rule, ...]
    memory: Mapping[str, int]
    needed: int
    capacity: int | None
    fits: bool
    model_flops: int | None
    program_flops: int | None
    work: Work | None
    seconds: Seconds | None
    compilation: float
    bound: Bound | None = None

    def to_json(self) -> dict[str, Any]:
        """Converts the plan to JSON values."""
        document: dict[str, Any] = {
            "topology": self.topology.name,
            "stage": self.stage or None,
            "devices": len(self.topology.devices),
            "device_kind": self._device_kind,
            "compiler": "of the devices" if self.topology.real else "of the CPU: an estimate",
            "batch_size": self.config.train.batch_size,
            "microbatches": self.config.train.microbatches,
            "fits": self.fits,
            "bytes_per_device": {
                **self.memory,
                "needed": self.needed,
                "capacity": self.capacity,
            },
            "flops": {"model": self.model_flops, "program": self.program_flops},
            "seconds_of_compilation": self.compilation,
        }
        if self.work is not None:
            document["memory_traffic_per_device"] = self.work.traffic
            document["loops_of_unknown_length"] = self.work.open_loops
            document["kernels"] = [dataclasses.asdict(kernel) for kernel in self.work.kernels]
            document["collectives"] = [
                {
                    "kind": collective.kind,
                    "devices": collective.group,
                    "times": collective.times,
                    "bytes": collective.bytes,
                    "source": collective.source,
                }
                for collective in self.work.collectives
            ]
        if self.seconds is not None:
            document["seconds"] = {
                **dataclasses.asdict(self.seconds),
                "step": self.seconds.step,
                "limit": self.seconds.limit,
            }
            document["share_of_peak"] = self.share_of_peak
            document["share_of_peak_of"] = self.share_of
        if self.bound is not None:
            document["machine_code"] = dataclasses.asdict(self.bound)
        document["sharding"] = [rule._asdict() for rule in self.rules]
        return document | {"config": to_dict(self.config)}

    @property
    def _device_kind(self) -> str:
        chip = self.topology.chip
        if chip is None or self.topology.real:
            return self.topology.devices[0].device_kind
        return chip.name

    @property
    def share_of_peak(self) -> float | None:
        """Model FLOPs as a share of the devices' peak in the time of `share_of`; None: unknown."""
        chip = self.topology.chip
        peak = None if chip is None else chip.peak(self.config.model.dtype)
        if self.seconds is None or self.model_flops is None or peak is None:
            return None
        step = self.seconds.machine_code or self.seconds.step
        return self.model_flops / (step * peak * len(self.topology.devices))

    @property
    def share_of(self) -> str:
        """Which time the share of peak is of: the machine code's bound where it was read."""
        known = self.seconds is not None and self.seconds.machine_code is not None
        return "the machine code's bound" if known else "the estimated step"


def plan(config: ExperimentConfig, topology: Topology, recorded: Recording | None = None) -> Plan:
    """Compiles the training step of an experiment for a topology.

    Args:
      config: the experiment; without `train.steps` its schedule has 1000 steps.
      topology: as `open_topology` opens it.
      recorded: where the machine code of the program is read from, for its bound.

    Raises:
      UserError: the mesh does not fit the devices, or the batch does not divide over them.
    """
    mesh = make_mesh(config.mesh, topology.devices)
    method = make_method(config.method, config.model)
    setup = Setup.of(config, method, mesh, horizon=config.train.steps or 1000)
    state = setup.abstract
    batch = abstract_batch(setup)
    setup = setup.costliest(batch)
    traced = _traced(setup, state, batch)
    program_flops = count_program(traced)
    chip = topology.chip
    if not topology.real and chip is not None:
        # Stand-ins for kernels have their memory, not their products.
        with target.assumed(chip.platform):
            traced = _traced(setup, state, batch)
    memory = _memory(state, batch)
    work = seconds = code_bound = None
    capacity = None if chip is None else chip.memory
    start = time.monotonic()
    try:
        compiled = traced.lower().compile({} if topology.real else _UNRUN)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        compilation = time.monotonic() - start
        needed, capacity = _refusal(str(error))
        fits = False
    else:
        compilation = time.monotonic() - start
        stats, text = compiled.memory_analysis(), compiled.as_text()
        assert stats is not None
        assert text is not None
        memory |= {
            "padding of layouts": max(stats.argument_size_in_bytes - sum(memory.values()), 0),
            "temporaries": stats.temp_size_in_bytes,
            "code": stats.generated_code_size_in_bytes,
        }
        needed = sum(memory.values())
        module = HloModule(text, mesh.size)
        work = module.work()
        if recorded is not None and chip is not None and (codes := recorded.take()):
            code_bound = bound(module, codes, chip)
        seconds = _seconds(config, topology, program_flops, work, code_bound)
        # A compiler that does not refuse has answered.
        fits = topology.real or (capacity is not None and needed < capacity)
    return Plan(
        config=config,
        topology=topology,
        stage=setup.title,
        rules=_rules(state),
        memory=memory,
        needed=needed,
        capacity=capacity,
        fits=fits,
        model_flops=setup.model_flops(batch),
        program_flops=program_flops,
        work=work,
        seconds=seconds,
        compilation=compilation,
        bound=code_bound,
    )


def _traced(setup: Setup, state: TrainState, batch: Mapping[str, Any]) -> Any:
    """The step as it stands before it is compiled."""
    config = setup.config
    step = setup.step(
        lambda batch, key: device.prepare(batch, config.data.image, config.data.augment, key)
    )
    return setup.jit(step).trace(state, batch)


def abstract_batch(setup: Setup) -> dict[str, jax.ShapeDtypeStruct]:
    """Arrays of a step as the data pipeline gives them, without values.

    Args:
      setup: the experiment on its mesh.

    Returns:
      shape, dtype and sharding of each array by name; the first axis is the batch.
    """
    config, sharding = setup.config, batch_sharding(setup.mesh)
    rows = config.train.batch_size
    return {
        name: jax.ShapeDtypeStruct((rows, *spec.shape), spec.dtype, sharding=sharding)
        for name, spec in get_kind(setup.method.sample_kind).arrays(config).items()
    }


def largest_batch(planned: Plan, compiled: Callable[..., Plan] = plan) -> int:
    """Searches the largest batch that fits, to an eighth, in multiples that devices share evenly.

    Memory grows nearly linearly with the batch, so that few compilations find it.

    Args:
      planned: the plan that the search begins with.
      compiled: makes the plan of another batch size, from a config and a topology.

    Returns:
      samples of a step over all devices; 0 where not even the smallest batch fits.

    Raises:
      UserError: the memory of the devices is unknown.
    """
    config, topology = planned.config, planned.topology
    unit = config.train.microbatches * len(topology.devices)
    if planned.capacity is None:
        raise UserError(f"no largest batch: the memory of {topology.name} is not known")
    state = sum(
        size
        for name, size in planned.memory.items()
        if name not in ("batch", "padding of layouts", "temporaries", "code")
    )
    low, high = 0, None
    tried = planned
    with progress_bar(desc="largest batch", unit="compilation", total=None) as bar:
        while True:
            rows = tried.config.train.batch_size
            low, high = (rows, high) if tried.fits else (low, rows)
            bar.set_postfix(fits=low, too_large=high or "?")
            step = max(unit, low // 8)
            if high is not None and high - low <= step:
                return low
            # What lies beside the state grows with the batch.
            room, used = (tried.capacity or planned.capacity) - state, max(tried.needed - state, 1)
            guess = int(0.97 * rows * room / used) // unit * unit
            # A compiler may accept more than the sum of its kinds: then the guess says no more
            # than what is known, and the search continues in steps until one is refused.
            floor = low + (unit if high is not None else step // unit * unit)
            ceiling = high - unit if high is not None else 8 * max(low, unit)
            if high is not None and not floor < guess < ceiling:
                guess = (low + high) // 2 // unit * unit
            guess = min(max(guess, floor), ceiling)
            train = dataclasses.replace(config.train, batch_size=guess)
            tried = compiled(dataclasses.replace(config, train=train), topology)
            bar.update()


def _memory(state: TrainState, batch: Mapping[str, Any]) -> dict[str, int]:
    parts = {
        "parameters": state.params,
        "optimizer state": state.opt_state,
        "batch statistics": state.batch_stats,
        "low-rank updates": state.low_rank,
        **{name.replace("_", " "): part for name, part in state.carry.items()},
        "batch": batch,
    }
    sizes = {
        name: sum(map(_bytes_per_device, jax.tree.leaves(part))) for name, part in parts.items()
    }
    return {name: size for name, size in sizes.items() if size}


def _bytes_per_device(leaf: jax.ShapeDtypeStruct) -> int:
    return math.prod(leaf.sharding.shard_shape(leaf.shape)) * np.dtype(leaf.dtype).itemsize


def _rules(state: TrainState) -> tuple[Rule, ...]:
    leaves = jax.tree_util.tree_flatten_with_path(state.params)[0]
    return tuple(
        Rule(
            leaf_name(path),
            leaf.shape,
            ", ".join(str(axis) for axis in leaf.sharding.spec) or "whole",
            _bytes_per_device(leaf),
        )
        for path, leaf in leaves
    )


_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def _refusal(message: str) -> tuple[int, int]:
    """Bytes that a refused program needs, and bytes that there are."""
    size = r"([\d.]+)([KMGT]?)"
    for pattern in (
        rf"required for HLO temporaries \({size}\) exceeds available \w+ \({size}\)",
        rf"Used {size} of {size} \w+",
    ):
        if found := re.search(pattern, message):
            needed, needed_unit, there, there_unit = found.groups()
            return (
                int(float(needed) * _UNITS[needed_unit]),
                int(float(there) * _UNITS[there_unit]),
            )
    raise UserError(f"the step does not fit into the devices' memory: {message.splitlines()[0]}")


def _seconds(
    config: ExperimentConfig,
    topology: Topology,
    flops: int | None,
    work: Work,
    code_bound: Bound | None,
) -> Seconds | None:
    chip = topology.chip
    if chip is None:
        return None
    schedule = compute = None
    peak = chip.peak(config.model.dtype)
    if flops is not None and peak is not None:
        compute = flops / len(topology.devices) / peak
    if work.cycles is not None and chip.clock is not None:
        schedule = work.cycles / chip.clock + work.kernel_seconds(chip)
    return Seconds(
        compute=compute,
        memory=work.traffic / chip.bandwidth,
        network=sum(
            collective.seconds(bandwidth)
            for collective in work.collectives
            if (bandwidth := topology.bandwidth(collective.group)) is not None
        ),
        schedule=schedule,
        machine_code=None if code_bound is None else code_bound.seconds,
    )
