"""What the training of a cell is for: classes or masks, and what a trained network is worth."""

import abc
import dataclasses
import math
from collections.abc import Mapping
from typing import ClassVar, Generic, TypeVar

import jax
import jax.numpy as jnp

from retfm_jax.config import DataConfig, ExperimentConfig
from retfm_jax.data.kinds import get_kind
from retfm_jax.data.kinds.base import Told
from retfm_jax.decisions import default_decisions
from retfm_jax.errors import UserError
from retfm_jax.evaluation import segmentation
from retfm_jax.evaluation.class_predictions import predict_classes
from retfm_jax.evaluation.metrics.mask_counts import MaskCounts
from retfm_jax.evaluation.metrics.predictions import Predictions
from retfm_jax.evaluation.protocols.supervised import Images
from retfm_jax.evaluation.structure_metrics import measured
from retfm_jax.experiments.benchmark.heads import Judged
from retfm_jax.experiments.benchmark.masked import Masked
from retfm_jax.experiments.benchmark.photographs import Photographs
from retfm_jax.methods import make_method
from retfm_jax.model import RetinalModel
from retfm_jax.training.flops import count_program

#: What is found of a test split.
Found = TypeVar("Found")

#: Metrics of a run's validation that a suite's metric can be.
_BEST = ("auroc", "average_precision", "aca", "accuracy", "f1", "kappa", "quadratic_kappa")
_OF_FINDINGS = ("auroc", "average_precision")
#: Entries of `config.data` that the task decides.
_OF_TASK = (
    "dataset", "data_dir", "train_split", "eval_split", "classes", "outcome", "patient_regex",
    "follow_links", "exclude",
)  # fmt: skip


class Trial(abc.ABC, Generic[Found]):
    """What runs learn, and how their networks are judged.

    Attributes:
      protocol: in a suite.
      told: what its networks tell of a photograph.
      metric: by which a grid is chosen on validation.
      best: the metric of a run's validation by which its best epoch is chosen.
    """

    protocol: ClassVar[str]
    told: ClassVar[Told]
    metric: str
    best: str

    @property
    @abc.abstractmethod
    def data(self) -> DataConfig:
        """Configuration of the task's data."""

    @abc.abstractmethod
    def judged(self, model: RetinalModel) -> Judged:
        """Judges a trained network on validation.

        Args:
          model: the network.
        """

    @abc.abstractmethod
    def tested(self, model: RetinalModel) -> Found:
        """Finds what a trained network makes of the test split.

        Args:
          model: the network.
        """

    def config(self, config: ExperimentConfig, where: str) -> ExperimentConfig:
        """Puts the task into a configuration.

        Args:
          config: of training.
          where: its name, for the message.

        Raises:
          UserError: it trains something else.
        """
        method = make_method(config.method, config.model)
        if get_kind(method.sample_kind).told != self.told:
            raise UserError(
                f"protocols.{self.protocol}.config: {where} trains a {config.method} network, "
                f"which has no {self.told}: name a configuration of {self.protocol}"
            )
        decided = {name: getattr(self.data, name) for name in _OF_TASK}
        return dataclasses.replace(
            config,
            data=dataclasses.replace(config.data, **decided),
            train=dataclasses.replace(config.train, best=self.best),
        )


class ClassTrial(Trial[Predictions]):
    """Classes of photographs.

    Args:
      photographs: of the task, with labels.
    """

    protocol, told = "fine_tune", "classes"

    def __init__(self, photographs: Photographs):
        self._photographs = photographs
        judge, known = photographs.judge, _BEST if photographs.exclusive else _OF_FINDINGS
        self.metric = judge.metric
        self.best = judge.metric if judge.metric in known else "auroc"
        if self.best == "quadratic_kappa" and judge.order is None:
            self.best = "auroc"

    @property
    def data(self) -> DataConfig:
        """See `Trial.data`."""
        return self._photographs.data

    def judged(self, model: RetinalModel) -> Judged:
        """See `Trial.judged`."""
        found = self._predicted(model, "validation")
        return self._photographs.judge(found.scores, found.labels)

    def tested(self, model: RetinalModel) -> Predictions:
        """See `Trial.tested`."""
        return self._predicted(model, "test")

    def _predicted(self, model: RetinalModel, split: str) -> Predictions:
        """Probabilities of photographs, without decisions that were fitted."""
        images: Images = self._photographs.labeled()[split]
        found = predict_classes(model, images.chosen, progress=False)
        if len(found.rows) != len(images.rows):
            raise UserError(
                f"{len(images.rows) - len(found.rows)} photographs of {images.source.name}, split "
                f"{images.source.split}, could be decoded before and cannot be now"
            )
        outcome = model.method.outcome
        assert outcome is not None, "a network with classes knows what they are to each other"
        decisions = default_decisions(model.classes, outcome)
        return Predictions(
            names=decisions.classes,
            labels=images.labels,
            scores=decisions.probabilities(found.logits).astype("float64"),
            patients=images.patients,
            samples=tuple((row, None) for row in images.rows),
            exclusive=self._photographs.exclusive,
        )


class MaskTrial(Trial[MaskCounts]):
    """Structures of photographs.

    Args:
      masked: photographs of the task, with masks.
    """

    protocol, told = "segment", "structures"
    metric = best = "average_precision"

    def __init__(self, masked: Masked):
        self._masked = masked

    @property
    def data(self) -> DataConfig:
        """See `Trial.data`."""
        return self._masked.data

    def judged(self, model: RetinalModel) -> Judged:
        """See `Trial.judged`; the score is the mean over structures of the pixels' AUPR."""
        found = measured(self._counted(model, "validation"))
        return Judged(found[self.metric], math.nan)

    def tested(self, model: RetinalModel) -> MaskCounts:
        """See `Trial.tested`; masks are decided as was fitted on validation."""
        decisions = model.mask_decisions
        assert decisions is not None, "a network with structures knows when they are there"
        rows = tuple(self._masked.splits["test"].rows)
        return MaskCounts.of(self._counted(model, "test"), decisions.by_name, rows)

    def _counted(self, model: RetinalModel, split: str) -> segmentation.Tally:
        source = self._masked.source(split)
        return segmentation.tally(model, source, on_error="refuse", progress=False)


def network_cost(config: ExperimentConfig) -> Mapping[str, float]:
    """Counts what a network with a decoder takes; nothing is computed.

    Args:
      config: of a run, whole.

    Returns:
      `parameters` of all of it, and `image_flops` of one image or window as it sees them.
    """
    method, size = make_method(config.method, config.model), config.data.image.size
    params, state = jax.eval_shape(method.init, jax.random.key(0))
    images = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    traced = jax.jit(method.pixel_logits).trace(params, state, images)
    parameters = sum(int(leaf.size) for leaf in jax.tree.leaves(params))
    return {"parameters": parameters, "image_flops": float(count_program(traced) or 0)}
