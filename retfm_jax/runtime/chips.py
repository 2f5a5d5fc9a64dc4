"""Peak rates, memory and links of chips, as their makers state them."""

import dataclasses
import re
from typing import Any, Literal


@dataclasses.dataclass(frozen=True)
class Chip:
    """One device, as JAX counts devices.

    Attributes:
      name: in the names of topologies, such as "v5e".
      platform: "tpu" or "gpu".
      kind: regular expression that JAX's `device_kind` matches.
      bfloat16: peak of dense matrix products, FLOP/s; chips without such units compute in float32.
      float32: peak of products of float32 arrays at JAX's default precision, FLOP/s: one bfloat16
        pass on a TPU, TF32 on an NVIDIA GPU that has it.
      memory: bytes.
      bandwidth: of that memory, bytes/s.
      link: bytes/s that a device sends over one link in one direction: ICI along one axis of a
        torus, NVLink or PCIe as a whole.
      axes: dimensions of the TPU's torus, whose links work side by side; 1 for GPUs.
      clock: of a TPU's matrix units, Hz: their peak over the multiplications that they do at once;
        None for GPUs.
      rows: of a TPU, that one core's matrix units together take in a cycle; 0 for GPUs.
    """

    name: str
    platform: Literal["tpu", "gpu"]
    kind: str
    bfloat16: float
    float32: float
    memory: int
    bandwidth: float
    link: float
    axes: int = 1
    clock: float | None = None
    rows: int = 0

    def peak(self, dtype: str) -> float | None:
        """Peak rate of matrix products in FLOP/s; None for types that are not listed here.

        Args:
          dtype: of the factors, "bfloat16" or "float32".
        """
        return {"bfloat16": self.bfloat16, "float32": self.float32}.get(dtype)


def _tpu(
    name: str,
    kind: str,
    peak: float,
    gib: int,
    bandwidth: float,
    link: float,
    axes: int,
    at_once: int,
    rows: int = 4,
) -> Chip:
    clock = peak / (2 * at_once)
    return Chip(name, "tpu", kind, peak, peak, gib * 2**30, bandwidth, link, axes, clock, rows)


def _gpu(
    name: str, kind: str, half: float, single: float, gb: int, bandwidth: float, link: float
) -> Chip:
    return Chip(name, "gpu", kind, half, single, gb * 10**9, bandwidth, link)


#: Sources: the Cloud TPU system architecture pages and "How to Scale Your Model" (Austin et al.
#: 2025) for the links; NVIDIA's data sheets, halved where they count structured sparsity. The first
#: pattern that matches decides.
CHIPS: tuple[Chip, ...] = (
    _tpu("v4", r"TPU v4$", 275e12, 32, 1228e9, 45e9, 3, 8 * 128**2),
    _tpu("v5e", r"TPU v5 ?(lite|e)", 197e12, 16, 819e9, 45e9, 2, 4 * 128**2),
    _tpu("v5p", r"TPU v5p?$", 459e12, 95, 2765e9, 90e9, 3, 8 * 128**2),
    _tpu("v6e", r"TPU v6 ?(lite|e)", 918e12, 32, 1640e9, 90e9, 2, 4 * 256**2),
    _gpu("b200", r"B200", 2250e12, 1125e12, 180, 8000e9, 900e9),
    _gpu("gh200", r"GH200", 989e12, 494e12, 96, 4000e9, 450e9),
    _gpu("h200", r"H200", 989e12, 494e12, 141, 4800e9, 450e9),
    _gpu("h100_pcie", r"H100 PCIe", 756e12, 378e12, 80, 2039e9, 64e9),
    _gpu("h100_nvl", r"H100 NVL", 835e12, 417e12, 94, 3938e9, 300e9),
    _gpu("h100", r"H100", 989e12, 494e12, 80, 3352e9, 450e9),
    _gpu("a100_40gb", r"A100.*40GB", 312e12, 156e12, 40, 1555e9, 300e9),
    _gpu("a100", r"A100", 312e12, 156e12, 80, 2039e9, 300e9),
    _gpu("l40s", r"L40S", 362e12, 183e12, 48, 864e9, 32e9),
    _gpu("l4", r"\bL4\b", 121e12, 60e12, 24, 300e9, 32e9),
    _gpu("a10g", r"A10G", 70e12, 35e12, 24, 600e9, 32e9),
    _gpu("v100", r"V100", 15.7e12, 15.7e12, 16, 900e9, 150e9),
    _gpu("t4", r"\bT4\b", 8.1e12, 8.1e12, 16, 320e9, 16e9),
    _gpu("rtx4090", r"RTX 4090", 165e12, 82.6e12, 24, 1008e9, 32e9),
    _gpu("rtx3090", r"RTX 3090", 71e12, 35.6e12, 24, 936e9, 32e9),
)


def find(device_kind: str) -> Chip | None:
    """Looks up the chip of a device of JAX; None where it is not listed here.

    Args:
      device_kind: as `jax.Device.device_kind` gives it, such as "TPU v5 lite".
    """
    return next((chip for chip in CHIPS if re.search(chip.kind, device_kind)), None)


def named(name: str) -> Chip | None:
    """Looks up a chip by its name in topologies; None where it is not listed here.

    Args:
      name: such as "v5e" or "h100".
    """
    return next((chip for chip in CHIPS if chip.name == name), None)


def compute_dtype(device: Any) -> Literal["bfloat16", "float32"]:
    """Chooses `config.model.dtype` for a device: bfloat16 where it has units for it.

    TPUs do, and NVIDIA GPUs of compute capability 8.0 (Ampere) and newer; a T4 (7.5), a V100 and
    processors are faster in float32.

    Args:
      device: of JAX, such as `jax.devices()[0]`.
    """
    capability = getattr(device, "compute_capability", None)
    has_units = device.platform == "tpu" or (capability is not None and float(capability) >= 8)
    return "bfloat16" if has_units else "float32"
