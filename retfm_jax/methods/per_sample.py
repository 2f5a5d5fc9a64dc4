"""Methods whose loss is the mean of a loss of each sample."""

import abc
from typing import Any

import jax
from jaxtyping import Array, Float, Key, PRNGKeyArray

from retfm_jax.methods.base import Batch, Method, MethodState, Metrics, Network, Params
from retfm_jax.methods.dual_encoder import split_keys


class PerSampleMethod(Method[Network]):
    """A method whose samples know nothing of each other, so that parts of a batch add up."""

    @abc.abstractmethod
    def sample_losses(
        self,
        params: Params,
        state: MethodState,
        batch: Batch,
        *,
        keys: Key[Array, " b"] | None = None,
        train: bool = False,
    ) -> dict[str, Float[Array, " b"]]:
        """Computes the losses of each sample.

        Args:
          params: all parameters, a nested dict of float32 arrays, as `init` makes them.
          state: batch statistics and what the method carries.
          batch: the method's arrays, images NHWC float32 normalized, sample axis first.
          keys: randomness, one key for each sample, so that a sample is computed alike in every
            microbatch; None computes without any.
          train: whether it is a training step.

        Returns:
          the loss under `loss_total`, and its parts by name, each (b,) float32.
        """

    def loss(
        self,
        params: Params,
        state: MethodState,
        batch: Batch,
        key: PRNGKeyArray | None = None,
        *,
        train: bool = False,
    ) -> tuple[Float[Array, ""], tuple[Metrics, MethodState]]:
        """Computes the mean of `sample_losses`; see `Method.loss`."""
        keys, _ = split_keys(key, batch)
        losses = self.sample_losses(params, state, batch, keys=keys, train=train)
        metrics: dict[str, Any] = jax.tree.map(lambda each: each.mean(), losses)
        return metrics["loss_total"], (metrics, state)


def as_per_sample(method: Method) -> PerSampleMethod | None:
    """Returns the method itself where its loss is a mean over samples, else None.

    Args:
      method: any method.
    """
    return method if isinstance(method, PerSampleMethod) else None
