"""Report generation with a small tower from its beginning, for synthetic patients on two cores.

It needs no weights: `retfm data build synthetic_fundus`, then
`retfm train --config caption_synthetic --workdir W`.
"""

from typing import Any, cast

from ml_collections import ConfigDict

from retfm_jax.configs import caption


def get_config() -> ConfigDict:
    config = cast(Any, caption.get_config())  # a ConfigDict's entries have no types
    config.model.update(
        {
            "image": {
                "size": "MAE-B/16",
                "image_size": 64,
                "patch_size": 8,
                "width": 64,
                "layers": 3,
                "heads": 4,
            },
            "dtype": "float32",
            "captioner": {
                "width": 64, "mlp_width": 128, "layers": 2, "heads": 4,
                "dropout": 0.0, "feature_dropout": 0.0,
            },
        }
    )  # fmt: skip
    config.data.image = ConfigDict({"size": 64})
    config.data.text = ConfigDict({"context_length": 60})
    config.data.language = "en"
    config.optimizer.update({"learning_rate": 1e-3, "tower_rate": 1.0})
    config.train.update({"batch_size": 16, "checkpoint_epochs": 1.0})
    return config
