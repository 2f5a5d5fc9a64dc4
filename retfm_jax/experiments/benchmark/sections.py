"""Sections of a benchmark's page with its numbers, as HTML."""

import math
from collections.abc import Mapping, Sequence

from retfm_jax.evaluation.metrics import ranks
from retfm_jax.evaluation.metrics.bootstrap import Estimate
from retfm_jax.experiments.benchmark import tables, words
from retfm_jax.experiments.benchmark.comparisons import MEASURES, Compared, Panel, ways_of
from retfm_jax.experiments.benchmark.pictures import Scale
from retfm_jax.experiments.benchmark.results import Findings, Verdict
from retfm_jax.rendering import markup

_MARK = '<sup title="test photographs may have been seen in training">†</sup>'
_NONE = "–"
#: Pairs whose differences are drawn, too: more make the page heavy and are read as numbers.
_DRAWN = 45


def answer(findings: Findings, compared: Sequence[Compared], panels: Sequence[Panel]) -> str:
    """Which model is best where, and what cannot be told apart.

    Args:
      findings: of a benchmark.
      compared: their comparisons.
      panels: their summaries over tasks.
    """
    if not compared:
        return (
            '<div class="answer"><p>Nothing was measured, so nothing can be said of any model. '
            '<a href="#passed">What was passed over, and why</a>.</p></div>'
        )
    if max(len(each.cells) for each in compared) < 2:
        names = list(dict.fromkeys(name for each in compared for name in each.cells))
        said = f"Only {markup.own(names[0])} was measured: there is nothing to compare it with."
        if len(names) > 1:
            said = "No two models were measured on the same task by the same protocol."
        return f'<div class="answer"><p>{said}</p></div>'
    lines = [f"<li>{_of_panel(panel, findings)}</li>" for panel in panels]
    note = ""
    if _MARK in "".join(lines):
        note = (
            f"<p class='note'>{_MARK} Test photographs may have been seen in training: see "
            '<a href="#contamination">contamination</a>.</p>'
        )
    return f'<div class="answer"><ul>{"".join(lines)}</ul>{note}</div>'


def _of_panel(panel: Panel, findings: Findings) -> str:
    best, tasks = panel.order[0], [markup.own(task) for task in panel.tasks]
    suspect = any(_is_suspect(findings, best, task) for task in panel.tasks)
    name = f"{markup.own(best)}{_MARK * suspect}"
    said = f"{name} has the best value on {tasks[0]}"
    if len(tasks) > 1:
        rank = panel.average_ranks[best]
        said = f"{name} has the best average rank over {len(tasks)} tasks, {rank:.2f}"
    group = next((group for group in panel.groups if best in group), ())
    others = [markup.own(name) for name in group if name != best]
    told = "it is told apart from all others"
    if len(group) == len(panel.order):
        told = "no two models can be told apart"
    elif others:
        told = f"it cannot be told apart from {words.listed(others)}"
    return f"<b>{words.protocol(*panel.way)}</b>: {said}; {told}."


def _is_suspect(findings: Findings, model: str, task: str) -> bool:
    found = findings.contamination.get((model, task))
    return found is not None and found.verdict in words.SUSPECT


def by_comparison(findings: Findings, compared: Sequence[Compared]) -> str:
    """The best of each comparison in one table.

    Args:
      findings: of a benchmark.
      compared: their comparisons.
    """
    rows = []
    for at, each in enumerate(compared):
        value, best = each.values[each.best], each.best
        mark = _MARK * _is_suspect(findings, best, each.task)
        tied = [markup.own(name) for name in each.tied_with_best]
        its = f"<small>{words.metric(each.metric)} {words.decimal(value.value)}</small>"
        alone = "only one" if len(each.cells) == 1 else "none"
        rows.append(
            [
                f'<a href="#c{at}">{_where(each)}</a>',
                _NONE if math.isnan(value.value) else markup.own(best) + mark + its,
                words.listed(tied) if tied else alone,
            ]
        )
    header = ("comparison", "best", "not told apart from the best")
    return f'<div class="words">{markup.table(header, rows)}</div>'


