"""Shared parts of the protocols that learn from labeled images: support, folds, predictions."""

import abc
import functools
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from retfm_jax.console import say
from retfm_jax.data.images import ImageError, decode
from retfm_jax.data.sources import RecordSource, Subset, as_images
from retfm_jax.errors import UserError, first_of
from retfm_jax.evaluation.embeddings import refuse_unusable
from retfm_jax.evaluation.metrics.classification import over_folds
from retfm_jax.evaluation.metrics.predictions import Predictions, is_exclusive
from retfm_jax.evaluation.options import Options
from retfm_jax.evaluation.protocols.base import Protocol
from retfm_jax.evaluation.protocols.few_shot import Predictor, Shots, Support, draw, embed_augmented
from retfm_jax.evaluation.results import Section
from retfm_jax.evaluation.study import Study, undecodable
from retfm_jax.knowledge.prompts import Prompts
from retfm_jax.progress import progress_bar
from retfm_jax.zero_shot import check_finite, class_embeddings, finding_directions, normal_class


class Looked(NamedTuple):
    """What is known of an image that was read once.

    Attributes:
      labels: multi-hot (classes,), -1 where unknown.
      patient: whose it is.
      digest: SHA-256 of its bytes.
      unusable: its name where it cannot be decoded, else "".
    """

    labels: np.ndarray
    patient: str
    digest: bytes
    unusable: str


def look(source: RecordSource, rows: Sequence[int]) -> list[Looked]:
    """Reads images, several at a time, and keeps nothing of them but what identifies them.

    Args:
      source: of single images.
      rows: positions of those that are read.
    """

    def each(row: int) -> Looked:
        record = source[row]
        digest = hashlib.sha256(record.image).digest()
        unusable = ""
        try:
            decode(record.image, record.record_id, min_side=1)  # a JPEG at an eighth: fast
        except ImageError:
            unusable = record.record_id
        return Looked(record.labels, record.patient_id, digest, unusable)

    with ThreadPoolExecutor() as pool:
        return list(pool.map(each, rows))


class Images:
    """The labeled single images of a split.

    Attributes:
      source: of single images: the split itself or the eyes of its patients.
      rows: positions of the labeled ones in it (n).
      labels, patients, digests: of these; labels are multi-hot (n, classes) int64, -1 where
        unknown, digests SHA-256 of the photographs' bytes.
      unusable: names of the labeled images that cannot be decoded; they are left out.
    """

    def __init__(self, source: RecordSource, looked: "Sequence[Looked] | None" = None):
        """Reads every record once.

        Args:
          source: of single images or of patients, whose eyes are taken.
          looked: what `look` has found of every image; None: they are read now.

        Raises:
          UserError: no image is labeled, or none of these can be decoded.
        """
        self.source = as_images(source)
        found = look(self.source, range(len(self.source))) if looked is None else looked
        labeled = [row for row, each in enumerate(found) if (each.labels >= 0).any()]
        self.unusable = [found[row].unusable for row in labeled if found[row].unusable]
        self.rows = [row for row in labeled if not found[row].unusable]
        if not labeled:
            raise UserError(
                f"no image of {source.name}, split {source.split}, has labels of its own; "
                "protocols that learn need labels per image (or per eye)"
            )
        if not self.rows:
            raise UserError(
                f"none of {len(labeled)} labeled images of {source.name}, split {source.split}, "
                f"can be decoded: {', '.join(self.unusable[:8])}, ..."
            )
        self.labels = np.stack([found[row].labels for row in self.rows]).astype(np.int64)
        self.patients = tuple(found[row].patient for row in self.rows)
        self.digests = [found[row].digest for row in self.rows]

    @property
    def chosen(self) -> RecordSource:
        """These images alone, in their order."""
        return Subset(self.source, np.array(self.rows, np.int64), "labeled and decodable")

    def keep(self, wanted: Sequence[int]) -> None:
        """Keeps some of the labeled images.

        Args:
          wanted: indices into `rows`, in the order to keep them in.
        """
        self.rows = [self.rows[position] for position in wanted]
        self.labels = self.labels[list(wanted)]
        self.patients = tuple(self.patients[position] for position in wanted)
        self.digests = [self.digests[position] for position in wanted]

    def without(self, other: "Images") -> dict[str, list[str]]:
        """Drops images that another split holds too.

        These are the same photographs, and others of the same patients.

        Args:
          other: images of the other split, which stay as they are.

        Returns:
          the record ids that were dropped, by reason.
        """
        digests, patients = set(other.digests), set(other.patients)
        dropped: dict[str, list[str]] = {"same_photograph": [], "same_patient": []}
        kept = []
        for position, (digest, patient) in enumerate(zip(self.digests, self.patients, strict=True)):
            if digest in digests or patient in patients:
                reason = "same_photograph" if digest in digests else "same_patient"
                dropped[reason].append(self.source[self.rows[position]].record_id)
            else:
                kept.append(position)
        self.keep(kept)
        return dropped


