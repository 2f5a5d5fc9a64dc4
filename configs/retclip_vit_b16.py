"""RET-CLIP as published: ViT-B/16 and RoBERTa-wwm-ext-base on patients with Chinese reports.

Where ours differs from the recipe: the flip exchanges the eyes (laterality), and compute is
bfloat16. `--config.data.augment.flip=independent` gives the published flip.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "method": "retclip",
            "model": {
                "image": {
                    "image_size": 224,
                    "patch_size": 16,
                    "width": 768,
                    "layers": 12,
                    "remat": "named",
                },
                "text": {"vocab_size": 21128, "width": 768, "layers": 12, "remat": "named"},
                "embed_dim": 512,
                "dtype": "bfloat16",
            },
            "data": {
                "dataset": "patients",
                "language": "zh",
                "image": {"size": 224, "resize": "squash"},
                "text": {"tokenizer": "bert-base-chinese", "context_length": 100},
                "augment": {
                    "crop_area": (0.9, 1.0),
                    "flip": "exchange",
                    "brightness": 0.2,
                    "contrast": 0.2,
                    "saturation": 0.2,
                    "hue": 0.2,
                    "erasing_probability": 0.1,
                },
            },
            "optimizer": {
                "learning_rate": 3e-5,
                "warmup_steps": 50,
                "weight_decay": 1e-3,
                "b1": 0.9,
                "b2": 0.98,
                "eps": 1e-6,
            },
            "train": {"batch_size": 256, "epochs": 10.0},
        }
    )
