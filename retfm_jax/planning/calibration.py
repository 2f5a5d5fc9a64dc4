"""Plain programs whose time is known in advance: how far the times of a plan can be trusted."""

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import SingleDeviceSharding

from retfm_jax.planning.hlo import HloModule
from retfm_jax.planning.machine_code import Recording, bound
from retfm_jax.planning.topologies import Topology
from retfm_jax.training.flops import count_flops

#: Tokens of 128 photographs in a ViT-B/16.
_TOKENS = 128 * 197


class Program(NamedTuple):
    """A program that does one thing, on one device.

    Attributes:
      name: for people.
      function: what is compiled.
      arguments: shape and dtype of each array that it takes.
    """

    name: str
    function: Callable[..., jax.Array]
    arguments: tuple[tuple[tuple[int, ...], str], ...]


class Times(NamedTuple):
    """Seconds of a program.

    Attributes:
      name: of the program.
      known: FLOPs of its products at the peak, or bytes that it has to read and write at the
        memory's bandwidth, whichever takes longer.
      limit: "FLOPs" or "bytes", whichever that is.
      estimate: as the compiler expects it.
      machine_code: its bound.
    """

    name: str
    known: float
    limit: str
    estimate: float
    machine_code: float


def _product(name: str, rows: int, inner: int, columns: int, dtype: str = "bfloat16") -> Program:
    return Program(name, jnp.matmul, (((rows, inner), dtype), ((inner, columns), dtype)))


def _one(name: str, function: Callable[..., jax.Array], *shape: int, dtype="bfloat16") -> Program:
    return Program(name, function, ((shape, dtype),))


def _norm(x: jax.Array) -> jax.Array:
    y = x.astype(jnp.float32)
    y = y - y.mean(-1, keepdims=True)
    return (y * jax.lax.rsqrt((y * y).mean(-1, keepdims=True) + 1e-5)).astype(x.dtype)


#: A ViT-B/16's, and large ones of which nothing can be hidden.
PROGRAMS = (
    _product("product, 8192 x 8192 x 8192", 8192, 8192, 8192),
    _product("product, float32", 4096, 4096, 4096, "float32"),
    _product("product to q, k and v", _TOKENS, 768, 2304),
    _product("product after attention", _TOKENS, 768, 768),
    _product("product to hidden", _TOKENS, 768, 3072),
    _product("product from hidden", _TOKENS, 3072, 768),
    Program(
        "product of a kernel's gradient",
        lambda x, y: jnp.einsum("nd,nf->df", x, y, preferred_element_type=jnp.float32),
        (((_TOKENS, 768), "bfloat16"), ((_TOKENS, 3072), "bfloat16")),
    ),
    _one("2 x + 1", lambda x: 2 * x + 1, 1 << 14, 1 << 14),
    _one("exp, float32", jnp.exp, 1 << 14, 1 << 14, dtype="float32"),
    _one("sum, float32", jnp.sum, 1 << 14, 1 << 14, dtype="float32"),
    _one("transpose", lambda x: x.T.copy(), 1 << 14, 1 << 14),
    _one("layer norm", _norm, _TOKENS, 768),
    _one(
        "softmax of float32 into bfloat16",
        lambda x: jax.nn.softmax(x).astype(jnp.bfloat16),
        1536 * 197,
        197,
        dtype="float32",
    ),
    _one("QuickGELU", lambda x: x * jax.nn.sigmoid(1.702 * x), _TOKENS, 3072),
    _one("exact GELU", lambda x: jax.nn.gelu(x, approximate=False), 6400, 3072),
)


def times(topology: Topology, recorded: Recording) -> Iterator[Times]:
    """Compiles the programs and yields what a plan would say of each.

    Args:
      topology: a TPU's; the programs run on one device of it.
      recorded: where their machine code is read from.
    """
    chip = topology.chip
    assert chip is not None
    assert chip.clock is not None
    here = SingleDeviceSharding(topology.devices[0])
    for program in PROGRAMS:
        arguments = [
            jax.ShapeDtypeStruct(shape, dtype, sharding=here) for shape, dtype in program.arguments
        ]
        compiled = jax.jit(program.function, out_shardings=here).lower(*arguments).compile()
        text = compiled.as_text()
        assert text is not None
        module = HloModule(text, 1)
        arrays = [*arguments, jax.eval_shape(program.function, *arguments)]
        moved = sum(math.prod(a.shape) * np.dtype(a.dtype).itemsize for a in arrays)
        known = {
            "FLOPs": count_flops(program.function, *arguments)
            / (chip.peak(program.arguments[0][1]) or math.inf),
            "bytes": moved / chip.bandwidth,
        }
        limit = max(known, key=lambda name: known[name])
        yield Times(
            name=program.name,
            known=known[limit],
            limit=limit,
            estimate=(module.work().cycles or 0.0) / chip.clock,
            machine_code=bound(module, recorded.take(), chip).seconds,
        )
