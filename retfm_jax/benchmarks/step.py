"""Speed of a training step: alone, in microbatches against the whole batch, against PyTorch."""

import dataclasses
import re
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from retfm_jax import extras
from retfm_jax.benchmarks.timing import Comparison, Measurement, Partner, Timing, take_turns, timed
from retfm_jax.config import ExperimentConfig, MeshConfig, to_dict
from retfm_jax.data import device_augment as device
from retfm_jax.data.kinds import get_kind
from retfm_jax.errors import UserError
from retfm_jax.interop.layouts import to_chinese_clip
from retfm_jax.interop.state_dict import to_state_dict
from retfm_jax.methods import make_method
from retfm_jax.methods.base import MethodState
from retfm_jax.methods.torch_twins import twin_names
from retfm_jax.runtime.compilation import held_bytes
from retfm_jax.runtime.mesh import Device, check_batch_size, make_mesh, place_batch, traced_on
from retfm_jax.training.flops import peak_flops
from retfm_jax.training.optimizers import UNDECAYED
from retfm_jax.training.setup import Setup

#: The schedule's length; the bench's few steps stand at its beginning.
_HORIZON = 1000
#: How near both first losses must be, by compute type, relative to the loss.
_LOSS_TOLERANCE = {"float32": 1e-4, "bfloat16": 3e-2}


class Trainer:
    """An experiment's state and random batch on the devices, and its compiled steps.

    Attributes:
      config, method, mesh, state, batch: as in training; the batch has full-length texts and every
        eye.
      kind: what its samples are.
      what: name of the step: "step", or that of the costliest stage of a run in stages.
    """

    def __init__(
        self,
        config: ExperimentConfig,
        *,
        prepared: bool = False,
        devices: Sequence[Device] | None = None,
    ):
        """Initializes weights and samples a random batch.

        Args:
          config: the experiment.
          prepared: whether images are float and normalized already, as another framework can take
            them too, and the step takes them as they are.
          devices: all by default.

        Raises:
          UserError: the batch or the mesh does not fit the devices.
        """
        self.config = config
        method = make_method(config.method, config.model)
        self.mesh = make_mesh(config.mesh, devices)
        self.kind = get_kind(method.sample_kind)
        arrays = self.kind.random_batch(config, config.train.batch_size, config.train.seed)
        if prepared:
            arrays = jax.tree.map(np.asarray, device.prepare(arrays, config.data.image))
        self.batch = place_batch(arrays, self.mesh)
        self._setup = Setup.of(config, method, self.mesh, horizon=_HORIZON).costliest(self.batch)
        self.method = self._setup.method
        self.what = f"step of {self._setup.title}" if self._setup.title else "step"
        self.state = self._setup.create()
        self._prepared = prepared

    def _prepare(self, batch, key):
        if self._prepared:
            return batch
        return device.prepare(batch, self.config.data.image, self.config.data.augment, key)

    def compile(self, microbatches: int = 1) -> "CompiledStep":
        """Compiles the step.

        Args:
          microbatches: number of microbatches that the batch is divided into.

        Raises:
          UserError: the batch does not divide into them.
        """
        check_batch_size(self.config.train.batch_size, microbatches, self.mesh)
        step = self._setup.jit(self._setup.step(self._prepare, microbatches))
        lowered = step.lower(self._setup.abstract, self.batch)
        began = time.perf_counter()
        return CompiledStep(self, lowered.compile(), time.perf_counter() - began)

    def run(self, compiled: Any) -> float:
        """Runs one step, which replaces the state; returns the loss before it.

        Args:
          compiled: the step, a function from state and batch to state and metrics.
        """
        self.state, metrics = compiled(self.state, self.batch)
        jax.block_until_ready(self.state)
        return float(metrics["loss"])

    def loss(self) -> float:
        """Computes the training loss of the prepared batch without dropout; changes nothing."""
        loss = jax.jit(
            lambda params, state, batch: self.method.loss(params, state, batch, train=True)[0]
        )
        with traced_on(self.mesh):
            found = loss(self.state.params, MethodState(*self.state.method_state), self.batch)
        return float(found)

    def model_flops(self) -> int | None:
        """Counts the model FLOPs of a step; None where they cannot be counted."""
        return self._setup.model_flops(self.batch)

    def learning_rates(self, steps: int) -> list[float]:
        """Learning rates of the first steps.

        Args:
          steps: how many.
        """
        return [float(jnp.asarray(self._setup.schedule(step))) for step in range(steps)]


@dataclasses.dataclass
class CompiledStep:
    """A compiled step.

    Attributes:
      trainer: whose state and batch it takes.
      compiled: the function, see `Trainer.run`.
      compile_seconds: that compiling it took.
    """

    trainer: Trainer
    compiled: Any
    compile_seconds: float

    def timing(self) -> Timing:
        """Runs the step once and times it."""
        return timed(lambda: self.trainer.run(self.compiled))

    def facts(self) -> dict[str, float]:
        """Compile time in seconds, and peak memory of a device in GB, by name."""
        held = held_bytes(self.compiled.memory_analysis())
        facts = {"compile s": self.compile_seconds}
        if held is not None:
            facts["compiled peak GB"] = held / 1e9
        return facts


