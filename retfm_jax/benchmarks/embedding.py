"""Speed of embedding photographs and texts, by the way that `retfm embed` takes."""

import tempfile
from pathlib import Path

import jax

from retfm_jax.benchmarks.timing import Measurement, take_turns, timed
from retfm_jax.config import DataConfig, ExperimentConfig
from retfm_jax.data.records import PatientRecord
from retfm_jax.data.samples import choose_text
from retfm_jax.data.sources import open_dataset
from retfm_jax.methods import make_method
from retfm_jax.model import RetinalModel


def measure(
    config: ExperimentConfig, data: DataConfig, rounds: int, images: int = 128
) -> list[Measurement]:
    """Embeds photographs from files, and texts, with a network of random weights.

    Args:
      config: the experiment, whose network embeds.
      data: whose training split is embedded.
      rounds: timed runs of either.
      images: and as many texts at most, a run.
    """
    method = make_method(config.method, config.model)
    model = RetinalModel(method, *method.init(jax.random.key(config.train.seed)), config)
    source = open_dataset(data.dataset, data.train_split, data.data_dir)
    encoded, texts = [], []
    for record in source:
        if isinstance(record, PatientRecord):
            encoded += filter(None, (record.left, record.right))
            text = record.report
        else:
            encoded += filter(None, (record.image,))
            text = record.caption
        texts.append(choose_text(text, data.language) or record.record_id)
        if len(encoded) >= images:
            break
    encoded = encoded[:images]
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{number}.jpg" for number in range(len(encoded))]
        for path, image in zip(paths, encoded, strict=True):
            path.write_bytes(image)
        taken = take_turns(
            {
                "images": lambda: timed(lambda: model.encode_images(paths)),
                "texts": lambda: timed(lambda: model.encode_texts(texts)),
            },
            rounds,
        )
    return [
        Measurement("embed images", taken["images"], len(paths), "images"),
        Measurement("embed texts", taken["texts"], len(texts), "texts"),
    ]
