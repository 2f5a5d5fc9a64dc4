"""Methods whose loss is the mean, weighted or not, of a loss of each sample."""

import abc
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PRNGKeyArray

from retfm_jax.methods.base import Batch, Method, MethodState, Metrics, Network, Params
from retfm_jax.methods.dual_encoder import split_keys


class PerSampleMethod(Method[Network]):
    """A method whose samples know nothing of each other, so that parts of a batch add up."""

    @property
    def separable(self) -> bool:
        """Whether they know nothing of each other as the method is configured."""
        return True

    def sample_shares(self, batch: Batch) -> Float[Array, " b"] | None:
        """Weights of the samples in the loss, of mean 1 over the batch; None: they count alike.

        Args:
          batch: the method's arrays, sample axis first.
        """
        return None

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
        """Computes the weighted mean of `sample_losses`; see `Method.loss`."""
        keys, _ = split_keys(key, batch)
        losses = self.sample_losses(params, state, batch, keys=keys, train=train)
        metrics = averaged(losses, self.sample_shares(batch))
        return metrics["loss_total"], (metrics, state)


def averaged(
    losses: dict[str, Float[Array, " b"]], shares: Float[Array, " b"] | None
) -> dict[str, Any]:
    """Computes the weighted mean of each loss.

    Args:
      losses: of each sample, by name.
      shares: see `PerSampleMethod.sample_shares`.
    """
    return jax.tree.map(lambda each: jnp.mean(each if shares is None else each * shares), losses)


def as_per_sample(method: Method) -> PerSampleMethod | None:
    """Returns the method itself where parts of a batch add up, else None.

    Args:
      method: any method.
    """
    return method if isinstance(method, PerSampleMethod) and method.separable else None
