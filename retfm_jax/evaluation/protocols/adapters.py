"""CLIP-Adapter, Tip-Adapter and Tip-Adapter-F on cached embeddings, as KeepFIT evaluates them."""

import functools
import math
from collections.abc import Callable
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from retfm_jax.evaluation.protocols.few_shot import Predictor, Support
from retfm_jax.evaluation.protocols.supervised import OnEmbeddings

#: Share of the adapted embedding in CLIP-Adapter's sum, and the narrowing of its hidden layer.
RATIO, REDUCTION = 0.2, 4
#: Weight of Tip-Adapter's cache and sharpness of its affinities.
ALPHA, BETA = 1.0, 5.0
EPOCHS, LEARNING_RATE, EPSILON, WEIGHT_DECAY = 40, 1e-3, 1e-4, 1e-2
BATCH = 32

Params = dict[str, Array]


def adapted(params: Params, features: Float[Array, "n d"]) -> Float[Array, "n d"]:
    """CLIP-Adapter's features (Gao et al. 2021).

    normalize(r ReLU(W2 ReLU(W1 x)) + (1 - r) x), r = 0.2, W1: d -> d/4, W2: d/4 -> d, no biases.

    Args:
      params: "down", W1 transposed (d, d/4), and "up", W2 transposed (d/4, d), float32.
      features: unit-norm image embeddings (n, d) float32.

    Returns:
      unit-norm embeddings (n, d).
    """
    hidden = jax.nn.relu(jax.nn.relu(features @ params["down"]) @ params["up"])
    mixed = RATIO * hidden + (1 - RATIO) * features
    return mixed / jnp.linalg.norm(mixed, axis=-1, keepdims=True)


def clip_adapter_logits(
    params: Params,
    features: Float[Array, "n d"],
    classes: Float[Array, "c d"],
    scale: Float[Array, ""],
) -> Float[Array, "n c"]:
    """Scaled cosines of the adapted features with the classes' texts.

    Args:
      params: of `adapted`.
      features: unit-norm image embeddings (n, d) float32.
      classes: of `Support` (c, d) float32.
      scale: the model's logit scale, a scalar.
    """
    return scale * adapted(params, features) @ classes.T


def tip_adapter_logits(
    keys: Float[Array, "k d"],
    features: Float[Array, "n d"],
    values: Float[Array, "k c"],
    classes: Float[Array, "c d"],
    scale: Float[Array, ""] | float,
) -> Float[Array, "n c"]:
    """Zero-shot logits and what the cache of support samples adds (Zhang et al. 2022).

    s x T^t + alpha exp(-beta (1 - x K^t)) V, K the support's embeddings and V its one-hot labels.

    Args:
      keys: K, (k, d) float32.
      features: x, unit-norm image embeddings (n, d) float32.
      values: V, 1 for a class that is present, else 0; (k, c) float32.
      classes: T, of `Support` (c, d) float32.
      scale: s, the model's logit scale, a scalar.
    """
    affinity = features @ keys.T  # (n, d) . (d, k) -> (n, k)
    cache = jnp.exp(-BETA * (1 - affinity)) @ values
    return scale * features @ classes.T + ALPHA * cache


def scores(logits: Float[Array, "n c"], exclusive: bool) -> Float[np.ndarray, "n c"]:
    """Probabilities of classes that exclude each other; else the logits, which do not saturate.

    Args:
      logits: (n, c) floats.
      exclusive: whether every sample has exactly one class.
    """
    return np.asarray(jax.nn.softmax(logits, axis=-1) if exclusive else logits)


def classification_loss(
    logits: Float[Array, "n c"],
    labels: Int[Array, "n c"],
    weights: Float[Array, " n"],
    exclusive: bool,
) -> Float[Array, ""]:
    """Cross-entropy, or its binary form over known labels; samples of weight 0 do not count.

    Args:
      logits: (n, c) floats.
      labels: multi-hot, -1 where unknown; with `exclusive` exactly one 1 a sample; (n, c) integers.
      weights: of the samples, (n) floats, not all 0.
      exclusive: whether every sample has exactly one class.

    Returns:
      the weighted mean over samples, a scalar.
    """
    if exclusive:
        losses = optax.softmax_cross_entropy(logits, labels)
    else:
        known = labels >= 0
        each = optax.sigmoid_binary_cross_entropy(logits, jnp.maximum(labels, 0))
        losses = (each * known).sum(-1) / jnp.maximum(known.sum(-1), 1)
    return (losses * weights).sum() / weights.sum()


