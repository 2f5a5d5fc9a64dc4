"""MM-Retinal's captioner as published (Wu et al., MICCAI 2024): reports of angiograms.

`retfm train --config ffa_captioner --config.data.dataset=NAME --config.init.image=WEIGHTS`, where
the dataset holds images or patients with reports and the weights are those of any image tower;
published is KeepFIT's ResNet-50 of angiograms. Optimizer and rates are the published ones: 5e-5 for
the tower and 1e-4 for the rest, which do not fall within its 15 epochs. Published cleaning of words
is `data.text.cleaning=published`. Other than published: cases are shuffled, and a report that is
cut keeps its end. The best epoch is that of the largest CIDEr on validation. Batch norms normalize
64 cases together, as many as one of its GPUs held.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "method": "ffa_captioner",
            "model": {
                "image": {
                    "kind": "resnet",
                    "stages": (3, 4, 6, 3),
                    "width": 64,
                    "norm_batch": 64,
                },
            },
            "data": {
                "dataset": "mm_retinal/ffa",
                "language": "en",
                "image": {
                    "size": 224,
                    "resize": "squash",
                    "mean": (0.485, 0.456, 0.406),
                    "std": (0.229, 0.224, 0.225),
                },
                "text": {"context_length": 90},
                "augment": {
                    "crop_area": (0.75, 1.0),
                    "flip": "exchange",
                    "brightness": 0.0,
                    "contrast": 0.0,
                    "saturation": 0.0,
                    "hue": 0.0,
                    "erasing_probability": 0.0,
                },
            },
            "optimizer": {
                "rule": "amsgrad",
                "learning_rate": 1e-4,
                "tower_rate": 0.5,
                "warmup_steps": 0,
                "weight_decay": 5e-5,
                "b2": 0.999,
                "eps": 1e-8,
                "decay": "all",
                "clip_value": 0.1,
            },
            "train": {
                "batch_size": 256,
                "epochs": 15.0,
                "horizon_epochs": 1000.0,
                "evaluate_epochs": 1.0,
                "best": "cider",
            },
        }
    )
