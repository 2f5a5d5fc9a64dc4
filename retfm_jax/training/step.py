"""One training step, whatever the method: a pure function under one `jax.jit` on the mesh."""

import contextlib
from collections.abc import Callable

import jax
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Int, PRNGKeyArray

from retfm_jax.methods.method import Batch, Method, MethodState, Metrics
from retfm_jax.runtime.mesh import batch_sharding, replicated
from retfm_jax.training.gradient_cache import loss_and_gradients
from retfm_jax.training.optimizers import Partition
from retfm_jax.training.state import TrainState

#: Device preprocessing: a host batch (uint8 images) and a key -> what the method eats.
Prepare = Callable[[Batch, PRNGKeyArray], Batch]
TrainStep = Callable[[TrainState, Batch, Int[Array, " devices"]], tuple[TrainState, Metrics]]


def make_train_step(
    method: Method,
    optimizer: optax.GradientTransformation,
    partition: Partition,
    schedule: optax.Schedule,
    prepare: Prepare,
    abstract: TrainState,
    mesh: Mesh,
    microbatches: int = 1,
) -> TrainStep:
    """Compiles the step: prepare, loss and gradient, update, what follows the update, metrics.

    Args:
      abstract: shapes and shardings of the state (`state.abstract_state`).
      microbatches: parts in which the batch is encoded.

    Returns:
      a function (state, batch, stop flags) -> (state, metrics). It takes the old state's memory.
      The flags, one for each device, carry the wish of some process to stop to all of them:
      their maximum is the metric "stop".
    """

    def step(state: TrainState, batch: Batch, stop: Int[Array, " devices"]):
        key = jax.random.fold_in(jax.random.wrap_key_data(state.key_data), state.step)
        prepare_key, loss_key = jax.random.split(key)
        batch = prepare(batch, prepare_key)
        with divided(mesh):
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
        trainable, fixed = partition.split(state.params)
        updates, opt_state = optimizer.update(gradients, state.opt_state, trainable)
        params = partition.merge(optax.apply_updates(trainable, updates), fixed)
        params, method_state = method.after_update(params, MethodState(*method_state))
        metrics = parts | {
            "loss": loss,
            "grad_norm": optax.tree.norm(gradients),
            "learning_rate": schedule(state.step),
            "stop": stop.max(),
        }
        new_state = TrainState(
            step=state.step + 1,
            params=params,
            batch_stats=method_state.batch_stats,
            opt_state=opt_state,
            carry=method_state.carry,
            key_data=state.key_data,
        )
        return new_state, metrics

    state_shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract)
    return jax.jit(
        step,
        in_shardings=(state_shardings, batch_sharding(mesh), batch_sharding(mesh)),
        out_shardings=(state_shardings, replicated(mesh)),
        donate_argnums=0,
        compiler_options=_compiler_options(abstract, mesh),
    )


def _compiler_options(abstract: TrainState, mesh: Mesh) -> dict[str, bool]:
    # The TPU's compiler (libtpu 0.0.42) overflows its stack where it fuses a residual network's
    # convolutions into one another. Networks with batch norms are such networks.
    convolutional = bool(jax.tree.leaves(abstract.batch_stats))
    if not convolutional or mesh.devices.flat[0].platform != "tpu":
        return {}
    return {"xla_tpu_dot_dot_fusion": False, "xla_tpu_nested_dot_fusion": False}


def divided(mesh: Mesh) -> contextlib.AbstractContextManager:
    """Tells the towers whether their parameters are divided (see `models.layers.gathered`)."""
    if mesh.shape["fsdp"] == 1:
        return contextlib.nullcontext()
    return jax.sharding.use_abstract_mesh(mesh.abstract_mesh)
