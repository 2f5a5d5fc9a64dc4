"""Sections of a benchmark's page on what stands behind the numbers, as HTML."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from retfm_jax.config import to_dict
from retfm_jax.experiments.benchmark import tables, words
from retfm_jax.experiments.benchmark.comparisons import Compared
from retfm_jax.experiments.benchmark.results import SEGMENT, CellResult, Findings, TaskFacts
from retfm_jax.experiments.benchmark.sections import estimate, verdict
from retfm_jax.experiments.benchmark.suite import Published
from retfm_jax.rendering import markup

_NONE = "–"


def contamination(findings: Findings) -> str:
    """What models were trained on against the tasks.

    Args:
      findings: of a benchmark.
    """
    found = findings.contamination
    if not found:
        return "<p>Nothing was looked up.</p>"
    tasks = list(dict.fromkeys(task for _, task in found))
    models = list(dict.fromkeys(model for model, _ in found))
    rows = []
    for model in models:
        cells = []
        for task in tasks:
            each = found.get((model, task))
            said = _NONE if each is None else verdict(each.verdict)
            if each is not None and each.copies is not None:
                plural = "y" if each.copies == 1 else "ies"
                said += f"<small>{each.copies:,} cop{plural} found</small>"
            cells.append(said)
        rows.append([markup.own(model), *cells])
    verdicts = {each.verdict for each in found.values()}
    meanings = _terms({v: said for v, said in words.VERDICTS.items() if v in verdicts})
    audited = any(each.copies is not None for each in found.values())
    how = (
        "Copies are test photographs that an audit found in a training set of the model."
        if audited
        else "It rests on names of sets and on known relations between them; no audit of the "
        "photographs was given."
    )
    reasons = [
        [markup.own(model), markup.own(task), markup.own(" ".join(each.sentences))]
        for (model, task), each in found.items()
        if each.sentences
    ]
    why = ""
    if reasons:
        table = markup.table(("model", "task", "why"), reasons)
        why = f'<details><summary>Why</summary><div class="words">{table}</div></details>'
    return f"{markup.table(('model', *tasks), rows)}<p class='note'>{how}</p>{meanings}{why}"


def _terms(terms: Mapping[Any, str]) -> str:
    rows = "".join(f"<dt>{markup.own(k)}</dt><dd>{markup.own(v)}</dd>" for k, v in terms.items())
    return f"<dl>{rows}</dl>"


def published(findings: Findings, compared: Sequence[Compared]) -> str:
    """Published numbers beside ours, with their sources.

    Args:
      findings: of a benchmark.
      compared: their comparisons.
    """
    of = {row: each for each in compared for row in tables.published_of(findings, each)}
    every = findings.suite.published
    sources = list(dict.fromkeys(_source(row) for row in every))
    rows = []
    for row in every:
        way = words.protocol(row.protocol, row.setting)
        here = tables.ours(findings, of.get(row), row)
        apart = _NONE
        if here is not None and not math.isnan(here.value):
            apart = words.decimal(here.value - row.value, sign=True)
        rows.append(
            [
                f"{markup.own(row.task)}, {markup.text(way)}",
                markup.own(row.model),
                markup.text(words.metric(row.metric)),
                words.decimal(row.value),
                _NONE if here is None else estimate(here),
                apart,
                str(sources.index(_source(row)) + 1),
            ]
        )
    header = ("comparison", "model", "metric", "published", "ours", "ours − published", "source")
    items = "".join(f"<li>{markup.own(source)}</li>" for source in sources)
    return (
        "<p>The published numbers were found with splits, training and choices of their authors; "
        "where those differ from ours, as the sources say, so do the numbers.</p>"
        f"{markup.table(header, rows)}<ol>{items}</ol>"
    )


def _source(row: Published) -> str:
    checked = "" if row.verified else ". Not checked against the article itself"
    note = f". {row.note.strip().rstrip('.')}" if row.note.strip() else ""
    return f"{row.source.strip().rstrip('.')}{note}{checked}."


def passed_over(findings: Findings) -> str:
    """Cells without a number, and why.

    Args:
      findings: of a benchmark.
    """
    grouped: dict[tuple[str, str, str], dict[str, list[str]]] = {}
    for result, why in tables.passed_over(findings):
        cell = result.cell
        status = "failed" if result.status == "measured" else result.status
        ways = grouped.setdefault((status, cell.model, why), {})
        ways.setdefault(words.protocol(cell.protocol, cell.setting), []).append(cell.task)
    missing = len(findings.suite.cells()) - len(findings.cells)
    parts = []
    if missing > 0:
        parts.append(f"<p>{missing:,} of {len(findings.suite.cells()):,} cells are not measured "
                     "yet; the same command measures them.</p>")  # fmt: skip
    if grouped:
        rows = [
            [markup.own(model), markup.text("; ".join(ways)), _tasks(ways), status, markup.own(why)]
            for (status, model, why), ways in grouped.items()
        ]
        table = markup.table(("model", "protocol", "tasks", "status", "why"), rows)
        parts.append(
            "<p>Not applicable: the model or the task cannot do this; it does not enter ranks. "
            f'Failed: the next run tries again.</p><div class="words">{table}</div>'
        )
    return "".join(parts) or "<p>Nothing: every cell has a number.</p>"


def _tasks(ways: Mapping[str, Sequence[str]]) -> str:
    every = dict.fromkeys(task for tasks in ways.values() for task in tasks)
    return words.listed([markup.own(task) for task in every], 8)


def cost(findings: Findings) -> str:
    """What models and protocols take, as far as it is the same on every machine.

    Args:
      findings: of a benchmark.
    """
    grouped: dict[tuple[str, str], list[CellResult]] = {}
    for result in findings.cells:
        if result.cost is not None:
            grouped.setdefault((result.cell.model, result.cell.protocol), []).append(result)
    rows = []
    for (model, protocol), results in grouped.items():
        costs = [result.cost for result in results if result.cost is not None]
        training = sum(each.training_flops for each in costs)
        rows.append(
            [
                markup.own(model),
                words.protocol(protocol),
                words.number(max(each.parameters for each in costs)),
                words.number(max(each.trained_parameters for each in costs)),
                words.number(max(each.image_flops for each in costs), "FLOPs"),
                words.number(training, "FLOPs") if training else _NONE,
                words.size(max(each.memory_bytes for each in costs)),
            ]
        )
    if not rows:
        return "<p>Nothing ran.</p>"
    header = (
        "model", "protocol", "parameters", "trained, at most", "one image, forward",
        "training, all tasks", "device memory, at most",
    )  # fmt: skip
    return (
        f"{markup.table(header, rows)}<p class='note'>Parameters are of the image network. "
        "Training counts all points of the grid and all seeds; memory is that of the compiled "
        "program. Of segmentation they are of tower and decoder, and an image is what the network "
        "sees at once, which may be a window of a photograph. "
        'Seconds and host memory depend on the machine and stand in <a href="cost.html">cost.html'
        "</a> and timing.csv.</p>"
    )


def method(findings: Findings) -> str:
    """How the numbers were made.

    Args:
      findings: of a benchmark.
    """
    suite = findings.suite
    seeds = [str(seed) for seed in suite.seed_range()]
    seeded = f"{'the seed' if len(seeds) == 1 else 'seeds'} {words.listed(seeds, 10)}"
    metrics = [words.metric(suite.metric)] if {*suite.protocols} - {SEGMENT} else []
    metrics += ["the macro AUPR of pixels for segmentation"] if SEGMENT in suite.protocols else []
    metric = " and ".join(metrics)
    said = [
        "Every model has the same splits, prompts, seeds, grids and augmentation. The test split "
        "of a task was used for its numbers alone: whatever is chosen is chosen on validation, by "
        f"{metric}. Without a validation split of its own a task gives a share of its training "
        "split, by patient, the same for all models.",
        f"What draws samples or trains was repeated with {seeded}. A value is the mean over "
        "seeds. Intervals and p speak of other patients, not of other seeds: the "
        "deviation over seeds stands beside.",
        f"Intervals of values are percentiles of {suite.draws:,} bootstrap resamples of patients, "
        "the same resamples for all models; all eyes of a patient are drawn together.",
        "A difference is divided by the larger of its standard errors by bootstrap and by "
        "jackknife, and has Student's t distribution with Satterthwaite's degrees of freedom, "
        "which are few where few patients carry it. Percentiles of the bootstrap call equal "
        "models different too often where a class is rare, and cannot reach the small p that many "
        "pairs want.",
        "p of all pairs of a comparison are corrected by Holm's procedure. Told apart is a pair "
        "whose corrected p is at most 0.05.",
    ]
    if SEGMENT in suite.protocols:
        said.append(
            "A pixel shows a structure where its probability is above the threshold with the best "
            "Dice on validation. Masks are compared at the size of the photographs, within the "
            "field of view; patients are drawn with all pixels of their photographs."
        )
    parts = [f"<ul>{''.join(f'<li>{markup.text(line)}</li>' for line in said)}</ul>"]
    parts.append("<h3>Protocols</h3>")
    parts.append(
        _terms({words.protocol(n): _settings(each) for n, each in suite.protocols.items()})
    )
    return "".join(parts)


def _settings(section: Any) -> str:
    entries = to_dict(section) if dataclasses.is_dataclass(section) else {}
    said = [
        f"{name.replace('_', ' ')} {_plain(value)}"
        for name, value in entries.items()
        if value not in (None, (), [], "", False)
    ]
    return "; ".join(said) or "defaults"


def _plain(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(_plain, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def tasks(findings: Findings) -> str:
    """What the tasks are.

    Args:
      findings: of a benchmark.
    """
    rows = []
    for name, facts in _facts(findings):
        images, patients = facts.images, facts.patients
        known = ", ".join(f"{many:,} {split}" for split, many in images.items())
        known += (
            f"<small>patients: {_counts(patients) if facts.patients_known else 'unknown'}</small>"
        )
        kind = "<b>synthetic</b>" if facts.synthetic else markup.text(facts.modality.upper())
        rows.append(
            [
                markup.own(name),
                kind,
                f"{len(facts.classes)}<small>{markup.own(facts.outcome)}</small>",
                known,
                markup.own(", ".join(facts.classes)),
                markup.own(facts.citation or _NONE),
                markup.own(facts.licence or _NONE),
                markup.own(" ".join(facts.notes) or _NONE),
            ]
        )
    opened = {**findings.tasks, **findings.masks}
    unopened = [name for name in findings.suite.tasks if name not in opened]
    note = ""
    if unopened:
        names = words.listed([markup.own(name) for name in unopened], 20)
        note = f"<p class='note'>Not opened: {names}.</p>"
    header = ("task", "images", "classes", "number", "names", "from", "licence", "notes")
    return f'<div class="words">{markup.table(header, rows)}</div>{note}'


def _facts(findings: Findings) -> list[tuple[str, TaskFacts]]:
    """Facts of each task's labels and of its masks, as far as there are any."""
    found = []
    for name in findings.suite.tasks:
        both = [of[name] for of in (findings.tasks, findings.masks) if name in of]
        found += [(name, facts) for facts in both if facts.classes or len(both) == 1]
    return found


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{many:,} {split}" for split, many in counts.items())


