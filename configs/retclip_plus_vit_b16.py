"""RET-CLIP+ as published: RET-CLIP, then masked autoencoding beside it, then reconstructions.

Epochs 0 and 1 are RET-CLIP's contrast, 2 to 4 add the error of hidden patches, and from 5 on the
contrast sees reconstructions of a second view of each eye. All that the published code leaves to
RET-CLIP is as in `retclip_vit_b16`, and so is where ours differs. Each stage compiles its own step;
`--config.model.stages` takes another list of them.
"""

from typing import Any, cast

from ml_collections import ConfigDict

from retfm_jax.configs import retclip_vit_b16


def get_config() -> ConfigDict:
    config = cast(Any, retclip_vit_b16.get_config())  # a ConfigDict's entries have no types
    config.method = "retclip_plus"
    config.model.decoder = ConfigDict({"width": 512, "layers": 8, "heads": 16, "remat": "named"})
    config.model.stages = (
        {"until": 2.0},
        {"until": 5.0, "mae": 10.0},
        {"reconstruction": True, "mae": 10.0},
    )
    config.data.augment.crop_area = (0.8, 1.0)
    return config
