"""Fine-tuning of an image tower with RETFound's recipe (main_finetune.py): give data and weights.

`retfm train --config finetune --config.data.dataset=FOLDER --config.init.image=WEIGHTS`. The form
of the tower and its preprocessing are those of the weights; classes, their order and what they are
to each other come from the data. docs/finetuning.md has every number's source.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "method": "classifier",
            "model": {
                "image": {"size": "MAE-L/16", "pooling": "mean_norm", "drop_path": 0.2},
                "label_smoothing": 0.1,
                "dtype": "bfloat16",
            },
            "data": {
                "image": {
                    "resize": "crop",
                    "mean": (0.485, 0.456, 0.406),
                    "std": (0.229, 0.224, 0.225),
                },
                "augment": {
                    "crop_area": (0.08, 1.0),
                    "flip": "independent",
                    "brightness": 0.0,
                    "contrast": 0.0,
                    "saturation": 0.0,
                    "hue": 0.0,
                    "erasing_probability": 0.0,
                },
            },
            "optimizer": {
                "learning_rate": 5e-3 * 24 / 256,
                "weight_decay": 0.05,
                "b2": 0.999,
                "eps": 1e-8,
                "decay": "matrices",
                "layer_decay": 0.65,
            },
            "train": {"batch_size": 24, "epochs": 50.0},
        }
    )
