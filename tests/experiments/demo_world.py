"""Small networks and patients for the tests of the page."""

import io

import jax
import numpy as np
from PIL import Image

import retfm_jax
from retfm_jax.config import DataConfig, ExperimentConfig, ImageConfig, TextConfig
from retfm_jax.data.records import ImageRecord, PatientRecord
from retfm_jax.evaluation.embeddings import embed_split
from retfm_jax.experiments.demo.cases import Cases
from retfm_jax.methods import get_method_class
from retfm_jax.models.bert import BertConfig
from retfm_jax.models.vit import ViTConfig

SIZE = 32
LABELS = ("normal", "drusen", "my own class")


def build(name, **more):
    """A network of a method with random weights."""
    cls = get_method_class(name)
    sizes = cls.config_class(image=ViTConfig(SIZE, 16, 16, 1, heads=2), **more)
    method = cls(sizes)
    rng = np.random.default_rng(0)
    params, state = jax.tree.map(
        lambda leaf: (0.3 * rng.normal(size=leaf.shape)).astype(leaf.dtype),
        jax.eval_shape(method.init, jax.random.key(0)),
    )
    data = DataConfig(image=ImageConfig(size=SIZE), text=TextConfig(context_length=8))
    return retfm_jax.RetinalModel(method, params, state, ExperimentConfig(name, sizes, data))


def of_texts(name="retclip"):
    """A network of images and texts."""
    text = BertConfig(21128, width=16, layers=1, heads=2, mlp_width=16, positions=12)
    return build(name, text=text, embed_dim=8)


def pixels(seed, height=48, width=60):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def encoded(picture):
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return buffer.getvalue()


def patient(number, report, labels, eyes=("left", "right")):
    none = {"en": "", "zh": ""}
    multi_hot = np.array([name in labels for name in LABELS], np.int8)
    photographs = {side: encoded(pixels(10 * number + (side == "left"))) for side in eyes}
    return PatientRecord(
        f"SECRET-{number}", photographs.get("left", b""), photographs.get("right", b""),
        {"en": report, "zh": ""}, none, none, multi_hot, multi_hot, multi_hot,
    )  # fmt: skip


def image(number, labels):
    multi_hot = np.array([name in labels for name in LABELS], np.int8)
    none = {"en": "", "zh": ""}
    return ImageRecord(
        f"SECRET-{number}", f"SECRET-P{number}", encoded(pixels(number)), none, (), (),
        multi_hot if labels else np.full(len(LABELS), -1, np.int8),
    )  # fmt: skip


def cases(model, records):
    languages = ("en", "zh") if model.method.text is not None else ()
    split = embed_split(model, records, LABELS, languages, progress=False)
    return Cases(split, "clinic", "train", len(records))
