"""Synthetic patients as files are what the builder of datasets draws, in forms that are read."""

import csv

import numpy as np
from PIL import Image

from retfm_jax.data import masks
from retfm_jax.data.mask_folders import is_mask_folder
from retfm_jax.data_builders.synthetic_fundus import as_files
from retfm_jax.data_builders.synthetic_fundus.drawing import STRUCTURES
from retfm_jax.data_builders.synthetic_fundus.patients import draw_examples, draw_segmented
from retfm_jax.data_builders.synthetic_fundus.population import POPULATIONS

#: The first of these patients who has one photograph is the last of them.
PATIENTS = 64
TASK = (POPULATIONS["clinic"], 0, 16, "train", range(PATIENTS))


def test_the_table_has_the_patients_of_the_dataset(tmp_path):
    manifest = as_files.write_patient_table(tmp_path, PATIENTS, 16)
    with manifest.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    examples = draw_examples(TASK)
    assert len(rows) == len({row["patient_id"] for row in rows}) == PATIENTS
    missing = 0
    for row, example in zip(rows, examples, strict=True):
        assert (row["report_en"], row["report_zh"]) == tuple(example["report"].values())
        for side in ("left", "right"):
            if example[side] is None:
                assert row[side] == ""
                missing += 1
            else:
                stored = (tmp_path / as_files.PHOTOGRAPHS / row[side]).read_bytes()
                assert stored == example[side]
    assert missing == 1


def test_masks_are_those_of_the_dataset(tmp_path):
    folder = as_files.write_mask_folder(tmp_path / "masks", PATIENTS, 16)
    assert is_mask_folder(folder)
    examples = draw_segmented(TASK)
    images = sorted((folder / "images").iterdir())
    assert len(images) == len(examples)
    for example in examples:
        patient, side = example["patient_id"].removeprefix("train-"), example["record_id"][-5:]
        name = f"{int(patient)}_{side.strip('/')}"
        assert (folder / "images" / f"{name}.jpg").read_bytes() == example["image"]
        for structure in STRUCTURES:
            mask = np.asarray(Image.open(folder / "masks" / structure / f"{name}.png"))
            stored = dict(zip(example["structures"], example["masks"], strict=True))[structure]
            assert set(np.unique(mask)) <= {0, 255}
            assert masks.encode(mask // 255) == stored if stored else not mask.any()


def test_a_class_is_one_of_two_eyes_of_a_patient(tmp_path):
    folder = as_files.write_class_folders(tmp_path / "eyes", 8, 32)
    names = {each.name: sorted(path.name for path in each.iterdir()) for each in folder.iterdir()}
    assert set(names) == set(as_files.CLASSES)
    drusen = [f"{patient}_{side}.jpg" for patient in (0, 4) for side in ("left", "right")]
    assert names["drusen"] == drusen