def _where(compared: Compared) -> str:
    way = words.protocol(*compared.way)
    return f"{markup.own(compared.task)}, {markup.text(way)}"


def by_model(findings: Findings, compared: Sequence[Compared]) -> str:
    """How often each model was best.

    Args:
      findings: of a benchmark.
      compared: their comparisons.
    """
    several = [each for each in compared if len(each.cells) > 1]
    rows = []
    for name in findings.suite.models:
        mine = [each for each in several if name in each.ranks]
        first = sum(each.ranks[name] == 1 for each in mine)
        suspect = sum(_is_suspect(findings, name, each.task) for each in mine)
        best = sum(each.best == name for each in mine)
        rows.append([markup.own(name), str(len(mine)), str(best), str(first), str(suspect)])
    header = (
        "model", "comparisons with others", "best value", "rank 1: none is proven better",
        "of all, may have seen the test",
    )  # fmt: skip
    return markup.table(header, rows)


def matrices(findings: Findings, compared: Sequence[Compared]) -> str:
    """All values, a table of models by tasks for each protocol.

    Args:
      findings: of a benchmark.
      compared: their comparisons.
    """
    without = {
        (r.cell.model, r.cell.task, r.cell.protocol, r.cell.setting): r.status
        for r, _ in tables.passed_over(findings)
    }
    parts = []
    for way, those in ways_of(compared).items():
        metrics = list(dict.fromkeys(words.metric(each.metric) for each in those))
        rows = []
        for name in findings.suite.models:
            cells = [_matrix_cell(findings, each, name, without) for each in those]
            rows.append([markup.own(name), *cells])
        tasks = [
            each.task if len(metrics) == 1 else f"{each.task} ({words.metric(each.metric)})"
            for each in those
        ]
        title = f"{words.protocol(*way[:2])}: {' or '.join(metrics)}"
        parts.append(f"<h3>{markup.text(title)}</h3>{markup.table(('model', *tasks), rows)}")
    note = (
        "<p class='note'>Bold: rank 1, no model is proven better. Below each value its 95 % "
        f"interval. {_MARK} test photographs may have been seen in training.</p>"
    )
    return "".join(parts) + note


def _matrix_cell(
    findings: Findings, compared: Compared, name: str, without: Mapping[tuple, str]
) -> str:
    if name not in compared.cells:
        key = (name, compared.task, compared.protocol, compared.setting)
        status = without.get(key, "not yet measured")
        return f"<small>{'failed' if status == 'measured' else status}</small>"
    mark = _MARK * _is_suspect(findings, name, compared.task)
    said = estimate(compared.values[name], mark)
    return f"<b>{said}</b>" if compared.ranks.get(name) == 1 and len(compared.cells) > 1 else said


def estimate(value: Estimate, mark: str = "") -> str:
    """A value with its interval below.

    Args:
      value: with or without an interval.
      mark: HTML behind the value.
    """
    low, high = words.decimal(value.low), words.decimal(value.high)
    interval = f"<small>{low} to {high}</small>" if value.has_interval else ""
    if not value.has_interval and not math.isnan(value.value):
        interval = "<small>no interval</small>"
    return f"{words.decimal(value.value)}{mark}{interval}"


