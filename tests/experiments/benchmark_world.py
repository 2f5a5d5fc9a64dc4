"""Findings of a benchmark without networks: scores are drawn, better models' with less noise."""

from collections.abc import Mapping, Sequence

import numpy as np

from retfm_jax.evaluation.metrics.predictions import Predictions
from retfm_jax.evaluation.metrics.retrieval import DIRECTIONS
from retfm_jax.experiments.benchmark.results import (
    Cell,
    CellResult,
    Contamination,
    Cost,
    Findings,
    Hits,
    ModelFacts,
    TaskFacts,
)
from retfm_jax.experiments.benchmark.suite import Suite, suite_of

CLASSES = ("no_dr", "mild", "severe")
COST = Cost(303_000_000, 3_075, 61.6e9, 0.0, 1 << 31)
VERDICTS = ("none known", "same set", "unknown", "holds its test", "shares a source")
PROTOCOLS = ("zero_shot", "retrieval", "linear_probe", "few_shot", "fine_tune")


def predictions(task: int, quality: float, seed: int, patients: int, findings: bool) -> Predictions:
    """Of two eyes of every patient; the truth depends on the task alone.

    Args:
      task: number of the task.
      quality: signal over noise.
      seed: of the noise.
      patients: their number.
      findings: whether the classes hold independently of each other.
    """
    world = np.random.default_rng(task)
    patient = np.repeat(np.arange(patients), 2)
    truth = world.choice(3, patients, p=[0.5, 0.3, 0.2])[patient]
    labels = np.eye(3, dtype=int)[truth]
    if findings:
        labels = (world.random((len(patient), 3)) < 0.3).astype(int)
    noise = np.random.default_rng(seed).normal(size=labels.shape)
    logits = quality * labels + world.normal(size=labels.shape) + noise
    scores = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    if findings:
        scores = 1 / (1 + np.exp(-logits))
    return Predictions(
        names=CLASSES,
        labels=labels,
        scores=scores,
        patients=tuple(f"T{task} P{number}" for number in patient),
        samples=tuple((row, None) for row in range(len(patient))),
        exclusive=not findings,
    )


def hits(task: int, quality: float, seed: int, patients: int) -> Hits:
    """Of one query a patient.

    Args:
      task: number of the task.
      quality: the better, the more hits.
      seed: of the draws.
      patients: their number.
    """
    generator = np.random.default_rng(seed)
    ranks = {d: generator.geometric(min(0.9, 0.1 + 0.2 * quality), patients) for d in DIRECTIONS}
    return Hits(
        {d: rank[:, None] <= np.array([1, 5, 10]) for d, rank in ranks.items()},
        tuple(f"T{task} P{number}" for number in range(patients)),
        tuple(range(patients)),
    )


def suite(models: Sequence[str], tasks: Sequence[str], protocols: Sequence[str], **more) -> Suite:
    """A suite of these names.

    Args:
      models, tasks, protocols: names.
      more: other entries of the file.
    """
    values = {
        "title": "A benchmark",
        "models": {name: "weights.pth" for name in models},
        "tasks": {name: f"dataset {number}" for number, name in enumerate(tasks)},
        "protocols": {name: {} for name in protocols},
        "draws": 100,
        "seeds": 2,
        **more,
    }
    return suite_of(values, "test.yaml")


def findings(
    models: Mapping[str, float],
    tasks: Sequence[str] = ("APTOS2019", "IDRiD"),
    protocols: Sequence[str] = PROTOCOLS,
    patients: int = 40,
    without_texts: Sequence[str] = (),
    failed: Sequence[tuple[str, str]] = (),
    **more,
) -> Findings:
    """Findings of all cells of a suite.

    Args:
      models: the quality of each.
      tasks, protocols: names; every third task has findings.
      patients: of each task.
      without_texts: models to which zero-shot and retrieval do not apply.
      failed: pairs of model and task whose cells all failed.
      more: other entries of the suite.
    """
    asked = suite(list(models), tasks, protocols, **more)
    cells = [
        _cell(cell, models, list(tasks), patients, without_texts, failed, asked)
        for cell in asked.cells()
    ]
    contamination = {
        (model, task): Contamination(
            VERDICTS[(i + j) % len(VERDICTS)], (f"{model} was trained on {task}'s neighbors.",), i
        )
        for i, model in enumerate(models)
        for j, task in enumerate(tasks)
    }
    return Findings(
        suite=asked,
        cells=tuple(cells),
        contamination=contamination,
        models={
            name: ModelFacts(
                name=name,
                method="classifier",
                origin="weights.pth",
                trained_on=("EyePACS",),
                texts=name not in without_texts,
                parameters=304_000_000,
                image_size=224,
                checksum="ab12" * 16,
            )
            for name in models
        },
        tasks={
            name: TaskFacts(
                name=name,
                classes=CLASSES,
                outcome="findings" if number % 3 == 2 else "exclusive",
                images={"train": 200, "validation": 60, "test": 2 * patients},
                patients={"train": 100, "validation": 30, "test": patients},
                patients_known=number != 1,
                citation="Somebody et al., a journal, 2020",
                licence="CC BY 4.0",
                synthetic=number == 0,
                notes=("Validation is a share of training.",),
            )
            for number, name in enumerate(tasks)
        },
        versions={"retfm_jax": "0.2.0", "jax": "0.9", "numpy": "2.4.6"},
    )


def _cell(
    cell: Cell,
    models: Mapping[str, float],
    tasks: list[str],
    patients: int,
    without_texts: Sequence[str],
    failed: Sequence[tuple[str, str]],
    asked: Suite,
) -> CellResult:
    wants_texts = cell.protocol in ("zero_shot", "retrieval")
    if wants_texts and cell.model in without_texts:
        return CellResult(cell, "not applicable", "it has no text tower")
    if (cell.model, cell.task) in failed:
        return CellResult(cell, "failed", f"{cell.task}: no such folder; build it first")
    task, quality = tasks.index(cell.task), models[cell.model]
    number = list(models).index(cell.model)
    seed = 1000 * number + 10 * asked.cells().index(cell) % 997
    cost = Cost(
        **COST.__dict__
        | {"seconds": {"embedding": 1.5 + number, "fitting": 0.2}, "peak_rss": 1 << 31}
    )
    if cell.protocol == "retrieval":
        return CellResult(cell, "measured", hits=hits(task, quality, seed, patients), cost=cost)
    seeds = 1 if wants_texts or cell.protocol == "linear_probe" else asked.seeds
    several = tuple(
        predictions(task, quality, seed + each, patients, task % 3 == 2) for each in range(seeds)
    )
    chosen = tuple(
        {
            "seed": each,
            "values": {"strength": 0.01},
            "metric": "auroc",
            "points": [
                {"strength": strength, "score": 0.8 - abs(strength - 0.01)}
                for strength in (0.001, 0.01, 0.1)
            ],
        }
        for each in range(seeds)
    )
    notes = ("2 classes have fewer images than shots.",) if cell.setting == "10 shots" else ()
    chosen = () if wants_texts else chosen
    return CellResult(cell, "measured", "", several, None, chosen, cost, notes)
