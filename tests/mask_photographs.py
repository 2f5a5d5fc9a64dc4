"""Photographs whose colors are their masks, and a network that reads masks from colors."""

import io
from pathlib import Path
from typing import Any

import cv2
import jax.numpy as jnp
import numpy as np
from PIL import Image

from retfm_jax.config import from_dict
from retfm_jax.data import masks
from retfm_jax.data.masks import EncodedMask
from retfm_jax.data.records import SegmentedRecord
from retfm_jax.data.segmented import SegmentedSource
from retfm_jax.data.sources import RecordSource
from retfm_jax.methods.base import MethodState
from retfm_jax.methods.segmenter import Segmenter
from retfm_jax.model import RetinalModel

SIZE = 32
STRUCTURES = ("disc", "vessels", "cup")


def scene(height: int, width: int, seed: int = 0) -> tuple[np.ndarray, dict[str, Any]]:
    """A photograph whose red is the disc, whose green vessels and whose blue the cup.

    Every photograph has a disc with a cup and two vessels; the field of view is a circle.
    """
    rng = np.random.default_rng(seed)
    drawn: dict[str, Any] = {
        name: np.zeros((height, width), np.uint8) for name in (*STRUCTURES, "field")
    }
    disc, vessels, cup, field = drawn.values()
    middle = [int(rng.uniform(0.4, 0.6) * side) for side in (width, height)]
    radius = 0.2 * min(height, width)
    cv2.circle(disc, middle, int(radius), 1, -1)
    cv2.circle(cup, middle, int(radius * rng.uniform(0.3, 0.8)), 1, -1)
    for _ in range(2):
        start, end = rng.integers(0, (width, height), (2, 2)).tolist()
        cv2.line(vessels, start, end, 1, max(2, width // 20))
    cv2.circle(field, (width // 2, height // 2), int(0.47 * max(height, width)), 1, -1)
    image = np.stack([disc, vessels, cup], axis=-1) * np.uint8(255)
    image ^= rng.integers(0, 32, image.shape, np.uint8)  # else files of it are taken for masks
    return image, drawn


def png(image: np.ndarray) -> bytes:
    """A picture as a file holds it."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def record(seed: int, height: int = 60, width: int = 80) -> SegmentedRecord:
    """A photograph of patient seed // 2 with all its masks."""
    image, drawn = scene(height, width, seed)
    kept = [EncodedMask(masks.encode(drawn[name]), name=name) for name in STRUCTURES]
    return SegmentedRecord(
        record_id=f"r{seed}",
        patient_id=f"p{seed // 2}",
        image=png(image),
        caption={},
        categories=(),
        attributes=(),
        labels=np.zeros(0, np.int8),
        masks=tuple(kept),
        field=EncodedMask(masks.encode(drawn["field"])),
    )


class Scenes(RecordSource[SegmentedRecord]):
    """Records as a dataset."""

    name, split, kind, label_names = "scenes", "test", "image", ()

    def __init__(self, records: list[SegmentedRecord]):
        self._records = records

    @property
    def structures(self):
        return STRUCTURES

    def __len__(self):
        return len(self._records)

    def __getitem__(self, index):
        return self._records[int(index)]

    @property
    def identity(self):
        return {"dataset": self.name}


def segmented_source(
    records: list[SegmentedRecord], structures: tuple[str, ...] = STRUCTURES
) -> SegmentedSource:
    """A split of records with masks of some structures, in their order."""
    source = Scenes(records)
    return SegmentedSource(
        source,
        np.arange(len(records)),
        [STRUCTURES.index(name) for name in structures],
        [record.patient_id for record in records],
        split="test",
        patients_known=True,
    )


class Reader(Segmenter):
    """Takes colors for logits: red is a disc, green a vessel, blue a cup."""

    def pixel_logits(self, params, state, images, *, keys=None):
        channels = [STRUCTURES.index(name) for name in self.structures]
        found = 6 * images[..., channels]
        if self.exclusive_structures:
            found += 3.0 * jnp.arange(len(channels))  # the last one that is there
            return jnp.concatenate([jnp.zeros_like(found[..., :1]), found], axis=-1)
        return found


def reader(structures: tuple[str, ...] = STRUCTURES, loss="dice_ce", **masks_config):
    """A model of `Reader`, which has no weights; `masks_config` is `config.data.masks`."""
    config = from_dict(
        {
            "method": "segmenter",
            "model": {
                "image": {"kind": "resnet", "stages": (1, 1, 1, 1), "width": 4},
                "structures": structures,
                "loss": loss,
            },
            "data": {
                "image": {"size": SIZE, "mean": (0.5,) * 3, "std": (0.5,) * 3, "resize": "pad"},
                "masks": {"geometry": "windows", "working_size": 0, **masks_config},
            },
        }
    )
    return RetinalModel(Reader(config.model), {}, MethodState({}, {}), config)


def write_mask_folder(root: Path, count: int, shape: tuple[int, int] = (60, 80)) -> Path:
    """Writes photographs with masks into folders; the colors of the k-th lie k columns beside."""
    for name in ("images", "fov", *(f"masks/{each}" for each in STRUCTURES)):
        (root / name).mkdir(parents=True)
    for seed in range(count):
        image, drawn = scene(*shape, seed)
        (root / "images" / f"{seed}.png").write_bytes(png(np.roll(image, seed, axis=1)))
        (root / "fov" / f"{seed}.png").write_bytes(png(255 * drawn["field"]))
        for name in STRUCTURES:
            (root / "masks" / name / f"{seed}.png").write_bytes(png(255 * drawn[name]))
    return root
