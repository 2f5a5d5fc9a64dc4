"""The HTML page of an evaluation: tables, curves and galleries in one self-contained file."""

import math
from collections.abc import Sequence
from typing import Any

from retfm_jax.data.records import ImageRecord, PatientRecord
from retfm_jax.dataset_folders import is_synthetic
from retfm_jax.evaluation.metrics.classification import SingleLabelMetrics
from retfm_jax.evaluation.metrics.predictions import Measured
from retfm_jax.evaluation.metrics.retrieval import RECALL_AT
from retfm_jax.evaluation.report import answer, reports, tables
from retfm_jax.evaluation.report import figures as pictures
from retfm_jax.evaluation.report.summary import Mistake, measured_columns, mistakes
from retfm_jax.evaluation.results import (
    LANGUAGE_NAMES,
    MaskExample,
    MaskSection,
    Results,
    Section,
)
from retfm_jax.rendering import charts, markup, overlays
from retfm_jax.rendering.glossary import readable

#: Characters of a report that a gallery shows.
_EXCERPT = 240
_CAVEAT = (
    '<p class="note">Maps show what raised the odds of a class, by a method with limits of its '
    "own; they are no evidence of disease. The line is half of a map's range.</p>"
)


def page(results: Results, document: dict[str, Any]) -> str:
    """Makes the page of an evaluation as HTML.

    Args:
      results: what it shows.
      document: content of the JSON file; its settings are listed at the end.
    """
    data = document["data"]
    parts = [
        answer.of(results),
        f'<p class="sub">95% intervals by {results.by}</p>',
        *(f'<p class="note">{markup.text(note)}</p>' for note in data.get("notes", ())),
    ]
    labels_from = data.get("labels_from")
    if labels_from not in (None, "the dataset"):
        parts.append(f'<p class="note">Labels are of {markup.text(labels_from)}.</p>')
    names = [section.title for section in results.sections]
    names += [f"retrieval, {LANGUAGE_NAMES[language]} reports" for language in results.retrievals]
    if len(names) > 1:
        links = "".join(f'<a href="#s{i}">{markup.own(name)}</a>' for i, name in enumerate(names))
        parts.append(f"<nav>{links}</nav>")
    if results.sections:
        parts.append("<h3>Protocols</h3>" + _protocols(results.sections))
    if results.retrievals:
        parts.append("<h3>Retrieval</h3>" + _retrievals(results))
    for position, section in enumerate(results.sections):
        parts.append(f'<h2 id="s{position}">{markup.own(section.title)}</h2>' + _section(section))
    if results.masks is not None:
        parts.append(_structures(results.masks))
    if results.reports is not None:
        parts.append(reports.of(results.reports))
    for number, language in enumerate(results.retrievals, start=len(results.sections)):
        heading = f'<h2 id="s{number}">{markup.own(names[number])}</h2>'
        parts.append(heading + _gallery(results, language))
    parts.append("<h2>Settings</h2>" + _settings(document))
    dataset = str(data.get("dataset", ""))
    facts = {
        "network": document["model"]["method"],
        "checkpoint": results.checkpoint,
        "dataset": ", ".join(filter(None, (dataset, str(data.get("split", ""))))),
        "records": f"{data['records']:,}",
    }
    words = reports.MEANINGS if results.reports is not None else None
    return markup.page(results.data, parts, facts, is_synthetic(dataset), words)


def _protocols(sections: Sequence[Section]) -> str:
    columns = measured_columns(sections)
    rows = [
        [
            section.title,
            *((section.folds or section.measured.overall).get(name) for name, _ in columns),
            len(section.measured.predictions.samples),
        ]
        for section in sections
    ]
    return tables.rows(["protocol", *(title for _, title in columns), "samples"], rows)


def _retrievals(results: Results) -> str:
    rows = [
        [f"{readable(direction)}, {LANGUAGE_NAMES[language]}", *recalls.values(), len(found.rows)]
        for language, found in results.retrievals.items()
        for direction, recalls in found.recalls.items()
    ]
    recalls = [row for found in results.retrievals.values() for row in found.recalls.values()]
    header = ["query", *(f"recall at {k}" for k in RECALL_AT), "records"]
    return tables.rows(header, rows) + tables.ways(pair for row in recalls for pair in row.items())


