"""Comparisons of a benchmark: models on one task by one protocol, and over all tasks of it."""

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from retfm_jax.errors import UserError
from retfm_jax.evaluation.metrics import mask_counts, paired, ranks
from retfm_jax.evaluation.metrics.bootstrap import Estimate
from retfm_jax.evaluation.metrics.calibration import calibration
from retfm_jax.evaluation.metrics.grades import class_order
from retfm_jax.evaluation.metrics.paired import Comparison, Statistic
from retfm_jax.evaluation.metrics.predictions import Predictions
from retfm_jax.evaluation.metrics.retrieval import DIRECTIONS, RECALL_AT
from retfm_jax.experiments.benchmark.results import CellResult, Findings, Hits

#: Of a retrieval: the mean of its recalls at 1, 5 and 10 in both directions.
MEAN_RECALL = "mean_recall"
#: What segmentations are compared by: the pixels' scores, and the masks of each photograph.
MEASURES = ("average_precision", "image_dice")
#: Taken where the suite's metric is not defined for a task.
_ALWAYS = "auroc"
#: Metrics with intervals that need no resampling, see `metrics.intervals`.
_EXACT = ("auroc", "aca", "accuracy")
#: Whose scores of findings are no probabilities.
_UNFITTED = ("zero_shot",)

#: Protocol, setting and measure: of one way every comparison is a task.
Way = tuple[str, str, str]
#: Task, protocol, setting and measure.
Key = tuple[str, str, str, str]
Pair = tuple[str, str]


@dataclasses.dataclass(frozen=True)
class Compared:
    """All models that were measured on one task by one protocol.

    Attributes:
      task, protocol, setting: which comparison; setting is "" where the protocol has one alone.
      measure: one of several metrics by which the same cells are compared; "" where there is one.
      metric: what the models are compared by.
      cells: by model, in the suite's order.
      found: values and differences.
      corrected: p-values of the differences by Holm's procedure over all pairs.
      ranks: of each model that has a value, 1 + number of models that are significantly better.
      calibration: by model, "expected_calibration_error" and "brier", means over seeds; empty where
        scores are no probabilities.
      samples: of the test split.
      patients: by whom they are.
      caveats: sentences on this comparison as a whole.
      parts: of masks the same metric by structure and model.
    """

    task: str
    protocol: str
    setting: str
    measure: str
    metric: str
    cells: Mapping[str, CellResult]
    found: Comparison
    corrected: Mapping[Pair, float]
    ranks: Mapping[str, int]
    calibration: Mapping[str, Mapping[str, float]]
    samples: int
    patients: frozenset[str]
    caveats: tuple[str, ...] = ()
    parts: Mapping[str, Mapping[str, Estimate]] = dataclasses.field(default_factory=dict)

    @property
    def way(self) -> Way:
        """What this has in common with comparisons of other tasks."""
        return self.protocol, self.setting, self.measure

    @property
    def values(self) -> Mapping[str, Estimate]:
        """The metric of each model."""
        return self.found.values

    @property
    def order(self) -> list[str]:
        """Models, the best first; those without a value last."""
        return by_value({name: each.value for name, each in self.values.items()})

    @property
    def best(self) -> str:
        """The model with the best value."""
        return self.order[0]

    @property
    def apart(self) -> frozenset[Pair]:
        """Pairs whose difference is significant."""
        return frozenset(pair for pair, p in self.corrected.items() if p <= ranks.LEVEL)

    @property
    def tied_with_best(self) -> list[str]:
        """Other models that cannot be told apart from the best, the better first."""
        return [
            name
            for name in self.order[1:]
            if not _is_apart(self.apart, self.best, name)
            and not math.isnan(self.values[name].value)
        ]

    def corrected_p(self, first: str, second: str) -> float:
        """Holm-corrected p of the difference of two models.

        Args:
          first, second: two different models of this comparison.
        """
        pair = (first, second)
        return self.corrected[pair if pair in self.corrected else (second, first)]


