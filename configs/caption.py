"""A captioner on any image tower writes the reports of patients, eyes or angiograms.

`retfm train --config caption --config.data.dataset=NAME --config.init.image=WEIGHTS`, where the
dataset holds images or patients with reports; its words are those of the training reports, and the
form of the tower is that of the weights. Words attend to the patches of both eyes, or of as many
images of a case as `config.data.case_images` says. The tower learns at a tenth of the captioner's
rate; `optimizer.last_layers` leaves some or all of it as it is. docs/captioning.md has more;
`ffa_captioner` is the published recipe.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "method": "ffa_captioner",
            "model": {"images": "all", "norms": "running", "dtype": "bfloat16"},
            "data": {
                "case_images": 2,
                "augment": {
                    "crop_area": (0.75, 1.0),
                    "flip": "exchange",
                    "brightness": 0.1,
                    "contrast": 0.1,
                    "saturation": 0.1,
                    "hue": 0.0,
                    "erasing_probability": 0.0,
                },
            },
            "optimizer": {
                "learning_rate": 5e-4,
                "tower_rate": 0.1,
                "warmup_epochs": 1.0,
                "weight_decay": 0.05,
                "b2": 0.999,
                "eps": 1e-8,
                "decay": "matrices",
                "clip_norm": 1.0,
            },
            "train": {
                "batch_size": 64,
                "epochs": 30.0,
                "evaluate_epochs": 1.0,
                "checkpoint_epochs": 5.0,
                "keep": 1,
                "best": "clinical_f1",
            },
        }
    )
