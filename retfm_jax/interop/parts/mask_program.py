"""What exported programs do around a network that finds the pixels of structures."""

import types
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from retfm_jax.data.windows import photograph_logits
from retfm_jax.interop.parts.numpy_layers import sigmoid, softmax
from retfm_jax.interop.parts.program import ImageProgram


class MaskProgram(ImageProgram):
    """Network that finds the pixels of structures, with its preprocessing.

    Args:
      run_images: (n, size, size, 3) uint8 -> outputs by name.
      preprocessing: how a photograph becomes such pixels, as `preprocessing.json` says.
      structures: their names and thresholds, as `structures.json` says.
      exclusive: whether a pixel shows one of them at most; the first logit of a pixel is then that
        of the background.
      batch_size: photographs, or windows of one, that are computed at once.
    """

    def __init__(
        self,
        run_images: Callable[[np.ndarray], Mapping[str, np.ndarray]],
        preprocessing: Mapping[str, Any],
        structures: Mapping[str, Any],
        exclusive: bool,
        batch_size: int = 4,
    ):
        super().__init__(run_images, preprocessing, batch_size)
        self.structures, self.exclusive = structures, exclusive

    def segment(self, photograph: Any) -> np.ndarray:
        """Computes the probabilities of the structures at every pixel of a photograph.

        The network sees it as in training, as a whole or in windows that overlap and are blended.

        Args:
          photograph: one, see `outputs`.

        Returns:
          (h, w, structures) float32, at the photograph's own size, upright.
        """
        masks = types.SimpleNamespace(**self.preprocessing.masks)
        config: Any = types.SimpleNamespace(image=self.preprocessing, masks=masks)
        logits = photograph_logits(
            self._decoded(photograph),
            lambda pictures: self.run_images(pictures)["pixel_logits"],
            config,
            batch=self.batch_size,
            background=self.exclusive,
        )
        return softmax(logits)[..., 1:] if self.exclusive else sigmoid(logits)

    def masks(self, photograph: Any) -> dict[str, np.ndarray]:
        """Decides which pixels of a photograph show which structure, (h, w) bool by its name.

        Args:
          photograph: one, see `outputs`.
        """
        probabilities = self.segment(photograph)
        thresholds = np.asarray(self.structures["thresholds"], np.float64)
        present = np.moveaxis(probabilities > thresholds, -1, 0)
        return dict(zip(self.structures["structures"], present, strict=True))