def _gallery(results: Results, language: str) -> str:
    """Photographs with the reports found for them, each in its own language and as text."""
    split, retrieval = results.split, results.retrievals[language]
    assert split is not None, "a retrieval is over it"
    parts = [f'<p class="sub">{markup.text(pictures.recall_in_words(retrieval))}</p>']
    for query in pictures.queries(split, retrieval):
        answers = "".join(
            f'<li><span class="{"right" if answer.right else "wrong"}">'
            f"{'own' if answer.right else 'another'} {answer.similarity:.2f}</span> "
            f"{markup.own(answer.text, 'report')}</li>"
            for answer in query.answers
        )
        record = split.records[query.row]
        found = any(answer.right for answer in query.answers)
        own = "" if found else _excerpt(split.reports[language][query.row])
        parts.append(
            f'<div class="query"><figure>{_eyes(record)}<figcaption>{markup.own(record.record_id)}'
            f"{_has(record, split.label_names)}<small>own report at rank {query.rank}</small>"
            f"{own}</figcaption></figure><ol>{answers}</ol></div>"
        )
    return "\n".join(parts)


def _eyes(record: PatientRecord | ImageRecord, eye: str | None = None) -> str:
    """The photographs of a record, or that of one eye."""
    parts = []
    for name, data in pictures.photographs(record):
        if eye in (None, name):
            found = pictures.shown(data, record.record_id)
            words = isinstance(found, str)
            parts.append(f"<span>{name} {found}</span>" if words else markup.photograph(found))
    return f'<div class="eyes">{"".join(parts)}</div>'


def _section(section: Section) -> str:
    measured = section.measured
    parts = []
    if section.folds is not None:
        folds = len(next(iter(section.folds.values()))["folds"])
        parts.append(
            f'<p class="sub">Mean ± standard deviation over {folds} folds above; '
            "below is the first fold.</p>"
        )
    parts.append(_curves(section))
    if measured.predictions.exclusive:
        parts.append(_single_label(measured))
    parts.append("<h3>Classes</h3>" + _classes(section))
    parts += [tables.shown(table) for table in section.shown]
    worst = mistakes(measured.predictions) if section.mistakes is None else section.mistakes
    if worst:
        figures = "".join(_mistake(section, mistake) for mistake in worst)
        mapped = any(mistake.maps for mistake in worst)
        caveat = _CAVEAT if mapped else ""
        parts.append(
            f'<h3>Most confident mistakes</h3>{caveat}<div class="gallery broad">{figures}</div>'
        )
    return "\n".join(parts)


def _curves(section: Section) -> str:
    """Both curves of every class, with bands."""
    level = {section.title: section.measured}
    names = pictures.ranked(level)
    found = pictures.class_charts(level, names[: pictures.READABLE])
    if not found:
        return ""
    hidden = len(names) - pictures.READABLE
    more = f" {hidden} more classes are in the table below." if hidden > 0 else ""
    return (
        '<p class="note">ROC and precision-recall curve of each class. Bands: 95 %, pointwise, by '
        f"bootstrap of patients; none where fewer than ten have the class, or do not.{more}</p>"
        + charts.cards(charts.card(each.name, each[1:]) for each in found)
    )


def _single_label(measured: Measured) -> str:
    """How exclusive classes are confused, and whether probabilities are frequencies."""
    parts = []
    names = measured.predictions.names
    if isinstance(measured.metrics, SingleLabelMetrics) and len(names) <= pictures.READABLE:
        shown = tables.confusion(measured.metrics.confusion, list(map(pictures.class_name, names)))
        parts.append(f"<h3>Confusion matrix</h3>{shown}")
    both = charts.card("", pictures.calibration(measured))
    return "".join([*parts, f"<h3>Calibration</h3>{charts.cards([both])}"])


