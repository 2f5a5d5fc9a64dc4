"""Variants of one experiment, several seeds each, compared in numbers and in a picture."""

import dataclasses
import re
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from retfm_jax import extras
from retfm_jax.config import ExperimentConfig, to_dict
from retfm_jax.console import say
from retfm_jax.data.class_files import AS_RELEASED, Reading
from retfm_jax.data.sources import RecordSource, open_dataset
from retfm_jax.data.tasks import open_task
from retfm_jax.errors import Stopped, UserError
from retfm_jax.evaluation.evaluate import quick_metrics
from retfm_jax.evaluation.report_labels import with_labels
from retfm_jax.experiments.training import run_training
from retfm_jax.files import Path, PathLike, as_path, check_writable, write_json
from retfm_jax.knowledge.labels import shared_labeler
from retfm_jax.knowledge.prompts import PROMPT_STYLES
from retfm_jax.model import load
from retfm_jax.rendering import colors
from retfm_jax.rendering.figures import new_figure, plain_style, save, words
from retfm_jax.rendering.glossary import readable
from retfm_jax.runtime.mesh import check_batch_size, make_mesh
from retfm_jax.training.requirements import check_splits, check_vocabularies

with extras.needed("eval"):
    from matplotlib.figure import Figure

#: What the table shows, as far as it is measured; the JSON holds every metric.
_SHOWN = ("aca", "auroc")


