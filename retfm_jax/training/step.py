"""One training step, whatever the method: a pure function of state and batch."""

from collections.abc import Callable
from typing import cast

import jax
import optax
from jax.sharding import Mesh
from jaxtyping import PRNGKeyArray

from retfm_jax.methods.base import Batch, Method, MethodState, Metrics, Params
from retfm_jax.runtime.mesh import traced_on
from retfm_jax.training.gradient_cache import loss_and_gradients
from retfm_jax.training.optimizers import Partition
from retfm_jax.training.state import TrainState

#: Device preprocessing: a host batch (uint8 images) and a key -> what the method eats.
Prepare = Callable[[Batch, PRNGKeyArray], Batch]
TrainStep = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]


def make_train_step(
    method: Method,
    optimizer: optax.GradientTransformation,
    partition: Partition,
    schedule: optax.Schedule,
    prepare: Prepare,
    mesh: Mesh,
    microbatches: int = 1,
) -> TrainStep:
    """Makes the step: prepare, loss and gradient, update, what follows the update, metrics.

    Args:
      method: whose loss is minimized.
      optimizer: of the trainable parameters.
      partition: which parameters are trained.
      schedule: step number from 0 on -> learning rate, for the metrics.
      prepare: preprocessing on the device, called with the host's batch and a key.
      mesh: the devices.
      microbatches: how many the batch is encoded in.

    Returns:
      a pure function (state, batch) -> (state, metrics).
    """

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(jax.random.wrap_key_data(state.key_data), state.step)
        prepare_key, loss_key = jax.random.split(key)
        batch = prepare(batch, prepare_key)
        with traced_on(mesh):
            loss, parts, method_state, gradients = loss_and_gradients(
                method,
                partition,
                state.params,
                state.method_state,
                batch,
                loss_key,
                microbatches,
                mesh,
            )
        low_rank, variables = partition.low_rank, partition.variables(state.params, state.low_rank)

        def effective(variables: Params) -> Params:
            return low_rank.effective(variables, state.low_rank)

        # Of what is moved itself this is the identity.
        (gradients,) = jax.vjp(effective, variables)[1](gradients)
        updates, opt_state = optimizer.update(gradients, state.opt_state, variables)
        variables = cast(Params, optax.apply_updates(variables, updates))
        params = partition.merge(effective(variables), partition.split(state.params)[1])
        params, method_state = method.after_update(params, MethodState(*method_state))
        metrics = parts | {
            "loss": loss,
            "grad_norm": optax.tree.norm(gradients),
            "learning_rate": schedule(state.step),
        }
        new_state = TrainState(
            step=state.step + 1,
            params=params,
            batch_stats=method_state.batch_stats,
            opt_state=opt_state,
            carry=method_state.carry,
            key_data=state.key_data,
            low_rank=low_rank.state(variables, state.low_rank),
        )
        return new_state, metrics

    return step