@dataclasses.dataclass(frozen=True)
class Panel:
    """Models over all tasks of one protocol, as a critical-difference picture shows them.

    Attributes:
      protocol, setting, measure: of all its comparisons.
      tasks: in which all of the models were measured.
      order: the models, the lowest average rank first.
      average_ranks: by model, of its values, 1 the best.
      friedman: whether all rank alike.
      groups: neighbors in the order of whom no two are told apart.
      left_out: sentences on models and tasks that are not in it.
    """

    protocol: str
    setting: str
    measure: str
    tasks: tuple[str, ...]
    order: tuple[str, ...]
    average_ranks: Mapping[str, float]
    friedman: ranks.Friedman
    groups: tuple[tuple[str, ...], ...]
    left_out: tuple[str, ...] = ()

    @property
    def way(self) -> Way:
        """What all its comparisons have in common."""
        return self.protocol, self.setting, self.measure


def by_value(values: Mapping[str, float]) -> list[str]:
    """Names by falling value, those without one last; equal ones as they stood.

    Args:
      values: by name, NaN for none.
    """
    return sorted(values, key=lambda name: (math.isnan(values[name]), -values[name]))


def _is_apart(apart: frozenset[Pair], first: str, second: str) -> bool:
    return (first, second) in apart or (second, first) in apart


def compare(findings: Findings) -> tuple[Compared, ...]:
    """Compares the models of every task and protocol, those that were measured.

    Args:
      findings: of a benchmark.

    Returns:
      comparisons by protocol, setting and task, each in the suite's order.

    Raises:
      UserError: two models were measured on different samples.
    """
    cells: dict[Key, dict[str, CellResult]] = {}
    for result in findings.cells:
        if result.status == "measured" and not broken(result):
            cell = result.cell
            for measure in MEASURES if result.masks else ("",):
                key = (cell.task, cell.protocol, cell.setting, measure)
                cells.setdefault(key, {})[cell.model] = result
    places, measures = _places(findings), ("", *MEASURES)
    keys = sorted(
        cells, key=lambda key: (*places[key[1:3]], measures.index(key[3]), places[key[0]])
    )
    return tuple(_compared(findings, key, cells[key]) for key in keys)


def _places(findings: Findings) -> dict[Any, Any]:
    """Where tasks, and pairs of protocol and setting, stand in the suite."""
    tasks = dict.fromkeys([*findings.suite.tasks, *(r.cell.task for r in findings.cells)])
    ways = dict.fromkeys((r.cell.protocol, r.cell.setting) for r in findings.cells)
    protocols = list(dict.fromkeys(protocol for protocol, _ in ways))
    return {task: at for at, task in enumerate(tasks)} | {
        way: (protocols.index(way[0]), at) for at, way in enumerate(ways)
    }


def broken(result: CellResult) -> str:
    """Why the scores of a measured cell cannot be used; "" where they can.

    Args:
      result: of a cell that was measured.
    """
    for predictions in result.predictions:
        rows = int((~np.isfinite(predictions.scores).all(1)).sum())
        if rows:
            return (
                f"the scores of {rows} of {len(predictions.scores)} samples are no finite numbers"
            )
    return ""


def _compared(findings: Findings, key: Key, cells: Mapping[str, CellResult]) -> Compared:
    task, protocol, setting, measure = key
    suite = findings.suite
    facts = {name: _facts(cell) for name, cell in cells.items()}
    paired.check_same({f"{name} on {task}": each for name, each in facts.items()})
    first = next(iter(cells.values()))
    patients = first.patients
    metric, caveats, graded = measure or MEAN_RECALL, [], is_graded(findings, task)
    if first.predictions:
        metric, why = _metric_of(suite.metric, first.predictions[0], graded)
        caveats += [why] if why else []
    models = {name: statistics_of(cell, metric, graded) for name, cell in cells.items()}
    widest = paired.WIDEST.get(metric, 1.0)
    found = paired.compare(models, patients, suite.draws, suite.seed, widest)
    values = {n: _with_interval(each, cells[n], metric) for n, each in found.values.items()}
    found = dataclasses.replace(found, values=values)
    p = {pair: difference.p for pair, difference in found.differences.items()}
    corrected = dict(zip(p, ranks.holm(list(p.values())), strict=True))
    about = findings.facts(task, protocol)
    if about is not None and not about.patients_known:
        caveats.append("Patients are unknown: every image counts as a patient of its own")
    compared = Compared(
        task=task,
        protocol=protocol,
        setting=setting,
        measure=measure,
        metric=metric,
        cells=cells,
        found=found,
        corrected=corrected,
        ranks={},
        calibration={name: _calibration(cell) for name, cell in cells.items()},
        samples=len(patients),
        patients=frozenset(patients),
        caveats=(*caveats, *_hidden(first)),
        parts=_parts(suite, cells, metric),
    )
    defined = {n: each.value for n, each in values.items() if not math.isnan(each.value)}
    return dataclasses.replace(compared, ranks=ranks.ranks(defined, compared.apart))


