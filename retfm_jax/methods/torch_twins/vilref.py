"""ViLReF with its queues and momentum encoders, named as in Chinese-CLIP."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from retfm_jax.methods.torch_twins.towers import (
    MAX_LOG_SCALE,
    hidden_states,
    text_tower,
    vision_tower,
)

#: Logit of what is no candidate.
_EXCLUDED = -1e30


class Vilref(nn.Module):
    """ViLReF with its queues and momentum encoders, named as in Chinese-CLIP."""

    def __init__(self, model: Mapping[str, Any]):
        super().__init__()
        dim = model["embed_dim"]
        self.vision_model = vision_tower(model["image"], dim)
        self.visual_projection = nn.Linear(model["image"]["width"], dim, bias=False)
        self.text_model = text_tower(model["text"])
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
        followed = None
        if size:
            with torch.no_grad():
                followed = _embed_pairs(self._momentum, batch)
        images, texts = followed or (None, None)
        to_text = self._direction(image, text, "text", texts, scale, labels)
        to_image = self._direction(text, image, "image", images, scale, labels)
        if followed is not None and self.training:
            self._push(*followed, labels)
        return (to_text + to_image) / 2

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
        positions = (start + torch.arange(newest, device=image.device)) % size
        for name, value in (("image", image), ("text", text), ("labels", labels)):
            # A new tensor: the loss still needs the old one.
            self._queue[name] = self._queue[name].index_copy(0, positions, value[rows - newest :])
        self._cursor = (self._cursor + rows) % size
        self._filled = min(self._filled + rows, size)

    @torch.no_grad()
    def after_update(self) -> None:
        self.logit_scale.clamp_(0, MAX_LOG_SCALE)
        for tower, average in zip(self._towers(), self._momentum, strict=bool(self._momentum)):
            torch._foreach_lerp_(  # pyright: ignore[reportPrivateImportUsage] (as optimizers do)
                list(average.parameters()),
                list(tower.parameters()),
                1 - self._model["momentum"],
            )


def _embed_pairs(towers: Sequence[nn.Module], batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    vision, visual_projection, text, text_projection = towers
    image = visual_projection(vision(pixel_values=batch["image"]).pooler_output)
    report = text_projection(hidden_states(text, batch["tokens"]).last_hidden_state[:, 0])
    return F.normalize(image.float(), dim=-1), F.normalize(report.float(), dim=-1)


NETWORK = Vilref
