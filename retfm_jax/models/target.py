"""The platform that a traced program will run on."""

from typing import Literal, cast

import jax

Platform = Literal["cpu", "gpu", "tpu"]


def platform() -> Platform:
    """Platform of the devices that what is traced now will run on.

    It is that of the mesh in use, which need not be here: a step planned for a TPU is traced on any
    machine. Without a mesh, or under one without devices, it is JAX's default.
    """
    device = jax.sharding.get_abstract_mesh().abstract_device
    name = jax.default_backend() if device is None or device.platform is None else device.platform
    return cast(Platform, {"cuda": "gpu", "rocm": "gpu"}.get(name, name))