def models(findings: Findings) -> str:
    """What the models are, with checksums of their weights.

    Args:
      findings: of a benchmark.
    """
    rows = []
    for name, facts in findings.models.items():
        rows.append(
            [
                markup.own(name),
                markup.own(facts.method),
                markup.own(facts.origin),
                markup.own(", ".join(facts.trained_on) or "unknown"),
                "yes" if facts.texts else "no",
                words.number(facts.parameters),
                f"{facts.image_size} px",
                markup.own(" ".join(facts.notes) or _NONE),
                f"<code>{markup.text(facts.checksum) or _NONE}</code>",
            ]
        )
    unopened = [name for name in findings.suite.models if name not in findings.models]
    note = ""
    if unopened:
        names = words.listed([markup.own(name) for name in unopened], 20)
        note = f"<p class='note'>Not opened: {names}.</p>"
    header = (
        "model", "method", "weights", "trained on", "compares with texts", "parameters", "image",
        "notes", "SHA-256 of the weights",
    )  # fmt: skip
    return f'<div class="words">{markup.table(header, rows)}</div>{note}'


def versions(findings: Findings) -> str:
    """Libraries that the numbers depend on.

    Args:
      findings: of a benchmark.
    """
    return _terms(findings.versions) if findings.versions else "<p>Not recorded.</p>"
