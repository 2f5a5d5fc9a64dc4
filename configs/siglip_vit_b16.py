"""SigLIP with ViT-B/16 and a BERT, from image-text pairs, or from patients with two eyes.

The loss, its first scale and bias and the decay of Adam's second moment are the published ones
(arXiv 2303.15343, sections 3 and 4); towers, images and text length are those of `vilref_vit_b16`,
so that objectives can be compared. `--config.model.samples=patient` takes patients. On n devices
`--config.model.groups=n` gives each of them its share of the similarities.
"""

from typing import Any, cast

from ml_collections import ConfigDict

from retfm_jax.configs import vilref_vit_b16

_TOWERS = ("image", "text", "embed_dim", "dtype")


def get_config() -> ConfigDict:
    config = cast(Any, vilref_vit_b16.get_config())  # a ConfigDict's entries have no types
    config.method = "siglip"
    config.model = ConfigDict({name: config.model[name] for name in _TOWERS})
    config.data.language = "mixed"
    config.optimizer.update({"learning_rate": 1e-4, "warmup_steps": 500, "b2": 0.95, "eps": 1e-8})
    config.train.batch_size = 1024
    return config