def _hidden(cell: CellResult) -> list[str]:
    """Structures of which nothing can be said."""
    shown = cell.masks[0].shown if cell.masks else ()
    names = [name for name in (cell.masks[0].structures if cell.masks else ()) if name not in shown]
    if not names:
        return []
    which = ", ".join(names)
    return [f"All pixels of the test photographs are alike in {which}: means leave that out"]


def _parts(
    suite: Any, cells: Mapping[str, CellResult], metric: str
) -> dict[str, Mapping[str, Estimate]]:
    """Of masks the metric of every structure that is shown, by model."""
    first = next(iter(cells.values()))
    found = {}
    for name in first.masks[0].shown if first.masks else ():
        models = {model: statistics_of(cell, f"{name}/{metric}") for model, cell in cells.items()}
        found[name] = paired.compare(models, first.patients, suite.draws, suite.seed).values
    return found


def _with_interval(value: Estimate, cell: CellResult, metric: str) -> Estimate:
    """A value that no resample varies, as of a perfect model, with the interval of evaluation."""
    if value.has_interval or math.isnan(value.value) or metric not in _EXACT:
        return value
    exact = cell.predictions[0].measured(draws=1).overall.get(metric)
    alike = exact is not None and exact.has_interval and abs(exact.value - value.value) < 1e-6
    return exact if exact is not None and alike else value


def _facts(cell: CellResult) -> dict[str, Any]:
    if cell.masks:
        return mask_counts.sample_facts(cell.masks[0])
    if cell.hits is None:
        return paired.sample_facts(cell.predictions[0])
    return {"queries": cell.hits.samples, "patients": cell.hits.patients}


def is_graded(findings: Findings, task: str) -> bool:
    """Whether a task says that its classes are grades.

    Args:
      findings: of a benchmark.
      task: by its name.
    """
    return task in findings.tasks and findings.tasks[task].outcome == "grades"


def _metric_of(metric: str, predictions: Predictions, graded: bool) -> tuple[str, str]:
    """The suite's metric, or the area under the curve with the reason."""
    try:
        paired.statistic(metric, predictions, class_order(predictions.names, graded))
    except UserError as error:
        return _ALWAYS, f"Compared by {_ALWAYS}, not by {metric}: {error}"
    return metric, ""


def statistics_of(cell: CellResult, metric: str, graded: bool = False) -> list[Statistic]:
    """A cell's metric for each of its seeds.

    Args:
      cell: one that was measured.
      metric: one of `paired.METRICS`; of masks one of `mask_counts.METRICS`, also of one structure;
        of a retrieval `MEAN_RECALL` or such as "image_to_report/recall_at_1".
      graded: whether the task says that its classes are grades, in their order.

    Raises:
      UserError: the metric is not defined for these samples.
    """
    if cell.hits is not None:
        return [paired.mean(_recalls(cell.hits, metric))]
    if cell.masks:
        return [each.statistic(metric) for each in cell.masks]
    first = cell.predictions[0]
    order = class_order(first.names, graded) if metric == "quadratic_kappa" else None
    return [paired.statistic(metric, each, order) for each in cell.predictions]


def _recalls(hits: Hits, metric: str) -> np.ndarray:
    if metric == MEAN_RECALL:
        return np.mean([hits.found[direction] for direction in DIRECTIONS], axis=(0, 2))
    names = {
        f"{direction}/recall_at_{k}": (direction, column)
        for direction in DIRECTIONS
        for column, k in enumerate(RECALL_AT)
    }
    if metric not in names:
        raise UserError(f"a retrieval has no {metric}; it has {', '.join(names)}")
    direction, column = names[metric]
    return hits.found[direction][:, column]


