"""Compares towers of full size with those of transformers; the tests do so with small ones.

    python tests/parity/transformers_towers.py    # prints the largest deviations

Weights are random, so that a forgotten or swapped tensor shows.
"""

import sys
from pathlib import Path

import numpy as np
import torch
import transformers

sys.path.insert(0, str(Path(__file__).parents[1]))

from golden_files import assert_same_bits
from random_weights import randomize

import retfm_jax

_LARGE = {
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
    "image_size": 224,
    "patch_size": 14,
}
_DINO = {name: value for name, value in _LARGE.items() if name != "intermediate_size"}

#: A name for each tower, its class and configuration, and which of its outputs are the features.
TOWERS = {
    "ViT-B/16": ("ViTModel", "ViTConfig", {}, "first"),
    "CLIP-L/14": (
        "CLIPVisionModelWithProjection",
        "CLIPVisionConfig",
        _LARGE | {"projection_dim": 768},
        "of CLIP",
    ),
    "SigLIP-B/16": ("SiglipVisionModel", "SiglipVisionConfig", {}, "pooled"),
    "DINOv2-L/14": ("Dinov2Model", "Dinov2Config", _DINO, "first"),
    "DINOv2-L/14 with registers": (
        "Dinov2WithRegistersModel",
        "Dinov2WithRegistersConfig",
        _DINO,
        "first",
    ),
    "DINOv3-L/16": (
        "DINOv3ViTModel",
        "DINOv3ViTConfig",
        _LARGE | {"patch_size": 16, "num_register_tokens": 4},
        "first",
    ),
}


def features(network: torch.nn.Module, images: torch.Tensor, which: str) -> np.ndarray:
    """Features of NCHW images."""
    with torch.no_grad():
        if which == "of CLIP":
            return network.vision_model(images).pooler_output.numpy()
        found = network(images)
    return (found.last_hidden_state[:, 0] if which == "first" else found.pooler_output).numpy()


def main() -> None:
    for tower, (network_class, config_class, entries, which) in TOWERS.items():
        config = getattr(transformers, config_class)(**entries)
        network = getattr(transformers, network_class)(config).eval()
        randomize(network)
        state = {name: value.numpy() for name, value in network.state_dict().items()}
        model = retfm_jax.from_torch(state)
        size = model.config.model.image.image_size
        images = np.random.default_rng(0).normal(size=(2, 3, size, size)).astype(np.float32)
        want = features(network, torch.from_numpy(images), which)
        found = model.features({"image": images.transpose(0, 2, 3, 1)})["image_features"]
        error = np.abs(np.asarray(found) - want).max() / np.abs(want).max()
        back = retfm_jax.to_torch(model)
        plain = {name.removeprefix("model."): value for name, value in state.items()}
        assert_same_bits(back, {name: plain[name] for name in back})
        left = sorted(plain.keys() - back.keys())
        print(f"{tower}: {error:.1e}; left in the file: {', '.join(left) or 'nothing'}")


if __name__ == "__main__":
    main()
