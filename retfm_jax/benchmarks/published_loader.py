"""The loader of the published projects: base64 in an LMDB, Pillow, bicubic, worker processes.

Runs in a process of its own and imports no JAX. Left out, in its favor: the color jitter and the
erasing that it does on the CPU, and its tokenizer in Python, which ours replaces.
"""

import base64
import io
import pickle
import random
from collections.abc import Sequence
from pathlib import Path
from resource import RUSAGE_CHILDREN, getrusage
from typing import Any

import lmdb
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from retfm_jax.benchmarks.timing import Timing, stopwatch
from retfm_jax.config import TextConfig
from retfm_jax.data.text import Tokenizer


def write_lmdb(folder: str | Path, patients: Sequence[tuple[str, bytes, bytes, str]]) -> None:
    """Writes patients as the published tool does.

    Args:
      folder: of the split; is made.
      patients: (id, left, right, report), the eyes as encoded images.
    """
    for part in ("imgs", "pairs"):
        (Path(folder) / part).mkdir(parents=True)
    # Grown by need: the size is only an address range.
    size = 1 << 34
    with lmdb.open(f"{folder}/imgs", map_size=size) as images, images.begin(write=True) as write:
        for name, left, right, _ in patients:
            eyes = tuple(base64.urlsafe_b64encode(eye).decode() for eye in (left, right))
            write.put(name.encode(), pickle.dumps(eyes))
        write.put(b"num_images", str(len(patients)).encode())
    with lmdb.open(f"{folder}/pairs", map_size=size) as pairs, pairs.begin(write=True) as write:
        for number, (name, _, _, report) in enumerate(patients):
            write.put(str(number).encode(), pickle.dumps((name, number, report)))
        write.put(b"num_samples", str(len(patients)).encode())


class PublishedDataset(torch.utils.data.Dataset):
    """Patients as float tensors: both eyes normalized, CHW, and the report's ids."""

    def __init__(
        self,
        folder: str,
        size: int,
        mean: Sequence[float],
        std: Sequence[float],
        crop_area: tuple[float, float],
        flip_probability: float,
        text: dict[str, Any],
    ):
        """Loads the tokenizer, which forked workers then have; each opens the LMDB for itself.

        Args:
          folder: of a split's LMDB.
          size: side of the images in pixels.
          mean, std: of the three channels, for values from 0 to 1.
          crop_area: least and largest share of the picture; (1, 1) squashes the whole picture.
          flip_probability: from 0 to 1, of a horizontal flip.
          text: entries of `TextConfig`.
        """
        self._folder, self._size, self._crop_area = folder, size, crop_area
        self._flip_probability = flip_probability
        self._tokenizer = Tokenizer(TextConfig(**text))
        self._mean, self._std = (torch.tensor(part).view(3, 1, 1) for part in (mean, std))
        self._opened = None
        environment = lmdb.open(f"{folder}/pairs", readonly=True, lock=False)
        with environment, environment.begin() as read:
            self._length = int(_stored(read, b"num_samples"))

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, Tensor]:
        if self._opened is None:
            self._opened = self._open()
        pairs, images = self._opened
        name, _, report = pickle.loads(_stored(pairs, str(index).encode()))
        eyes = pickle.loads(_stored(images, name.encode()))
        left, right = (self._tensor(Image.fromarray(self.pixels(eye))) for eye in eyes)
        return left, right, torch.from_numpy(self._tokenizer([report])[0].astype(np.int64))

    def _open(self) -> list[lmdb.Transaction]:
        return [
            lmdb.open(f"{self._folder}/{part}", readonly=True, lock=False, readahead=False).begin()
            for part in ("pairs", "imgs")
        ]

    def pixels(self, encoded: str) -> np.ndarray:
        """Decodes a picture: base64 -> cropped, scaled and flipped pixels (size, size, 3) uint8.

        Args:
          encoded: the picture as the LMDB holds it, URL-safe base64 of a file such as JPEG.
        """
        return np.asarray(self._picture(encoded))

    def _picture(self, encoded: str) -> Image.Image:
        image = Image.open(io.BytesIO(base64.urlsafe_b64decode(encoded))).convert("RGB")
        if self._crop_area != (1.0, 1.0):
            image = image.crop(self._box(*image.size))
        image = image.resize((self._size, self._size), Image.Resampling.BICUBIC)
        if random.random() < self._flip_probability:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return image

    def _box(self, width: int, height: int) -> tuple[int, int, int, int]:
        """As torchvision's RandomResizedCrop, aspect 3/4 to 4/3."""
        for _ in range(10):
            area = width * height * random.uniform(*self._crop_area)
            aspect = (3 / 4) ** random.uniform(-1, 1)
            w, h = round((area * aspect) ** 0.5), round((area / aspect) ** 0.5)
            if 0 < w <= width and 0 < h <= height:
                left, top = random.randint(0, width - w), random.randint(0, height - h)
                return left, top, left + w, top + h
        return 0, 0, width, height

    def _tensor(self, image: Image.Image) -> Tensor:
        # torchvision's ToTensor and Normalize.
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous().float().div(255)
        return pixels.sub_(self._mean).div_(self._std)


def _stored(read: lmdb.Transaction, key: bytes) -> bytes:
    found = read.get(key)
    assert found is not None, "write_lmdb has put it there"
    return bytes(found)


class PublishedLoader:
    """Passes over a split in worker processes."""

    def __init__(self, batch_size: int, workers: int, **dataset: Any):
        """Prepares the passes.

        Args:
          batch_size: patients a batch.
          workers: processes of the loader; 0 loads in this one.
          dataset: arguments of `PublishedDataset`.
        """
        self._dataset = PublishedDataset(**dataset)
        self._batch_size, self._workers = batch_size, workers

    def run(self) -> tuple[Timing, int]:
        """Runs one pass over all whole batches, timed from the first batch on.

        Returns:
          the timing, its CPU seconds for as many samples as the wall-clock seconds cover; and how
          many samples those are.
        """
        torch.set_num_threads(1)
        loader = torch.utils.data.DataLoader(
            self._dataset,
            batch_size=self._batch_size,
            shuffle=True,
            num_workers=self._workers,
            drop_last=True,
            multiprocessing_context="fork" if self._workers else None,
        )
        before = _cpu_of_children()
        batches = iter(loader)
        next(batches)
        counted = 0
        with stopwatch() as taken:
            for left, *_ in batches:
                counted += len(left)
        # The workers' use is known once they have ended, and is that of the whole pass.
        del batches
        everything = _cpu_of_children() - before
        share = counted / (counted + self._batch_size)
        own = taken[0].cpu_seconds or 0.0
        return Timing(taken[0].seconds, share * everything + own), counted


def _cpu_of_children() -> float:
    used = getrusage(RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
