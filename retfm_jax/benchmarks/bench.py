"""Measures this machine: the data pipeline, the training step, embedding, checkpoints."""

import dataclasses
import importlib.metadata
import platform
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import jax

from retfm_jax.benchmarks import checkpoint, data, embedding, step
from retfm_jax.benchmarks.timing import Comparison, Measurement
from retfm_jax.config import ExperimentConfig, to_dict
from retfm_jax.files import PathLike
from retfm_jax.runtime.threads import cores
from retfm_jax.runtime.xla_flags import in_force

_PACKAGES = ("retfm-jax", "jax", "jaxlib", "flax", "grain", "opencv-python-headless", "torch")


@dataclasses.dataclass
class Report:
    """All measurements of a bench.

    Attributes:
      about: the machine, the versions, the experiment.
      measurements, comparisons: in the order in which they were taken.
      notes: further findings by name.
    """

    about: dict[str, Any]
    measurements: list[Measurement] = dataclasses.field(default_factory=list)
    comparisons: list[Comparison] = dataclasses.field(default_factory=list)
    notes: dict[str, Any] = dataclasses.field(default_factory=dict)

    def add(
        self,
        measurements: Iterable[Measurement],
        comparisons: Iterable[Comparison] = (),
        notes: dict[str, Any] | None = None,
    ) -> None:
        """Adds what a part returns.

        Args:
          measurements, comparisons: appended to those of the report.
          notes: merged into those of the report; None: there are none.
        """
        self.measurements += measurements
        self.comparisons += comparisons
        self.notes |= notes or {}

    def to_dict(self) -> dict[str, Any]:
        """Converts the report to JSON values."""
        return {
            **self.about,
            "measurements": [measurement.to_dict() for measurement in self.measurements],
            "comparisons": [comparison.to_dict() for comparison in self.comparisons],
            "notes": self.notes,
        }


def bench(
    config: ExperimentConfig,
    parts: Sequence[str],
    *,
    against: Sequence[str] = (),
    microbatches: int | None = None,
    rounds: int = 5,
    patients: int = 256,
    folder: PathLike | None = None,
    tell: Callable[[str], None] = lambda what: None,
) -> Report:
    """Measures parts of an experiment.

    Args:
      config: the experiment.
      parts: some of "data", "step", "embedding" and "checkpoint".
      against: what to compare with, "torch" (steps) or "published-data" (data).
      microbatches: compares gradient caching in so many microbatches with the whole batch; None:
        does not.
      rounds: timed runs of everything.
      patients: how many to generate where the experiment's dataset is not built.
      folder: existing folder on the disk whose checkpoints are measured; None: a temporary one.
      tell: is called with a sentence on what begins.

    Raises:
      UserError: a part cannot be measured, or not compared, with this experiment.
    """
    report = Report(about() | {"config": to_dict(config), "rounds": rounds})
    if {"data", "embedding"} & {*parts}:
        _records(report, config, parts, against, rounds, patients, tell)
    if "step" in parts:
        _steps(report, config, against, rounds, microbatches, tell)
    if "checkpoint" in parts:
        tell("checkpoints")
        report.add(checkpoint.measure(config, rounds, folder))
    return report


def _records(
    report: Report,
    config: ExperimentConfig,
    parts: Sequence[str],
    against: Sequence[str],
    rounds: int,
    patients: int,
    tell: Callable[[str], None],
) -> None:
    if "published-data" in against:
        tell("generating patients, and reading them as the published loaders do")
        report.add(*data.compare_published(config, patients, rounds))
    if tuple(parts) == ("data",) and "published-data" in against:
        return
    tell("finding or generating patients")
    with data.dataset_at_hand(config, patients) as (found, name):
        report.notes["data"] = name
        if "data" in parts:
            tell("reading them")
            report.add(data.measure(config, found, rounds))
        if "embedding" in parts:
            tell("embedding them")
            report.add(embedding.measure(config, found, rounds))


def _steps(
    report: Report,
    config: ExperimentConfig,
    against: Sequence[str],
    rounds: int,
    microbatches: int | None,
    tell: Callable[[str], None],
) -> None:
    report.notes["XLA flags"] = " ".join(in_force()) or "none"
    if microbatches is not None:
        tell("training steps, in microbatches and in one batch")
        report.add(*step.compare_microbatches(config, microbatches, rounds))
    if "torch" in against:
        tell("training steps, here and in PyTorch")
        report.add(*step.compare_torch(config, rounds))
    if microbatches is None and "torch" not in against:
        tell("training steps")
        report.add(step.measure(config, rounds))


def about() -> dict[str, Any]:
    """Describes the machine and the versions, as JSON values."""
    versions: dict[str, str | None] = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    devices = jax.devices()
    return {
        "device": {
            "platform": devices[0].platform,
            "kind": devices[0].device_kind,
            "count": len(devices),
        },
        "cpu": {"name": _cpu_name(), "cores": cores()},
        "versions": versions,
    }


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
