"""Tiny built datasets, written the way TFDS stores them but without a builder."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image
from tensorflow_datasets.core.dataset_info import DatasetIdentity

from retfm_jax.data import record_features

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
    if kind == "patient":
        features = record_features.patient_features(LABELS)
    else:
        cases = any("case_id" in each for members in splits.values() for each in members)
        features = record_features.image_features(LABELS, cases=cases)
    info = tfds.core.DatasetInfo(
        builder=DatasetIdentity(
            name=name,
            version=tfds.core.Version("1.0.0"),
            data_dir=str(folder),
            module_name=__name__,
        ),
        features=features,
    )
    writer = tfds.core.SequentialWriter(
        info, max_examples_per_shard=1000, file_format="array_record"
    )
    writer.initialize_splits(list(splits))
    writer.add_examples(splits)
    writer.close_all()
    return folder