def measure(config: ExperimentConfig, rounds: int) -> list[Measurement]:
    """Times the step of an experiment as `retfm train` runs it, but for reading the data.

    Args:
      config: the experiment.
      rounds: timed steps.

    Raises:
      UserError: the batch or the mesh does not fit the devices.
    """
    trainer = Trainer(config)
    step = trainer.compile(config.train.microbatches)
    timings = take_turns({"step": step.timing}, rounds)["step"]
    return [_measurement(trainer.what, trainer, timings, step.facts() | _memory_in_use())]


def compare_microbatches(
    config: ExperimentConfig, parts: int, rounds: int
) -> tuple[list[Measurement], list[Comparison]]:
    """Compares gradient caching in microbatches with the whole batch, on the same batch and state.

    Args:
      config: the experiment.
      parts: number of microbatches.
      rounds: timed steps of either.

    Raises:
      UserError: the batch does not divide.
    """
    trainer = Trainer(config)
    steps = {"step in one": trainer.compile(1), f"step in {parts} parts": trainer.compile(parts)}
    taken = take_turns({name: step.timing for name, step in steps.items()}, rounds)
    whole, cached = (
        _measurement(name, trainer, taken[name], step.facts()) for name, step in steps.items()
    )
    name = f"time in {parts} microbatches / time in one batch"
    return [whole, cached], [Comparison(name, cached, whole, "at most 1.4")]


def compare_torch(
    config: ExperimentConfig, rounds: int
) -> tuple[list[Measurement], list[Comparison], dict[str, Any]]:
    """Compares the step with the same one in PyTorch: same weights, batch, precision and optimizer.

    Args:
      config: the experiment; its mesh is replaced by one device.
      rounds: timed steps of either.

    Returns:
      both measurements, PyTorch's time over ours, and what shows that both compute the same.

    Raises:
      UserError: PyTorch is not installed, it has no modules for these towers, or the first losses
        differ.
    """
    check_torch()
    trainer = one_device(config)
    with tempfile.TemporaryDirectory() as folder:
        arguments = torch_arguments(trainer, folder, steps=rounds + 1)
        theirs = Partner("retfm_jax.benchmarks.torch_step:TorchStep", **arguments)
        try:
            losses = {"ours": trainer.loss(), "torch": theirs.call("first_loss")}
            _check_losses(losses, config.model.dtype)
            step = trainer.compile(config.train.microbatches)
            taken = take_turns(
                {"ours": step.timing, "torch": lambda: theirs.call("step")[0]}, rounds
            )
            about, peak = theirs.call("about"), theirs.call("peak_bytes")
        finally:
            theirs.close()
    facts = {"peak GB": peak / 1e9} if peak else {}
    ours = _measurement("step", trainer, taken["ours"], step.facts() | _memory_in_use())
    other = _measurement("step in PyTorch", trainer, taken["torch"], facts)
    ratio = Comparison("PyTorch's time / ours", other, ours, "at least 1.0")
    return [ours, other], [ratio], {"first losses": losses, "PyTorch": about}


def one_device(config: ExperimentConfig) -> Trainer:
    """Makes the trainer of an experiment on the first device, fed with prepared images.

    PyTorch takes the same device.

    Args:
      config: the experiment; its mesh is replaced by one device.
    """
    config = dataclasses.replace(config, mesh=MeshConfig())
    return Trainer(config, prepared=True, devices=jax.devices()[:1])


def check_torch() -> None:
    """Checks that PyTorch is installed.

    Raises:
      UserError: it is not.
    """
    try:
        import torch  # noqa: F401
    except ImportError as error:
        raise UserError(f"this comparison needs PyTorch: {extras.install('torch')}") from error


def torch_arguments(trainer: Trainer, folder: str | Path, steps: int) -> dict[str, Any]:
    """Arguments that make `torch_step.TorchStep` the trainer's network, batch and optimizer.

    Args:
      trainer: with prepared images.
      folder: existing folder for the files that carry the arrays.
      steps: how many learning rates are given.

    Raises:
      UserError: PyTorch has no counterpart of a part of the network.
    """
    from safetensors.numpy import save_file

    config = trainer.config
    _check_comparable(config)
    state = trainer.state
    tensors = to_state_dict(trainer.method, state.params, state.method_state)
    spares = config.optimizer.decay == "published"
    # As arrays, which go the way of the tensors that they speak of: a fused one divides by three.
    undecayed = {
        name: np.full(3, spares and any(part in name for part in UNDECAYED)) for name in tensors
    }
    renamed = _torch_names(config, tensors)
    save_file(
        {name: np.ascontiguousarray(value) for name, value in renamed.items()},
        Path(folder) / "weights.safetensors",
    )
    batch = {name: np.asarray(value) for name, value in trainer.batch.items()}
    save_file(
        {name: value for name, value in batch.items() if not name.startswith("has_")},
        Path(folder) / "batch.safetensors",
    )
    sections = to_dict(config)
    spared = _torch_names(config, undecayed)
    return {
        "method": config.method,
        "model": sections["model"],
        "optimizer": sections["optimizer"],
        "learning_rates": trainer.learning_rates(steps),
        "undecayed": [name for name, flag in spared.items() if flag.any()],
        "files": str(folder),
    }


