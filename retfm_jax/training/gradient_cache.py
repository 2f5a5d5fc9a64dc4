"""Exact gradients of a contrastive objective over a batch encoded in microbatches.

Averaging the losses of microbatches is another objective: each sample would see the negatives of
its own microbatch only. Gradient caching keeps the objective of the whole batch:

1. embed every microbatch, keeping no residuals;
2. one objective over all embeddings, and its gradient by embeddings and by parameters that it
   reads itself (temperatures, heads of the objective);
3. embed every microbatch once more, with the same keys, and pull its embeddings' gradient back.

Memory is that of one microbatch, whatever their number; the price is one more forward pass. The
result does not depend on their number: dropout masks belong to the sample (`split_keys`), and batch
norms normalize groups of samples that lie in one microbatch (`ResNetConfig.norm_batch`).

Where the loss is a mean, weighted or not, over samples that know nothing of each other, the
gradients of microbatches are averaged instead, at no price.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, PRNGKeyArray

from retfm_jax.config import check_norm_batch
from retfm_jax.methods.base import Batch, Method, MethodState, Metrics, Params
from retfm_jax.methods.dual_encoder import as_dual_encoder, split_keys
from retfm_jax.methods.per_sample import as_per_sample, averaged
from retfm_jax.runtime.mesh import AXES
from retfm_jax.training.optimizers import Partition


def divide(tree: Any, parts: int, mesh: Mesh | None = None) -> Any:
    """Splits the sample axis into microbatches, (n, ...) -> (parts, n / parts, ...).

    Microbatch k holds the samples k, k + parts, ...: samples of a device stay on that device, so
    that dividing a sharded batch moves nothing.

    Args:
      tree: pytree of arrays (n, ...), sample axis first.
      parts: number of microbatches; divides n.
      mesh: where given, every microbatch is sharded over all of its devices.
    """

    def split(array: Array) -> Array:
        array = array.reshape(array.shape[0] // parts, parts, *array.shape[1:]).swapaxes(0, 1)
        if mesh is not None:
            sharding = NamedSharding(mesh, PartitionSpec(None, AXES))
            array = jax.lax.with_sharding_constraint(array, sharding)
        return array

    return jax.tree.map(split, tree)


def join(tree: Any) -> Any:
    """Joins microbatches: the inverse of `divide`, (parts, n / parts, ...) -> (n, ...).

    Args:
      tree: pytree of arrays (parts, n / parts, ...), as `divide` returns it.
    """
    return jax.tree.map(lambda array: array.swapaxes(0, 1).reshape(-1, *array.shape[2:]), tree)


def loss_and_gradients(
    method: Method,
    partition: Partition,
    params: Params,
    state: MethodState,
    batch: Batch,
    key: PRNGKeyArray | None,
    microbatches: int = 1,
    mesh: Mesh | None = None,
) -> tuple[Float[Array, ""], Metrics, MethodState, Params]:
    """Computes the training loss over the whole batch and its gradient by trainable parameters.

    Args:
      method: a `DualEncoder` or a `PerSampleMethod` where there are several microbatches.
      partition: which parameters are trained.
      params: all parameters, frozen ones included.
      state: batch statistics and what the method carries.
      batch: the method's arrays, sample axis first; its size is a multiple of `microbatches`, and
        of a network with batch norms each microbatch holds whole groups of them.
      key: randomness of the step; None trains without dropout.
      microbatches: their number; 1 encodes the batch at once and only once.
      mesh: where given, every microbatch is sharded over all of its devices.

    Returns:
      the loss, () float32; its parts by name; the method's new state; gradients of the trainable
      parameters, a nested dict like `Partition.split` returns.

    Raises:
      UserError: the microbatches would cut groups of samples that batch norms normalize together,
        or the method has no objective over embeddings.
    """
    check_norm_batch(method.config, len(next(iter(batch.values()))), microbatches)
    trainable, fixed = partition.split(params)
    if microbatches == 1:
        return _whole(method, partition, trainable, fixed, state, batch, key)

    keys, objective_key = split_keys(key, batch)
    separable = as_per_sample(method)
    shares = None if separable is None else separable.sample_shares(batch)
    parts = divide((batch, keys, shares), microbatches, mesh)
    if separable is not None:
        return _accumulated(separable, partition, trainable, fixed, state, parts, microbatches)
    encoder = as_dual_encoder(method, "config.train.microbatches above 1")

    def embed(_, part):
        part_batch, part_keys, _ = part
        return None, encoder.encode(params, state, part_batch, keys=part_keys, train=True)

    _, (embeddings, stats) = jax.lax.scan(embed, None, parts)
    # Every part moved the statistics by a share of its mean: the mean of all parts moves them as
    # the whole batch does. Counts, which are integers, are equal.
    stats = jax.tree.map(
        lambda each: each.mean(0) if jnp.issubdtype(each.dtype, jnp.floating) else each[0], stats
    )

    def objective(trainable, embeddings):
        return encoder.objective(
            partition.merge(trainable, fixed),
            state._replace(batch_stats=stats),
            embeddings,
            batch,
            key=objective_key,
        )

    (loss, (metrics, new_state)), (gradients, cotangents) = jax.value_and_grad(
        objective, argnums=(0, 1), has_aux=True
    )(trainable, join(embeddings))

    def pull_back(gradients, part):
        (part_batch, part_keys, _), part_cotangents = part

        def encode(trainable):
            whole = partition.merge(trainable, fixed)
            return encoder.encode(whole, state, part_batch, keys=part_keys, train=True)[0]

        _, vjp = jax.vjp(encode, trainable)
        return jax.tree.map(jnp.add, gradients, vjp(part_cotangents)[0]), None

    gradients, _ = jax.lax.scan(
        pull_back, gradients, (parts, divide(cotangents, microbatches, mesh))
    )
    return loss, metrics, new_state, gradients


def _whole(method, partition, trainable, fixed, state, batch, key):
    def loss_function(trainable):
        params = partition.merge(trainable, fixed)
        return method.loss(params, state, batch, key, train=True)

    (loss, (metrics, new_state)), gradients = jax.value_and_grad(loss_function, has_aux=True)(
        trainable
    )
    return loss, metrics, new_state, gradients


def _accumulated(method, partition, trainable, fixed, state, parts, microbatches):
    def part_loss(trainable, part):
        batch, keys, shares = part
        params = partition.merge(trainable, fixed)
        losses = method.sample_losses(params, state, batch, keys=keys, train=True)
        metrics = averaged(losses, shares)
        return metrics["loss_total"], metrics

    def add(total, part):
        found = jax.grad(part_loss, has_aux=True)(trainable, part)
        return jax.tree.map(lambda a, b: a + b / microbatches, total, found), None

    first = jax.tree.map(lambda leaf: leaf[0], parts)
    shapes = jax.eval_shape(jax.grad(part_loss, has_aux=True), trainable, first)
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    (gradients, metrics), _ = jax.lax.scan(add, zeros, parts)
    return metrics["loss_total"], metrics, state, gradients
