"""Model FLOPs: what the matrix products and convolutions of a method need, on whatever machine.

Counted are multiplications and additions of matrix products and convolutions, as shares of peak
usually are; elementwise work is left out. What a machine computes twice to save memory
(rematerialization, the second encoding of gradient caching, blocks of a loss) counts once.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
from jax.core import ShapedArray
from jax.extend.core import Jaxpr, JaxprEqn, Literal, Var

from retfm_jax.console import say
from retfm_jax.methods.base import Batch, Method, MethodState, Params
from retfm_jax.models import target
from retfm_jax.runtime import chips
from retfm_jax.trees import leaf_name


def peak_flops(device_kind: str, dtype: str) -> float | None:
    """Peak rate of a device in FLOP/s, for the share of peak; None where it is not known.

    Args:
      device_kind: name that JAX gives the device, `jax.devices()[0].device_kind`.
      dtype: "bfloat16" or "float32"; see `chips.Chip`.
    """
    chip = chips.find(device_kind)
    return None if chip is None else chip.peak(dtype)


def count_flops(function: Callable[..., Any], *arguments: Any) -> int:
    """Counts the FLOPs of a function's products, all devices together; nothing is computed.

    A scan counts as often as it runs; of a conditional the costliest branch counts; a loop whose
    length depends on data counts once. Products in a function that was differentiated already count
    as they stand in it, rematerialization included.

    Args:
      function: what is traced; it takes the arguments by position.
      arguments: arrays or their shapes (`jax.ShapeDtypeStruct`), in pytrees.
    """
    return _forward(jax.make_jaxpr(function)(*arguments).jaxpr)


def _forward(program: Jaxpr) -> int:
    return _count(program, [False] * len(program.invars))[0].forward


def _or_none(counter: Callable[..., int]) -> Callable[..., int | None]:
    """A counter that says why it fails instead of ending what it counts for."""

    @functools.wraps(counter)
    def counted(*arguments: Any) -> int | None:
        try:
            return counter(*arguments)
        except Exception as error:
            what = f"{type(error).__name__}: {error}".partition("\n")[0]
            say(
                f"warning: FLOPs cannot be counted with jax {jax.__version__} ({what}); all else "
                "goes on without them",
                error=True,
            )
            return None

    return counted


@_or_none
def count_program(traced: Any) -> int:
    """Counts the FLOPs of a traced program as `count_flops` does; None where that fails.

    Args:
      traced: what `jax.jit(...).trace(...)` returned.
    """
    return _forward(traced.jaxpr.jaxpr)


@_or_none
def training_flops(
    method: Method,
    params: Params,
    state: MethodState,
    batch: Batch,
    fixed: Sequence[str] = (),
) -> int:
    """Counts the model FLOPs of a training step over the whole batch, all devices together.

    A product costs once forward, and once more for each of its operands that a gradient flows to.
    So products of two activations, or of an activation and a trained kernel, count three times;
    those of momentum encoders and of frozen towers below the first trained one count once; a first
    layer twice, as no gradient flows to the images. The optimizer has no products.

    Args:
      method: whose `loss` is counted.
      params, state: arrays or their shapes (`training.state.abstract_state` has them).
      batch: the arrays of a step or their shapes, images as uint8 or float.
      fixed: path prefixes of parameters that are not trained (`Partition.fixed`).

    Returns:
      their number; None, after a warning, where JAX has programs that cannot be counted.
    """
    key = jax.eval_shape(lambda: jax.random.key(0))
    # The loss takes images as they are after preprocessing.
    prepared = {
        name: jax.ShapeDtypeStruct(a.shape, jnp.float32 if a.dtype == jnp.uint8 else a.dtype)
        for name, a in batch.items()
    }
    arguments = params, state, prepared, key

    def loss(params: Params, state: MethodState, batch: Batch, key: Any) -> Any:
        return method.loss(params, state, batch, key, train=True)[0]

    learned = jax.tree_util.tree_map_with_path(lambda path, _: not _under(path, fixed), params)
    others = [False] * len(jax.tree.leaves(arguments[1:]))
    with target.assumed("cpu"):  # where nothing is padded, and attention stands as its products
        program = jax.make_jaxpr(loss)(*arguments).jaxpr
    products, _ = _count(program, jax.tree.leaves(learned) + others)
    return products.forward + products.backward


def _under(path: tuple[Any, ...], prefixes: Sequence[str]) -> bool:
    name = leaf_name(path)
    return any(f"{name}/".startswith(f"{prefix.rstrip('/')}/") for prefix in prefixes)


class _Products(NamedTuple):
    """FLOPs of the products forward, and of those that their gradients need."""

    forward: int = 0
    backward: int = 0

    def plus(self, other: "_Products", times: int = 1) -> "_Products":
        return _Products(
            self.forward + times * other.forward, self.backward + times * other.backward
        )


def _count(jaxpr: Jaxpr, learned: Sequence[bool]) -> tuple[_Products, list[bool]]:
    """Products of a program, and to which of its results a gradient flows back.

    Args:
      learned: to which of its arguments a gradient is wanted.
    """
    flows: dict[Var, bool] = dict(zip(jaxpr.invars, learned, strict=True))

    def read(atom: Var | Literal) -> bool:
        return not isinstance(atom, Literal) and flows.get(atom, False)

    total = _Products()
    for equation, used in zip(jaxpr.eqns, _used(jaxpr), strict=True):
        # No gradient flows through what is computed for the metrics alone.
        learned = [used and read(atom) for atom in equation.invars]
        products, results = _count_equation(equation, learned)
        total = total.plus(products)
        for variable, result in zip(equation.outvars, results, strict=True):
            flows[variable] = result and jnp.issubdtype(_array(variable).dtype, jnp.inexact)
    return total, [read(atom) for atom in jaxpr.outvars]


def _used(jaxpr: Jaxpr) -> list[bool]:
    """For each equation, whether a result of the program depends on it."""
    wanted = {id(atom) for atom in jaxpr.outvars}
    used = []
    for equation in reversed(jaxpr.eqns):
        used.append(any(id(variable) in wanted for variable in equation.outvars))
        if used[-1]:
            wanted.update(map(id, equation.invars))
    return used[::-1]


def _count_equation(equation: JaxprEqn, learned: list[bool]) -> tuple[_Products, list[bool]]:
    """Products of an equation, those of the programs inside it, and which results learn."""
    name, inner = equation.primitive.name, _programs(equation)
    if name == "scan" and inner:
        return _count_scan(equation, inner[0], learned)
    if name == "while":
        # Condition and body. JAX differentiates no loop whose length depends on data.
        once = [_count(program, [False] * len(program.invars))[0] for program in inner]
        total = functools.reduce(_Products.plus, once, _Products())
        return total, [False] * len(equation.outvars)
    if name == "cond" and inner:
        branches = [_count(branch, learned[-len(branch.invars) :]) for branch in inner]
        dearest = max((products for products, _ in branches), key=sum)
        return dearest, [any(flags) for flags in zip(*(r for _, r in branches), strict=True)]
    if inner and len(inner[0].invars) == len(learned):
        products, results = _count(inner[0], learned)
        # The program of one device stands for all of them.
        shards = equation.params["mesh"].size if name == "shard_map" else 1
        return _Products().plus(products, shards), results
    results = [any(learned) and name != "stop_gradient"] * len(equation.outvars)
    return _product(equation, learned), results


def _programs(equation: JaxprEqn) -> list[Jaxpr]:
    """The programs inside an equation: a call's, a loop's, a conditional's branches.

    They are known by their type, for what parameters are called changes between versions of JAX.
    """
    programs = []
    for value in equation.params.values():
        for entry in value if isinstance(value, tuple | list) else (value,):
            program = getattr(entry, "jaxpr", entry)  # with its constants, or without
            if isinstance(program, Jaxpr):
                programs.append(program)
    return programs


def _count_scan(
    equation: JaxprEqn, body: Jaxpr, learned: list[bool]
) -> tuple[_Products, list[bool]]:
    """A scan passes constants, what it carries, and slices of stacked arrays to its body."""
    scanned = _stacked(equation.invars, body.invars)
    carried = len(body.outvars) - _stacked(equation.outvars, body.outvars)
    end = len(body.invars) - scanned
    flags = list(learned)
    while True:  # what is carried may learn only after some rounds
        products, results = _count(body, flags)
        before = flags[end - carried : end]
        after = [a or b for a, b in zip(before, results[:carried], strict=True)]
        if after == before:
            return _Products().plus(products, equation.params["length"]), results
        flags[end - carried : end] = after


def _stacked(outside: Sequence[Var | Literal], inside: Sequence[Var | Literal]) -> int:
    """How many variables of a scan have an axis more than what its body sees of them."""
    return sum(_array(a).ndim > _array(b).ndim for a, b in zip(outside, inside, strict=True))


def _array(atom: Var | Literal) -> ShapedArray:
    return cast(ShapedArray, atom.aval)


def _product(equation: JaxprEqn, learned: list[bool]) -> _Products:
    """FLOPs of one product: once for its result, once for each operand that learns."""
    name = equation.primitive.name
    if name == "dot_general":
        (contracted, _), _ = equation.params["dimension_numbers"]
        left = _array(equation.invars[0]).shape
        inner = math.prod(left[axis] for axis in contracted)
        forward = 2 * math.prod(_array(equation.outvars[0]).shape) * inner
        return _Products(forward, forward * sum(learned[:2]))
    if name == "conv_general_dilated":
        kernel = _array(equation.invars[1]).shape
        outputs = kernel[equation.params["dimension_numbers"].rhs_spec[0]]
        shape = _array(equation.outvars[0]).shape
        forward = 2 * math.prod(shape) * math.prod(kernel) // outputs
        return _Products(forward, forward * sum(learned[:2]))
    if name.startswith("dot_product_attention_fwd"):
        # cuDNN's fused attention of (b n h d) and (b m h d).
        query, key = (_array(variable).shape for variable in equation.invars[:2])
        return _attention(4 * math.prod(query) * key[1], learned)
    if name == "pallas_call" and (cost := equation.params["cost_estimate"]) is not None:
        # Its first arguments are numbers, such as lengths: they have no gradient.
        arrays = zip(equation.invars, learned, strict=True)
        return _attention(
            cost.flops, [flag for x, flag in arrays if jnp.issubdtype(_array(x).dtype, jnp.inexact)]
        )
    return _Products()


def _attention(forward: int, learned: list[bool]) -> _Products:
    """Two products of equal size: of query and key, of the probabilities and value."""
    query, key, value = learned[:3]
    return _Products(forward, forward // 2 * sum((query, key, query or key, value)))