def _check_comparable(config: ExperimentConfig) -> None:
    model = config.model
    if config.method not in twin_names():
        raise UserError(
            f"against torch: {config.method} has no network in PyTorch here; compare one of "
            f"{', '.join(twin_names())}"
        )
    if model.image.kind == "clip_resnet":
        raise UserError(
            "against torch: transformers has no modified residual network of CLIP; compare a "
            "config with a vision transformer"
        )
    if config.optimizer.frozen:
        raise UserError("against torch compares whole updates: set config.optimizer.frozen=[]")
    rows = config.train.batch_size
    if (getattr(model.image, "norm_batch", None) or rows) != rows:
        raise UserError(
            "against torch: PyTorch's batch norms normalize the whole batch: set "
            "config.model.image.norm_batch=null"
        )
    if getattr(model.image, "patch_dropout", 0):
        raise UserError("against torch: set config.model.image.patch_dropout=0")


#: torchvision's names -> transformers' ResNetModel's, applied in order.
_RESIDUAL_NAMES = (
    (r"^conv1\.", "embedder.embedder.convolution."),
    (r"^bn1\.", "embedder.embedder.normalization."),
    (r"^layer(\d)\.(\d+)\.", lambda m: f"encoder.stages.{int(m[1]) - 1}.layers.{m[2]}."),
    (r"downsample\.0\.", "shortcut.convolution."),
    (r"downsample\.1\.", "shortcut.normalization."),
    (r"(layers\.\d+\.)conv(\d)\.", lambda m: f"{m[1]}layer.{int(m[2]) - 1}.convolution."),
    (r"(layers\.\d+\.)bn(\d)\.", lambda m: f"{m[1]}layer.{int(m[2]) - 1}.normalization."),
)


def _torch_names(
    config: ExperimentConfig, tensors: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Published tensors under the names of the twins."""
    if config.model.image.kind != "resnet":
        return to_chinese_clip(tensors)
    renamed = {}
    for name, value in tensors.items():
        if name.startswith("text_model.model.pooler."):
            continue
        name = re.sub(r"^(vision|text)_model\.projection_head_\w+\.projection", _projection, name)
        if name.startswith("vision_model.model."):
            name = name.removeprefix("vision_model.model.")
            for pattern, replacement in _RESIDUAL_NAMES:
                name = re.sub(pattern, replacement, name)
            name = f"vision_model.{name}"
        renamed[name.replace("text_model.model.", "text_model.")] = value
    return renamed


def _projection(match: re.Match) -> str:
    return "text_projection" if match[1] == "text" else "image_projection"


def _check_losses(losses: Mapping[str, float], dtype: str) -> None:
    tolerance = _LOSS_TOLERANCE[dtype]
    if abs(losses["ours"] - losses["torch"]) > tolerance * max(1.0, abs(losses["torch"])):
        raise UserError(
            f"both do not compute the same: the first loss is {losses['ours']:.6f} here and "
            f"{losses['torch']:.6f} in PyTorch; a time ratio would mean nothing. Please report it"
        )


def _measurement(
    name: str, trainer: Trainer, timings: tuple[Timing, ...], facts: Mapping[str, Any]
) -> Measurement:
    config = trainer.config
    rows, flops = config.train.batch_size, trainer.model_flops()
    found = Measurement(name, timings, rows, trainer.kind.unit)
    if flops is None:
        return dataclasses.replace(found, facts=dict(facts))
    rate = flops * found.rate / rows
    more = {"model TFLOP": flops / 1e12, "TFLOP/s": rate / 1e12}
    kind = jax.devices()[0].device_kind
    peak = peak_flops(kind, config.model.dtype)
    if peak is not None:
        more["% of peak"] = 100 * rate / (peak * trainer.mesh.size)
    return dataclasses.replace(found, facts=more | dict(facts))


def _memory_in_use() -> dict[str, float]:
    """Peak memory in use on the first device in GB, by name; nothing on a CPU."""
    stats = jax.local_devices()[0].memory_stats() or {}
    return {"peak GB": stats["peak_bytes_in_use"] / 1e9} if "peak_bytes_in_use" in stats else {}
