"""What exported programs do around a network that writes the reports of cases."""

import json
import os
import pathlib
import types
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from PIL import Image

from retfm_jax.data.kinds.case import evenly_first, places_of
from retfm_jax.data.words import WordTokenizer, readable
from retfm_jax.interop.parts.program import ImageProgram


def words_of(path: pathlib.Path) -> WordTokenizer:
    """Reads the words of reports.

    Args:
      path: of `words.json`.
    """
    said: Any = types.SimpleNamespace(**json.loads(path.read_text(encoding="utf-8")))
    return WordTokenizer(said)


class ReportProgram(ImageProgram):
    """Network that writes reports, with its preprocessing and its words.

    Args:
      run_images: (n, size, size, 3) uint8 -> `patch_features` (n, m, features).
      captioner: reads and writes reports of these.
      preprocessing: how a photograph becomes such pixels, as `preprocessing.json` says, and how
        many photographs of a case are seen at most.
      tokenizer: the words and their ids.
      batch_size: photographs that are computed at once.
    """

    def __init__(
        self,
        run_images: Callable[[np.ndarray], Mapping[str, np.ndarray]],
        captioner: Any,
        preprocessing: Mapping[str, Any],
        tokenizer: WordTokenizer,
        batch_size: int = 16,
    ):
        super().__init__(run_images, preprocessing, batch_size)
        self.captioner, self.tokenizer = captioner, tokenizer

    def caption(
        self,
        photographs: Any,
        *,
        beams: int = 3,
        length: int | None = None,
        length_penalty: float = 0.0,
    ) -> str:
        """Writes the report of one case.

        Args:
          photographs: of the case, in order: one or a list of them, see `outputs`; None or "" is
            one that is missing, such as the left eye of a patient. Of more than the network takes
            those are seen that lie evenly from the first to the last.
          beams: reports that are followed side by side; one is greedy.
          length: words of the report at most; None: as many as reports had in training.
          length_penalty: alpha; the sum of ln p is divided by the number of words to the power of
            alpha, so that larger values make longer reports.
        """
        search = {"beams": beams, "length": length, "length_penalty": length_penalty}
        return readable(self.tokenizer.words(self.write(photographs, **search)[0]))

    def write(
        self,
        photographs: Any,
        *,
        beams: int = 3,
        length: int | None = None,
        length_penalty: float = 0.0,
    ) -> tuple[list[int], float]:
        """Writes the report of one case in ids, with a 0 where it has come to its end.

        Args:
          photographs, beams, length, length_penalty: see `caption`.

        Returns:
          the ids, and the sum of their ln p, divided as `length_penalty` says.
        """
        length = self.tokenizer.context_length if length is None else length
        most = len(self.captioner.positions)
        if not 1 <= beams <= self.tokenizer.vocab_size:
            raise ValueError(f"beams must be from 1 to {self.tokenizer.vocab_size}, not {beams}")
        if not 1 <= length <= most:
            raise ValueError(f"length must be from 1 to {most}, not {length}")
        features, places = self._seen(photographs)
        return self.captioner.write(features, places, beams, length, length_penalty)

    def read(self, photographs: Any, report: Any) -> np.ndarray:
        """Computes ln p of the word after each word of a report, (n, vocabulary) float32.

        Args:
          photographs: see `caption`.
          report: a text, or ids (n,), of which the first is 0, which begins a report.
        """
        if isinstance(report, str):
            row = self.tokenizer.row(report)
            report = row[: 1 + np.count_nonzero(row)]
        return self.captioner.read(*self._seen(photographs), report)

    def _seen(self, photographs: Any) -> tuple[np.ndarray, list[int]]:
        """Features of the photographs of a case that are seen, and their places in it."""
        kinds = (str, bytes, os.PathLike, Image.Image, np.ndarray)
        rows = [photographs] if isinstance(photographs, kinds) else photographs
        most = self.preprocessing.case_images
        missing = [row is None or (isinstance(row, str | bytes) and not row) for row in rows]
        there = [index for index in evenly_first(len(rows), most) if not missing[index]]
        places = places_of(there[:most], len(rows), most)
        if not places:
            raise ValueError("the case has no photograph")
        return self.outputs([rows[index] for index in places])["patch_features"], [*places.values()]
