"""A decoder on an image tower finds the pixels of structures in photographs with masks.

`retfm train --config segment --config.data.dataset=NAME --config.init.image=WEIGHTS`, where the
structures are those of the dataset, in its order or as `config.data.classes` has them, and the form
of the tower is that of the weights. The decoder learns at 1e-3 and the blocks below it at 0.75 of
what the block above them has; `optimizer.last_layers` leaves some or all of them as they are.
Windows of 512 pixels are taken of photographs at 1,440 (M2MRF's size of IDRiD);
`data.masks.geometry=whole` sees all of them. docs/segmentation.md has more.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "method": "segmenter",
            "model": {"image": {"image_size": 512}, "dtype": "bfloat16"},
            "data": {
                "image": {"size": 512, "resize": "pad"},
                "masks": {"geometry": "windows", "working_size": 1440},
                "augment": {
                    "flip": "independent",
                    "affine_probability": 0.25,
                    "affine_degrees": 5.0,
                    "affine_scale": (0.9, 1.1),
                    "brightness": 0.0,
                    "contrast": 0.0,
                    "saturation": 0.0,
                    "hue": 0.0,
                    "erasing_probability": 0.0,
                },
            },
            "optimizer": {
                "learning_rate": 1e-3,
                "warmup_epochs": 1.0,
                "weight_decay": 0.05,
                "b2": 0.999,
                "eps": 1e-8,
                "decay": "matrices",
                "layer_decay": 0.75,
                "clip_norm": 1.0,
            },
            "train": {
                "batch_size": 4,
                "epochs": 50.0,
                "evaluate_epochs": 1.0,
                "checkpoint_epochs": 5.0,
                "keep": 1,
                "best": "average_precision",
            },
        }
    )
