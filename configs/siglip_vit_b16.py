"""SigLIP with ViT-B/16 and a BERT, from image-text pairs, or from patients with two eyes.

The loss, its first scale and bias and the decay of Adam's second moment are the published ones
(arXiv 2303.15343, sections 3 and 4); towers and text length are those of the other methods here, so
that objectives can be compared. `--config.model.samples=patient` takes patients. On n devices
`--config.model.groups=n` gives each of them its share of the similarities.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "method": "siglip",
            "model": {
                "image": {
                    "image_size": 224,
                    "patch_size": 16,
                    "width": 768,
                    "layers": 12,
                    "remat": "full",
                },
                "text": {"vocab_size": 21128, "width": 768, "layers": 12, "remat": "full"},
                "embed_dim": 512,
                "dtype": "bfloat16",
            },
            "data": {
                "dataset": "photographs",
                "language": "mixed",
                "image": {"size": 224, "resize": "squash"},
                "text": {"tokenizer": "bert-base-chinese", "context_length": 100},
                "augment": {
                    "crop_area": (0.9, 1.0),
                    "flip": "exchange",
                    "brightness": 0.1,
                    "contrast": 0.1,
                    "saturation": 0.1,
                    "hue": 0.0,
                    "erasing_probability": 0.0,
                },
            },
            "optimizer": {
                "learning_rate": 1e-4,
                "warmup_steps": 500,
                "weight_decay": 1e-3,
                "b1": 0.9,
                "b2": 0.95,
                "eps": 1e-8,
            },
            "train": {"batch_size": 1024, "epochs": 10.0},
        }
    )
