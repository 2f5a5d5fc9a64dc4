"""A world of flat colors: the color of a photograph is its class, and a model may see it."""

import io
import types

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from retfm_jax.config import AugmentConfig, DataConfig, EvaluationConfig, ImageConfig
from retfm_jax.data.images import decode
from retfm_jax.data.records import ImageRecord, PatientRecord
from retfm_jax.models.bert import BertConfig

PALETTE = {
    "normal": (200, 80, 40),
    "drusen": (220, 210, 60),
    "glaucoma": (60, 160, 220),
    "cataract": (160, 160, 160),
}
CLASSES = tuple(PALETTE)


def photograph(name: str, seed: int = 0, size: int = 24) -> bytes:
    """A picture in a class's color, with a little noise that makes each one different."""
    noise = np.random.default_rng(seed).integers(-6, 7, (size, size, 3))
    pixels = np.clip(np.array(PALETTE[name]) + noise, 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


class ColourMethod:
    """The part of a method that fine-tuning needs: a linear map of the mean color."""

    name, sample_kind, text = "colors", "image", BertConfig()

    def encode_images(self, params, state, images):
        features = images.mean((1, 2)) @ params["visual"]["kernel"]
        return features / jnp.linalg.norm(features, axis=-1, keepdims=True)


class ColourModel:
    """Embeds photographs and texts by class: `sees` 1 always rightly, 0 by chance alone."""

    classes, structures, decisions = (), (), None

    def __init__(self, sees: float = 1.0, patients: bool = False, width: int = 16):
        self.sees, self.trains_on_patients, self.logit_scale = sees, patients, 10.0
        axes = np.linalg.qr(np.random.default_rng(0).normal(size=(width, width)))[0]
        self.axes = axes[: len(CLASSES)].astype(np.float32)
        self.method = ColourMethod()
        self.data_config = DataConfig(
            image=ImageConfig(size=16), augment=AugmentConfig(flip="independent")
        )
        self.config = types.SimpleNamespace(
            evaluation=EvaluationConfig(batch_size=7, bootstrap=50), data=self.data_config
        )
        key = jax.random.key(0)
        self.params = {
            "visual": {"kernel": 0.3 * jax.random.normal(key, (3, width))},
            "text": {"kernel": jnp.ones((2, 2))},
        }
        self.state = None
        self.texts_seen: list[str] = []

    def _unit(self, rows):
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    def encode_images(self, images):
        rows = []
        for image in images:
            pixels = decode(image, "test") if isinstance(image, bytes) else image
            color = pixels.reshape(-1, 3).mean(0)
            nearest = np.argmin([np.abs(color - PALETTE[name]).sum() for name in CLASSES])
            generator = np.random.default_rng(int(pixels.astype(np.int64).sum()))
            noise = generator.normal(size=self.axes.shape[1]) / self.axes.shape[1] ** 0.5
            rows.append(self.sees * self.axes[nearest] + (1 - 0.9 * self.sees) * noise)
        return self._unit(np.array(rows, np.float32))

    def image_features(self, images):
        return 3 * self.encode_images(images)

    def encode_texts(self, texts):
        self.texts_seen += texts
        rows = []
        for text in texts:
            said = [name in text.lower() for name in CLASSES]
            rows.append(self.axes[said].sum(0) if any(said) else self.axes.sum(0))
        return self._unit(np.array(rows, np.float32))

    def encode_patients(self, left, right):
        eyes = {}
        for name, images in (("left", left), ("right", right)):
            there = [image or photograph("normal") for image in images]
            eyes[name] = self.encode_images(there)
        first = np.where([[image is None] for image in left], eyes["right"], eyes["left"])
        second = np.where([[image is None] for image in right], eyes["left"], eyes["right"])
        return {
            "image_patient": self._unit(first + second),
            "image_left": eyes["left"],
            "image_right": eyes["right"],
        }

    def encode_patient_texts(self, texts):
        rows = self.encode_texts(texts)
        return {f"text_{level}": rows for level in ("patient", "left", "right")}


def hot(*names: str) -> np.ndarray:
    return np.array([name in names for name in CLASSES], np.int8)


def patient(number: int, left: str | None, right: str | None, report: bool = True) -> PatientRecord:
    text = f"Left eye: {left}. Right eye: {right}. Visit {number}."
    unknown = np.full(len(CLASSES), -1, np.int8)
    return PatientRecord(
        record_id=f"p{number}",
        left=photograph(left, 2 * number) if left else b"",
        right=photograph(right, 2 * number + 1) if right else b"",
        report={"en": text if report else "", "zh": ""},
        left_report={"en": "", "zh": ""},
        right_report={"en": "", "zh": ""},
        labels=hot(*(name for name in (left, right) if name)),
        left_labels=hot(left) if left else unknown,
        right_labels=hot(right) if right else unknown,
    )


def image(number: int, name: str, person: str | None = None) -> ImageRecord:
    return ImageRecord(
        record_id=f"i{number}",
        patient_id=person or f"i{number}",
        image=photograph(name, number),
        caption={"en": "", "zh": ""},
        categories=(name,),
        attributes=(),
        labels=hot(name),
    )
