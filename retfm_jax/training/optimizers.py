"""Optimizers with the published decay groups, their schedule, and which parameters they move."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import traverse_util
from jaxtyping import Array, Int

from retfm_jax.config import LoraConfig, OptimizerConfig
from retfm_jax.errors import UserError
from retfm_jax.methods.base import Method, Params
from retfm_jax.models.layers import Tower
from retfm_jax.training.low_rank import Adapter, LowRank
from retfm_jax.trees import flatten

#: A tensor whose published name contains one of these is not decayed.
UNDECAYED = ("bn", "ln", "bias", "logit_scale")


@dataclasses.dataclass(frozen=True)
class Partition:
    """Divides parameters into those that are trained and those that stay as they are.

    Attributes:
      fixed: path prefixes ("visual", "text/embeddings") of the parameters that stay.
      low_rank: which of the others are moved by low-rank updates.
      still: of stacked layers, by path, how many of the first stay: no gradient reaches them.
    """

    fixed: tuple[str, ...] = ()
    low_rank: LowRank = dataclasses.field(default_factory=LowRank)
    still: Mapping[str, int] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(
        cls,
        method: Method,
        config: OptimizerConfig,
        params: Params,
        lora: LoraConfig | None = None,
    ) -> "Partition":
        """Fixes the parameters that the config freezes and those that the method does not use.

        Args:
          method: whose `untrained` parameters stay.
          config: the optimizer's section, whose `frozen` parameters stay, and those of towers
            before their `last_layers`.
          params: all parameters or their shapes, a nested dict.
          lora: where given, all else stays that it does not name.

        Raises:
          UserError: a prefix or pattern of the config belongs to no parameter, no tower has so
            many layers, or nothing is left to train.
        """
        paths = list(traverse_util.flatten_dict(params))
        for prefix in config.frozen:
            if not any(_under(path, prefix) for path in paths):
                known = sorted({str(path[0]) for path in paths})
                raise UserError(
                    f"config.optimizer.frozen: no parameter lies under {prefix!r}; "
                    f"the network's parts are {', '.join(known)}"
                )
        early, still = _early_layers(method, params, config.last_layers)
        partition = cls((*config.frozen, *method.untrained, *early), still=still)
        if not partition.split(params)[0]:
            raise UserError(
                "config.optimizer (frozen, last_layers) freezes every parameter: nothing to train"
            )
        return partition if lora is None else partition.with_low_rank(lora, params)

    def with_low_rank(self, config: LoraConfig, params: Params) -> "Partition":
        """Fixes all but the kernels with low-rank updates and what is trained beside them.

        Args:
          config: names these among the parameters that are not fixed yet.
          params: all parameters or their shapes, a nested dict.

        Raises:
          UserError: see `LowRank.of`.
        """
        low_rank = LowRank.of(config, self.split(params)[0])
        fixed = (path for path in flatten(params) if not low_rank.moves(path))
        return Partition(tuple(fixed), low_rank, self.still)

    def variables(self, params: Params, low_rank: Mapping[str, Any]) -> Params:
        """What the optimizer moves; see `LowRank.variables`.

        Args:
          params: all parameters, a nested dict.
          low_rank: the state of the low-rank updates, {} without any.
        """
        return self.low_rank.variables(self.split(params)[0], low_rank)

    def split(self, params: Params) -> tuple[Params, Params]:
        """Splits parameters into the trainable and the fixed, each a nested dict of its own.

        Args:
          params: all parameters, a nested dict.
        """
        trainable, fixed = {}, {}
        for path, leaf in traverse_util.flatten_dict(params).items():
            stays = any(_under(path, prefix) for prefix in self.fixed)
            (fixed if stays else trainable)[path] = leaf
        return traverse_util.unflatten_dict(trainable), traverse_util.unflatten_dict(fixed)

    def merge(self, trainable: Params, fixed: Params) -> Params:
        """Merges what `split` separated; no gradient flows to the layers that stay.

        Args:
          trainable, fixed: the two nested dicts that `split` returns.
        """
        flat: dict[Any, Any] = {}
        for tree in (trainable, fixed):
            flat |= traverse_util.flatten_dict(tree)
        for path, leaf in flat.items():
            if count := self.still.get(_joined(path)):
                flat[path] = jnp.concatenate([jax.lax.stop_gradient(leaf[:count]), leaf[count:]])
        return traverse_util.unflatten_dict(flat)

    def size(self, params: Params, low_rank: Mapping[str, Any]) -> int:
        """Counts the numbers that the optimizer moves.

        Args:
          params, low_rank: as of `variables`, or their shapes.
        """
        total = 0
        for path, part in traverse_util.flatten_dict(self.variables(params, low_rank)).items():
            for leaf in jax.tree.leaves(part):
                still = self.still.get(_joined(path), 0)
                total += math.prod(leaf.shape[1:]) * (leaf.shape[0] - still) if still else leaf.size
        return int(total)


def _joined(path: tuple[str | int, ...]) -> str:
    return "/".join(map(str, path))


def _under(path: tuple[str | int, ...], prefix: str) -> bool:
    return f"{_joined(path)}/".startswith(prefix.rstrip("/") + "/")


def decay_mask(method: Method, params: Params, rule: str = "published") -> dict[str, Any]:
    """Marks every parameter that is decayed.

    The published rule of RET-CLIP and its kin looks at names, not at shapes:
    `bert...LayerNorm.weight` and the norms of a ResNet's shortcuts ("downsample.1.weight") hold
    none of `UNDECAYED` and are decayed. MAE's and RETFound's looks at shapes.

    Args:
      method: whose published names decide.
      params: nested dict of the parameters, all of them or the trainable ones; the factors of a
        low-rank update are decayed where their kernel is.
      rule: "published" or "matrices", see `OptimizerConfig.decay`.

    Returns:
      a nested dict like `params`, True where a parameter is decayed.

    Raises:
      ValueError: a parameter has published names inside and outside of the decay group.
    """
    flat = traverse_util.flatten_dict(params)
    axes = {_joined(path): _axes(leaf) for path, leaf in flat.items()}
    decayed = {}
    for published, path, transform in method.weight_names:
        if rule == "matrices":
            # Our arrays stack layers, and lack the axes of length 1 of tokens.
            more = {"token": 2, "tokens": 1}.get(transform, 0) - ("{n}" in published)
            decays = axes.get(path, 0) + more > 1
        else:
            decays = not any(part in published for part in UNDECAYED)
        if decayed.setdefault(path, decays) != decays:
            raise ValueError(f"{path} has published names inside and outside the decay group")
    return traverse_util.unflatten_dict({path: decayed[_joined(path)] for path in flat})


def _axes(leaf: Any) -> int:
    """Axes of a parameter; those of a low-rank update's kernel without the ones of its maps."""
    return leaf.a.ndim - 1 if isinstance(leaf, Adapter) else np.ndim(leaf)


