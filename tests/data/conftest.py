"""Tiny built datasets of patients and of photographs."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from written_datasets import LABELS, jpeg, write_dataset

from retfm_jax.data import records


def patients(numbers: Iterable[int]) -> list[dict[str, Any]]:
    """Patients p0, p1, ...: every fifth without a right eye, reports by eye for the even ones."""
    examples = []
    for number in numbers:
        one_eyed = number % 5 == 4
        sides = {
            "en": f"Left eye: drusen {number}. Right eye: normal.",
            "zh": f"左眼：玻璃膜疣{number}。",
        }
        examples.append(
            records.patient_example(
                f"p{number}",
                left=jpeg(2 * number),
                right=None if one_eyed else jpeg(2 * number + 1),
                report=sides if number % 2 == 0 else {"en": f"Drusen in both eyes {number}."},
                left_report={"en": f"drusen {number}"} if number % 2 == 0 else None,
                right_report={"en": "normal"} if number % 2 == 0 and not one_eyed else None,
                labels=["drusen"],
                left_labels=["drusen"],
                right_labels=None if one_eyed else ["normal"],
            )
        )
    return examples


def captioned(numbers: Iterable[int]) -> list[dict[str, Any]]:
    """Single images with a caption and one category."""
    return [
        records.image_example(
            f"i{number}",
            image=jpeg(1000 + number),
            caption={"en": f"drusen number {number}"},
            categories=[LABELS[number % 3]],
            labels=[LABELS[number % 3]],
        )
        for number in numbers
    ]


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`pairs`: 23 patients for training and 7 for validation; `captions`: 11 single images."""
    root = tmp_path_factory.mktemp("datasets")
    write_dataset(root, "pairs", {"train": patients(range(23)), "validation": patients(range(7))})
    write_dataset(root, "captions", {"train": captioned(range(11))}, kind="image")
    return root


@pytest.fixture(scope="session")
def make_jpeg() -> Callable[..., bytes]:
    return jpeg


@pytest.fixture
def make_dataset() -> Callable[..., Path]:
    return write_dataset
