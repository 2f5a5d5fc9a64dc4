"""The same training step in PyTorch: a method's network of `methods.torch_twins`, and AdamW.

Runs in a process of its own and imports no JAX.
"""

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from retfm_jax.benchmarks.timing import Timing, stopwatch
from retfm_jax.methods.torch_twins import network_of


class TorchStep:
    """A network with its optimizer and one batch, all on the GPU where PyTorch sees one."""

    def __init__(
        self,
        method: str,
        model: dict[str, Any],
        optimizer: dict[str, Any],
        learning_rates: Sequence[float],
        undecayed: Sequence[str],
        files: str,
    ):
        """Builds network, optimizer and batch.

        Args:
          method: one that `torch_twins` has.
          model, optimizer: those sections of the experiment; towers with `remat` "full" checkpoint
            their layers, others keep everything.
          learning_rates: of the steps to come; the last one stays.
          undecayed: names of tensors without weight decay.
          files: folder with `weights.safetensors` under transformers' names, and with
            `batch.safetensors`, images NHWC float32 normalized.
        """
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        if self.device.type == "cuda":
            # XLA's default for float32 on these GPUs, too.
            torch.set_float32_matmul_precision("high")
        self._half = model["dtype"] == "bfloat16"
        network = network_of(method)(model)
        weights = load_file(Path(files) / "weights.safetensors")
        network.load_state_dict(weights)
        self.network = network.to(self.device)
        self._batch = self._place(load_file(Path(files) / "batch.safetensors"))
        groups = [
            {"params": [], "weight_decay": optimizer["weight_decay"]},
            {"params": [], "weight_decay": 0.0},
        ]
        for name, parameter in self.network.named_parameters():
            groups[name in set(undecayed)]["params"].append(parameter)
        self._optimizer = torch.optim.AdamW(
            groups,
            lr=0.0,
            betas=(optimizer["b1"], optimizer["b2"]),
            eps=optimizer["eps"],
            fused=True,
        )
        self._clip = optimizer["clip_norm"]
        self._rates = list(learning_rates)
        # Compiling pays on a GPU alone.
        compiled = self.device.type == "cuda"
        self._loss = torch.compile(self.network) if compiled else self.network

    def _place(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        placed = {}
        for name, value in batch.items():
            if "image" in name:
                value = value.permute(0, 3, 1, 2).contiguous()
            elif value.dtype == torch.int32:
                value = value.long()
            placed[name] = value.to(self.device)
        return placed

    def about(self) -> dict[str, str]:
        """Describes what computes."""
        name = torch.cuda.get_device_name() if self.device.type == "cuda" else "CPU"
        return {
            "torch": torch.__version__,
            "device": name,
            "threads": str(torch.get_num_threads()),
        }

    def first_loss(self) -> float:
        """Computes the training loss before the first step, without dropout; changes nothing."""
        modes = [(module, module.training) for module in self.network.modules()]
        kept = copy.deepcopy(dict(self.network.named_buffers()))
        for module in self.network.modules():
            # Batch norms stay as they train; all that drops is still.
            module.training = isinstance(module, nn.BatchNorm2d)
        with torch.no_grad(), self._autocast():
            loss = self.network(self._batch)
        for module, training in modes:
            module.training = training
        for name, buffer in self.network.named_buffers():
            buffer.copy_(kept[name])
        return float(loss)

    def step(self) -> tuple[Timing, float]:
        """Runs one training step; returns its timing and the loss before it."""
        self.network.train()
        for group in self._optimizer.param_groups:
            group["lr"] = self._rates[0]
        if len(self._rates) > 1:
            del self._rates[0]
        self._wait()
        with stopwatch() as taken:
            self._optimizer.zero_grad()
            with self._autocast():
                loss = self._loss(self._batch)
            loss.backward()
            if self._clip is not None:
                nn.utils.clip_grad_norm_(self.network.parameters(), self._clip)
            self._optimizer.step()
            self.network.after_update()
            loss = float(loss.detach())
            self._wait()
        return taken[0], loss

    def peak_bytes(self) -> int | None:
        """Most memory in bytes that was in use on a GPU; None without one."""
        return torch.cuda.max_memory_allocated() if self.device.type == "cuda" else None

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self._half)

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