def layer_factors(
    method: Method, params: Params, decay: float, rate: float = 1.0, last: int | None = None
) -> dict[str, Any]:
    """Factors on the learning rate that grow with the layer (Clark et al., ICLR 2020; BEiT).

    In a tower of L layers parameters of layer l learn at decay^(L + 1 - l) of the rate: l is 0 for
    what makes the first block's input, 1 to L for the blocks, L + 1 for what stands behind them.
    Heads and temperatures outside of towers learn at the full rate.

    Args:
      method: whose towers number their layers.
      params: nested dict of the parameters, all of them or some.
      decay: the factor between two layers, in (0, 1].
      rate: a factor on all parameters of towers.
      last: how many layers of a tower, from its end on, learn, with what stands behind them; of all
        else in towers the factor is 0; 0: of the whole tower; None: everything learns.

    Returns:
      a nested dict like `params` of numbers, and of arrays (layers,) for stacked layers.

    Raises:
      UserError: the network has no towers of layers.
    """
    towers = _towers(method)

    def factor(path: tuple[str | int, ...]) -> Any:
        above = _layers_above(towers, path)
        if above is None:
            return np.ones(())
        learns = True if last is None else (above <= last) & (last > 0)
        return np.where(learns, rate * decay ** above.astype(np.float64), 0.0)

    flat = traverse_util.flatten_dict(params)
    return traverse_util.unflatten_dict({path: factor(path) for path in flat})


