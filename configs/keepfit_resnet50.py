"""KeepFIT as published: ResNet-50 and Bio_ClinicalBERT on categories and expert pairs.

Bio_ClinicalBERT is not bundled. Get `config.json`, `vocab.txt` and `pytorch_model.bin` of
https://huggingface.co/emilyalsentzer/Bio_ClinicalBERT into a folder `Bio_ClinicalBERT` and start
there, or name it in `data.text.tokenizer`. Published weights have read lower-cased text, although
its vocabulary is cased: a `tokenizer_config.json` with {"do_lower_case": true} beside `vocab.txt`
does the same, and so does `data.text.tokenizer=hf:emilyalsentzer/Bio_ClinicalBERT`, which needs no
download by hand. `init.text=Bio_ClinicalBERT/pytorch_model.bin` begins with its weights and
`init.image=resnet50.pth` with torchvision's.

The warm-up is one epoch of the published collection; compute is bfloat16. `get_variants` names the
paper's ablation for `retfm ablate`; each entry is an override, too: mixed training alone is
`retfm train --config keepfit_resnet50 --config.model.revision_weight=0`.
"""

from typing import Any

from ml_collections import ConfigDict


def get_variants() -> dict[str, dict[str, Any]]:
    return {
        "category only": {
            "model.expert_weight": 0.0,
            "model.revision_weight": 0.0,
            "model.attention": False,
            "data.expert": None,
        },
        "revision only": {"model.expert_weight": 0.0},
        "mixed only": {"model.revision_weight": 0.0},
        "both": {},
    }


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "method": "keepfit",
            "model": {
                "image": {"stages": (3, 4, 6, 3), "width": 64},
                "text": {"vocab_size": 28996, "width": 768, "layers": 12, "remat": "named"},
                "embed_dim": 512,
                "dtype": "bfloat16",
                "pooling": "all",
                "attention_over": "heads",
                "expert_weight": 1.0,
                "revision_weight": 100.0,
            },
            "data": {
                "dataset": "flair",
                "language": "en",
                "expert": {"dataset": "mm_retinal"},
                "image": {
                    "size": 512,
                    "resize": "pad",
                    "mean": (0.0, 0.0, 0.0),
                    "std": (1.0, 1.0, 1.0),
                },
                "text": {"tokenizer": "Bio_ClinicalBERT", "context_length": 256},
                "augment": {
                    "crop_area": (1.0, 1.0),
                    "flip": "exchange",
                    "brightness": 0.2,
                    "contrast": 0.2,
                    "saturation": 0.0,
                    "hue": 0.0,
                    "colour_probability": 0.25,
                    "erasing_probability": 0.0,
                    "affine_probability": 0.25,
                    "affine_degrees": 5.0,
                    "affine_scale": (0.9, 1.0),
                },
            },
            "optimizer": {
                "learning_rate": 1e-4,
                "warmup_steps": 3000,
                "weight_decay": 1e-5,
                "b1": 0.9,
                "b2": 0.999,
                "eps": 1e-8,
                "decay": "all",
                "clip_norm": 1.0,
            },
            "train": {"batch_size": 96, "epochs": 100.0, "horizon_epochs": 100.0},
        }
    )