def differences_over_tasks(panels: Sequence[Panel], picture: str) -> str:
    """The critical-difference picture with what it means.

    Args:
      panels: at least one.
      picture: of them, as HTML.
    """
    notes = [
        "<p>Models by their average rank over the tasks of a protocol, 1 the best. A bar joins "
        "neighbors of whom no two are told apart: no mean of their differences over these tasks "
        "is significant at 5 %, tested by patient and corrected by Holm's procedure for all "
        "pairs. Tasks of the same patients count as one.</p>",
        picture,
    ]
    tested = [panel for panel in panels if not math.isnan(panel.friedman.p)]
    rows = [
        [
            markup.text(words.protocol(*panel.way)),
            str(len(panel.tasks)),
            f"{panel.friedman.statistic:.2f}",
            words.p_value(panel.friedman.p).replace("<", "&lt;"),
        ]
        for panel in tested
    ]
    if rows:
        header = ("protocol", "tasks", "Friedman's chi-squared", "p")
        notes.append(
            "<p>Friedman's test asks whether all models rank alike over tasks; it takes each task "
            "as one observation and knows nothing of its patients. Below some ten tasks its p is "
            "rough.</p>" + markup.table(header, rows)
        )
    left_out: dict[str, list[str]] = {}
    for panel in panels:
        for reason in panel.left_out:
            left_out.setdefault(reason, []).append(words.protocol(*panel.way))
    if left_out:
        items = "".join(
            f"<li>{markup.own(reason)} ({markup.text('; '.join(ways))})</li>"
            for reason, ways in left_out.items()
        )
        notes.append(f"<p>Not in the picture:</p><ul>{items}</ul>")
    return "".join(notes)


def comparison(findings: Findings, compared: Compared) -> str:
    """One comparison: values, intervals, ranks, calibration, contamination, every difference.

    Args:
      findings: of a benchmark.
      compared: one of its comparisons.
    """
    facts = findings.facts(compared.task, compared.protocol)
    unit = "queries" if compared.metric == "mean_recall" else "images"
    said = [f"{words.metric(compared.metric)}", f"{compared.samples:,} {unit} of the test split"]
    if facts is None or facts.patients_known:
        said.append(f"{len(compared.patients):,} patients")
    if facts is not None and facts.synthetic:
        said.append("<b>synthetic images</b>")
    parts = [f'<p class="sub">{" · ".join(said)}</p>']
    parts += [f'<p class="note">{markup.own(caveat)}</p>' for caveat in compared.caveats]
    parts += [_values(findings, compared), _by_structure(compared), _pairs(compared)]
    if compared.measure in ("", MEASURES[0]):  # once for all comparisons of the same cells
        parts.append(_choices(compared))
    return "".join(parts)


def _values(findings: Findings, compared: Compared) -> str:
    scale = Scale(list(compared.values.values()))
    calibrated = any(compared.calibration.values())
    several = any(cell.seeds > 1 for cell in compared.cells.values())
    remarks = list(dict.fromkeys(n for cell in compared.cells.values() for n in cell.notes))
    rows = []
    for name in compared.order:
        value, cell = compared.values[name], compared.cells[name]
        against = "best" if name == compared.best else _p(compared.corrected_p(name, compared.best))
        found = findings.contamination.get((name, compared.task))
        numbers = [remarks.index(note) + 1 for note in cell.notes]
        row = [
            markup.own(name) + "".join(f"<sup>{number}</sup>" for number in numbers),
            estimate(value),
            scale.row(value, compared.ranks.get(name) == 1),
            str(compared.ranks.get(name, _NONE)),
            against,
        ]
        if several:
            spread = compared.found.spread[name]
            row.append(_NONE if math.isnan(spread) else f"± {spread:.3f}")
        if calibrated:
            row += [_calibration(compared.calibration[name], key) for key in _CALIBRATION]
        rows.append([*row, verdict(found.verdict) if found else _NONE])
    rows.append(["", "<small>scale</small>", scale.axis(), *[""] * (len(rows[0]) - 3)])
    header = [
        "model",
        f"{words.metric(compared.metric)}, 95 % interval",
        "",
        "rank",
        "p against best",
    ]
    header += ["over seeds"] * several + ["ECE", "Brier"] * calibrated + ["contamination"]
    notes = "".join(f"<li>{markup.own(note)}</li>" for note in remarks)
    return markup.table(header, rows) + (f'<ol class="note">{notes}</ol>' if notes else "")