def _towers(method: Method) -> dict[str, Tower]:
    towers = method.towers
    if not towers:
        raise UserError(
            f"the network of {method.name} has no towers of layers, by which layer_decay, "
            "tower_rate and last_layers go"
        )
    return towers


def _layers_above(
    towers: Mapping[str, Tower], path: tuple[str | int, ...]
) -> Int[np.ndarray, "*layers"] | None:
    """See `Tower.layers_above`; None of a parameter outside of towers."""
    for prefix, tower in towers.items():
        if _under(path, prefix):
            return np.asarray(tower.layers_above(_joined(path).removeprefix(f"{prefix}/")))
    return None


def _early_layers(
    method: Method, params: Params, last: int | None
) -> tuple[tuple[str, ...], dict[str, int]]:
    """Paths of towers that stay as a whole, and of stacked layers how many of the first.

    Raises:
      UserError: the network has no towers of layers, or none has so many.
    """
    if last is None:
        return (), {}
    towers = _towers(method)
    found = (_layers_above(towers, path) for path in traverse_util.flatten_dict(params))
    # Of L layers it is L + 1 where the first one's input is made.
    deepest = max(int(above.max()) for above in found if above is not None) - 1
    if last > deepest:
        raise UserError(
            f"config.optimizer.last_layers is {last}, and the network's towers have {deepest} "
            "layers (blocks of a transformer, stages of a residual network); leave it out to train "
            "all of them"
        )
    factors = flatten(layer_factors(method, params, 1.0, last=last))
    early = tuple(path for path, factor in factors.items() if not factor.any())
    stays = {path: int((factor == 0).sum()) for path, factor in factors.items()}
    return early, {path: count for path, count in stays.items() if count and path not in early}


def scale_layers(updates: Params, factors: Mapping[str, Any]) -> Params:
    """Multiplies updates by factors.

    Args:
      updates: nested dict of arrays, or of an `Adapter` each, whose factors both are scaled.
      factors: what `layer_factors` returned for them.
    """

    def scaled(factor: np.ndarray, leaf: Array) -> Array:
        shape = (*factor.shape, *(1,) * (leaf.ndim - factor.ndim))
        return leaf * factor.reshape(shape).astype(leaf.dtype)

    return jax.tree.map(
        lambda factor, part: jax.tree.map(lambda leaf: scaled(factor, leaf), part), factors, updates
    )


def learning_rate_schedule(config: OptimizerConfig, horizon: int) -> optax.Schedule:
    """Makes the schedule: linear warm-up, then half a cosine to 0.

    With w = `warmup_steps`: lr (n + 1) / w for step n < w, then
    lr (1 + cos(pi (n - w) / (horizon - w))) / 2, and 0 beyond the horizon.

    Args:
      config: the optimizer's section, with `learning_rate` and `warmup_steps`.
      horizon: number of steps at which the cosine ends.

    Returns:
      step number from 0 on -> learning rate.
    """
    warmup = config.warmup_steps

    def rate(step):
        step = jnp.asarray(step, jnp.float32)
        rising = (step + 1) / max(warmup, 1)
        share = jnp.clip((step - warmup) / max(horizon - warmup, 1), 0, 1)
        # cos(x / 2)^2 = (1 + cos x) / 2, without the cancellation near the end.
        falling = jnp.cos(0.5 * jnp.pi * share) ** 2
        return config.learning_rate * jnp.where(step < warmup, rising, falling)

    return rate


