"""`retfm bench`: measures this machine, prints a table and writes JSON."""

import argparse
import dataclasses
import importlib.metadata
import os
import platform
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from retfm_jax.benchmarks.timing import Comparison, Measurement
from retfm_jax.console import Table, say
from retfm_jax.errors import UserError
from retfm_jax.files import check_writable, write_json

PARTS = ("data", "step", "embedding", "checkpoint")
#: What each part can be compared with.
_AGAINST = {"torch": "step", "published-data": "data"}
_PACKAGES = ("retfm-jax", "jax", "jaxlib", "flax", "grain", "opencv-python-headless", "torch")


@dataclasses.dataclass
class Report:
    """Everything that a bench measured.

    Attributes:
      about: the machine, the versions, the experiment.
      measurements, comparisons: in the order in which they were taken.
      notes: what else was found, by name.
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
        """Takes over what a part returns."""
        self.measurements += measurements
        self.comparisons += comparisons
        self.notes |= notes or {}

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {
            **self.about,
            "measurements": [measurement.to_dict() for measurement in self.measurements],
            "comparisons": [comparison.to_dict() for comparison in self.comparisons],
            "notes": self.notes,
        }

    def print(self) -> None:
        """Prints the tables."""
        device = self.about["device"]
        say(
            f"{device['count']} x {device['kind']}; {self.about['cpu']['name']}, "
            f"{self.about['cpu']['cores']} cores; times are medians (least .. most)"
        )
        table = Table("", ("", "seconds", "a second", "a CPU-second", "and"), ["and"])
        for measurement in self.measurements:
            table.row(*measurement_cells(measurement.to_dict()))
        table.show()
        if self.comparisons:
            ratios = Table("", ("ratio", "", "goal"), ["goal"])
            for comparison in self.comparisons:
                ratios.row(*comparison_cells(comparison.to_dict()))
            ratios.show()
        for name, value in self.notes.items():
            if isinstance(value, dict):
                value = ", ".join(f"{key} {part}" for key, part in value.items())
            say(f"{name}: {value}")


def measurement_cells(values: dict[str, Any]) -> tuple[str, ...]:
    """The table's row of a measurement, from its JSON values."""
    low, high = values["spread_seconds"]
    unit = values["unit"]
    rates = ["", ""]
    if unit != "runs":
        rates[0] = f"{_short(values['per_second'])} {unit}"
        if values["per_cpu_second"] is not None:
            rates[1] = _short(values["per_cpu_second"])
    facts = ", ".join(
        f"{name} {value if isinstance(value, str) else _short(value)}"
        for name, value in values["facts"].items()
    )
    seconds = f"{_short(values['median_seconds'])} ({_short(low)} .. {_short(high)})"
    return values["name"], seconds, *rates, facts


def comparison_cells(values: dict[str, Any]) -> tuple[str, ...]:
    """The table's row of a comparison, from its JSON values."""
    low, high = values["spread"]
    return values["name"], f"{values['median']:.2f} ({low:.2f} .. {high:.2f})", values["goal"]


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def run(args: argparse.Namespace) -> None:
    """Runs the verb."""
    parts = PARTS if args.part == "all" else (args.part,)
    against = tuple(dict.fromkeys(args.against or ()))
    for name in against:
        if _AGAINST[name] not in parts:
            raise UserError(f"--against {name} goes with `retfm bench {_AGAINST[name]}`")
    if args.microbatches is not None:
        if "step" not in parts:
            raise UserError("--microbatches goes with `retfm bench step`")
        if args.microbatches < 2:
            raise UserError(f"--microbatches {args.microbatches}: give 2 or more parts")
    if args.folder is not None:
        if "checkpoint" not in parts:
            raise UserError("--folder goes with `retfm bench checkpoint`")
        if not Path(args.folder).is_dir():
            raise UserError(f"--folder {args.folder} is not a folder")
        check_writable(Path(args.folder) / "checkpoints")
    if args.out:
        check_writable(args.out)
    if "torch" in against:
        # The other process needs some of a GPU's memory, which JAX would take whole.
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

    from retfm_jax.config import load_config, to_dict
    from retfm_jax.runtime import distributed
    from retfm_jax.training.requirements import check_vocabularies

    config = load_config(args.config, args.overrides)
    check_vocabularies(config, present=True)
    distributed.start()
    report = Report(about() | {"config": to_dict(config), "rounds": args.rounds})
    if {"data", "embedding"} & {*parts}:
        _records(report, config, parts, against, args)
    if "step" in parts:
        _steps(report, config, against, args)
    if "checkpoint" in parts:
        from retfm_jax.benchmarks import checkpoint

        _say("checkpoints")
        report.add(checkpoint.measure(config, args.rounds, args.folder))
    report.print()
    if args.out:
        write_json(args.out, report.to_dict())
        say(f"every timing is in {args.out}")


def _records(
    report: Report, config: Any, parts: tuple[str, ...], against: tuple[str, ...], args: Any
) -> None:
    from retfm_jax.benchmarks import data, embedding

    if "published-data" in against:
        _say("drawing patients, and reading them as the published loaders do")
        report.add(*data.compare_published(config, args.patients, args.rounds))
    if parts == ("data",) and "published-data" in against:
        return
    _say("finding or drawing patients")
    with data.dataset_at_hand(config, args.patients) as (found, name):
        report.notes["data"] = name
        if "data" in parts:
            _say("reading them")
            report.add(data.measure(config, found, args.rounds))
        if "embedding" in parts:
            _say("embedding them")
            report.add(embedding.measure(config, found, args.rounds))


def _steps(report: Report, config: Any, against: tuple[str, ...], args: Any) -> None:
    from retfm_jax.benchmarks import step

    if args.microbatches is not None:
        _say("training steps, divided and whole")
        report.add(*step.compare_microbatches(config, args.microbatches, args.rounds))
    if "torch" in against:
        _say("training steps, here and in PyTorch")
        report.add(*step.compare_torch(config, args.rounds))
    if args.microbatches is None and "torch" not in against:
        _say("training steps")
        report.add(step.measure(config, args.rounds))


def _say(what: str) -> None:
    say(f"{what} ...", error=True)


def about() -> dict[str, Any]:
    """The machine and the versions, as JSON values."""
    import jax

    from retfm_jax.runtime.threads import cores

    versions = {"python": platform.python_version()}
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
