"""Low-rank updates of kernels, LoRA (Hu et al., ICLR 2022): W + (alpha / r) A B.

The network's parameters always hold the sum, so that losses, momentum encoders, evaluations and
checkpoints see one network and no tower knows of updates. Beside it a run carries the kernels as
they were, and A and B, which the optimizer moves. Their gradients follow from the kernel's, G:

    dL/dA = (alpha / r) G B^T,   dL/dB = (alpha / r) A^T G.
"""

import dataclasses
import fnmatch
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import traverse_util
from jaxtyping import Array, Float, PRNGKeyArray

from retfm_jax.config import LoraConfig
from retfm_jax.errors import UserError
from retfm_jax.methods.base import Params
from retfm_jax.models.layers import FUSED, STACKED
from retfm_jax.trees import flatten

#: As many kernels an error lists.
_LISTED = 20


class Adapter(NamedTuple):
    """Factors of the updates of one kernel; `m` counts the linear maps that lie in it side by side.

    Attributes:
      a: (m, inputs, r), of stacked layers (layers, m, inputs, r), float32.
      b: (m, r, outputs) or (layers, m, r, outputs), float32.
    """

    a: Float[Array, "... m i r"]
    b: Float[Array, "... m r o"]


@dataclasses.dataclass(frozen=True)
class LowRank:
    """The kernels that have low-rank updates; by default none.

    Attributes:
      maps: for each kernel, by path, which of its maps are updated: (0,) of a plain one, some of
        0, 1, 2 of one that computes queries, keys and values.
      trained: paths of the parameters that are trained beside the updates.
      rank: r, columns of A and rows of B.
      scale: alpha / r.
    """

    maps: Mapping[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)
    trained: frozenset[str] = frozenset()
    rank: int = 0
    scale: float = 1.0

    @classmethod
    def of(cls, config: LoraConfig, params: Params) -> "LowRank":
        """Finds the kernels that a config's patterns name.

        A kernel is a matrix (inputs, outputs), or stacked ones of all layers, or a convolution's
        (height, width, inputs, outputs), which counts as a matrix of height x width x inputs rows.

        Args:
          config: the section `lora`.
          params: the parameters that may be trained, or their shapes, a nested dict.

        Raises:
          UserError: a pattern names nothing, or the rank is larger than a kernel's.
        """
        leaves = flatten(params)
        names = {path: _names(path) for path in leaves if path.rpartition("/")[2] == "kernel"}
        maps = {
            path: chosen
            for path, of_maps in names.items()
            if (chosen := tuple(i for i, name in enumerate(of_maps) if _any(config.targets, name)))
        }
        every = [name for of_maps in names.values() for name in of_maps]
        _check_patterns("targets", config.targets, every, "kernels", list(names))
        _check_patterns("trained", config.trained, list(leaves), "parameters", list(leaves))
        for path in maps:
            _, inputs, _, outputs = _axes(path, leaves[path].shape)
            if config.rank > min(inputs, outputs):
                raise UserError(
                    f"config.lora.rank {config.rank} is larger than the rank of {path}, a map of "
                    f"{inputs} to {outputs}: lower it, or leave that kernel out of "
                    "config.lora.targets"
                )
        trained = {path for path in leaves if path not in maps and _any(config.trained, path)}
        return cls(maps, frozenset(trained), config.rank, config.alpha / config.rank)

    def moves(self, path: str) -> bool:
        """Tells whether a parameter is updated or trained.

        Args:
          path: of the parameter, its parts joined by "/".
        """
        return path in self.maps or path in self.trained

    def base(self, params: Params) -> Params:
        """Selects the kernels that have updates.

        Args:
          params: all parameters, a nested dict.
        """
        flat = flatten(params)
        return traverse_util.unflatten_dict({path: flat[path] for path in self.maps}, sep="/")

    def init(self, key: PRNGKeyArray, params: Params) -> dict[str, Any]:
        """Makes what a run carries: A as in the released code, uniform in +-inputs^-1/2, and B 0.

        Args:
          key: PRNG key of A.
          params: all parameters, a nested dict.

        Returns:
          `base`, the kernels as they are, and `adapters`, an `Adapter` for each, both nested dicts;
          {} without any kernel.
        """
        if not self.maps:
            return {}
        kernels = self.base(params)
        base = flatten(kernels)
        keys = jax.random.split(key, len(base))
        adapters = {}
        for (path, kernel), own in zip(base.items(), keys, strict=True):
            lead, inputs, _, outputs = _axes(path, kernel.shape)
            maps, limit = len(self.maps[path]), inputs**-0.5
            a = jax.random.uniform(
                own, (*lead, maps, inputs, self.rank), jnp.float32, -limit, limit
            )
            adapters[path] = Adapter(a, jnp.zeros((*lead, maps, self.rank, outputs)))
        return {
            "base": kernels,
            "adapters": traverse_util.unflatten_dict(adapters, sep="/"),
        }

    def variables(self, trainable: Params, state: Mapping[str, Any]) -> Params:
        """What the optimizer moves: trainable parameters, of an updated kernel its `Adapter`.

        Args:
          trainable: parameters that are trained or updated, a nested dict.
          state: what `init` made.
        """
        flat = traverse_util.flatten_dict(trainable)
        adapters = traverse_util.flatten_dict(dict(state.get("adapters", {})))
        return traverse_util.unflatten_dict(flat | adapters)

    def effective(self, variables: Params, state: Mapping[str, Any]) -> Params:
        """Parameters that the network computes with; the inverse of `variables`.

        Args:
          variables: what the optimizer moves, as `variables` returns it.
          state: what `init` made, of which `base` is read.
        """
        base: dict[tuple[str, ...], Any] = traverse_util.flatten_dict(dict(state.get("base", {})))
        flat: dict[tuple[str, ...], Any] = dict(traverse_util.flatten_dict(variables))
        for path, kernel in base.items():
            flat[path] = self._updated("/".join(path), kernel, flat[path])
        return traverse_util.unflatten_dict(flat)

    def state(self, variables: Params, state: Mapping[str, Any]) -> dict[str, Any]:
        """What the run carries after the optimizer's step.

        Args:
          variables: what the optimizer moved.
          state: before the step.
        """
        if not state:
            return {}
        flat = traverse_util.flatten_dict(variables)
        adapters = {path: leaf for path, leaf in flat.items() if isinstance(leaf, Adapter)}
        return {"base": state["base"], "adapters": traverse_util.unflatten_dict(adapters)}

    def _updated(self, path: str, kernel: Array, adapter: Adapter) -> Array:
        """W + (alpha / r) A B."""
        lead, inputs, maps, outputs = _axes(path, kernel.shape)
        # (m, i, r) . (m, r, o) -> (m, i, o); the default precision of a TPU would round A and B.
        products = jnp.matmul(adapter.a, adapter.b, precision="highest")
        products = self.scale * jnp.moveaxis(products, len(lead), -2)
        if len(self.maps[path]) < maps:
            whole = jnp.zeros((*lead, inputs, maps, outputs), kernel.dtype)
            products = whole.at[..., jnp.array(self.maps[path]), :].set(products)
        return kernel + products.reshape(kernel.shape)