def make_optimizer(
    config: OptimizerConfig, method: Method, schedule: optax.Schedule
) -> optax.GradientTransformation:
    """Makes AdamW as PyTorch computes it, or its Adam with AMSGrad, for the trainable parameters.

    p <- p - lr (m_hat / (sqrt(v_hat) + eps) + weight_decay p), decay only where the mask says so;
    with `layer_decay` and `tower_rate`, lr is that of the parameter's layer, and before the
    `last_layers` 0. With "amsgrad" the decay is part of the gradient, and the largest v so far
    stands for v.

    Args:
      config: the optimizer's section.
      method: whose published names decide what is decayed, and whose towers number their layers.
      schedule: step number from 0 on -> learning rate.
    """
    rule = config.decay
    mask = None if rule == "all" else lambda params: decay_mask(method, params, rule)
    decayed = optax.add_decayed_weights(config.weight_decay, mask)
    if config.rule == "amsgrad":
        moved = (decayed, _amsgrad(config.b1, config.b2, config.eps))
    else:
        moved = (optax.scale_by_adam(b1=config.b1, b2=config.b2, eps=config.eps), decayed)
    optimizer = optax.chain(*moved, optax.scale_by_learning_rate(schedule))
    if config.layer_decay is not None or config.tower_rate != 1 or config.last_layers:
        optimizer = _by_layer(optimizer, method, config)
    if config.clip_value is not None:
        optimizer = _clipped(optimizer, optax.clip(config.clip_value))
    if config.clip_norm is not None:
        optimizer = _clipped(optimizer, optax.clip_by_global_norm(config.clip_norm))
    return optimizer


def _amsgrad(b1: float, b2: float, eps: float) -> optax.GradientTransformation:
    """AMSGrad (Reddi et al., ICLR 2018) as PyTorch has it: v is corrected after its maximum.

    Optax corrects it before, which makes the first steps smaller.
    """

    def init(params):
        zeros = [jax.tree.map(jnp.zeros_like, params) for _ in range(3)]
        return optax.ScaleByAmsgradState(jnp.zeros((), jnp.int32), *zeros)

    def update(updates, state, params=None):
        count = optax.safe_increment(state.count)
        mu = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, state.mu, updates)
        nu = jax.tree.map(lambda v, g: b2 * v + (1 - b2) * jnp.square(g), state.nu, updates)
        largest = jax.tree.map(jnp.maximum, state.nu_max, nu)
        first, second = 1 - b1**count, jnp.sqrt(1 - b2**count)
        updates = jax.tree.map(lambda m, v: m / first / (jnp.sqrt(v) / second + eps), mu, largest)
        return updates, optax.ScaleByAmsgradState(count, mu, nu, largest)

    return optax.GradientTransformation(init, update)


def _by_layer(
    optimizer: optax.GradientTransformation, method: Method, config: OptimizerConfig
) -> optax.GradientTransformation:
    """Scales an optimizer's updates by layer; its state stays as it is."""
    chosen = config.layer_decay or 1.0, config.tower_rate, config.last_layers

    def update(updates, state, params=None, **_):
        updates, state = optimizer.update(updates, state, params)
        updates = cast(Params, updates)
        return scale_layers(updates, layer_factors(method, updates, *chosen)), state

    return optax.GradientTransformation(optimizer.init, update)


def _clipped(
    optimizer: optax.GradientTransformation, clip: optax.GradientTransformation
) -> optax.GradientTransformation:
    """Clips the gradients before an optimizer, whose state stays as it is.

    So a run can be resumed with clipping, or without.
    """

    def update(updates, state, params=None, **_):
        updates, _ = clip.update(updates, optax.EmptyState(), params)
        return optimizer.update(updates, state, params)

    return optax.GradientTransformation(optimizer.init, update)


def name_beside_clipping(name: str) -> str:
    """Name by which version 0.1 stored an array of the state where `clip_norm` was set.

    Clipping had an empty state of its own there, before the others: "opt_state/0/mu/kernel" was
    "opt_state/1/mu/kernel".

    Args:
      name: path of an array in the state, such as "opt_state/0/mu/kernel".
    """
    parent, _, rest = name.partition("/")
    number, _, rest = rest.partition("/")
    return f"opt_state/{int(number) + 1}/{rest}" if parent == "opt_state" else name
