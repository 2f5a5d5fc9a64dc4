"""Compares towers with timm's, which the tests do not install, and makes their golden.

    pip install timm torchvision
    python tests/parity/timm_towers.py            # full size: prints the largest deviations
    python tests/parity/timm_towers.py --golden   # small: writes tests/goldens/timm_towers.npz

Weights are random, so that a forgotten or swapped tensor shows.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import timm
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from golden_files import assert_same_bits
from random_weights import randomize

import retfm_jax

#: A name for each form, timm's model, and what differs from it at full size.
FULL = {
    "plain": ("vit_base_patch16_224", {}),
    "mean_norm": ("vit_large_patch16_224", {"global_pool": "avg"}),
    "registers": ("vit_large_patch14_reg4_dinov2", {"img_size": 224}),
    "layer_scale": ("vit_large_patch14_dinov2", {"img_size": 224}),
    "swiglu": ("vit_giant_patch14_dinov2", {"img_size": 224, "depth": 8}),
    "rope": ("vit_large_patch16_dinov3", {"img_size": 224, "global_pool": "token"}),
    "attention": ("vit_base_patch16_siglip_224", {}),
    "pre_norm": ("vit_large_patch14_clip_quickgelu_224", {}),
}
_SMALL = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 1}


def tower(form: str, small: bool) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """State, images (NCHW) and features of timm's tower."""
    name, changes = FULL[form]
    changes = changes | (_SMALL if small else {})
    if small and form == "rope":
        changes["img_size"] = 224 // 8 * 8
    network = timm.create_model(name, pretrained=False, num_classes=0, **changes).eval()
    randomize(network)
    size = network.patch_embed.img_size[0]
    images = np.random.default_rng(0).normal(size=(2, 3, size, size)).astype(np.float32)
    with torch.no_grad():
        features = network(torch.from_numpy(images)).numpy()
    state = {name: value.numpy() for name, value in network.state_dict().items()}
    return state, images, features


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--golden", action="store_true", help="write the small golden")
    small = parser.parse_args().golden
    arrays = {}
    for form in FULL:
        state, images, features = tower(form, small)
        model = retfm_jax.from_torch(state)
        assert_same_bits(retfm_jax.to_torch(model), state)
        found = model.features({"image": images.transpose(0, 2, 3, 1)})["image_features"]
        error = np.abs(np.asarray(found) - features).max() / np.abs(features).max()
        print(f"{form}: {error:.1e}, {sum(value.size for value in state.values()):,} parameters")
        arrays |= {f"{form}/state/{name}": value for name, value in state.items()}
        # Random pixels can be made again, and those of 224 would be most of the file.
        arrays[f"{form}/out/features"] = features
    if small:
        arrays["config"] = np.array(json.dumps({"timm": timm.__version__}))
        np.savez_compressed(Path(__file__).parents[1] / "goldens" / "timm_towers.npz", **arrays)


if __name__ == "__main__":
    main()
