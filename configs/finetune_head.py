"""A linear probe through the training loop: the head alone is trained, the tower stays as it is.

As `finetune`. `retfm evaluate --task linear_probe` measures one on embeddings that are computed
once; this one leaves a network behind, and takes augmentation and any number of devices.
"""

from typing import Any, cast

from ml_collections import ConfigDict

from retfm_jax.configs import finetune


def get_config() -> ConfigDict:
    config = cast(Any, finetune.get_config())  # a ConfigDict's entries have no types
    config.model = ConfigDict({"dtype": "bfloat16"})
    config.data.augment.update(
        {"crop_area": (0.8, 1.0), "rand_augment": 0, "erasing_probability": 0.0}
    )
    config.optimizer = ConfigDict(
        {"learning_rate": 1e-3, "warmup_steps": 0, "weight_decay": 0.01, "frozen": ("visual",)}
    )
    config.train.update({"batch_size": 64, "best": "auroc"})
    return config
