"""Fine-tuning of a small tower from its beginning, for synthetic photographs on two cores.

It needs no weights: `retfm train --config finetune_synthetic --config.data.dataset=FOLDER`.
"""

from typing import Any, cast

from ml_collections import ConfigDict

from retfm_jax.configs import finetune


def get_config() -> ConfigDict:
    config = cast(Any, finetune.get_config())  # a ConfigDict's entries have no types
    config.model = ConfigDict(
        {
            "image": {
                "size": "MAE-B/16",
                "image_size": 64,
                "patch_size": 8,
                "width": 64,
                "layers": 3,
                "heads": 4,
                "drop_path": 0.1,
            },
            "label_smoothing": 0.1,
        }
    )
    config.data.image = ConfigDict({"size": 64})
    config.data.augment.update({"crop_area": (0.7, 1.0), "rand_augment": 0})
    config.optimizer.update({"learning_rate": 1e-3, "warmup_epochs": 2.0, "layer_decay": 1.0})
    config.train.update({"batch_size": 16, "epochs": 30.0, "checkpoint_epochs": 1.0})
    return config