def _classes(section: Section) -> str:
    classes = section.measured.metrics.classes
    names = list(dict.fromkeys(name for row in classes.values() for name in row))
    rows = [
        [pictures.class_name(label), *(row.get(name) for name in names)]
        for label, row in classes.items()
    ]
    rows += [
        [pictures.class_name(label), why, *[""] * (len(names) - 1)]
        for label, why in section.measured.metrics.left_out.items()
    ]
    caveats = "".join(
        f'<p class="note">{markup.own(caveat)}</p>' for caveat in section.measured.metrics.caveats
    )
    return tables.rows(["class", *map(readable, names)], rows) + _how(section) + caveats


def _how(section: Section) -> str:
    """Which metrics have which intervals."""
    found = [section.measured.overall, *section.measured.metrics.classes.values()]
    return tables.ways(pair for row in found for pair in row.items())


def _mistake(section: Section, mistake: Mistake) -> str:
    record = section.records[mistake.row]
    where = record.record_id
    if isinstance(record, PatientRecord):
        where += f", {mistake.eye} eye" if mistake.eye else ""
    else:
        # The eye of a patient, or a file in its folder.
        where = "/".join(where.replace("\\", "/").split("/")[-2:])
    return (
        f"<figure>{_eyes(record, mistake.eye)}{_maps(mistake)}<figcaption>"
        f"{markup.explained(mistake.text)}{_truth(section, mistake)}{_report(record)}"
        f"<small>{markup.own(where)}</small></figcaption></figure>"
    )


def _has(record: PatientRecord | ImageRecord, names: Sequence[str]) -> str:
    """What a record has by its labels; "" where none is known."""
    labels = dict(zip(names, record.labels.tolist(), strict=False))
    if all(label < 0 for label in labels.values()):
        return ""
    return _there([name for name, label in labels.items() if label == 1])


def _there(names: Sequence[str]) -> str:
    said = ", ".join(map(pictures.class_name, names)) or "none of the classes"
    return f"<small>truth: {markup.own(said)}</small>"


def _truth(section: Section, mistake: Mistake) -> str:
    """What a sample has, by its labels; of exclusive classes the mistake says it already."""
    predictions = section.measured.predictions
    if predictions.exclusive:
        return ""
    labels = predictions.labels[predictions.samples.index((mistake.row, mistake.eye))]
    known = zip(predictions.names, labels, strict=True)
    return _there([name for name, label in known if label == 1])


def _report(record: Any) -> str:
    """The beginning of a record's text, where it has any."""
    texts = getattr(record, "report", None) or getattr(record, "caption", None) or {}
    return _excerpt(next((text for text in texts.values() if text.strip()), ""))


def _excerpt(report: str) -> str:
    words = " ".join(report.split())
    shown = words if len(words) <= _EXCERPT else words[:_EXCERPT].rstrip() + " …"
    return f"<small>report: {markup.own(shown, 'report')}</small>" if shown else ""


def _maps(mistake: Mistake) -> str:
    """The maps of a mistake beside each other, below the photograph."""
    if not mistake.maps:
        return ""
    shown = "".join(
        f"<figure>{markup.photograph(each.picture)}<figcaption>for "
        f"{markup.own(pictures.class_name(each.name))}</figcaption></figure>"
        for each in mistake.maps
    )
    return f'<div class="maps">{shown}</div>'


#: Columns of a table of structures: metrics at a threshold, and those of scores.
_AT = ("dice", "iou", "sensitivity", "specificity", "precision", "mcc", "image_dice")
_RANKED = ("average_precision", "auroc")
_AREAS = (
    "average_precision", "trapezoid_aupr", "eleven_aupr", "images", "images_with_it",
    "images_empty_and_so_predicted",
)  # fmt: skip
_TITLES = {
    "dice": "Dice",
    "iou": "IoU",
    "centerline_dice": "centerline Dice",
    "image_dice": "mean Dice of photographs",
    "mcc": "MCC",
    "trapezoid_aupr": "trapezoids (FLAIR)",
    "eleven_aupr": "eleven thresholds (M2MRF)",
    "images": "photographs",
    "images_with_it": "with it",
    "images_empty_and_so_predicted": "without it, and empty above one half",
}


