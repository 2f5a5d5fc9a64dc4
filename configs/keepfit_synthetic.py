r"""A KeepFIT small enough to learn from synthetic eyes on two CPU cores in a few minutes.

Labels name the categories of most eyes; of one patient in twenty the reports are read as expert
texts. Three findings are held out of the categories, so that only the experts speak of them:

  retfm data build synthetic_fundus --image_size 64 --patients 6000
  retfm ablate --config keepfit_synthetic --seeds 0,1,2 --workdir ablation \
      --dataset synthetic_held_out --split validation+test --prompts name,knowledge
"""

from ml_collections import ConfigDict

from retfm_jax.configs import keepfit_resnet50

get_variants = keepfit_resnet50.get_variants


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "method": "keepfit",
            "model": {
                "image": {"stages": (1, 1, 1, 1), "width": 8},
                "text": {
                    "width": 64,
                    "layers": 2,
                    "heads": 2,
                    "mlp_width": 128,
                    "positions": 128,
                    "dropout": 0.0,
                },
                "embed_dim": 128,
            },
            "data": {
                "dataset": "synthetic_fundus",
                "train_split": "train[5%:]",
                "language": "en",
                "expert": {"dataset": "synthetic_fundus", "split": "train[:5%]"},
                "banned_categories": ("drusen", "hazy_media", "large_cup"),
                "image": {
                    "size": 64,
                    "resize": "pad",
                    "mean": (0.0, 0.0, 0.0),
                    "std": (1.0, 1.0, 1.0),
                },
                "text": {"context_length": 48},
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
            "optimizer": {
                "learning_rate": 3e-3,
                "warmup_steps": 30,
                "weight_decay": 1e-5,
                "decay": "all",
                "clip_norm": 1.0,
            },
            "train": {
                "batch_size": 32,
                "steps": 200,
                "log_every": 10,
                "evaluate_every": 0,
                "checkpoint_every": 100,
            },
            "evaluation": {"languages": ("en",)},
        }
    )
