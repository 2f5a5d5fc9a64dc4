"""The state of a run: one pytree."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Int, PRNGKeyArray, UInt32

from retfm_jax.methods.base import Method, MethodState, Params
from retfm_jax.runtime.mesh import shardings
from retfm_jax.training.optimizers import Partition


class TrainState(NamedTuple):
    """State of a run: all that a step changes, and the key that it does not.

    Attributes:
      step: number of updates made, () int32.
      params: all parameters, frozen ones included.
      batch_stats, carry: see `MethodState`.
      opt_state: of the trainable parameters only.
      key_data: the run's random key as plain numbers; step n uses `fold_in(key, n)`.
      low_rank: of runs with low-rank updates, the kernels without these, which `params` holds with
        them, and their factors; see `LowRank.init`.
    """

    step: Int[Array, ""]
    params: Params
    batch_stats: dict[str, Any]
    opt_state: optax.OptState
    carry: dict[str, Any]
    key_data: UInt32[Array, " words"]
    low_rank: dict[str, Any]

    @property
    def method_state(self) -> MethodState:
        """State of the method."""
        return MethodState(self.batch_stats, self.carry)

    def network(self) -> dict[str, Any]:
        """Parts that inference needs: parameters and batch statistics."""
        return {"params": self.params, "batch_stats": self.batch_stats}

    def training(self) -> dict[str, Any]:
        """Parts that only training needs."""
        return {
            "step": self.step,
            "opt_state": self.opt_state,
            "carry": self.carry,
            "key_data": self.key_data,
            "low_rank": self.low_rank,
        }

    @classmethod
    def from_parts(cls, network: dict[str, Any], training: dict[str, Any]) -> "TrainState":
        """Joins the two parts: the inverse of `network` and `training`.

        Args:
          network: what `network` returned.
          training: what `training` returned.
        """
        return cls(**network, **training)


def _own(array: Array) -> Array:
    # A buffer of its own, because momentum copies start as the parameters themselves and donation
    # takes every buffer once; and a strong type, because the step returns strong ones and would
    # be compiled a second time for them.
    return jnp.copy(jax.lax.convert_element_type(array, array.dtype))


def _create(
    method: Method,
    optimizer: optax.GradientTransformation,
    partition: Partition,
    key: PRNGKeyArray,
    network: tuple[Params, dict[str, Any]] | None,
) -> TrainState:
    init_key, run_key = jax.random.split(key)
    if network is None:
        params, (batch_stats, carry) = method.init(init_key)
    else:
        params, batch_stats = network
        carry = method.init_carry(params, batch_stats)
    low_rank = partition.low_rank.init(jax.random.fold_in(init_key, 1), params)
    params, batch_stats, carry, low_rank = jax.tree.map(
        _own, (params, batch_stats, carry, low_rank)
    )
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=batch_stats,
        opt_state=optimizer.init(partition.variables(params, low_rank)),
        carry=carry,
        key_data=jax.random.key_data(run_key),
        low_rank=low_rank,
    )


def abstract_state(
    method: Method, optimizer: optax.GradientTransformation, partition: Partition, mesh: Mesh
) -> TrainState:
    """Describes the state by shapes, types and shardings, without computing it.

    Args:
      method: whose state it is.
      optimizer: of the trainable parameters.
      partition: which parameters are trained.
      mesh: the devices that the state is sharded over.
    """
    shapes = jax.eval_shape(lambda: _create(method, optimizer, partition, jax.random.key(0), None))
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        shapes,
        shardings(shapes, mesh),
    )


def create_state(
    method: Method,
    optimizer: optax.GradientTransformation,
    partition: Partition,
    abstract: TrainState,
    seed: int,
    network: tuple[Params, dict[str, Any]] | None = None,
) -> TrainState:
    """Makes the state before the first step, each array where it will lie.

    Args:
      method: whose state it is.
      optimizer: of the trainable parameters.
      partition: which parameters are trained.
      abstract: shapes, types and shardings; see `abstract_state`.
      seed: of the parameters (where they are random) and of the run.
      network: parameters and batch statistics to begin with; None initializes them at random.
    """
    return jax.jit(
        lambda network: _create(method, optimizer, partition, jax.random.key(seed), network),
        out_shardings=jax.tree.map(lambda leaf: leaf.sharding, abstract),
    )(network)
