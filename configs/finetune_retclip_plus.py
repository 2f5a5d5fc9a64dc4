"""Fine-tuning with RET-CLIP+'s recipe: a fast head on the projected embedding, a slow tower.

As `finetune`. The published evaluation chose the best epoch on the test split; this one chooses it
on validation.
"""

from typing import Any, cast

from ml_collections import ConfigDict

from retfm_jax.configs import finetune


def get_config() -> ConfigDict:
    config = cast(Any, finetune.get_config())  # a ConfigDict's entries have no types
    config.model = ConfigDict(
        {"head_input": "embedding", "label_smoothing": 0.1, "dtype": "bfloat16"}
    )
    config.data.augment = ConfigDict(
        {
            "crop_area": (0.8, 1.0),
            "flip": "independent",
            "brightness": 0.1,
            "contrast": 0.1,
            "saturation": 0.1,
            "hue": 0.1,
            "affine_probability": 1.0,
            "affine_degrees": 30.0,
            "affine_scale": (1.0, 1.0),
            "erasing_probability": 0.2,
            "mixup": 0.2,
        }
    )
    config.optimizer = ConfigDict(
        {
            "learning_rate": 1e-3,
            "tower_rate": 2e-6 / 1e-3,
            "warmup_steps": 0,
            "weight_decay": 0.01,
            "b2": 0.98,
            "eps": 1e-6,
        }
    )
    config.train.update({"batch_size": 16, "best": "auroc"})
    return config
