"""Runs the protocols that learn from labelled images: support, folds, predictions."""

import functools
import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from retfm_jax.data.images import ImageError, decode
from retfm_jax.data.sources import RecordSource, as_images
from retfm_jax.errors import UserError
from retfm_jax.evaluation.embeddings import (
    Prompts,
    check_finite,
    class_embeddings,
    refuse_unusable,
)
from retfm_jax.evaluation.metrics.predictions import Predictions, is_exclusive
from retfm_jax.evaluation.protocols.few_shot import Predictor, Shots, Support, draw, embed_augmented
from retfm_jax.evaluation.protocols.fine_tune import FineTuneConfig, FineTuning
from retfm_jax.evaluation.protocols.zero_shot import finding_directions, normal_class
from retfm_jax.progress import progress_bar


class Images:
    """The labelled single images of a split.

    Attributes:
      source: of single images: the split itself or the eyes of its patients.
      rows: which of them are labelled.
      labels, patients: of these.
      unusable: names of the labelled images that cannot be decoded; they are left out.
    """

    def __init__(self, source: RecordSource):
        """Reads every record once.

        Raises:
          UserError: no image is labelled.
        """
        self.source = as_images(source)

        def look(row: int) -> tuple[np.ndarray, str, bytes, str]:
            record = self.source[row]
            digest = hashlib.sha256(record.image).digest()
            unusable = ""
            try:
                decode(record.image, record.record_id, min_side=1)  # a JPEG at an eighth: fast
            except ImageError:
                unusable = record.record_id
            return record.labels, record.patient_id, digest, unusable

        with ThreadPoolExecutor() as pool:
            found = list(pool.map(look, range(len(self.source))))
        labelled = [row for row, (labels, *_) in enumerate(found) if (labels >= 0).any()]
        self.unusable = [found[row][3] for row in labelled if found[row][3]]
        self.rows = [row for row in labelled if not found[row][3]]
        if not labelled:
            raise UserError(
                f"no image of {source.name}, split {source.split}, has labels of its own; "
                "protocols that learn need labels per image (or per eye)"
            )
        if not self.rows:
            raise UserError(
                f"none of {len(labelled)} labelled images of {source.name}, split {source.split}, "
                f"can be decoded: {', '.join(self.unusable[:8])}, ..."
            )
        self.labels = np.stack([found[row][0] for row in self.rows]).astype(np.int64)
        self.patients = tuple(found[row][1] for row in self.rows)
        self._digests = [found[row][2] for row in self.rows]

    def keep(self, wanted: Sequence[int]) -> None:
        """Keeps these of the labelled images."""
        self.rows = [self.rows[place] for place in wanted]
        self.labels = self.labels[list(wanted)]
        self.patients = tuple(self.patients[place] for place in wanted)
        self._digests = [self._digests[place] for place in wanted]

    def without(self, other: "Images") -> dict[str, list[str]]:
        """Drops what `other` holds too: the same photograph, or another one of the same patient.

        Returns:
          the record ids that were dropped, by reason.
        """
        digests, patients = set(other._digests), set(other.patients)
        dropped: dict[str, list[str]] = {"same_photograph": [], "same_patient": []}
        kept = []
        for place, (digest, patient) in enumerate(zip(self._digests, self.patients, strict=True)):
            if digest in digests or patient in patients:
                reason = "same_photograph" if digest in digests else "same_patient"
                dropped[reason].append(self.source[self.rows[place]].record_id)
            else:
                kept.append(place)
        self.keep(kept)
        return dropped


class Chosen(RecordSource):
    """Some images of a source, for the network to read in order."""

    kind = "image"

    def __init__(self, source: RecordSource, rows: Sequence[int]):
        self._source, self._rows = source, tuple(rows)
        self.name, self.split, self.label_names = source.name, source.split, source.label_names

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Any:
        return self._source[self._rows[index]]

    @property
    def identity(self) -> dict[str, Any]:
        return {**self._source.identity, "rows": self._rows}


