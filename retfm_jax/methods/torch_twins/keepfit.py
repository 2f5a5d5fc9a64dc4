"""KeepFIT with two streams; its residual network is transformers'."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from retfm_jax.methods.torch_twins.towers import (
    MAX_LOG_SCALE,
    hidden_states,
    info_nce,
    residual_tower,
    text_tower,
)


class Keepfit(nn.Module):
    """KeepFIT with two streams; its residual network is transformers'."""

    def __init__(self, model: Mapping[str, Any]):
        super().__init__()
        dim, image, text = model["embed_dim"], model["image"], model["text"]
        self.vision_model = residual_tower(image)
        self.text_model = text_tower(text)
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
        states = hidden_states(self.text_model, tokens, output_hidden_states=True).hidden_states
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
        of_texts = F.cross_entropy(logits.T, targets)
        if self._model["self_paced_epochs"] is not None:
            of_texts = of_texts * self._text_weight(batch["epoch"])
        total = (F.cross_entropy(logits, targets) + of_texts) / 2
        if "expert_image" not in batch:
            return total
        expert = self._pair(batch["expert_image"], batch["expert_tokens"])
        total = total + self._model["expert_weight"] * info_nce(*expert, scale)
        if self._model["attention"]:
            revised = self._revise(image, *expert)
            total = total + self._model["revision_weight"] * F.mse_loss(text, revised)
        return total

    def _text_weight(self, epoch: Tensor) -> Tensor:
        return ((epoch.max() + 1) / self._model["self_paced_epochs"]).clamp(max=1)

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
        self.logit_scale.clamp_(0, MAX_LOG_SCALE)


NETWORK = Keepfit
