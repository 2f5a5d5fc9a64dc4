"""KeepFIT's network on OCT scans, from easy records to hard ones, with a self-paced loss (MedKCO).

MedKCO (CVPR 2026, arXiv 2603.09101) is FLAIR's network: no expert stream, no revision. Its lists
become two datasets, one with categories and one with experts' descriptions:

  retfm data build flair --source LISTS --image_size 512 --shares 1,0,0
  retfm data build mm_retinal/oct --source LISTS --image_size 512 --shares 1,0,0

Five stages of five epochs: records whose hardest category is easy, of middle difficulty, hard; then
descriptions, first all of them, then those of the second level. Levels of records are those of the
lists' column `stage`, which the datasets keep beside them; a dataset without them takes the levels
of the categories below. These are ours, by how much of a scan a condition changes, for the authors'
are not stated. The weight of the direction from texts to images grows from 1/25 to 1.

For scans of a group's own, name the dataset and leave the descriptions out:

  retfm train --config keepfit_oct --workdir W --config.data.dataset=DATASET \
      --config.data.curriculum.descriptions=None --config.data.curriculum.stages='[
      {"until": 5, "levels": [1]}, {"until": 10, "levels": [2]}, {"levels": [1, 2, 3]}]'

`get_variants` names the article's ablation for `retfm ablate`.
"""

from typing import Any, cast

from ml_collections import ConfigDict

from retfm_jax.configs import keepfit_resnet50


def get_variants() -> dict[str, dict[str, Any]]:
    stages = [{"levels": [1, 2, 3], "records": "all"}]
    plain = {"data.curriculum.stages": stages}
    return {
        "neither": {**plain, "model.self_paced_epochs": None},
        "curriculum only": {"model.self_paced_epochs": None},
        "self-paced only": plain,
        "both": {},
    }


def get_config() -> ConfigDict:
    config = cast(Any, keepfit_resnet50.get_config())  # a ConfigDict's entries have no types
    config.model.attention = False
    config.model.expert_weight = 0.0
    config.model.revision_weight = 0.0
    config.model.self_paced_epochs = 25.0
    config.data.expert = None
    config.data.image.modality = "oct"
    config.data.curriculum = ConfigDict(
        {
            "stages": (
                {"until": 5, "levels": (1,)},
                {"until": 10, "levels": (2,)},
                {"until": 15, "levels": (3,)},
                {"until": 20, "levels": (1, 2), "records": "descriptions"},
                {"levels": (2,), "records": "descriptions"},
            ),
            "categories": (
                (
                    "normal",
                    "macular_hole",
                    "macular_hole_stage_3",
                    "macular_hole_stage_4",
                    "central_serous_chorioretinopathy",
                    "diabetic_macular_oedema",
                ),
                (
                    "choroidal_neovascularisation",
                    "drusen",
                    "amd",
                    "epiretinal_membrane",
                    "vitreomacular_interface_disease",
                    "macular_hole_stage_2",
                    "retinal_vein_occlusion",
                ),
                (
                    "diabetic_retinopathy",
                    "retinal_artery_occlusion",
                    "glaucoma",
                    "macular_hole_stage_1",
                ),
            ),
            "descriptions": {"dataset": "mm_retinal/oct"},
        }
    )
    config.optimizer.warmup_steps = 0
    config.train.batch_size = 48
    config.train.epochs = 25.0
    config.train.horizon_epochs = 25.0
    config.train.evaluate_every = 0  # the lists have no validation split
    return config
