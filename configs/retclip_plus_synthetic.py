"""RET-CLIP+ on synthetic patients, small enough for two CPU cores; all stages within three epochs.

What it learns of synthetic photographs says nothing about real ones.
"""

from typing import Any, cast

from ml_collections import ConfigDict

from retfm_jax.configs import quickstart


def get_config() -> ConfigDict:
    config = cast(Any, quickstart.get_config())  # a ConfigDict's entries have no types
    config.method = "retclip_plus"
    config.model.image = ConfigDict(
        {"image_size": 64, "patch_size": 8, "width": 64, "layers": 2, "heads": 2}
    )
    config.model.decoder = ConfigDict({"width": 32, "layers": 1, "heads": 2})
    config.model.stages = (
        {"until": 1.0},
        {"until": 2.0, "mae": 10.0},
        {"reconstruction": True, "mae": 10.0},
    )
    config.optimizer.learning_rate = 1e-3
    del config.train.steps
    config.train.update({"epochs": 3.0, "checkpoint_every": 50})
    return config
