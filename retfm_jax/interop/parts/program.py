"""What every exported program does around its network: photographs and texts in, numbers out."""

import os
import pathlib
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from retfm_jax.data.arrays import array_to_rgb, pil_to_rgb
from retfm_jax.data.images import decode_picture, fit
from retfm_jax.interop.parts.tokenizer import WordPieces


class ImageProgram:
    """Network of photographs with its preprocessing.

    Args:
      run_images: (n, size, size, 3) uint8 -> outputs by name.
      preprocessing: how a photograph becomes such pixels, as `preprocessing.json` says.
      batch_size: photographs that are computed at once.
    """

    def __init__(
        self,
        run_images: Callable[[np.ndarray], Mapping[str, np.ndarray]],
        preprocessing: Mapping[str, Any],
        batch_size: int = 16,
    ):
        self.preprocessing: Any = types.SimpleNamespace(**preprocessing)
        self.run_images, self.batch_size = run_images, batch_size

    def outputs(self, photographs: Any) -> dict[str, np.ndarray]:
        """Computes all outputs of photographs, by name, a row each.

        Args:
          photographs: one or a list of them: paths or encoded bytes (no DICOM), PIL images, or
            arrays (uint8, or float from 0 to 1; gray, RGB or RGBA).
        """
        kinds = (str, bytes, os.PathLike, Image.Image, np.ndarray)
        rows = [photographs] if isinstance(photographs, kinds) else photographs
        return self._batched(self.run_images, rows, self._pixels)

    def _pixels(self, photograph: Any) -> np.ndarray:
        """What the network takes of one photograph as a whole, (size, size, 3) uint8."""
        return fit(self._decoded(photograph), self.preprocessing)

    def _decoded(self, photograph: Any) -> np.ndarray:
        """One photograph at its own size, (h, w, 3) uint8."""
        if isinstance(photograph, str | os.PathLike):
            data = pathlib.Path(photograph).read_bytes()
            return decode_picture(data, str(photograph))
        if isinstance(photograph, bytes):
            return decode_picture(photograph, "photograph")
        if isinstance(photograph, Image.Image):
            return pil_to_rgb(photograph, "photograph")
        return array_to_rgb(np.asarray(photograph), "photograph")

    def _batched(
        self,
        run: Callable[[np.ndarray], Mapping[str, np.ndarray]],
        rows: Any,
        make: Callable[[Any], np.ndarray],
    ) -> dict[str, np.ndarray]:
        if not len(rows):
            raise ValueError("give at least one")
        parts = [
            run(np.stack([make(row) for row in rows[start : start + self.batch_size]]))
            for start in range(0, len(rows), self.batch_size)
        ]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


class Program(ImageProgram):
    """Network with its preprocessing.

    Args:
      run_images: (n, size, size, 3) uint8 -> outputs by name.
      preprocessing: how a photograph becomes such pixels, as `preprocessing.json` says.
      run_texts: token ids (n, length) int32 -> outputs by name; None: the network has no texts.
      tokenizer: of these; None: texts are given as token ids.
      decisions: names of the classes, thresholds and prediction sets, as `classes.json` says; None:
        the network has no classes.
      scale: factor on cosines before a softmax over texts.
      batch_size: photographs or texts that are computed at once.
    """

    def __init__(
        self,
        run_images: Callable[[np.ndarray], Mapping[str, np.ndarray]],
        preprocessing: Mapping[str, Any],
        run_texts: Callable[[np.ndarray], Mapping[str, np.ndarray]] | None = None,
        tokenizer: WordPieces | None = None,
        decisions: Mapping[str, Any] | None = None,
        scale: float = 1.0,
        batch_size: int = 16,
    ):
        super().__init__(run_images, preprocessing, batch_size)
        self.run_texts, self.tokenizer = run_texts, tokenizer
        self.decisions, self.scale = decisions, scale

    def text_outputs(self, texts: str | Sequence[str] | np.ndarray) -> dict[str, np.ndarray]:
        """Computes all outputs of texts, by name, a row each.

        Args:
          texts: one or several; or token ids (n, length), padded with 0.
        """
        if self.run_texts is None:
            raise ValueError("this network takes no texts")
        if not isinstance(texts, np.ndarray):
            if self.tokenizer is None:
                raise ValueError("give token ids: no tokenizer came with this network")
            texts = self.tokenizer([texts] if isinstance(texts, str) else texts)
        return self._batched(self.run_texts, texts.astype(np.int32), lambda row: row)

    def predict(self, photographs: Any) -> np.ndarray:
        """Computes calibrated probabilities of the classes, (n, classes) float32.

        Args:
          photographs: see `outputs`.
        """
        found = self.outputs(photographs)
        if "class_probabilities" not in found:
            raise ValueError("this network has no classes; zero_shot compares images with texts")
        return found["class_probabilities"]

    def decide(self, photographs: Any) -> list[dict[str, Any]]:
        """Says what each photograph shows: `classes`, `probabilities` by class, and `set`.

        `classes` is the most probable one; of findings, those whose probability reaches their
        threshold. `set` are the classes that the conformal prediction does not rule out, None where
        none was fitted.

        Args:
          photographs: see `outputs`.
        """
        probabilities, decisions = self.predict(photographs), self.decisions
        assert decisions is not None
        names, conformal = decisions["classes"], decisions["conformal"]
        if decisions["outcome"] == "findings":
            present = probabilities >= np.asarray(decisions["thresholds"], np.float32)
        else:
            present = np.arange(len(names)) == probabilities.argmax(1)[:, None]
        kept = np.zeros_like(present)
        if conformal is not None:
            kept = ~(1 - probabilities.astype(np.float64) > np.asarray(conformal["quantiles"]))
        return [
            {
                "classes": [name for name, is_there in zip(names, said, strict=True) if is_there],
                "probabilities": dict(zip(names, map(float, row), strict=True)),
                "set": conformal and [n for n, is_in in zip(names, inside, strict=True) if is_in],
            }
            for said, row, inside in zip(present, probabilities, kept, strict=True)
        ]

    def embed_images(self, photographs: Any) -> np.ndarray:
        """Computes unit-norm embeddings of photographs, (n, d) float32.

        Args:
          photographs: see `outputs`.
        """
        return self.outputs(photographs)["image_embedding"]

    def embed_texts(self, texts: str | Sequence[str] | np.ndarray) -> np.ndarray:
        """Computes unit-norm embeddings of texts, (n, d) float32.

        Args:
          texts: see `text_outputs`.
        """
        return self.text_outputs(texts)["text_embedding"]

    def zero_shot(self, photographs: Any, texts: Sequence[str] | np.ndarray) -> np.ndarray:
        """Computes the softmax over texts of scale * cosine, (n, texts) float32.

        Args:
          photographs: see `outputs`.
          texts: see `text_outputs`.
        """
        logits = self.scale * self.embed_images(photographs) @ self.embed_texts(texts).T
        weights = np.exp(logits - logits.max(1, keepdims=True))
        return (weights / weights.sum(1, keepdims=True)).astype(np.float32)
