"""What stands between the linear maps of a transformer's block."""

import math
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

#: a, b, c of `_normal_cdf`, by minimizing the largest error of x Phi(x), and the largest u^2.
_TANH = (1.12784647, 0.10466777, -0.00198848)
_BOUND = 16.0
#: Below this number x Phi(x) is 0 in bfloat16's sight, whatever is left of Phi.
_LEAST = -10.0


def gelu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Gaussian error linear unit, `x Phi(x)` for the normal distribution's Phi.

    Hendrycks and Gimpel 2016 (arXiv 1606.08415). In bfloat16, erf(u) is
    tanh(u (a + b u^2 + c u^4)), of which chips have an instruction: before they are rounded, the
    result is at most 3e-5 away and its derivative 5e-5.

    Args:
      x: of any shape, float32 or bfloat16.
    """
    return _bfloat16_gelu(x) if x.dtype == jnp.bfloat16 else jax.nn.gelu(x, approximate=False)


def _normal_cdf(x: Float[Array, "..."]) -> Float[Array, "..."]:
    u = x * math.sqrt(0.5)
    # Far out tanh is 1 whatever the factor, as long as that stays positive.
    squared = jnp.minimum(u * u, _BOUND)
    a, b, c = _TANH
    return 0.5 + 0.5 * jnp.tanh(u * (a + squared * (b + squared * c)))


@jax.custom_jvp
def _bfloat16_gelu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    wide = x.astype(jnp.float32)
    return (jnp.maximum(wide, _LEAST) * _normal_cdf(wide)).astype(x.dtype)


@_bfloat16_gelu.defjvp
def _(primals, tangents):
    (x,), (tangent,) = primals, tangents
    wide = x.astype(jnp.float32)
    cdf = _normal_cdf(wide)
    slope = cdf + wide * jnp.exp(-0.5 * wide * wide) * (2 * math.pi) ** -0.5
    value = jnp.maximum(wide, _LEAST) * cdf
    return value.astype(x.dtype), (slope * tangent.astype(jnp.float32)).astype(x.dtype)


#: By name; `swiglu` gates one half of the channels by the other.
ACTIVATIONS: Mapping[str, Callable[[Array], Array]] = {
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
    "gelu": gelu,
    "gelu_tanh": lambda x: jax.nn.gelu(x, approximate=True),
    "swiglu": lambda x: jax.nn.silu(x[..., : x.shape[-1] // 2]) * x[..., x.shape[-1] // 2 :],
}
