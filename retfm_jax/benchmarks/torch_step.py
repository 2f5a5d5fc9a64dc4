"""The same training step in PyTorch: towers of transformers, the methods' objectives, AdamW.

Runs in a process of its own and imports no JAX. Only what transformers has modules for: the vision
transformer and BERT, and torchvision's residual network.
"""

import copy
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from retfm_jax.benchmarks.timing import Timing, stopwatch

#: Logit of what is no candidate, and the largest log-temperature.
_EXCLUDED = -1e30
_MAX_LOG_SCALE = math.log(100)


class TorchStep:
    """A network with its optimiser and one batch, all on the GPU where PyTorch sees one."""

    def __init__(
        self,
        method: str,
        model: dict[str, Any],
        optimizer: dict[str, Any],
        learning_rates: Sequence[float],
        undecayed: Sequence[str],
        files: str,
    ):
        """Builds everything.

        Args:
          method: "retclip", "vilref" or "keepfit".
          model, optimizer: those sections of the experiment; towers with `remat` "full" checkpoint
            their layers, others keep everything.
          learning_rates: of the steps to come.
          undecayed: tensors without weight decay.
          files: folder with `weights.safetensors` under transformers' names, and with
            `batch.safetensors`, images NHWC float32 normalised.
        """
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        if self.device.type == "cuda":
            # XLA's default for float32 on these GPUs, too.
            torch.set_float32_matmul_precision("high")
        self._half = model["dtype"] == "bfloat16"
        network = _NETWORKS[method](model)
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
        """What computes."""
        name = torch.cuda.get_device_name() if self.device.type == "cuda" else "CPU"
        return {
            "torch": torch.__version__,
            "device": name,
            "threads": str(torch.get_num_threads()),
        }

    def first_loss(self) -> float:
        """The training loss before the first step, without dropout; changes nothing."""
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
        """One training step; also the loss before it."""
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
        """Most memory that was in use on a GPU."""
        return torch.cuda.max_memory_allocated() if self.device.type == "cuda" else None

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self._half)

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def _vision(sizes: Mapping[str, Any], embed_dim: int) -> nn.Module:
    from transformers import ChineseCLIPVisionConfig, ChineseCLIPVisionModel

    heads = sizes["heads"] or sizes["width"] // 64
    tower = ChineseCLIPVisionModel(
        ChineseCLIPVisionConfig(
            image_size=sizes["image_size"],
            patch_size=sizes["patch_size"],
            hidden_size=sizes["width"],
            num_hidden_layers=sizes["layers"],
            num_attention_heads=heads,
            intermediate_size=4 * sizes["width"],
            projection_dim=embed_dim,
            hidden_act="quick_gelu",
            layer_norm_eps=1e-5,
            attn_implementation="sdpa",
        )
    )
    if sizes["remat"] == "full":
        tower.gradient_checkpointing_enable()
    return tower


def _text(sizes: Mapping[str, Any]) -> nn.Module:
    from transformers import BertConfig, BertModel

    tower = BertModel(
        BertConfig(
            vocab_size=sizes["vocab_size"],
            hidden_size=sizes["width"],
            num_hidden_layers=sizes["layers"],
            num_attention_heads=sizes["heads"] or sizes["width"] // 64,
            intermediate_size=sizes["mlp_width"],
            max_position_embeddings=sizes["positions"],
            type_vocab_size=sizes["types"],
            hidden_act="gelu",
            hidden_dropout_prob=sizes["dropout"],
            attention_probs_dropout_prob=sizes["dropout"],
            layer_norm_eps=1e-12,
            attn_implementation="sdpa",
        ),
        add_pooling_layer=False,
    )
    if sizes["remat"] == "full":
        tower.gradient_checkpointing_enable()
    return tower


def _residual(sizes: Mapping[str, Any]) -> nn.Module:
    from transformers import ResNetConfig, ResNetModel

    width = sizes["width"]
    return ResNetModel(
        ResNetConfig(
            embedding_size=width,
            hidden_sizes=[4 * width * 2**stage for stage in range(4)],
            depths=list(sizes["stages"]),
            layer_type="bottleneck",
            hidden_act="relu",
        )
    )


def _hidden(text: nn.Module, tokens: Tensor, **options: Any) -> Any:
    return text(tokens, attention_mask=(tokens != 0).long(), **options)


def _info_nce(image: Tensor, text: Tensor, scale: Tensor) -> Tensor:
    logits = scale * image @ text.T
    own = torch.arange(len(image), device=image.device)
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2


