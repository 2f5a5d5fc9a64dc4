"""Tables of a benchmark: `benchmark.csv`, `timing.csv`, and what a console shows."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from retfm_jax.errors import UserError
from retfm_jax.evaluation.metrics import paired
from retfm_jax.evaluation.metrics.bootstrap import Estimate
from retfm_jax.experiments.benchmark import words
from retfm_jax.experiments.benchmark.comparisons import (
    MEASURES,
    Compared,
    broken,
    is_graded,
    statistics_of,
)
from retfm_jax.experiments.benchmark.results import CellResult, Findings
from retfm_jax.experiments.benchmark.suite import Published

#: Columns of `benchmark.csv`.
COLUMNS = (
    "task", "protocol", "setting", "model", "status", "reason", "metric", "value", "low", "high",
    "interval", "seeds", "seed_deviation", "rank", "best", "behind_best", "behind_low",
    "behind_high", "p_against_best", "expected_calibration_error", "brier", "contamination",
    "copies_of_test_in_training", "chosen", "validation_score", "test_samples", "test_patients",
    "parameters", "trained_parameters", "image_flops", "training_flops", "memory_bytes",
    "published", "notes",
)  # fmt: skip
#: Columns of `timing.csv` before those of the stages.
_TIMED = ("task", "protocol", "setting", "model", "peak_memory_bytes", "seconds")

Row = Mapping[str, Any]


def benchmark_rows(findings: Findings, compared: Sequence[Compared]) -> list[Row]:
    """A row for each model and comparison, measured or not, best first where they are.

    Args:
      findings: of a benchmark.
      compared: their comparisons.

    Returns:
      values by `COLUMNS`; what is missing has none.
    """
    rows: list[Row] = []
    for each in compared:
        rows += [_measured(findings, each, name) for name in each.order]
    rows += [_passed_over(findings, cell, why) for cell, why in passed_over(findings)]
    return rows


def passed_over(findings: Findings) -> list[tuple[CellResult, str]]:
    """Cells without a number, each with the reason.

    Args:
      findings: of a benchmark.
    """
    found = []
    for result in findings.cells:
        why = result.reason if result.status != "measured" else broken(result)
        if result.status != "measured" or why:
            found.append((result, why))
    return found


def _measured(findings: Findings, compared: Compared, name: str) -> Row:
    result, value = compared.cells[name], compared.values[name]
    row: dict[str, Any] = {
        "status": "measured",
        "metric": compared.metric,
        **_estimate(value, "value", "low", "high"),
        "interval": value.interval if value.has_interval else "",
        "seeds": result.seeds,
        "seed_deviation": _number(compared.found.spread[name]),
        "rank": compared.ranks.get(name, ""),
        "best": compared.best,
        **{key: _number(value) for key, value in compared.calibration[name].items()},
        "chosen": "; ".join(words.chosen(each["values"]) for each in result.chosen),
        "validation_score": "; ".join(str(_number(s)) for s in map(chosen_score, result.chosen)),
        "test_samples": compared.samples,
        "test_patients": len(compared.patients),
        "published": "; ".join(
            f"{row.metric} {row.value:g} ({row.source})"
            for row in published_of(findings, compared)
            if row.model == name
        ),
        "notes": " ".join([*compared.caveats, *result.notes]),
    }
    if name != compared.best:
        behind = compared.found.difference(name, compared.best)
        row |= _estimate(behind.value, "behind_best", "behind_low", "behind_high")
        row["p_against_best"] = _number(compared.corrected_p(name, compared.best))
    return _of_cell(findings, result) | row


def _passed_over(findings: Findings, result: CellResult, why: str) -> Row:
    status = "failed" if result.status == "measured" else result.status
    return _of_cell(findings, result) | {"status": status, "reason": why}


def _of_cell(findings: Findings, result: CellResult) -> dict[str, Any]:
    cell = result.cell
    found = findings.contamination.get((cell.model, cell.task))
    row: dict[str, Any] = {
        "task": cell.task,
        "protocol": cell.protocol,
        "setting": cell.setting,
        "model": cell.model,
        "contamination": found.verdict if found else "",
        "copies_of_test_in_training": "" if found is None or found.copies is None else found.copies,
        "notes": " ".join(result.notes),
    }
    cost = result.cost
    if cost is not None:
        row |= {
            "parameters": cost.parameters,
            "trained_parameters": cost.trained_parameters,
            "image_flops": round(cost.image_flops),
            "training_flops": round(cost.training_flops),
            "memory_bytes": cost.memory_bytes,
        }
    return row


def _estimate(value: Estimate, *names: str) -> dict[str, Any]:
    return {name: _number(each) for name, each in zip(names, value[:3], strict=True)}


def _number(value: float) -> float | str:
    return "" if math.isnan(value) else round(float(value), 6) + 0.0


def chosen_score(chosen: Mapping[str, Any]) -> float:
    """The best score of a grid on validation; NaN where none is defined.

    Args:
      chosen: of one seed, see `results.CellResult`.
    """
    scores = [point.get("score") for point in chosen.get("points", ())]
    return max((float(score) for score in scores if score is not None), default=math.nan)


def published_of(findings: Findings, compared: Compared) -> list[Published]:
    """Published numbers of a comparison.

    Of comparisons of the same cells by several measures each number belongs to one.

    Args:
      findings: of a benchmark.
      compared: one of its comparisons.
    """

    def measure(row: Published) -> str:
        name = row.metric.rpartition("/")[2]
        return compared.measure and (name if name in MEASURES else MEASURES[0])

    key = (compared.task, compared.protocol, compared.setting, compared.measure)
    return [
        row
        for row in findings.suite.published
        if (row.task, row.protocol, row.setting, measure(row)) == key
    ]


def ours(findings: Findings, compared: Compared | None, row: Published) -> Estimate | None:
    """Our value of what was published; None where the model or the metric is not measured.

    Args:
      findings: of a benchmark.
      compared: the comparison that the number belongs to; None: it was not made.
      row: the published number.
    """
    if compared is None or row.model not in compared.cells:
        return None
    if row.metric == compared.metric:
        return compared.values[row.model]
    cell = compared.cells[row.model]
    try:
        statistics = statistics_of(cell, row.metric, is_graded(findings, compared.task))
    except UserError:
        return None
    suite = findings.suite
    found = paired.compare({row.model: statistics}, cell.patients, suite.draws, suite.seed)
    return found.values[row.model]


def timing_rows(findings: Findings) -> tuple[list[str], list[list[Any]]]:
    """What the cells took, as measured on the machines that they ran on.

    Args:
      findings: of a benchmark.

    Returns:
      columns, and a row for each cell that ran.
    """
    ran = [result for result in findings.cells if result.cost is not None]
    stages = stages_of(ran)
    rows = []
    for result in ran:
        cell, cost = result.cell, result.cost
        assert cost is not None
        total = round(sum(cost.seconds.values()), 3)
        each = [round(cost.seconds[s], 3) if s in cost.seconds else "" for s in stages]
        names = [cell.task, cell.protocol, cell.setting, cell.model]
        rows.append([*names, cost.peak_rss, total, *each])
    return [*_TIMED, *(f"seconds_{stage}" for stage in stages)], rows


def stages_of(ran: Iterable[CellResult]) -> list[str]:
    """Names of all stages that were timed, in the order in which they are met.

    Args:
      ran: cells with a cost.
    """
    return list(dict.fromkeys(stage for r in ran if r.cost is not None for stage in r.cost.seconds))


def console_rows(compared: Sequence[Compared]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """A line for each comparison: who is best, and who cannot be told apart from it.

    Args:
      compared: comparisons of a benchmark.

    Returns:
      names of the columns, which all stand at the left, and rows.
    """
    columns = ("task", "protocol", "metric", "best", "value (95% interval)", "not told apart")
    rows = []
    for each in compared:
        value = each.values[each.best]
        undefined = math.isnan(value.value)
        rows.append(
            (
                each.task,
                words.protocol(*each.way),
                words.metric(each.metric),
                "–" if undefined else each.best,
                str(value),
                ", ".join(each.tied_with_best) or "–",
            )
        )
    return columns, rows
