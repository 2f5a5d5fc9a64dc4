"""Patients drawn and written up: the work of one process."""

from typing import Any

import cv2

from retfm_jax.data_builders.synthetic_fundus.drawing import draw_eye, encode
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
    return [
        _example(draw_patient(population, seed, split, number), f"{split}-{number:06d}", size)
        for number in numbers
    ]


def _example(patient: Patient, record_id: str, size: int) -> dict[str, Any]:
    def photograph(eye: Eye | None) -> bytes | None:
        return eye and encode(draw_eye(eye, patient.look, size))

    reports = write_reports(patient)
    return {
        "record_id": record_id,
        "left": photograph(patient.left),
        "right": photograph(patient.right),
        "report": reports.whole,
        "left_report": reports.left,
        "right_report": reports.right,
        "labels": patient.labels,
        "left_labels": patient.left and patient.left.labels,
        "right_labels": patient.right and patient.right.labels,
    }
