"""RET-CLIP under its published names, but for the towers."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from retfm_jax.methods.torch_twins.towers import (
    MAX_LOG_SCALE,
    hidden_states,
    info_nce,
    text_tower,
    vision_tower,
)


class RetClip(nn.Module):
    """RET-CLIP under its published names, but for the towers."""

    def __init__(self, model: Mapping[str, Any]):
        super().__init__()
        dim, width = model["embed_dim"], model["text"]["width"]
        self.vision_model = vision_tower(model["image"], dim)
        self.visual_projection = nn.Linear(model["image"]["width"], dim, bias=False)
        self.text_model = text_tower(model["text"])
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
        first = hidden_states(self.text_model, batch["tokens"]).last_hidden_state[:, 0]
        images = {
            "": self.global_feature_mapping(torch.cat([left, right], 1)),
            "_left": self.left_feature_mapping(left),
            "_right": self.right_feature_mapping(right),
        }
        total = first.new_zeros((), dtype=torch.float32)
        for suffix, image in images.items():
            text = getattr(self, f"text_projection{suffix}")(first)
            scale = getattr(self, f"logit_scale{suffix}").exp()
            image, text = (F.normalize(part.float(), dim=-1) for part in (image, text))
            total = total + info_nce(image, text, scale)
        return total

    @torch.no_grad()
    def after_update(self) -> None:
        for suffix in ("", "_left", "_right"):
            getattr(self, f"logit_scale{suffix}").clamp_(0, MAX_LOG_SCALE)


NETWORK = RetClip
