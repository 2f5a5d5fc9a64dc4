"""Support of the supervised protocols: labeled images, sampled by patient."""

import dataclasses
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from retfm_jax.config import DataConfig
from retfm_jax.data.images import training_image
from retfm_jax.data.sources import RecordSource
from retfm_jax.errors import UserError
from retfm_jax.evaluation.embeddings import Embedding

#: From embeddings (n, d) to scores (n, classes).
Predictor = Callable[[Float[np.ndarray, "n d"]], Float[np.ndarray, "n classes"]]


@dataclasses.dataclass(frozen=True)
class Support:
    """Labeled embeddings that a protocol learns from.

    Attributes:
      features: unit-norm image embeddings, or image features of any norm.
      labels: multi-hot, -1 where unknown; with `exclusive` exactly one 1 a sample.
      classes: what zero-shot logits are made with: the unit-norm text embedding of every class, or,
        where classes do not exclude each other, `zero_shot.finding_directions`.
      scale: the model's logit scale.
      exclusive: whether every sample has exactly one class.
      seed: of everything that the protocol samples.
    """

    features: Embedding
    labels: Int[np.ndarray, "n classes"]
    classes: Float[np.ndarray, "classes d"]
    scale: float
    exclusive: bool
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class Shots:
    """Amount of the training split that is used: so many images per class, a share of it, or all.

    Attributes:
      per_class: images of each class; None where a share is meant.
      share: of the patients, 0 < share <= 1.
    """

    per_class: int | None = None
    share: float = 1.0

    @property
    def whole(self) -> bool:
        """Whether nothing is sampled at all."""
        return self.per_class is None and self.share == 1

    def __str__(self) -> str:
        if self.per_class is not None:
            return f"{self.per_class} shot" + "s" * (self.per_class > 1)
        return "all data" if self.whole else f"{100 * self.share:g}% of data"


def parse_shots(text: str) -> tuple[Shots, ...]:
    """Parses a list of shots such as "1,5,10%,all".

    Args:
      text: images per class, percentages of the patients or "all", joined by commas.

    Raises:
      UserError: an entry is none of these, or is given twice.
    """
    shots = []
    for entry in text.split(","):
        match = re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?)(%?)", entry.strip())
        if entry.strip() == "all":
            shots.append(Shots())
        elif match and match[2] and 0 < float(match[1]) <= 100:
            shots.append(Shots(share=float(match[1]) / 100))
        elif match and not match[2] and match[1].isdecimal() and int(match[1]):
            shots.append(Shots(per_class=int(match[1])))
        else:
            raise UserError(f"shots {entry!r}: give images per class, a percentage, or all")
    if len(set(shots)) < len(shots):
        raise UserError(f"shots {text}: one occurs twice")
    return tuple(shots)


def draw(
    shots: Shots,
    labels: Int[np.ndarray, "n classes"],
    patients: Sequence[Any],
    names: Sequence[str],
    seed: int,
) -> Int[np.ndarray, " drawn"]:
    """Samples the support of one fold; no patient gives more than one shot.

    Args:
      shots: how much is sampled.
      labels: of the training split, multi-hot (n, classes) integers, -1 where unknown.
      patients: of every sample (n).
      names: of the classes, for the message.
      seed: of the fold.

    Returns:
      indices of samples in rising order. For shots these are `per_class` samples of every class,
      all of different patients; for a share all samples of that share of the patients (rounded up),
      every class present.

    Raises:
      UserError: a class has too few patients.
    """
    of_patient = np.unique(np.asarray(patients), return_inverse=True)[1]
    if shots.whole:
        return np.arange(len(labels))
    generator = np.random.default_rng(seed)
    counts = (labels == 1).sum(0)
    taken: set[int] = set()
    rows: list[int] = []
    # Rare classes sample first, so that common ones do not use up their patients.
    for column in np.argsort(counts, kind="stable"):
        wanted = shots.per_class or 1
        for row in generator.permutation(np.flatnonzero(labels[:, column] == 1)):
            if wanted and of_patient[row] not in taken:
                taken.add(int(of_patient[row]))
                rows.append(int(row))
                wanted -= 1
        if wanted:
            raise UserError(
                f"class {names[column]!r} has {counts[column]} training images, too few patients "
                f"for {shots}: every shot is of another patient"
            )
    if shots.per_class is not None:
        return np.array(sorted(rows))
    # A share begins with one patient of every class and is filled up at random.
    everyone = generator.permutation(of_patient.max() + 1)
    others = [patient for patient in everyone if patient not in taken]
    missing = int(np.ceil(shots.share * len(everyone))) - len(taken)
    chosen = taken | set(others[: max(0, missing)])
    return np.flatnonzero(np.isin(of_patient, list(chosen)))


def embed_augmented(
    encode: Callable[[Sequence[Any]], Float[np.ndarray, "n d"]],
    config: DataConfig,
    source: RecordSource,
    rows: Sequence[int],
    copies: int,
    seed: int,
) -> Float[np.ndarray, "copies n d"]:
    """Embeds randomly cropped, mirrored and turned copies of images.

    Args:
      encode: from RGB images (h, w, 3) uint8 to embeddings (n, d).
      config: image and augmentation settings that the model was trained with.
      source: of single images.
      rows: positions in the source of the images to embed (n).
      copies: of every image, at least 1.
      seed: of the augmentation.
    """
    result = []
    for copy in range(copies):
        generator = np.random.default_rng((seed, copy))
        pictures = []
        for row in rows:
            record = source[int(row)]
            mirror = config.augment.flip != "none" and generator.random() < 0.5
            pictures.append(
                training_image(
                    record.image,
                    record.record_id,
                    config.image,
                    config.augment,
                    generator,
                    mirror=bool(mirror),
                )
            )
        result.append(encode(pictures))
    return np.stack(result)
