"""An experiment ready to be compiled: all that its step, its state and its plan have in common."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import optax
from jax.sharding import Mesh

from retfm_jax.config import ExperimentConfig
from retfm_jax.errors import UserError
from retfm_jax.methods.base import Method, Metrics, Params, Stage
from retfm_jax.runtime.mesh import batch_sharding, check_batch_size, replicated
from retfm_jax.training import flops
from retfm_jax.training.optimizers import Partition, learning_rate_schedule, make_optimizer
from retfm_jax.training.state import TrainState, abstract_state, create_state
from retfm_jax.training.step import Prepare, TrainStep, make_train_step


@dataclasses.dataclass(frozen=True)
class Setup:
    """An experiment's step, state and plan; nothing of it lies on a device yet.

    Attributes:
      config: the experiment.
      method: made from `config.model`, or of a stage, whose loss is in force.
      mesh: the devices.
      schedule: step number -> learning rate.
      optimizer: of the trainable parameters.
      partition: which parameters are trained.
      abstract: shapes, types and shardings of the state, the same in all stages.
      title: of the stage, for messages; empty where a run has one.
    """

    config: ExperimentConfig
    method: Method
    mesh: Mesh
    schedule: optax.Schedule
    optimizer: optax.GradientTransformation
    partition: Partition
    abstract: TrainState
    title: str = ""

    @classmethod
    def of(cls, config: ExperimentConfig, method: Method, mesh: Mesh, *, horizon: int) -> "Setup":
        """Assembles an experiment.

        Args:
          config: the experiment.
          method: made from `config.model`.
          mesh: the devices, with the axes of `runtime.mesh`.
          horizon: number of steps at which the learning rate's cosine ends.

        Raises:
          UserError: the batch does not divide over mesh and microbatches, or the config names
            parameters that do not exist, or leaves nothing to train.
        """
        check_batch_size(config.train.batch_size, config.train.microbatches, mesh)
        schedule = learning_rate_schedule(config.optimizer, horizon)
        optimizer = make_optimizer(config.optimizer, method, schedule)
        params = jax.eval_shape(lambda: method.init(jax.random.key(0))[0])
        partition = Partition.of(method, config.optimizer, params, config.lora)
        abstract = abstract_state(method, optimizer, partition, mesh)
        return cls(config, method, mesh, schedule, optimizer, partition, abstract)

    def stages(self, steps_in: Callable[[float], float]) -> "dict[int, Setup]":
        """Assembles the stages of a run, each by the step that it begins with.

        Args:
          steps_in: counts the batches of the run's first epochs, parts of a batch included.

        Raises:
          UserError: a stage has no step.
        """
        found, begin = {}, 0
        for stage in self.method.stages:
            found[begin] = self._of_stage(stage)
            if stage.until is None:
                break
            end = math.ceil(steps_in(stage.until))
            if end <= begin:
                raise UserError(
                    f"{stage.title} ends after {stage.until:g} epochs, which are {end} steps, "
                    "before its first step"
                )
            begin = end
        return found

    def costliest(self, batch: Mapping[str, Any]) -> "Setup":
        """Assembles the stage whose step needs most FLOPs, which is that of most memory, too.

        Of equal ones, and where FLOPs cannot be counted, it is the last.

        Args:
          batch: the step's arrays or their shapes, by name.
        """
        stages = [self._of_stage(stage) for stage in reversed(self.method.stages)]
        if len(stages) == 1:
            return stages[0]
        return max(stages, key=lambda stage: stage.model_flops(batch) or 0)

    def _of_stage(self, stage: Stage) -> "Setup":
        return dataclasses.replace(self, method=stage.method, title=stage.title)

    def create(self, network: tuple[Params, dict[str, Any]] | None = None) -> TrainState:
        """Makes the state before the first step, each array where it will lie.

        Args:
          network: parameters and batch statistics to begin with; None initializes them at random
            from the config's seed.
        """
        seed = self.config.train.seed
        parts = self.method, self.optimizer, self.partition, self.abstract
        return create_state(*parts, seed, network)

    def step(self, prepare: Prepare, microbatches: int | None = None) -> TrainStep:
        """Makes the training step as a pure function; `jit` compiles it.

        Args:
          prepare: preprocessing on the device.
          microbatches: how many the batch is encoded in; None: as many as the config says.
        """
        return make_train_step(
            self.method,
            self.optimizer,
            self.partition,
            self.schedule,
            prepare,
            self.mesh,
            microbatches or self.config.train.microbatches,
        )

    def jit(
        self, step: Callable[[TrainState, Any], tuple[TrainState, Metrics]]
    ) -> "jax.stages.Wrapped":
        """Compiles a step for the mesh; the new state takes the old one's memory.

        Args:
          step: takes the state and a pytree of arrays whose first axis is sharded like a batch's.

        Returns:
          the compiled step, a function like `step`.
        """
        state = jax.tree.map(lambda leaf: leaf.sharding, self.abstract)
        return jax.jit(
            step,
            in_shardings=(state, batch_sharding(self.mesh)),
            out_shardings=(state, replicated(self.mesh)),
            donate_argnums=0,
            compiler_options=self._compiler_options(),
        )

    def _compiler_options(self) -> dict[str, bool]:
        # The TPU's compiler (libtpu 0.0.42) overflows its stack where it fuses a residual network's
        # convolutions into one another. Networks with batch norms are such networks.
        convolutional = bool(jax.tree.leaves(self.abstract.batch_stats))
        if not convolutional or self.mesh.devices.flat[0].platform != "tpu":
            return {}
        return {"xla_tpu_dot_dot_fusion": False, "xla_tpu_nested_dot_fusion": False}

    def model_flops(self, batch: Mapping[str, Any]) -> int | None:
        """Counts the model FLOPs of a step on a batch; None where they are unknown.

        Args:
          batch: the step's arrays or their shapes, by name.
        """
        state = self.abstract
        return flops.training_flops(
            self.method, state.params, state.method_state, batch, self.partition.fixed
        )
