"""ViLReF with CLIP's modified ResNet-50; see `vilref_vit_b16.py` for what is not published."""

from typing import Any, cast

from ml_collections import ConfigDict

from retfm_jax.configs import vilref_vit_b16

get_variants = vilref_vit_b16.get_variants


def get_config() -> ConfigDict:
    config = cast(Any, vilref_vit_b16.get_config())  # a ConfigDict's entries have no types
    config.model.image = ConfigDict({"stages": (3, 4, 6, 3), "width": 64, "image_size": 224})
    config.model.embed_dim = 1024
    config.optimizer.update({"b2": 0.999, "eps": 1e-8})
    return config