@dataclasses.dataclass(frozen=True)
class Spread:
    """One number of a variant over the seeds.

    Attributes:
      values: by seed, in the order of the seeds.
      gains: differences from the first variant with the same seed.
    """

    values: tuple[float, ...]
    gains: tuple[float, ...]

    def to_json(self) -> dict[str, Any]:
        """Converts values and gains to JSON values, each with mean and standard deviation."""
        return {
            "values": list(self.values),
            "mean": statistics.fmean(self.values),
            "spread": deviation(self.values),
            "gain_over_first": {
                "values": list(self.gains),
                "mean": statistics.fmean(self.gains),
                "spread": deviation(self.gains),
            },
        }


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Findings of an ablation.

    Attributes:
      dataset, split, seeds: what the variants were compared on, and with which seeds.
      spreads: by variant and metric, such as "zero_shot/en/eye/auroc".
      written: the files that hold it.
    """

    dataset: str
    split: str
    seeds: tuple[int, ...]
    spreads: Mapping[str, Mapping[str, Spread]]
    written: tuple[Path, ...]


def ablate(
    variants: Mapping[str, ExperimentConfig],
    seeds: Sequence[int],
    workdir: PathLike,
    *,
    dataset: str | None = None,
    split: str = "test",
    prompts: Sequence[str] = (),
    reading: Reading = AS_RELEASED,
) -> Comparison:
    """Trains every variant with every seed, and compares what they know without further learning.

    A seed decides the weights and the order of the data, so that the variants of one seed differ in
    nothing but their configuration. What is trained already is not trained again.

    Args:
      variants: experiments by name; the others are compared with the first one.
      seeds: at least one; each replaces `train.seed` of every variant.
      workdir: gets a folder for each variant and seed, `ablation.json` and `ablation.png`.
      dataset: on which they are evaluated: a built dataset, a task of `tasks.yaml` or a folder of
        class folders; None: that of each variant's training.
      split: of it.
      prompts: styles of class prompts to compare, see `evaluation.evaluate.quick_metrics`.
      reading: how the files of a task or a folder are read.

    Raises:
      Stopped: a signal ended a run before its last step.
      UserError: variants share a folder, a split cannot be opened, or see `training.run_training`.
    """
    workdir = as_path(workdir)
    folders = {name: _slug(name) for name in variants}
    for name, folder in folders.items():
        if not folder or list(folders.values()).count(folder) > 1:
            raise UserError(
                f"the variant {name!r} has no folder of its own: give variants names that differ "
                "in small letters and digits"
            )
    for name in ("ablation.json", "ablation.png"):
        check_writable(workdir / name)
    found: dict[str, list[Mapping[str, float]]] = {name: [] for name in variants}
    for style in prompts:
        if style not in PROMPT_STYLES:
            raise UserError(f"prompts {style}: give some of {', '.join(PROMPT_STYLES)}")
    # Opened first: a misspelled split is said before hours of training.
    for config in variants.values():
        check_splits(config)
        check_vocabularies(config)
        mesh = make_mesh(config.mesh)
        check_batch_size(config.train.batch_size, config.train.microbatches, mesh)
    sources = {name: _source(config, dataset, split, reading) for name, config in variants.items()}
    for seed in seeds:
        for name, config in variants.items():
            say(f"{name}, seed {seed}", style="bold")
            train = dataclasses.replace(config.train, seed=seed)
            config = dataclasses.replace(config, train=train)
            folder = workdir / folders[name] / f"seed_{seed}"
            found[name].append(_measured(config, folder, sources[name], prompts))
    spreads = compare(found)
    document = {
        "dataset": next(iter(sources.values())).name,
        "split": split,
        "seeds": list(seeds),
        "variants": {
            name: {
                "config": to_dict(config),
                "metrics": {metric: s.to_json() for metric, s in spreads[name].items()},
            }
            for name, config in variants.items()
        },
    }
    written = workdir / "ablation.json", workdir / "ablation.png"
    write_json(written[0], document)
    save(draw(spreads), written[1])
    return Comparison(document["dataset"], split, tuple(seeds), spreads, written)


def _source(
    config: ExperimentConfig, dataset: str | None, split: str, reading: Reading
) -> RecordSource:
    """What a variant is measured on, with every seed."""
    data = config.data
    if dataset:
        source = open_task(dataset, split, data.data_dir, reading)
    else:
        source = open_dataset(data.dataset, split, data.data_dir, data.exclude)
    return with_labels(source, shared_labeler(data.vocabulary, data.extend))


def _measured(
    config: ExperimentConfig, folder: Path, source: RecordSource, prompts: Sequence[str]
) -> dict[str, float]:
    if not run_training(config, folder):
        raise Stopped(f"stopped in {folder}; the same command resumes from there")
    return dict(quick_metrics(load(folder), source, config.evaluation, prompts))


def compare(found: Mapping[str, Sequence[Mapping[str, float]]]) -> dict[str, dict[str, Spread]]:
    """Computes the spread of every variant's metrics over the seeds, beside the first variant.

    Args:
      found: by variant, the metrics of each seed, in the order of the seeds.

    Returns:
      spreads by variant and metric.

    Raises:
      UserError: the split has nothing that can be measured, or nothing in all variants.
    """
    first, everything = next(iter(found.values())), [seed for of in found.values() for seed in of]
    shared = [metric for metric in first[0] if all(metric in seed for seed in everything)]
    if not first[0]:
        raise UserError("the split has neither labels nor reports: there is nothing to compare")
    if not shared:
        raise UserError(
            "the variants have no metric in common (other languages, or patients against single "
            "images): compare them on one dataset"
        )
    return {
        name: {
            metric: Spread(
                values=tuple(seed[metric] for seed in seeds),
                gains=tuple(
                    seed[metric] - other[metric] for seed, other in zip(seeds, first, strict=True)
                ),
            )
            for metric in shared
        }
        for name, seeds in found.items()
    }


@plain_style()
def draw(spreads: Mapping[str, Mapping[str, Spread]]) -> Figure:
    """Plots a panel for each metric: every seed as a dot, the mean of a variant as a bar.

    Args:
      spreads: by variant and metric, as `compare` returns them.
    """
    metrics = shown(spreads)
    figure = new_figure(1.5 + 3 * len(metrics), 1.2 + 0.45 * len(spreads))
    panels = figure.subplots(1, len(metrics), sharey=True, squeeze=False)[0]
    positions = range(len(spreads))
    shared, names = short_names(metrics)
    figure.suptitle(shared, fontsize=10, x=0.01, ha="left")
    for panel, metric, name in zip(panels, metrics, names, strict=True):
        for position, by_metric in zip(positions, spreads.values(), strict=True):
            values = by_metric[metric].values
            panel.plot(values, [position] * len(values), "o", color=colors.CURVES[5], markersize=5)
            panel.plot(statistics.fmean(values), position, "|", color=colors.INK, markersize=18)
        panel.set_title(name, fontsize=9)
        panel.grid(axis="x", color=colors.GRID)
        panel.set_axisbelow(True)
    panels[0].set_yticks(list(positions), [words(name) for name in spreads])
    panels[0].set_ylim(len(spreads) - 0.5, -0.5)
    return figure


def shown(spreads: Mapping[str, Mapping[str, Spread]]) -> list[str]:
    """Metrics that tables and pictures show, as far as they are measured; if none is, all others.

    Args:
      spreads: by variant and metric, as `compare` returns them.
    """
    metrics = list(next(iter(spreads.values())))
    return [metric for metric in metrics if metric.endswith(_SHOWN)] or metrics


def short_names(metrics: Sequence[str]) -> tuple[str, list[str]]:
    """Splits names of metrics into what they have in common and the rest of each, in words.

    Args:
      metrics: at least one name, such as "zero_shot/en/eye/auroc".
    """
    parts = [metric.split("/") for metric in metrics]
    first, last = min(parts), max(parts)  # what these two share, all do
    shared = 0
    while shared < len(first) - 1 and first[shared] == last[shared]:
        shared += 1
    return readable("_".join(first[:shared])), [readable("_".join(name[shared:])) for name in parts]


def deviation(values: Sequence[float]) -> float:
    """Standard deviation of a sample (n - 1); 0 of a single value.

    Args:
      values: at least one.
    """
    return statistics.stdev(values) if len(values) > 1 else 0.0


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