class _RetClip(nn.Module):
    """RET-CLIP under its published names, but for the towers."""

    def __init__(self, model: Mapping[str, Any]):
        super().__init__()
        dim, width = model["embed_dim"], model["text"]["width"]
        self.vision_model = _vision(model["image"], dim)
        self.visual_projection = nn.Linear(model["image"]["width"], dim, bias=False)
        self.text_model = _text(model["text"])
        self.global_feature_mapping = nn.Linear(2 * dim, dim, bias=False)
        self.left_feature_mapping = nn.Linear(dim, dim, bias=False)
        self.right_feature_mapping = nn.Linear(dim, dim, bias=False)
        for suffix in ("", "_left", "_right"):
            head = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, dim))
            setattr(self, f"text_projection{suffix}", head)
            setattr(self, f"logit_scale{suffix}", nn.Parameter(torch.zeros(())))

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        eyes = torch.cat([batch["image_left"], batch["image_right"]])
        pooled = self.vision_model(pixel_values=eyes).pooler_output
        left, right = self.visual_projection(pooled).chunk(2)
        first = _hidden(self.text_model, batch["tokens"]).last_hidden_state[:, 0]
        images = {
            "": self.global_feature_mapping(torch.cat([left, right], 1)),
            "_left": self.left_feature_mapping(left),
            "_right": self.right_feature_mapping(right),
        }
        total = 0.0
        for suffix, image in images.items():
            text = getattr(self, f"text_projection{suffix}")(first)
            scale = getattr(self, f"logit_scale{suffix}").exp()
            image, text = (F.normalize(part.float(), dim=-1) for part in (image, text))
            total = total + _info_nce(image, text, scale)
        return total

    @torch.no_grad()
    def after_update(self) -> None:
        for suffix in ("", "_left", "_right"):
            getattr(self, f"logit_scale{suffix}").clamp_(0, _MAX_LOG_SCALE)


class _Vilref(nn.Module):
    """ViLReF with its queues and momentum encoders, named as in Chinese-CLIP."""

    def __init__(self, model: Mapping[str, Any]):
        super().__init__()
        dim = model["embed_dim"]
        self.vision_model = _vision(model["image"], dim)
        self.visual_projection = nn.Linear(model["image"]["width"], dim, bias=False)
        self.text_model = _text(model["text"])
        self.text_projection = nn.Linear(model["text"]["width"], dim, bias=False)
        self.logit_scale = nn.Parameter(torch.zeros(()))
        self._model = dict(model)
        # In a list, so that they are no parameters of this module.
        self._momentum: list[nn.Module] = []
        self._queue: dict[str, Tensor] = {}
        self._filled, self._cursor = 0, 0

    def _towers(self) -> list[nn.Module]:
        return [self.vision_model, self.visual_projection, self.text_model, self.text_projection]

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        image, text = _embed_pairs(self._towers(), batch)
        size, labels = self._model["queue_size"], batch["labels"]
        if size and not self._momentum:
            self._momentum = copy.deepcopy(self._towers())
            for tower in self._momentum:
                tower.eval().requires_grad_(False)
            new = image.new_zeros
            self._queue = {
                "image": new(size, image.shape[1]),
                "text": new(size, text.shape[1]),
                "labels": new(size, labels.shape[1]),
            }
        scale = self.logit_scale.exp()
        followed = None, None
        if size:
            with torch.no_grad():
                followed = _embed_pairs(self._momentum, batch)
        sides = (image, text, "text", followed[1]), (text, image, "image", followed[0])
        loss = sum(self._direction(*side, scale, labels) for side in sides) / 2
        if size and self.training:
            self._push(*followed, labels)
        return loss

    def _direction(
        self,
        queries: Tensor,
        others: Tensor,
        name: str,
        followed: Tensor | None,
        scale: Tensor,
        labels: Tensor,
    ) -> Tensor:
        rows, device = len(queries), queries.device
        positive = scale * (queries * others).sum(1, keepdim=True)
        logits = scale * queries @ others.T
        other_labels = labels
        present = torch.ones(rows, dtype=torch.bool, device=device)
        if followed is not None:
            # Entries compete with what their own encoders make of the pair.
            ahead = positive - scale * (queries * followed).sum(1, keepdim=True)
            logits = torch.cat([logits, scale * queries @ self._queue[name].T + ahead], 1)
            other_labels = torch.cat([labels, self._queue["labels"]])
            filled = torch.arange(len(self._queue[name]), device=device) < self._filled
            present = torch.cat([present, filled])
        shared = labels @ other_labels.T
        product = labels.sum(1)[:, None] * other_labels.sum(1)
        same = (shared * shared == product) & (product > 0)
        agreement = torch.where(same, 0.0, shared / product.clamp(min=1).sqrt())
        weights = self._model["gamma"] * torch.log1p(-agreement)
        weights = torch.where(same, _EXCLUDED, weights)
        own = torch.arange(rows, device=device)
        weights[own, own] = 0.0
        logits = logits + weights
        if self._model["calibrated"]:
            logits = torch.logaddexp(logits, torch.log(-torch.expm1(weights)) + positive)
        return F.cross_entropy(torch.where(present, logits, _EXCLUDED), own)

    @torch.no_grad()
    def _push(self, image: Tensor, text: Tensor, labels: Tensor) -> None:
        size, rows = self._model["queue_size"], len(image)
        newest = min(rows, size)
        start = self._cursor + rows - newest
        places = (start + torch.arange(newest, device=image.device)) % size
        for name, value in (("image", image), ("text", text), ("labels", labels)):
            # A new tensor: the loss still needs the old one.
            self._queue[name] = self._queue[name].index_copy(0, places, value[rows - newest :])
        self._cursor = (self._cursor + rows) % size
        self._filled = min(self._filled + rows, size)

    @torch.no_grad()
    def after_update(self) -> None:
        self.logit_scale.clamp_(0, _MAX_LOG_SCALE)
        for tower, average in zip(self._towers(), self._momentum, strict=bool(self._momentum)):
            torch._foreach_lerp_(
                list(average.parameters()),
                list(tower.parameters()),
                1 - self._model["momentum"],
            )


