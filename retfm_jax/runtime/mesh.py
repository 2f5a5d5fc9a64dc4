"""Mesh of devices, and how parameters, optimizer state and batches are sharded over it.

All arrays are global: `jax.jit` sees the global batch and the global parameters, and the shardings
given here tell the compiler how they are divided. One device is a mesh of one.
"""

import contextlib
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from retfm_jax.config import MeshConfig
from retfm_jax.errors import UserError
from retfm_jax.trees import leaf_name

#: Axes of the mesh: samples are sharded over both, parameters over `fsdp` alone.
AXES = ("data", "fsdp")

#: Arrays of fewer elements are replicated: gathering them costs more than they do.
SMALLEST_SHARDED = 4096

#: Ordered rules (pattern of the path, axes of which one may be sharded); the first that matches
#: decides, and None keeps the array whole. The largest that `fsdp` divides is sharded.
RULES: tuple[tuple[str, slice | None], ...] = (
    # A queue is read whole by every row of the logits in every step.
    (r"(^|/)queue", None),
    # Maps that stand side by side in the last axis are products of their own, whose gradients would
    # have to be moved between devices. Stacked layers: lax.scan takes one at a time, so that their
    # axis, the first, cannot be sharded.
    (r"(^|/)blocks/(.*/)?qkv/", slice(1, -1)),
    (r"(^|/)blocks/", slice(1, None)),
    (r"(^|/)qkv/", slice(0, -1)),
    (r"", slice(0, None)),
)


#: jaxlib has no types, so that to checkers its classes are variables.
Device: TypeAlias = jax.Device  # pyright: ignore[reportInvalidTypeForm]


def make_mesh(config: MeshConfig, devices: Sequence[Device] | None = None) -> Mesh:
    """Arranges the devices of all hosts as (data, fsdp).

    Args:
      config: sizes of the axes; one may be -1.
      devices: the devices to use; None for all of all hosts.

    Raises:
      UserError: the sizes do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else list(devices)
    sizes = [config.data, config.fsdp]
    if -1 in sizes:
        known = math.prod(size for size in sizes if size != -1)
        if known >= 1 and len(devices) % known == 0:
            sizes[sizes.index(-1)] = len(devices) // known
    if min(sizes) < 1 or math.prod(sizes) != len(devices):
        raise UserError(
            f"config.mesh data={config.data} fsdp={config.fsdp} does not fit {len(devices)} "
            "devices: the sizes must multiply to that number, and one of them may be -1"
        )
    # Explicit axes, the default, would make every matmul state its output's sharding.
    types = (AxisType.Auto,) * len(AXES)
    return jax.make_mesh(tuple(sizes), AXES, axis_types=types, devices=devices)


def partition_spec(path: str, shape: Sequence[int], fsdp: int) -> PartitionSpec:
    """Sharding of one array of the training state over the axis `fsdp`.

    Args:
      path: the leaf's name, as of `leaf_name`; `RULES` match it.
      shape: of the whole array.
      fsdp: number of devices along that axis.

    Returns:
      a spec with "fsdp" for the largest axis that can be sharded; an empty one where the array is
      replicated.
    """
    allowed = next(allowed for pattern, allowed in RULES if re.search(pattern, path))
    if allowed is None or fsdp == 1 or math.prod(shape) < SMALLEST_SHARDED:
        return PartitionSpec()
    axes = [axis for axis in range(len(shape))[allowed] if shape[axis] % fsdp == 0]
    if not axes:
        return PartitionSpec()
    axis = max(axes, key=lambda axis: shape[axis])
    return PartitionSpec(*(None,) * axis, "fsdp")


def shardings(tree: Any, mesh: Mesh) -> Any:
    """Makes a `NamedSharding` for every leaf of a tree of arrays or of their shapes.

    The same rule serves parameters, their gradients, optimizer moments and momentum copies: the
    paths of the latter end in the parameter's path, and their shapes are the parameter's.

    Args:
      tree: pytree of arrays or of `jax.ShapeDtypeStruct`.
      mesh: with the axes `AXES`.
    """
    fsdp = mesh.shape["fsdp"]
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: NamedSharding(mesh, partition_spec(leaf_name(path), leaf.shape, fsdp)),
        tree,
    )


def replicated(mesh: Mesh) -> NamedSharding:
    """Sharding of an array that is whole on every device.

    Args:
      mesh: the devices.
    """
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Sharding of a batch, its samples divided over all devices.

    Args:
      mesh: with the axes `AXES`.
    """
    return NamedSharding(mesh, PartitionSpec(AXES))


def traced_on(mesh: Mesh) -> contextlib.AbstractContextManager:
    """Context in which what is traced is told of its devices, which need not be here.

    Towers gather sharded parameters by it, and attention takes the kernel of its platform, each
    device for its own samples.

    Args:
      mesh: the devices, over which the samples are sharded.
    """
    return jax.sharding.use_abstract_mesh(mesh.abstract_mesh)


def place_batch(arrays: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Joins what each process read into global arrays, sample axis sharded over all devices.

    Args:
      arrays: this process's samples by name, each (samples, ...); every process gives the same
        number.
      mesh: of the devices of all processes.
    """
    sharding = batch_sharding(mesh)
    return {
        name: jax.make_array_from_process_local_data(sharding, array)
        for name, array in arrays.items()
    }


def check_batch_size(batch_size: int, microbatches: int, mesh: Mesh) -> None:
    """Checks that every device gets the same number of samples of every microbatch.

    Args:
      batch_size: samples of a step over all devices.
      microbatches: number of microbatches in it.
      mesh: the devices.

    Raises:
      UserError: the batch does not divide evenly.
    """
    if batch_size % (microbatches * mesh.size):
        raise UserError(
            f"config.train.batch_size {batch_size} does not divide into "
            f"{microbatches} microbatches on {mesh.size} devices: "
            f"take a multiple of {microbatches * mesh.size}"
        )
