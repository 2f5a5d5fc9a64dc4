"""A RET-CLIP small enough to learn from synthetic patients on two CPU cores in three minutes."""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "method": "retclip",
            "model": {
                "image": {"image_size": 64, "stages": (1, 1, 1, 1), "width": 8},
                "text": {
                    "width": 64,
                    "layers": 2,
                    "heads": 2,
                    "mlp_width": 128,
                    "positions": 128,
                    "dropout": 0.0,
                },
                "embed_dim": 128,
                "initial_scale": 14.0,
            },
            "data": {
                "dataset": "synthetic_fundus",
                "language": "mixed",
                "image": {"size": 64},
                "text": {"context_length": 64},
                "augment": {
                    "crop_area": (0.9, 1.0),
                    "flip": "exchange",
                    "brightness": 0.1,
                    "contrast": 0.1,
                    "saturation": 0.0,
                    "hue": 0.0,
                    "erasing_probability": 0.0,
                },
            },
            "optimizer": {"learning_rate": 4e-3, "warmup_steps": 30, "weight_decay": 0.05},
            "train": {
                "batch_size": 64,
                "steps": 490,
                "log_every": 10,
                "evaluate_every": 0,
                "checkpoint_every": 245,
            },
        }
    )