def _by_structure(compared: Compared) -> str:
    """Of masks the metric of every structure, the models as above."""
    if not compared.parts:
        return ""
    rows = [
        [markup.own(name), *(estimate(of[name]) for of in compared.parts.values())]
        for name in compared.order
    ]
    header = ("model", *compared.parts)
    title = f"By structure: {words.metric(compared.metric).removeprefix('macro ')}"
    table = markup.table(header, rows)
    return f"<details open><summary>{title}</summary>{table}{_thresholds(compared)}</details>"


def _thresholds(compared: Compared) -> str:
    """Above which a structure is taken to be present, where masks are compared."""
    if compared.metric != MEASURES[1]:
        return ""
    said = []
    for name in compared.order:
        masks = compared.cells[name].masks
        of = [
            f"{markup.text(structure)} {words.listed([f'{t:.2f}' for t in each], 10)}"
            for structure, *each in zip(
                masks[0].structures, *(seed.thresholds for seed in masks), strict=True
            )
        ]
        said.append(f"<li>{markup.own(name)}: {', '.join(of)}</li>")
    return (
        "<p class='note'>Thresholds of probabilities, those of the best Dice on validation, for "
        f"each seed:</p><ul class='note'>{''.join(said)}</ul>"
    )


_CALIBRATION = ("expected_calibration_error", "brier")


def _calibration(found: Mapping[str, float], name: str) -> str:
    return words.decimal(found.get(name, math.nan))


def _p(p: float) -> str:
    return markup.text(words.p_value(p))


def verdict(said: Verdict) -> str:
    """The word of the contamination column, which leads to its meaning.

    Args:
      said: of a model and a task.
    """
    kind = "wrong" if said in words.SUSPECT else "right" if said == "none known" else "open"
    return f'<a class="{kind}" href="#contamination">{markup.text(said)}</a>'


def _pairs(compared: Compared) -> str:
    """Every difference, the better model first."""
    order = compared.order
    pairs = [(a, b) for at, a in enumerate(order) for b in order[at + 1 :]]
    if not pairs:
        return ""
    found = {pair: compared.found.difference(*pair) for pair in pairs}
    scale = Scale([each.value for each in found.values()], zero=True)
    drawn = len(pairs) <= _DRAWN
    rows = []
    for pair, each in found.items():
        corrected = compared.corrected_p(*pair)
        apart = corrected <= ranks.LEVEL
        rows.append(
            [
                f"{markup.own(pair[0])} − {markup.own(pair[1])}",
                estimate(each.value),
                scale.row(each.value, apart) if drawn else "",
                _p(each.p),
                _p(corrected),
                "told apart" if apart else "–",
            ]
        )
    if drawn:
        rows.append(["", "<small>scale</small>", scale.axis(), "", "", ""])
    header = ("models", "difference, 95 % interval", "", "p", "p, Holm", "at 5 %")
    apart = len(compared.apart)
    title = f"Differences of all {len(pairs)} pairs, {apart} told apart"
    if len(pairs) == 1:
        title = f"The difference, {'' if apart else 'not '}told apart"
    return f"<details><summary>{title}</summary>{markup.table(header, rows)}</details>"


def _choices(compared: Compared) -> str:
    """Chosen points of grids, with the range of the scores of all points."""
    rows = []
    for name in compared.order:
        for chosen in compared.cells[name].chosen:
            scores = [point.get("score") for point in chosen.get("points", ())]
            defined = [float(score) for score in scores if score is not None]
            spread = f"{min(defined):.3f} to {max(defined):.3f}" if defined else _NONE
            rows.append(
                [
                    markup.own(name),
                    markup.own(chosen.get("seed", "")),
                    markup.own(words.chosen(chosen["values"])),
                    f"{max(defined):.3f}" if defined else _NONE,
                    f"{spread} ({len(scores)} points)",
                ]
            )
    if not rows:
        return ""
    metric = next(
        (c["metric"] for of in compared.cells.values() for c in of.chosen if "metric" in c), "score"
    )
    header = ("model", "seed", "chosen", f"validation {words.metric(metric)}", "of all points")
    return f"<details><summary>Chosen on validation</summary>{markup.table(header, rows)}</details>"