class Supervised:
    """Everything that the supervised protocols share, made once.

    Attributes:
      test: the images that are predicted.
      dropped: training images that the test split holds too, by reason.
      unusable: images of either split that cannot be decoded; they are left out.
    """

    def __init__(
        self,
        model: Any,
        train: RecordSource,
        test: RecordSource,
        prompts: Prompts,
        language: str,
        seed: int,
        batch_size: int,
        on_error: str = "skip",
    ):
        """Reads both splits and makes sure that they share nothing.

        Args:
          model: a `RetinalModel`.
          prompts, language: of the class texts that the adapters start from.
          seed: of support, augmentation and training.
          batch_size: records embedded at a time.
          on_error: "refuse" ends at images that cannot be decoded.

        Raises:
          UserError: nothing is labelled, or nothing is left to learn from.
        """
        if train.label_names != test.label_names:
            raise UserError(
                f"training and test split have other classes: {', '.join(train.label_names)} and "
                f"{', '.join(test.label_names)}"
            )
        self._model, self._prompts, self._language = model, prompts, language
        self._seed, self._batch_size = seed, batch_size
        self._encoders = {False: model.encode_images, True: model.image_features}
        self._augmented: dict[tuple[int, bool], np.ndarray] = {}
        self._embedded: dict[bool, tuple[np.ndarray, np.ndarray]] = {}
        self._tuning: FineTuning | None = None
        self._train, self.test = Images(train), Images(test)
        self.unusable = [*self._train.unusable, *self.test.unusable]
        refuse_unusable(self.unusable, on_error)
        self.dropped = self._train.without(self.test)
        if len(self._train.rows) < 2:
            raise UserError(
                f"{train.name}, split {train.split}, has {len(self._train.rows)} labelled images "
                "that are not in the test split; nothing can be learnt from fewer than two"
            )
        self.names = train.label_names
        both = np.concatenate([self._train.labels, self.test.labels])
        self.exclusive = is_exclusive(both)

    @property
    def training_images(self) -> int:
        """How many there are to draw the support from."""
        return len(self._train.rows)

    def _features(
        self, unprojected: bool
    ) -> tuple[Float[np.ndarray, "n d"], Float[np.ndarray, "m d"]]:
        """Training and test images as the network sees them, computed once."""
        if unprojected not in self._embedded:
            encode = self._encoders[unprojected]
            self._embedded[unprojected] = tuple(
                self._encoded(encode, images) for images in (self._train, self.test)
            )
        return self._embedded[unprojected]

    def _encoded(
        self, encode: Callable[[list[bytes]], np.ndarray], images: Images
    ) -> Float[np.ndarray, "n d"]:
        starts = range(0, len(images.rows), self._batch_size)
        parts = []
        for start in progress_bar(starts, "embedding", unit="batch"):
            rows = images.rows[start : start + self._batch_size]
            records = [images.source[row] for row in rows]
            parts.append(encode([record.image for record in records]))
            check_finite(parts[-1], [record.record_id for record in records], "the image of")
        return np.concatenate(parts)

    @functools.cached_property
    def _texts(self) -> Float[np.ndarray, "classes d"]:
        views = ("image",)
        found = class_embeddings(self._model, self.names, self._language, self._prompts, views)
        if self.exclusive:
            return found["image"]
        return finding_directions(found["image"], normal_class(self.names))

    def folds(self, shots: Shots, count: int) -> Iterator[tuple[int, Int[np.ndarray, " n"]]]:
        """Seeds and supports; the whole training split is one fold."""
        for fold in range(1 if shots.whole else count):
            seed = self._seed + fold
            yield seed, draw(shots, self._train.labels, self._train.patients, self.names, seed)

    def check(self, shots: Shots, count: int) -> None:
        """Draws the supports of all folds, which takes no time, before anything is embedded.

        Raises:
          UserError: a class has too few patients, or a support shows one class only.
        """
        for _, rows in self.folds(shots, count):
            labels = self._train.labels[rows]
            if self.exclusive and len(np.unique(labels.argmax(1))) < 2:
                raise UserError(
                    f"the {len(rows)} images to learn from ({shots}) are all of class "
                    f"{self.names[labels[0].argmax()]!r}; two classes are needed"
                )

    def on_embeddings(
        self,
        learn: Callable[[Support], Predictor],
        shots: Shots,
        count: int,
        fit_augmentations: int = 0,
        test_augmentations: int = 0,
        unprojected: bool = False,
    ) -> Iterator[tuple[int, Predictions]]:
        """Learns from cached embeddings and predicts the test split, fold by fold.

        Args:
          learn: a protocol.
          count: folds.
          fit_augmentations: augmented copies that the support gains.
          test_augmentations: augmented copies over whose scores the mean is taken; 0 scores the
            images as they are.
          unprojected: takes the image tower's features before any projection for embeddings.

        Yields:
          the size of the support and the predictions.
        """
        encode = self._encoders[unprojected]
        train_features, test_features = self._features(unprojected)
        for seed, rows in self.folds(shots, count):
            features, labels = train_features[rows], self._train.labels[rows]
            if fit_augmentations:
                chosen = [self._train.rows[row] for row in rows]
                copies = embed_augmented(
                    encode,
                    self._model.data_config,
                    self._train.source,
                    chosen,
                    fit_augmentations,
                    seed,
                )
                features = np.concatenate([features, *copies])
                labels = np.tile(labels, (1 + fit_augmentations, 1))
            support = Support(
                features, labels, self._texts, self._model.logit_scale, self.exclusive, seed
            )
            predict = learn(support)
            if test_augmentations:
                copies = self._augmented_test(test_augmentations, unprojected)
                scores = np.mean([predict(copy) for copy in copies], axis=0)
            else:
                scores = predict(test_features)
            yield len(rows), self._predictions(scores)

    def _augmented_test(self, copies: int, unprojected: bool) -> Float[np.ndarray, "copies n d"]:
        key = copies, unprojected
        if key not in self._augmented:
            self._augmented[key] = embed_augmented(
                self._encoders[unprojected],
                self._model.data_config,
                self.test.source,
                self.test.rows,
                copies,
                self._seed,
            )
        return self._augmented[key]

    def fine_tuned(
        self, config: FineTuneConfig, shots: Shots, count: int
    ) -> Iterator[tuple[int, Predictions]]:
        """Trains the image tower on the support and predicts the test split, fold by fold."""
        if self._tuning is None:
            self._tuning = FineTuning(self._model, config, len(self.names), self.exclusive)
        network = self._tuning
        for seed, rows in self.folds(shots, count):
            chosen = [self._train.rows[row] for row in rows]
            params = network.fit(self._train.source, chosen, self._train.labels[rows], seed)
            scores = network.predict(params, Chosen(self.test.source, self.test.rows))
            yield len(rows), self._predictions(scores)

    def _predictions(self, scores: Float[np.ndarray, "n classes"]) -> Predictions:
        return Predictions(
            names=self.names,
            labels=self.test.labels,
            scores=np.asarray(scores, np.float64),
            patients=self.test.patients,
            samples=tuple((row, None) for row in self.test.rows),
            exclusive=self.exclusive,
        )
