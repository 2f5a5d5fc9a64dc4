"""Synthetic patients as people have theirs: folders of classes, a table of reports, masks.

They stand in for photographs of one's own in notebooks, tutorials and tests.
"""

import csv
from pathlib import Path

import numpy as np
from PIL import Image

from retfm_jax.data_builders.synthetic_fundus.drawing import draw_eye, encode, structures_of
from retfm_jax.data_builders.synthetic_fundus.patients import draw_examples
from retfm_jax.data_builders.synthetic_fundus.population import (
    POPULATIONS,
    Eye,
    Finding,
    Look,
    draw_patient,
)

#: A class, and the finding that all its eyes have.
CLASSES = {"drusen": "drusen", "exudates": "hard_exudates", "glaucoma": "large_cup", "normal": ""}
#: Files of `write_patient_table`, and the parts of the folder that `write_mask_folder` writes.
MANIFEST, PHOTOGRAPHS = "patients.csv", "photographs"
_IMAGES, _MASKS, _FIELDS = "images", "masks", "fov"


def photograph(name: str, seed: int, side: str = "left", size: int = 64) -> bytes:
    """An eye of a class, as a JPEG file holds it.

    Args:
      name: one of `CLASSES`.
      seed: of everything that the class leaves open.
      side: "left" or "right".
      size: side of the picture in pixels.
    """
    finding = CLASSES[name]
    findings = {finding: Finding(0.7, "scattered" if finding == "hard_exudates" else "")}
    cup_ratio = 0.85 if finding == "large_cup" else 0.3
    eye = Eye(side, cup_ratio, findings if finding else {}, exposure=1.0, seed=seed)
    look = Look(pigment=0.4, gains=(1.0, 1.0, 1.0), vignette=0.2, cut=0.0)
    return encode(draw_eye(eye, look, size))


def write_class_folders(root: Path, patients: int = 60, size: int = 64) -> Path:
    """Writes two eyes of every patient into the folder of the patient's class, without splits.

    Args:
      root: gets a folder for each of `CLASSES`, with files such as `7_left.jpg`.
      patients: how many; they have the classes in turn.
      size: side of the photographs in pixels.

    Returns:
      the root.
    """
    for patient in range(patients):
        name = list(CLASSES)[patient % len(CLASSES)]
        (root / name).mkdir(parents=True, exist_ok=True)
        for side in ("left", "right"):
            data = photograph(name, 2 * patient + (side == "right"), side, size)
            (root / name / f"{patient}_{side}.jpg").write_bytes(data)
    return root


def write_patient_table(root: Path, patients: int = 60, size: int = 64) -> Path:
    """Writes patients of the preset `clinic`: photographs, and a table with a report for each.

    Args:
      root: gets `PHOTOGRAPHS` and the manifest.
      patients: how many; about one in seventeen has one photograph only.
      size: side of the photographs in pixels.

    Returns:
      the manifest, as `retfm data import` reads it.
    """
    folder = root / PHOTOGRAPHS
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for example in draw_examples((POPULATIONS["clinic"], 0, size, "train", range(patients))):
        row = {"patient_id": example["record_id"].removeprefix("train-")}
        for side in ("left", "right"):
            if example[side] is not None:
                row[side] = f"{row['patient_id']}_{side}.jpg"
                (folder / row[side]).write_bytes(example[side])
        row |= {f"report_{language}": text for language, text in example["report"].items()}
        rows.append(row)
    with (root / MANIFEST).open("w", newline="", encoding="utf-8") as file:
        columns = ("patient_id", "left", "right", "report_en", "report_zh")
        table = csv.DictWriter(file, columns, restval="")
        table.writeheader()
        table.writerows(rows)
    return root / MANIFEST


def write_mask_folder(root: Path, patients: int = 60, size: int = 128) -> Path:
    """Writes eyes of patients of the preset `clinic` with masks of their structures.

    Args:
      root: gets `images/NAME.jpg`, `masks/STRUCTURE/NAME.png`, empty where an eye does not show
        the structure, and `fov/NAME.png`; the names are such as `7_left`.
      patients: how many.
      size: side of the photographs and masks in pixels.

    Returns:
      the root.
    """
    for number in range(patients):
        patient = draw_patient(POPULATIONS["clinic"], 0, "train", number)
        for eye in patient.eyes:
            name = f"{number}_{eye.side}"
            masks, field = structures_of(eye, patient.look, size)
            picture = encode(draw_eye(eye, patient.look, size))
            _folder(root / _IMAGES, name, ".jpg").write_bytes(picture)
            for structure, mask in masks.items():
                _write_mask(_folder(root / _MASKS / structure, name, ".png"), mask)
            _write_mask(_folder(root / _FIELDS, name, ".png"), field)
    return root


def _folder(folder: Path, name: str, suffix: str) -> Path:
    """A file in a folder that then is there."""
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{name}{suffix}"


def _write_mask(path: Path, mask: np.ndarray) -> None:
    Image.fromarray(255 * mask).save(path)
