"""A network with classes that knows the world of colors, and sources of its photographs."""

import jax
import numpy as np
from colour_world import CLASSES, image, photograph

import retfm_jax
from retfm_jax.config import DataConfig, EvaluationConfig, ExperimentConfig, ImageConfig
from retfm_jax.data.sources import RecordSource
from retfm_jax.methods import get_method_class
from retfm_jax.models.resnet import ResNetConfig


class Source(RecordSource):
    """Records in memory."""

    name, split = "colors", "validation"

    def __init__(self, records, label_names=CLASSES):
        self.records, self.label_names = records, tuple(label_names)
        self.kind = "patient" if hasattr(records[0], "left") else "image"

    def __len__(self):
        return len(self.records)

    def __getitem__(self, index):
        return self.records[index]

    @property
    def identity(self):
        return {}


def build(outcome="exclusive", classes=CLASSES, seed=0):
    """A network whose head was solved for colors: it is right mostly, and too sure of it."""
    cls = get_method_class("classifier")
    tower = ResNetConfig(stages=(1, 1, 1, 1), width=4)
    method = cls(cls.config_class(image=tower, classes=tuple(classes), outcome=outcome))
    params, state = jax.jit(method.init)(jax.random.key(seed))
    data = DataConfig(image=ImageConfig(size=16))
    config = ExperimentConfig(
        "classifier", method.config, data, evaluation=EvaluationConfig(batch_size=8, bootstrap=20)
    )
    model = retfm_jax.RetinalModel(method, params, state, config)
    pictures = [photograph(name, seed) for name in classes for seed in range(8)]
    features = model.image_features(pictures)
    centered = features - features.mean(0)
    wanted = 12 * np.repeat(np.eye(len(classes)) - 0.5, 8, 0)
    kernel = np.linalg.lstsq(centered, wanted, rcond=0.05)[0].astype(np.float32)
    model.params = params | {"head": {"kernel": kernel, "bias": -features.mean(0) @ kernel}}
    return model


def many(count=40):
    """Photographs of persons with one to three of them."""
    rng = np.random.default_rng(0)
    return [
        image(number, CLASSES[rng.integers(len(CLASSES))], f"person {number // 2}")
        for number in range(count)
    ]
