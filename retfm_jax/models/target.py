"""The platform that a traced program will run on."""

import contextlib
from collections.abc import Iterator
from typing import Literal, cast

import jax

Platform = Literal["cpu", "gpu", "tpu"]

#: Axis of the mesh over which parameters are sharded.
_PARAMETER_AXIS = "fsdp"

#: Part of what JAX keeps traced programs by.
_assumed = jax.make_user_context(None)


def platform() -> Platform:
    """Platform of the devices that what is traced now will run on.

    It is that of the mesh in use, which need not be here: a step planned for a TPU is traced on any
    machine. Without a mesh, or under one without devices, it is JAX's default.
    """
    return cast(Platform | None, _assumed.value) or _own()


def is_assumed() -> bool:
    """Whether what is traced is for a platform whose own kernels cannot be compiled here."""
    return platform() != _own()


def _own() -> Platform:
    device = jax.sharding.get_abstract_mesh().abstract_device
    name = jax.default_backend() if device is None or device.platform is None else device.platform
    return cast(Platform, {"cuda": "gpu", "rocm": "gpu"}.get(name, name))


def parameters_are_sharded() -> bool:
    """Whether the mesh in use shards parameters."""
    return jax.sharding.get_abstract_mesh().shape.get(_PARAMETER_AXIS, 1) > 1


@contextlib.contextmanager
def assumed(name: Platform) -> Iterator[None]:
    """Traces what stands inside for a platform, wherever it is traced.

    What a network needs is so counted without what one platform adds to it, such as padding, or
    planned for devices that have no compiler here: kernels of theirs are replaced by programs that
    need as much memory, but compute something else.

    Args:
      name: of the platform.
    """
    with _assumed(name):
        yield
