"""Taps: what a network computes inside, and the gradient that arrives there, without a second way.

A tap is the identity. What its backward pass gives for its slot is no gradient, but what `see`
makes of the value that passed and of the gradient that came back. So one differentiation with
respect to the slots observes every layer, also under a scan and under rematerialization, and keeps
no more than `see` returns.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
from jaxtyping import Array, Float

#: From a value and the gradient of a scalar by it to what is kept of them.
See = Callable[[Array, Array], Array]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Tap:
    """An observed place.

    Attributes:
      slot: zeros in the shape of what `see` returns; of stacked layers with their axis first.
      see: from the value and its gradient to what is kept.
    """

    slot: Float[Array, "..."]
    see: See = dataclasses.field(metadata={"static": True})

    def __call__(self, value: Float[Array, "..."]) -> Float[Array, "..."]:
        """Returns `value` as it is."""
        return _observed(self.see, value, self.slot)


#: Taps of a tower by the name of the place.
Taps = Mapping[str, Tap]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _observed(see: See, value: Array, slot: Array) -> Array:
    del see, slot
    return value


def _forward(see: See, value: Array, slot: Array) -> tuple[Array, tuple[Array, Array]]:
    del see
    return value, (value, slot)


def _backward(see: See, kept: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    value, slot = kept
    return gradient, see(value, gradient).astype(slot.dtype)


_observed.defvjp(_forward, _backward)


def tapped(taps: Any, place: str, value: Float[Array, "..."]) -> Float[Array, "..."]:
    """Passes a value through the tap of a place, where there is one.

    Args:
      taps: of the tower, `Taps` or None.
      place: its name.
      value: what the network computes there.

    Returns:
      `value` as it is.
    """
    return value if taps is None or place not in taps else taps[place](value)
