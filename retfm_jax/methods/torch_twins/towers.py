"""Towers of transformers, and what the twins share."""

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

#: The largest log-temperature.
MAX_LOG_SCALE = math.log(100)


def vision_tower(sizes: Mapping[str, Any], embed_dim: int) -> nn.Module:
    """CLIP's vision transformer."""
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
            attn_implementation="sdpa",  # pyright: ignore[reportCallIssue] (of every config)
        )
    )
    if sizes["remat"] == "full":
        tower.gradient_checkpointing_enable()
    return tower


def text_tower(sizes: Mapping[str, Any]) -> nn.Module:
    """BERT without a pooler."""
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
            attn_implementation="sdpa",  # pyright: ignore[reportCallIssue] (of every config)
        ),
        add_pooling_layer=False,
    )
    if sizes["remat"] == "full":
        tower.gradient_checkpointing_enable()
    return tower


def residual_tower(sizes: Mapping[str, Any]) -> nn.Module:
    """torchvision's residual network."""
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


def hidden_states(text: nn.Module, tokens: Tensor, **options: Any) -> Any:
    """What BERT makes of tokens, of which 0 is padding."""
    return text(tokens, attention_mask=(tokens != 0).long(), **options)


def info_nce(image: Tensor, text: Tensor, scale: Tensor) -> Tensor:
    """InfoNCE of unit-norm rows, both ways."""
    logits = scale * image @ text.T
    own = torch.arange(len(image), device=image.device)
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2
