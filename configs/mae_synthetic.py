"""MAE on synthetic photographs, small enough for two cores; its tower can begin `quickstart`.

`retfm train --config quickstart --config.init.image=WORKDIR` needs a tower of the same form:
`--config.model.image.*` as here.
"""

from typing import Any, cast

from ml_collections import ConfigDict

from retfm_jax.configs import mae_vit_l16


def get_config() -> ConfigDict:
    config = cast(Any, mae_vit_l16.get_config())  # a ConfigDict's entries have no types
    config.model = ConfigDict(
        {
            "image": {
                "size": "MAE-B/16",
                "pooling": "mean",
                "image_size": 64,
                "patch_size": 8,
                "width": 64,
                "layers": 4,
                "heads": 4,
            },
            "decoder": {"width": 48, "layers": 1, "heads": 4},
        }
    )
    config.data.update({"dataset": "synthetic_fundus"})
    config.data.image.size = 64
    config.optimizer.update({"learning_rate": 2e-3, "warmup_steps": 100})
    config.train.update({"batch_size": 128, "epochs": 40.0, "evaluate_every": 0})
    return config