class Supervised:
    """Data and embeddings that the supervised protocols share, made once.

    Attributes:
      model: a `RetinalModel`.
      train, test: the images that protocols learn from, and those that are predicted.
      names, exclusive: the classes, and whether every image has exactly one.
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
          train, test: what protocols learn from, and what they predict.
          prompts, language: of the class texts that the adapters start from.
          seed: of support, augmentation and training.
          batch_size: records embedded at a time.
          on_error: "refuse" ends at images that cannot be decoded, "skip" leaves them out.

        Raises:
          UserError: the splits' classes differ, nothing is labeled, or nothing is left to learn
            from.
        """
        if train.label_names != test.label_names:
            raise UserError(
                f"training and test split have other classes: {', '.join(train.label_names)} and "
                f"{', '.join(test.label_names)}"
            )
        self.model, self._prompts, self._language = model, prompts, language
        self._seed, self._batch_size = seed, batch_size
        self._encoders = {False: model.encode_images, True: model.image_features}
        self._augmented: dict[tuple[int, bool], np.ndarray] = {}
        self._embedded: dict[bool, tuple[np.ndarray, np.ndarray]] = {}
        self.train, self.test = Images(train), Images(test)
        self.unusable = [*self.train.unusable, *self.test.unusable]
        refuse_unusable(self.unusable, on_error)
        self.dropped = self.train.without(self.test)
        if len(self.train.rows) < 2:
            raise UserError(
                f"{train.name}, split {train.split}, has {len(self.train.rows)} labeled images "
                "that are not in the test split; nothing can be learned from fewer than two"
            )
        self.names = train.label_names
        both = np.concatenate([self.train.labels, self.test.labels])
        self.exclusive = is_exclusive(both)

    @property
    def training_images(self) -> int:
        """Number of images that the support can be sampled from."""
        return len(self.train.rows)

    def _features(
        self, unprojected: bool
    ) -> tuple[Float[np.ndarray, "n d"], Float[np.ndarray, "m d"]]:
        """Training and test images as the network sees them, computed once."""
        if unprojected not in self._embedded:
            encode = self._encoders[unprojected]
            self._embedded[unprojected] = (
                self._encoded(encode, self.train),
                self._encoded(encode, self.test),
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
        found = class_embeddings(self.model, self.names, self._language, self._prompts, views)
        if self.exclusive:
            return found["image"]
        return finding_directions(found["image"], normal_class(self.names))

    def folds(self, shots: Shots, count: int) -> Iterator[tuple[int, Int[np.ndarray, " n"]]]:
        """Samples the support of every fold; the whole training split is one fold.

        Args:
          shots: how much of the training split is sampled.
          count: number of folds.

        Yields:
          the seed of the fold, and indices into `train.rows` in rising order.
        """
        for fold in range(1 if shots.whole else count):
            seed = self._seed + fold
            yield seed, draw(shots, self.train.labels, self.train.patients, self.names, seed)

    def check(self, shots: Shots, count: int) -> None:
        """Samples the supports of all folds, which takes no time, before anything is embedded.

        Args:
          shots: how much of the training split is sampled.
          count: number of folds.

        Raises:
          UserError: a class has too few patients, or a support shows one class only.
        """
        for _, rows in self.folds(shots, count):
            labels = self.train.labels[rows]
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
        texts: bool = False,
    ) -> Iterator[tuple[int, Predictions]]:
        """Learns from cached embeddings and predicts the test split, fold by fold.

        Args:
          learn: from a support to a predictor.
          shots: how much of the training split is sampled.
          count: number of folds.
          fit_augmentations: augmented copies that the support gains.
          test_augmentations: augmented copies over whose scores the mean is taken; 0 scores the
            images as they are.
          unprojected: takes the image tower's features before any projection for embeddings.
          texts: gives the support the embeddings of the classes' texts.

        Yields:
          the size of the support and the predictions.
        """
        encode = self._encoders[unprojected]
        train_features, test_features = self._features(unprojected)
        classes = self._texts if texts else np.zeros((len(self.names), 0), np.float32)
        scale = self.model.logit_scale if texts else 1.0
        for seed, rows in self.folds(shots, count):
            features, labels = train_features[rows], self.train.labels[rows]
            if fit_augmentations:
                chosen = [self.train.rows[row] for row in rows]
                copies = embed_augmented(
                    encode,
                    self.model.data_config,
                    self.train.source,
                    chosen,
                    fit_augmentations,
                    seed,
                )
                features = np.concatenate([features, *copies])
                labels = np.tile(labels, (1 + fit_augmentations, 1))
            support = Support(features, labels, classes, scale, self.exclusive, seed)
            predict = learn(support)
            if test_augmentations:
                copies = self._augmented_test(test_augmentations, unprojected)
                scores = np.mean([predict(copy) for copy in copies], axis=0)
            else:
                scores = predict(test_features)
            yield len(rows), self.predictions(scores)

    def _augmented_test(self, copies: int, unprojected: bool) -> Float[np.ndarray, "copies n d"]:
        key = copies, unprojected
        if key not in self._augmented:
            self._augmented[key] = embed_augmented(
                self._encoders[unprojected],
                self.model.data_config,
                self.test.source,
                self.test.rows,
                copies,
                self._seed,
            )
        return self._augmented[key]

    def predictions(self, scores: Float[np.ndarray, "n classes"]) -> Predictions:
        """Joins scores of the test images with their labels.

        Args:
          scores: of the test images in their order, (n, classes) floats; with `exclusive`
            probabilities.
        """
        return Predictions(
            names=self.names,
            labels=self.test.labels,
            scores=np.asarray(scores, np.float64),
            patients=self.test.patients,
            samples=tuple((row, None) for row in self.test.rows),
            exclusive=self.exclusive,
        )


