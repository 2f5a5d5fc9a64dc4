"""A ViLReF small enough to learn from synthetic eyes on two CPU cores in about a minute.

Most of its patients are normal and many others share their findings, as in a screening program:

  retfm data build synthetic_fundus --population repetitive --image_size 64 --patients 6000
  retfm ablate --config vilref_synthetic --workdir ablation "--config.data.train_split=train[:800]"

So training sees 800 of the patients, three times over, and the other splits hold enough of the rare
findings. The batch is small, as on the machines that queues are made for, and the queue only a few
batches long: entries that are older than the encoders are quick do harm.
"""

from ml_collections import ConfigDict

from retfm_jax.configs import vilref_vit_b16
from retfm_jax.knowledge.vocabulary import load_vocabulary

get_variants = vilref_vit_b16.get_variants


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "method": "vilref",
            "model": {
                "image": {"image_size": 64, "stages": (1, 1, 1, 1), "width": 8},
                "text": {
                    "width": 128,
                    "layers": 1,
                    "heads": 4,
                    "mlp_width": 256,
                    "positions": 128,
                    "dropout": 0.0,
                },
                "embed_dim": 128,
                "num_labels": len(load_vocabulary()),
                "gamma": 1.0,
                "queue_size": 32,
                "momentum": 0.995,
            },
            "data": {
                "dataset": "synthetic_fundus",
                "language": "mixed",
                "image": {"size": 64},
                "text": {"context_length": 48},
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
            "optimizer": {"learning_rate": 1e-3, "warmup_steps": 30, "weight_decay": 0.05},
            "train": {
                "batch_size": 8,
                "steps": 600,
                "log_every": 10,
                "evaluate_every": 0,
                "checkpoint_every": 600,
            },
        }
    )
