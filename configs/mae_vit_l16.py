"""MAE with ViT-L/16 on photographs without reports, the recipe of MAE and RETFound.

Warm-up and rate are those of He et al. (CVPR 2022, appendix A.1): AdamW, 1.5e-4 a 256 images,
weight decay 0.05, no decay of biases and norms, 40 of 800 epochs of warm-up, whose steps depend on
the data: 10,000 steps are 40 epochs of a million photographs.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "method": "mae",
            "model": {"image": {"size": "MAE-L/16", "pooling": "mean"}, "dtype": "bfloat16"},
            "data": {
                "image": {
                    "resize": "crop",
                    "mean": (0.485, 0.456, 0.406),
                    "std": (0.229, 0.224, 0.225),
                },
                "augment": {
                    "crop_area": (0.2, 1.0),
                    "flip": "independent",
                    "brightness": 0.0,
                    "contrast": 0.0,
                    "saturation": 0.0,
                    "hue": 0.0,
                    "erasing_probability": 0.0,
                },
            },
            "optimizer": {
                "learning_rate": 1.5e-4 * 4096 / 256,
                "weight_decay": 0.05,
                "b2": 0.95,
                "eps": 1e-8,
                "decay": "matrices",
                "warmup_steps": 10000,
            },
            "train": {"batch_size": 4096, "epochs": 800.0},
        }
    )
