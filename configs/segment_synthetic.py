"""Segmentation with a small tower from its beginning, for synthetic photographs on two cores.

It needs no weights: `retfm data build synthetic_fundus --masks --patients 60 --image_size 128`,
then `retfm train --config segment_synthetic --workdir W`.
"""

from typing import Any, cast

from ml_collections import ConfigDict

from retfm_jax.configs import segment


def get_config() -> ConfigDict:
    config = cast(Any, segment.get_config())  # a ConfigDict's entries have no types
    config.model = ConfigDict(
        {
            "image": {
                "size": "MAE-B/16",
                "image_size": 64,
                "width": 64,
                "layers": 4,
                "heads": 4,
            },
            "decoder": {"kind": "unetr", "channels": 16, "dropout": 0.1},
        }
    )
    config.data.image.size = 64
    config.data.masks.update({"working_size": 128, "scale": (0.7, 1.4)})
    config.data.classes = ("vessels", "optic_disc", "optic_cup", "hard_exudates")
    config.optimizer.update({"learning_rate": 3e-3, "layer_decay": 1.0})
    config.train.update({"batch_size": 8, "epochs": 40.0, "checkpoint_epochs": 1.0})
    config.train.evaluate_epochs = 5.0
    return config
