"""Cases whose colors are their findings, and a network that writes reports of colors."""

import io
import itertools
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from PIL import Image
from written_datasets import write_dataset

from retfm_jax.config import from_dict
from retfm_jax.data import records
from retfm_jax.methods.base import MethodState
from retfm_jax.methods.ffa_captioner import FfaCaptioner
from retfm_jax.model import RetinalModel
from retfm_jax.models.word_search import Found

SIZE = 32
WORDS = (".", "<unk>", "drusen", "edema", "eye", "hemorrhage", "macular", "normal", "retinal")
#: What is written of red, of green and of blue photographs.
REPORTS = ("macular edema .", "drusen . retinal hemorrhage .", "normal eye .")
#: The same as somebody writes it.
WRITTEN = ("Macular edema.", "Drusen; retinal hemorrhage.", "Normal eye.")


def photograph(color: int, seed: int = 0) -> bytes:
    """A picture of one color, nearly."""
    pixels = np.random.default_rng(seed).integers(0, 60, (40, 50, 3), np.uint8)
    pixels[..., color] += 160
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def example(number: int, colors: str, report: str | dict[str, str]) -> list[dict[str, Any]]:
    """Photographs of patient `number` with one report; a color is one of "rgb", "x" is broken."""
    caption = {"en": report} if isinstance(report, str) else report
    return [
        records.image_example(
            f"c{number}/{index}",
            image=photograph(0, number)[:300]
            if color == "x"
            else photograph("rgb".index(color), number),
            patient_id=f"p{number}",
            caption=caption,
        )
        for index, color in enumerate(colors)
    ]


def write_cases(root: Path, test: list[list[dict[str, Any]]]) -> None:
    """Builds the dataset "cases"; its training split has a red, a green and three blue cases."""
    train = [example(100 + n, "rgbbb"[n], WRITTEN["rgb".index("rgbbb"[n])]) for n in range(5)]
    splits = {"train": itertools.chain(*train), "test": itertools.chain(*test)}
    write_dataset(root, "cases", {name: [*rows] for name, rows in splits.items()}, kind="image")


class ColorWriter(FfaCaptioner):
    """Writes the report of the strongest color; its features are the colors."""

    def decode(
        self, params, state, images, has_image=None, *, beams=3, length=90, length_penalty=0.0,
        block_trigrams=False,
    ):  # fmt: skip
        there = has_image[..., None].astype(jnp.float32)
        color = (images.mean((2, 3)) * there).sum(1).argmax(-1)
        ids = np.zeros((3, length), np.int32)
        for row, report in zip(ids, REPORTS, strict=True):
            words = [WORDS.index(word) + 1 for word in report.split()][:length]
            row[: len(words)] = words
        words = jnp.asarray(ids)[color][:, None].repeat(beams, 1)
        return Found(words, -1.0 - color[:, None] - jnp.arange(beams) * 1.0)

    def features(self, params, state, batch):
        return {"patch_features": batch["image"].mean((1, 2, 3))[:, None] + 1.0}


def writer(data_dir: Path | str = "nowhere", **text: Any) -> RetinalModel:
    """A model of `ColorWriter`, which has no weights, "trained" on the dataset "cases"."""
    config = from_dict(
        {
            "method": "ffa_captioner",
            "model": {
                "image": {"kind": "resnet", "stages": (1, 1, 1, 1), "width": 4},
                "captioner": {"positions": 20},
                "vocabulary": len(WORDS) + 1,
            },
            "data": {
                "dataset": "cases",
                "data_dir": str(data_dir),
                "language": "en",
                "case_images": 2,
                "image": {"size": SIZE, "mean": (0.5,) * 3, "std": (0.5,) * 3},
                "text": {"context_length": 12, "words": WORDS, **text},
            },
        }
    )
    return RetinalModel(ColorWriter(config.model), {}, MethodState({}, {}), config)