def _axes(path: str, shape: Sequence[int]) -> tuple[tuple[int, ...], int, int, int]:
    """Layers (a tuple of one number, or empty), inputs, maps and outputs of a kernel."""
    lead = tuple(shape[:1]) if STACKED in path.split("/") else ()
    *inputs, outputs = shape[len(lead) :]
    maps = len(_names(path))
    return lead, math.prod(inputs), maps, outputs // maps


def _names(path: str) -> tuple[str, ...]:
    """A kernel's name, or, of one that holds several maps, a name for each."""
    parts = FUSED.get(path.split("/")[-2] if "/" in path else "")
    return (path,) if parts is None else tuple(f"{path}:{part}" for part in parts)


def _matches(pattern: str, name: str) -> bool:
    """Whether a pattern is that of a parameter, of a map in it, or of what holds it."""
    path = name.partition(":")[0].split("/")
    holders = ("/".join(path[:count]) for count in range(1, len(path) + 1))
    return any(fnmatch.fnmatchcase(each, pattern) for each in (name, *holders))


def _any(patterns: Sequence[str], name: str) -> bool:
    return any(_matches(pattern, name) for pattern in patterns)


def _check_patterns(
    entry: str, patterns: Sequence[str], names: Sequence[str], what: str, known: Sequence[str]
) -> None:
    for pattern in patterns:
        if not any(_matches(pattern, name) for name in names):
            listed = ", ".join(known[:_LISTED]) or "none"
            more = f" and {len(known) - _LISTED} more" if len(known) > _LISTED else ""
            raise UserError(
                f"config.lora.{entry}: {pattern!r} is the pattern of no {what[:-1]} that may be "
                f"trained; the {what} are {listed}{more}"
            )
