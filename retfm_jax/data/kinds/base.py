"""Base class of the kinds of samples: what everybody who handles batches asks of a kind."""

import abc
import zlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple

import numpy as np

from retfm_jax.config import DataConfig, ExperimentConfig
from retfm_jax.data.samples import SampleMaker

if TYPE_CHECKING:  # TensorFlow Datasets takes seconds to import, and only reading needs it.
    from retfm_jax.data.sources import RecordSource

#: What an array holds: pixels; token ids, 0 is padding; 1 where a token is text; one truth value a
#: sample; a multi-hot row of conditions; a number that is equal for equal categories; the epoch of
#: the run, from 0; numbers that decide what is hidden; of pixels, which structures they show, and 1
#: inside the field of view.
Role = Literal[
    "image", "tokens", "mask", "flag", "labels", "category", "epoch", "noise", "structures", "field"
]

#: What a network itself tells of a photograph or a case.
Told = Literal["classes", "structures", "reports"]

#: How often a random batch shows a condition.
_LABELED = 0.05
#: Share of a random batch's pixels that show a structure.
_DRAWN = 0.1


class ArraySpec(NamedTuple):
    """Description of one array of a batch as the pipeline gives it.

    Attributes:
      role: what it holds.
      shape: of one sample.
      dtype: on the host; images become float32 on the device.
      below: the least integer that its values do not reach, where they are ids.
    """

    role: Role
    shape: tuple[int, ...]
    dtype: type[np.generic]
    below: int = 2


class SampleKind(abc.ABC):
    """Description of a sample: where it comes from, which arrays it has, what people call it.

    Attributes:
      name: of the file in `data/kinds/`, which methods give as their `sample_kind`.
      unit: what samples are called in sentences, in the plural.
      roles: of every array that such a batch may hold, in order; `arrays` names those that the
        pipeline makes.
      required: arrays without which nothing can be encoded.
      targets: arrays that only the objective needs.
      second: prefix of the arrays of a second stream, whose batch may be of another size; None
        where there is one stream.
      texts: what the texts are, and so how zero-shot asks: "report", or "knowledge" for prompts
        that describe categories; None: there are none.
      rows: of the arrays that have several rows for a sample, how many.
      paired_eyes: a sample is both eyes of a patient, and there is a patient level.
      several: a sample has several images, on an axis behind that of the samples.
      told: what the network itself tells of a sample, which a sample's targets show: "classes" or
        "structures", as `config.model` and the data name them, or "reports"; None: nothing.
    """

    name: ClassVar[str]
    unit: ClassVar[str]
    roles: ClassVar[Mapping[str, Role]]
    required: ClassVar[tuple[str, ...]]
    targets: ClassVar[tuple[str, ...]] = ()
    second: ClassVar[str | None] = None
    texts: ClassVar[Literal["report", "knowledge"] | None] = "report"
    rows: ClassVar[Mapping[str, int]] = {}
    paired_eyes: ClassVar[bool] = False
    several: ClassVar[bool] = False
    told: ClassVar[Told | None] = None

    @abc.abstractmethod
    def arrays(self, config: ExperimentConfig) -> dict[str, ArraySpec]:
        """Describes the arrays of a training batch, by name.

        Args:
          config: of the experiment; gives image size, context length and vocabulary.
        """

    @abc.abstractmethod
    def open(self, config: DataConfig) -> "tuple[RecordSource, RecordSource | None]":
        """Opens the training split and, where the kind has one, the second stream.

        Args:
          config: names the datasets, their splits and folders.

        Raises:
          UserError: a dataset or split is missing, or its records are not of this kind.
        """

    @abc.abstractmethod
    def maker(self, config: DataConfig, label_names: tuple[str, ...]) -> SampleMaker:
        """Makes the object that turns records of the training split into samples.

        Args:
          config: image size, augmentation, tokenizer and language of the samples.
          label_names: classes of the split's label vectors, in their order.
        """

    def second_maker(self, config: DataConfig, label_names: tuple[str, ...]) -> SampleMaker:
        """Makes the object that turns records of the second stream into samples.

        The arrays of its samples are named without the prefix `second`.

        Args:
          config, label_names: as in `maker`, of the second stream.

        Raises:
          NotImplementedError: the kind has one stream.
        """
        raise NotImplementedError(f"{self.name} has one stream")

    def names(self, role: Role, *, second: bool = True) -> tuple[str, ...]:
        """Names the arrays of a role, in the order of `roles`.

        Args:
          role: what the arrays hold.
          second: whether arrays of the second stream are named, too.
        """
        return tuple(
            name
            for name, each in self.roles.items()
            if each == role and (second or not self.is_second(name))
        )

    def is_second(self, name: str) -> bool:
        """Tells whether an array belongs to the second stream.

        Args:
          name: of an array.
        """
        return self.second is not None and name.startswith(self.second)

    def random_batch(self, config: ExperimentConfig, rows: int, seed: int) -> dict[str, np.ndarray]:
        """Generates a host batch of random pixels and ids, full-length texts and every flag set.

        Args:
          config: as in `arrays`.
          rows: samples in the batch.
          seed: non-negative; equal seeds give equal batches.

        Returns:
          arrays by name, rows first, of the shape and dtype that their `ArraySpec` states.
        """
        return {
            name: _random(spec, rows, np.random.default_rng([seed, zlib.crc32(name.encode())]))
            for name, spec in self.arrays(config).items()
        }


def _random(spec: ArraySpec, rows: int, rng: np.random.Generator) -> np.ndarray:
    shape = (rows, *spec.shape)
    if spec.role == "image":
        return rng.integers(0, 256, shape, spec.dtype)
    if spec.role == "labels":
        return (rng.random(shape) < _LABELED).astype(spec.dtype)
    if spec.role == "structures":
        return (rng.random(shape) < _DRAWN).astype(spec.dtype)
    if spec.role in ("flag", "mask", "field"):
        return np.ones(shape, spec.dtype)
    return rng.integers(1, max(spec.below, 2), shape, spec.dtype)


def image_spec(config: ExperimentConfig) -> ArraySpec:
    """Describes a photograph, uint8 (size, size, 3).

    Args:
      config: gives the height and width, `config.data.image.size` pixels.
    """
    size = config.data.image.size
    return ArraySpec("image", (size, size, 3), np.uint8)


def tokens_spec(config: ExperimentConfig) -> ArraySpec:
    """Describes a text's token ids, int32 (context_length,).

    Args:
      config: gives the context length and the size of the vocabulary.
    """
    vocabulary = config.model.text.vocab_size
    return ArraySpec("tokens", (config.data.text.context_length,), np.int32, vocabulary)