def _embed_pairs(towers: Sequence[nn.Module], batch: Mapping[str, Tensor]) -> list[Tensor]:
    vision, visual_projection, text, text_projection = towers
    image = visual_projection(vision(pixel_values=batch["image"]).pooler_output)
    report = text_projection(_hidden(text, batch["tokens"]).last_hidden_state[:, 0])
    return [F.normalize(part.float(), dim=-1) for part in (image, report)]


class _Keepfit(nn.Module):
    """KeepFIT with two streams; its residual network is transformers'."""

    def __init__(self, model: Mapping[str, Any]):
        super().__init__()
        dim, image, text = model["embed_dim"], model["image"], model["text"]
        self.vision_model = _residual(image)
        self.text_model = _text(text)
        self.image_projection = nn.Linear(32 * image["width"], dim, bias=False)
        self.text_projection = nn.Linear(text["width"], dim, bias=False)
        self.logit_scale = nn.Parameter(torch.zeros(()))
        self._model = dict(model)
        if model["attention"]:
            self.attention = nn.ModuleDict(
                {f"W_{part}": nn.Linear(dim, dim, bias=False) for part in "qkvo"}
            )

    def _pair(self, image: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        pooled = self.vision_model(pixel_values=image).pooler_output.flatten(1).float()
        image = F.normalize(self.image_projection(F.normalize(pooled, dim=-1)).float(), dim=-1)
        states = _hidden(self.text_model, tokens, output_hidden_states=True).hidden_states
        counted = (tokens != 0).float()
        if self._model["pooling"] == "all":
            counted = torch.ones_like(counted)
        share = counted / counted.sum(1, keepdim=True).clamp(min=1)
        layers = torch.stack([states[layer].float() for layer in (1, 2, -1)])
        pooled = torch.einsum("lbnd,bn->lbd", layers, share).mean(0)
        text = F.normalize(self.text_projection(F.normalize(pooled, dim=-1)).float(), dim=-1)
        return image, text

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        scale = self.logit_scale.exp()
        image, text = self._pair(batch["image"], batch["tokens"])
        same = (batch["category"][:, None] == batch["category"]).float()
        targets = same / same.sum(1, keepdim=True)
        logits = scale * image @ text.T
        total = (F.cross_entropy(logits, targets) + F.cross_entropy(logits.T, targets)) / 2
        if "expert_image" not in batch:
            return total
        expert = self._pair(batch["expert_image"], batch["expert_tokens"])
        total = total + self._model["expert_weight"] * _info_nce(*expert, scale)
        if self._model["attention"]:
            revised = self._revise(image, *expert)
            total = total + self._model["revision_weight"] * F.mse_loss(text, revised)
        return total

    def _revise(self, image: Tensor, expert_image: Tensor, expert_text: Tensor) -> Tensor:
        heads = self._model["attention_heads"]
        query, key, value = (
            self.attention[f"W_{part}"](rows).unflatten(1, (heads, -1)).float()
            for part, rows in zip("qkv", (image, expert_image, expert_text), strict=True)
        )
        scores = torch.einsum("bhd,ehd->hbe", query, key) * query.shape[-1] ** -0.5
        weights = scores.softmax({"heads": 0, "experts": 2}[self._model["attention_over"]])
        weights = F.dropout(weights, self._model["attention_dropout"], self.training)
        return self.attention["W_o"](torch.einsum("hbe,ehd->bhd", weights, value).flatten(1))

    @torch.no_grad()
    def after_update(self) -> None:
        self.logit_scale.clamp_(0, _MAX_LOG_SCALE)


_NETWORKS = {"retclip": _RetClip, "vilref": _Vilref, "keepfit": _Keepfit}