def supervised(study: Study) -> Supervised:
    """Makes what the protocols that learn share, and reports what was left out.

    Checks first that every fold can be sampled.

    Args:
      study: with a training split.

    Raises:
      UserError: see `Supervised`, `Supervised.check`.
    """
    options = study.options
    assert study.train is not None, "it is opened where a protocol learns"
    found = Supervised(
        study.model,
        study.train,
        study.source,
        study.prompts,
        options.languages[0],
        options.seed,
        study.model.config.evaluation.batch_size,
        options.on_error,
    )
    for shots in options.shots:
        found.check(shots, options.folds)
    for sentence in undecodable(found.unusable):
        study.note(sentence)
    study.facts["training_images"] = found.training_images
    study.facts["dropped_from_training"] = found.dropped
    for reason, dropped in found.dropped.items():
        if dropped:
            say(
                f"left out of training, for the test split has the {reason.replace('_', ' ')}: "
                f"{len(dropped)} ({first_of(dropped, 5)})"
            )
    return found


class SupervisedProtocol(Protocol):
    """A protocol that learns from labeled images, some shots at a time, in folds.

    Attributes:
      title: in reports.
    """

    learns = True
    title: ClassVar[str]

    @abc.abstractmethod
    def folds(self, study: Study, shots: Shots) -> Iterator[tuple[int, Predictions]]:
        """Learns and predicts, fold by fold.

        Args:
          study: whose `supervised` images the protocols share.
          shots: how much of the training split is sampled.

        Yields:
          the size of the support and the predictions.
        """

    def check(self, study: Study) -> None:
        study.once(supervised)

    def run(self, study: Study) -> Mapping[str, Any]:
        options, results = study.options, study.results
        records = study.once(supervised).test.source
        numbers = {}
        for shots in options.shots:
            found = list(self.folds(study, shots))
            measured = [
                predictions.measured(options.draws, options.seed, results.order)
                for _, predictions in found
            ]
            folds = over_folds([fold.overall for fold in measured]) if len(found) > 1 else None
            title = f"{self.title}, {shots}"
            results.sections.append(Section(title, measured[0], records, folds))
            numbers[str(shots)] = {
                "support": [size for size, _ in found],
                **({} if folds is None else {"over_folds": folds}),
                "folds": [fold.to_json() for fold in measured],
            }
        return numbers

    def settings(self, options: Options) -> Mapping[str, Any]:
        return {
            "train_split": options.train_split,
            "shots": [str(shots) for shots in options.shots],
            "folds": options.folds,
            "fit_augmentations": options.fit_augmentations,
            "test_augmentations": options.test_augmentations,
        }


class OnEmbeddings(SupervisedProtocol):
    """A protocol that learns from cached embeddings.

    Attributes:
      unprojected: whether they are the image tower's features before any projection.
    """

    unprojected: ClassVar[bool] = False

    @abc.abstractmethod
    def learn(self, support: Support) -> Predictor:
        """Learns from labeled embeddings.

        Args:
          support: of one fold.

        Returns:
          a function from embeddings (n, d) to scores (n, classes).
        """

    def folds(self, study: Study, shots: Shots) -> Iterator[tuple[int, Predictions]]:
        options = study.options
        return study.once(supervised).on_embeddings(
            self.learn,
            shots,
            options.folds,
            options.fit_augmentations,
            options.test_augmentations,
            unprojected=self.unprojected,
            texts=self.compares_texts,
        )