def batches(
    count: int, epochs: int, size: int, seed: int
) -> tuple[Int[np.ndarray, "steps size"], Float[np.ndarray, "steps size"]]:
    """Samples of every step over shuffled epochs; an epoch's last batch is filled with weight 0.

    Args:
      count: number of samples, at least 1.
      epochs: passes over them.
      size: samples a step; at most `count` are taken.
      seed: of the order.

    Returns:
      indices of the samples (steps, size) int32, and their weights, 0 or 1, (steps, size) float32.
    """
    generator = np.random.default_rng(seed)
    size = min(size, count)
    steps = math.ceil(count / size)
    rows = np.zeros((epochs, steps * size), np.int32)
    weights = np.zeros((epochs, steps * size), np.float32)
    for epoch in range(epochs):
        rows[epoch, :count] = generator.permutation(count)
        weights[epoch, :count] = 1
    return rows.reshape(-1, size), weights.reshape(-1, size)


@functools.partial(jax.jit, static_argnames=("logits", "exclusive"))
def _train(
    params: Params | Array,
    data: tuple[Array, ...],
    fixed: tuple[Array, ...],
    schedule: tuple[Array, Array],
    *,
    logits: Callable[..., Array],
    exclusive: bool,
) -> Params | Array:
    """AdamW with a cosine to zero over all steps, in one compiled loop."""
    features, labels = data
    optimizer = optax.adamw(
        optax.cosine_decay_schedule(LEARNING_RATE, schedule[0].shape[0]),
        eps=EPSILON,
        weight_decay=WEIGHT_DECAY,
    )

    def step(carry, batch):
        params, state = carry
        rows, weights = batch

        def loss(params):
            found = logits(params, features[rows], *fixed)
            return classification_loss(found, labels[rows], weights, exclusive)

        updates, state = optimizer.update(jax.grad(loss)(params), state, params)
        return (optax.apply_updates(params, updates), state), None

    (trained, _), _ = jax.lax.scan(step, (params, optimizer.init(params)), schedule)
    return cast(Params | Array, trained)


def _fitted(
    support: Support,
    params: Params | Array,
    logits: Callable[..., Array],
    fixed: tuple[Array, ...],
    epochs: int,
) -> Predictor:
    params = _train(
        params,
        (jnp.asarray(support.features), jnp.asarray(support.labels, jnp.int32)),
        fixed,
        batches(len(support.features), epochs, BATCH, support.seed),
        logits=logits,
        exclusive=support.exclusive,
    )
    return lambda features: scores(logits(params, features, *fixed), support.exclusive)


def clip_adapter(support: Support, epochs: int = EPOCHS) -> Predictor:
    """Trains CLIP-Adapter's two layers.

    Args:
      support: what they are trained on.
      epochs: passes over it.
    """
    width = support.features.shape[1]
    hidden = max(1, width // REDUCTION)
    down, up = jax.random.split(jax.random.key(support.seed))

    def uniform(key: Array, inputs: int, outputs: int) -> Array:
        # PyTorch's default for a linear layer, which the published adapter starts from.
        bound = inputs**-0.5
        return jax.random.uniform(key, (inputs, outputs), minval=-bound, maxval=bound)

    params = {"down": uniform(down, width, hidden), "up": uniform(up, hidden, width)}
    fixed = (jnp.asarray(support.classes), jnp.asarray(support.scale, jnp.float32))
    return _fitted(support, params, clip_adapter_logits, fixed, epochs)


def _cache(support: Support) -> tuple[Array, tuple[Array, ...]]:
    values = np.maximum(support.labels, 0).astype(np.float32)
    scale = jnp.asarray(support.scale, jnp.float32)
    fixed = (jnp.asarray(values), jnp.asarray(support.classes), scale)
    return jnp.asarray(support.features), fixed


def tip_adapter(support: Support) -> Predictor:
    """Looks samples up among the support's; nothing is trained.

    Args:
      support: what is looked up.
    """
    keys, fixed = _cache(support)
    return lambda features: scores(
        tip_adapter_logits(keys, jnp.asarray(features), *fixed), support.exclusive
    )


def tip_adapter_f(support: Support, epochs: int = EPOCHS) -> Predictor:
    """Trains the keys of Tip-Adapter, from the support's embeddings on.

    Args:
      support: the first keys, and what they are trained on.
      epochs: passes over it.
    """
    keys, fixed = _cache(support)
    return _fitted(support, keys, tip_adapter_logits, fixed, epochs)


class ClipAdapter(OnEmbeddings):
    """Two trained layers on the image embedding."""

    name, title = "clip_adapter", "CLIP-Adapter"
    compares_texts = True

    def learn(self, support: Support) -> Predictor:
        return clip_adapter(support)


class TipAdapter(OnEmbeddings):
    """A lookup among the embeddings of the support, without training."""

    name, title = "tip_adapter", "Tip-Adapter"
    compares_texts = True

    def learn(self, support: Support) -> Predictor:
        return tip_adapter(support)


class TipAdapterF(OnEmbeddings):
    """Tip-Adapter with trained keys."""

    name, title = "tip_adapter_f", "Tip-Adapter-F"
    compares_texts = True

    def learn(self, support: Support) -> Predictor:
        return tip_adapter_f(support)
