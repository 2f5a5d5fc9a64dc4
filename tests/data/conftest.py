"""Tiny built datasets, written the way TFDS stores them but without a builder."""

import io
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image
from tensorflow_datasets.core.dataset_info import DatasetIdentity

from retfm_jax.data import records

LABELS = ("normal", "drusen", "hard_exudates")


def jpeg(seed: int, height: int = 40, width: int = 48) -> bytes:
    """A smooth random picture, so that JPEG keeps it nearly as it is."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (4, 4, 3), np.uint8))
    buffer = io.BytesIO()
    coarse.resize((width, height), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def write_dataset(
    root: Path, name: str, splits: dict[str, Sequence[dict[str, Any]]], kind: str = "patient"
) -> Path:
    """Stores examples as dataset `name` under `root`; returns the folder of its version."""
    folder = root / name / "1.0.0"
    folder.mkdir(parents=True)
    features = records.patient_features if kind == "patient" else records.image_features
    info = tfds.core.DatasetInfo(
        builder=DatasetIdentity(
            name=name,
            version=tfds.core.Version("1.0.0"),
            data_dir=str(folder),
            module_name=__name__,
        ),
        features=features(LABELS),
    )
    writer = tfds.core.SequentialWriter(
        info, max_examples_per_shard=1000, file_format="array_record"
    )
    writer.initialize_splits(list(splits))
    writer.add_examples(splits)
    writer.close_all()
    return folder


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