def _structures(masks: MaskSection) -> str:
    """Tables, curves and photographs of structures that were segmented."""
    metrics, prefix = masks.metrics, "best_" if masks.fitted_on else ""
    parts = ["<h2>Structures</h2>"]
    if metrics.classes:
        parts.append(charts.gallery(pictures.mask_charts(masks)))
    shown = ("threshold", *_RANKED, *(prefix + name for name in _AT), "centerline_dice")
    heading = (
        "at the thresholds that were chosen on other photographs"
        if masks.fitted_on
        else "above one half"
    )
    parts += [f"<h3>Masks {heading}</h3>", _of_structures(masks, shown)]
    notes = [masks.fitted_on, "95% intervals are percentiles of the bootstrap."]
    parts.append(f'<p class="note">{markup.own(" ".join(filter(None, notes)))}</p>')
    if masks.fitted_on:
        parts += ["<h3>Masks above one half</h3>", _of_structures(masks, _AT)]
    parts += ["<h3>Areas under the precision-recall curve</h3>", _of_structures(masks, _AREAS)]
    parts.append(
        '<p class="note">Average precision is the step-wise area; the others are as published '
        "elsewhere, for comparison. A photograph without a structure and without a pixel that is "
        "taken for it counts as a Dice of 1.</p>"
    )
    parts += [tables.shown(table) for table in masks.shown]
    if masks.examples:
        colors = ", ".join(f"{kind} {color}" for kind, (color, _) in overlays.DIFFERENCES.items())
        parts.append(
            "<h2>Photographs</h2>"
            f'<p class="note">Of those that show a structure. Differences: what is {colors}. '
            "Pixels outside of the field of view, or that nobody judged, have no color.</p>"
        )
    for name in dict.fromkeys(each.structure for each in masks.examples):
        examples = [_example(each) for each in masks.examples if each.structure == name]
        parts.append(f"<h3>{markup.own(pictures.class_name(name))}</h3>" + "".join(examples))
    return "\n".join(parts)


def _of_structures(masks: MaskSection, columns: Sequence[str]) -> str:
    metrics = masks.metrics
    used = [
        name
        for name in columns
        if name == "threshold"
        or any(not math.isnan(_number(row.get(name))) for row in metrics.classes.values())
    ]
    rows: list[list[Any]] = []
    for name, row in metrics.classes.items():
        known = {**row, "threshold": masks.thresholds[name]}
        cells = [
            f"{value:.3f}" if isinstance(value, float) else value
            for value in (known.get(each) for each in used)
        ]
        rows.append([pictures.class_name(name), *cells])
    if len(rows) > 1:
        rows.append(["mean", *(metrics.macro.get(each) for each in used)])
    for name, why in metrics.left_out.items():
        rows.append([pictures.class_name(name), why, *[""] * (len(used) - 1)])
    header = [_TITLES.get(name.removeprefix("best_"), readable(name)) for name in used]
    return tables.rows(["structure", *(title.removeprefix("best ") for title in header)], rows)


def _number(value: Any) -> float:
    return math.nan if value is None else float(getattr(value, "value", value))


def _example(example: MaskExample) -> str:
    panels = {
        "drawn": example.truth,
        "predicted": example.predicted,
        "differences": example.differences,
    }
    shown = "".join(
        f"<figure>{markup.photograph(picture)}<figcaption>{title}</figcaption></figure>"
        for title, picture in panels.items()
    )
    return (
        f'<figure><div class="maps">{shown}</div><figcaption>{example.standing}, Dice '
        f"{example.dice:.3f}<small>{markup.own(example.name)}</small></figcaption></figure>"
    )


def _settings(document: dict[str, Any]) -> str:
    entries = document["data"] | document["settings"]
    rows = "".join(
        f"<dt>{markup.text(readable(name))}</dt><dd>{markup.own(_plain(value))}</dd>"
        for name, value in entries.items()
        if value not in (None, {}, [], ())
    )
    return f"<dl>{rows}</dl>"


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{readable(name)} {_plain(entry)}" for name, entry in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_plain, value))
    return str(value)
