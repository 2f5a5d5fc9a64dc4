"""Devices that are not here: TPU slices by libtpu, and GPUs that CPU devices stand in for."""

import contextlib
import importlib.util
import os
import re
from collections.abc import Sequence
from typing import NamedTuple

import jax
from jax.experimental import topologies

from retfm_jax import extras
from retfm_jax.errors import UserError
from retfm_jax.runtime import chips
from retfm_jax.runtime.chips import Chip
from retfm_jax.runtime.mesh import Device

#: The devices of this machine, whatever they are.
HERE = "here"


class Topology(NamedTuple):
    """Devices to compile for.

    Attributes:
      name: "v5e:16x16", "gpu:h100x8" or "here".
      devices: of which a mesh is made.
      chip: data of one device; None where they are unknown.
      shape: the TPU's torus; the number of devices alone for others.
      real: whether the program is compiled by the devices' own compiler.
    """

    name: str
    devices: Sequence[Device]
    chip: Chip | None
    shape: tuple[int, ...]
    real: bool

    def bandwidth(self, group: int) -> float | None:
        """Bytes/s that a device sends in a collective; None where unknown.

        A collective over all of a TPU slice uses the links of all its axes, a smaller one those of
        one axis (at worst). Along an axis that closes to a ring both directions are of use, along
        an open one the devices at its ends have a single link.

        Args:
          group: how many devices take part in the collective.
        """
        if self.chip is None:
            return None
        if self.chip.platform == "gpu":
            return self.chip.link
        axes = [size for size in self.shape if size > 1] or [1]
        if group < len(self.devices):
            axes = [min(axes)]
        return sum(self.chip.link * (2 if self._closed(size) else 1) for size in axes)

    def _closed(self, size: int) -> bool:
        # Slices of v4 and v5p close by optical switches, those of v5e and v6e where they are whole.
        switched = self.chip is not None and self.chip.axes == 3
        return size % 4 == 0 if switched else size == 16


def known_forms() -> str:
    """Lists the names that `open_topology` takes."""
    tpus = {2: "16x16", 3: "4x4x8"}
    forms = [f"{chip.name}:{tpus[chip.axes]}" for chip in chips.CHIPS if chip.platform == "tpu"]
    gpus = ", ".join(chip.name for chip in chips.CHIPS if chip.platform == "gpu")
    return f"{', '.join(forms)} (TPU, other sizes alike); gpu:NAME or gpu:NAMEx8 ({gpus}); {HERE}"


def open_topology(name: str) -> Topology:
    """Opens the devices of a name; to be called before anything touches a device.

    A TPU slice needs no TPU: libtpu's compiler runs on any Linux machine. On a machine with an
    accelerator that accelerator stays untouched.

    Args:
      name: in one of the forms that `known_forms` lists.

    Raises:
      UserError: there is no such topology, or libtpu is not installed.
    """
    if name == HERE:
        devices = jax.devices()
        chip = chips.find(devices[0].device_kind)
        return Topology(name, devices, chip, (len(devices),), real=True)
    kind, _, size = name.partition(":")
    if kind == "gpu":
        return _gpus(name, size)
    chip = chips.named(kind)
    if chip is None or chip.platform != "tpu" or not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", size):
        raise _unknown(name)
    return _slice(name, chip, tuple(map(int, size.split("x"))))


def _slice(name: str, chip: Chip, shape: tuple[int, ...]) -> Topology:
    if importlib.util.find_spec("libtpu") is None:
        raise UserError(
            f"{name} needs the TPU's compiler, which runs without a TPU, on Linux: "
            f"{extras.install('plan')}"
        )
    jax.config.update("jax_platforms", "cpu")
    # Away from a TPU libtpu would ask the cloud for what it is, and wait for an answer.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-16")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    # No chip is touched: other processes may use libtpu, even a training run on this machine.
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    os.environ.setdefault("TPU_STDERR_LOG_LEVEL", "3")
    # A v4 has two cores, which JAX counts as one device on real machines.
    cores = {"chip_config_name": "megacore"} if chip.name == "v4" else {}
    host = (*(min(2, size) for size in shape[:2]), 1)
    try:
        devices = topologies.get_topology_desc(
            name, platform="tpu", chips_per_host_bounds=host, **cores
        ).devices
    except (jax.errors.JaxRuntimeError, RuntimeError, ValueError) as error:
        raise UserError(
            f"topology {name}: the TPU's compiler knows no such slice ({error}); "
            f"known forms: {known_forms()}"
        ) from error
    return Topology(name, devices, chip, shape, real=True)


def _gpus(name: str, size: str) -> Topology:
    chip, count = chips.named(size), 1
    if chip is None:
        size, _, number = size.rpartition("x")
        chip, count = chips.named(size), int(number) if number.isdigit() else 0
    if chip is None or chip.platform != "gpu" or count < 1:
        raise _unknown(name)
    jax.config.update("jax_platforms", "cpu")
    with contextlib.suppress(RuntimeError):  # where devices were made already, their number stands
        jax.config.update("jax_num_cpu_devices", count)
    devices = jax.devices("cpu")
    if len(devices) < count:
        raise RuntimeError(f"{count} devices were asked for, JAX began with {len(devices)}")
    return Topology(name, devices[:count], chip, (count,), real=False)


def _unknown(name: str) -> UserError:
    return UserError(f"topology {name}: no such topology; known forms: {known_forms()}")
