"""Fine-tuning with RETFound's recipe (main_finetune.py): give labeled photographs and weights.

`retfm train --config finetune --config.data.dataset=FOLDER --config.init.image=WEIGHTS`. The form
of the tower and its preprocessing are those of the weights; classes, their order and what they are
to each other come from the data. docs/finetuning.md has the source of every number.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "method": "classifier",
            "model": {"image": {"drop_path": 0.2}, "label_smoothing": 0.1, "dtype": "bfloat16"},
            "data": {
                "augment": {
                    "crop_area": (0.08, 1.0),
                    "flip": "independent",
                    "brightness": 0.0,
                    "contrast": 0.0,
                    "saturation": 0.0,
                    "hue": 0.0,
                    "rand_augment": 2,
                    "rand_augment_magnitude": 9.0,
                    "erasing_probability": 0.25,
                    "erasing_fill": "noise",
                },
            },
            "optimizer": {
                "learning_rate": 5e-3 * 24 / 256,
                "warmup_epochs": 10.0,
                "weight_decay": 0.05,
                "b2": 0.999,
                "eps": 1e-8,
                "decay": "matrices",
                "layer_decay": 0.65,
            },
            "train": {
                "batch_size": 24,
                "epochs": 50.0,
                "evaluate_epochs": 1.0,
                "checkpoint_epochs": 5.0,
                "keep": 1,
                "best": "score",
            },
        }
    )