def _calibration(cell: CellResult) -> dict[str, float]:
    """Errors of probabilities, means over seeds."""
    every = []
    for each in cell.predictions:
        unfitted = cell.cell.protocol in _UNFITTED
        between = bool(((each.scores >= 0) & (each.scores <= 1)).all())
        if not between or (not each.exclusive and unfitted):
            return {}
        every.append(
            calibration(each.scores, each.labels, not each.exclusive, each.patients, draws=1)
        )
    names = ("expected_calibration_error", "brier")
    return {name: float(np.mean([e[name].value for e in every])) for name in names if every}


def panels(findings: Findings, compared: Sequence[Compared]) -> tuple[Panel, ...]:
    """Summarizes comparisons over the tasks of every protocol and setting.

    Two models are told apart where the mean of their differences over the tasks is significant, by
    Holm's procedure over all pairs; see `paired.average`.

    Args:
      findings: of a benchmark.
      compared: as `compare` returns them.

    Returns:
      panels of at least two models, in the order of the comparisons.
    """
    found = [_panel(findings, each) for each in ways_of(compared).values()]
    return tuple(panel for panel in found if panel is not None)


def ways_of(compared: Sequence[Compared]) -> dict[Way, list[Compared]]:
    """Sorts comparisons by what they have in common, whatever their tasks.

    Args:
      compared: as `compare` returns them.
    """
    found: dict[Way, list[Compared]] = {}
    for each in compared:
        found.setdefault(each.way, []).append(each)
    return found


def _panel(findings: Findings, compared: Sequence[Compared]) -> Panel | None:
    defined = {
        each.task: [name for name, of in each.values.items() if not math.isnan(of.value)]
        for each in compared
    }
    models, tasks = _complete(defined)
    if len(models) < 2:
        return None
    used = [each for each in compared if each.task in tasks]
    table = np.array([[each.values[name].value for name in models] for each in used])
    average = dict(zip(models, ranks.average_ranks(table).tolist(), strict=True))
    order = sorted(models, key=average.__getitem__)
    shared = populations(findings, used)
    p = {
        (a, b): paired.average([each.found.difference(a, b) for each in used], shared).p
        for a, b in itertools.combinations(order, 2)
    }
    every = dict.fromkeys(name for names in defined.values() for name in names)
    left_out = [
        f"{name}: not measured on all of these tasks" for name in every if name not in models
    ]
    left_out += [
        f"{task}: not all of these models were measured on it"
        for task in defined
        if task not in tasks
    ]
    protocol, setting, measure = compared[0].way
    return Panel(
        protocol=protocol,
        setting=setting,
        measure=measure,
        tasks=tuple(tasks),
        order=tuple(order),
        average_ranks=average,
        friedman=ranks.friedman(table),
        groups=tuple(ranks.cliques(order, ranks.significant(p))),
        left_out=tuple(left_out),
    )


def populations(findings: Findings, compared: Sequence[Compared]) -> list[int]:
    """A number for each comparison; those of one dataset or of the same patients share one.

    Args:
      findings: of a benchmark.
      compared: some of their comparisons.
    """
    found: list[int] = []
    sources = [findings.suite.tasks[each.task].dataset for each in compared]
    for at, each in enumerate(compared):
        same = (
            found[before]
            for before in range(at)
            if sources[before] == sources[at] or compared[before].patients == each.patients
        )
        found.append(next(same, at))
    return found


def _complete(measured: Mapping[str, Sequence[str]]) -> tuple[list[str], list[str]]:
    """Models and tasks without a gap, as many of both as are found by leaving out poor models.

    Args:
      measured: models by task.
    """
    counts: dict[str, int] = {}
    for names in measured.values():
        for name in names:
            counts[name] = counts.get(name, 0) + 1
    models, best = list(counts), ([], [])
    while models:
        tasks = [task for task, names in measured.items() if set(models) <= set(names)]
        if len(models) * len(tasks) > len(best[0]) * len(best[1]):
            best = (list(models), tasks)
        models.remove(min(reversed(models), key=counts.__getitem__))
    return best
