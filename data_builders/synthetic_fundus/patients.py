"""Patients generated and reported: the work of one process."""

from typing import Any

import cv2

from retfm_jax.data import masks
from retfm_jax.data.records import image_example, mask_fields
from retfm_jax.data_builders.synthetic_fundus.diagnoses import (
    eye_diagnoses,
    patient_diagnoses,
    write_diagnoses,
)
from retfm_jax.data_builders.synthetic_fundus.drawing import draw_eye, encode, structures_of
from retfm_jax.data_builders.synthetic_fundus.population import (
    Eye,
    Patient,
    Population,
    draw_patient,
)
from retfm_jax.data_builders.synthetic_fundus.reports import write_reports


def draw_examples(task: tuple[Population, int, int, str, range]) -> list[dict[str, Any]]:
    """Draws some patients of a split.

    Args:
      task: the population, the seed, the image size, the split's name and the patients' numbers.

    Returns:
      Keyword arguments of `records.patient_example`, one dict a patient.
    """
    population, seed, size, split, numbers = task
    cv2.setNumThreads(1)  # the processes already fill the cores
    drawn = ((draw_patient(population, seed, split, number), number) for number in numbers)
    return [
        _example(patient, f"{split}-{number:06d}", size, population.reports)
        for patient, number in drawn
    ]


def draw_segmented(task: tuple[Population, int, int, str, range]) -> list[dict[str, Any]]:
    """Draws the eyes of some patients of a split, with masks of their structures.

    Args:
      task: as for `draw_examples`.

    Returns:
      Examples as TFDS stores them, one an eye: the photographs, reports and labels of eyes that
      `draw_examples` gives, and what was drawn on them.
    """
    population, seed, size, split, numbers = task
    found = []
    for example, number in zip(draw_examples(task), numbers, strict=True):
        patient = draw_patient(population, seed, split, number)
        for eye in filter(None, (patient.left, patient.right)):
            drawn, field = structures_of(eye, patient.look, size)
            stored = {
                name: masks.encode(mask) if mask.any() else b"" for name, mask in drawn.items()
            }
            found.append(
                image_example(
                    f"{example['record_id']}/{eye.side}",
                    image=example[eye.side],
                    patient_id=example["record_id"],
                    caption=example[f"{eye.side}_report"],
                    labels=example[f"{eye.side}_labels"],
                )
                | mask_fields(stored, masks.encode(field))
            )
    return found


def _example(patient: Patient, record_id: str, size: int, reports: str) -> dict[str, Any]:
    def photograph(eye: Eye | None) -> bytes | None:
        return eye and encode(draw_eye(eye, patient.look, size))

    pictures = {
        "record_id": record_id,
        "left": photograph(patient.left),
        "right": photograph(patient.right),
    }
    if reports != "findings":
        whole, of_eyes = write_diagnoses(patient, reports)
        return pictures | {
            "report": whole,
            "left_report": of_eyes["left"],
            "right_report": of_eyes["right"],
            "labels": patient_diagnoses(patient),
            "left_labels": patient.left and eye_diagnoses(patient.left),
            "right_labels": patient.right and eye_diagnoses(patient.right),
        }
    written = write_reports(patient)
    return pictures | {
        "report": written.whole,
        "left_report": written.left,
        "right_report": written.right,
        "labels": patient.labels,
        "left_labels": patient.left and patient.left.labels,
        "right_labels": patient.right and patient.right.labels,
    }
