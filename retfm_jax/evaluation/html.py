"""One self-contained HTML page of an evaluation: tables, curves and galleries in one file."""

import base64
import html
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure
from PIL import Image

from retfm_jax.data.records import PatientRecord
from retfm_jax.evaluation import pictures
from retfm_jax.evaluation.bootstrap import Estimate
from retfm_jax.evaluation.pictures import readable
from retfm_jax.evaluation.report import (
    LANGUAGE_NAMES,
    Mistake,
    Results,
    Section,
    measured_columns,
    mistakes,
)
from retfm_jax.evaluation.retrieval import RECALL_AT

_STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, "Segoe UI", Roboto, "Noto Sans", sans-serif; color: #22262b;
  max-width: 1400px; margin: 2.5rem auto; padding: 0 1.5rem; background: #fff; }
h1 { font-size: 1.7rem; margin: 0 0 .2rem; }
h2 { font-size: 1.25rem; margin: 2.6rem 0 .6rem; padding-top: 1.4rem;
  border-top: 1px solid #d9dde2; }
h3 { font-size: 1rem; margin: 1.4rem 0 .4rem; }
p.sub { color: #5a6470; margin: 0 0 1rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .88rem; }
th, td { padding: .32rem .55rem; text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
thead th { border-bottom: 2px solid #22262b; font-weight: 600; }
tbody td { border-bottom: 1px solid #e7eaee; vertical-align: top; }
thead th { white-space: normal; vertical-align: bottom; }
td small { display: block; color: #5a6470; font-size: .8em; line-height: 1.2; }
img.figure { max-width: 100%; height: auto; display: block; margin: .6rem 0; }
.pair { display: flex; flex-wrap: wrap; gap: 1.5rem; align-items: flex-start; }
.pair img { max-width: min(600px, 48%); }
.gallery { display: grid; grid-template-columns: repeat(auto-fill, minmax(210px, 1fr)); gap: 1rem; }
figure { margin: 0; font-size: .82rem; }
figure .eyes { display: flex; gap: 4px; background: #000; border-radius: 4px; overflow: hidden; }
figure .eyes img { width: 100%; min-width: 0; object-fit: contain; }
figcaption small { color: #5a6470; display: block; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1.2rem; font-size: .88rem; }
dt { color: #5a6470; } dd { margin: 0; }
nav a { margin-right: 1.2rem; }
a { color: #1f5fa8; }
"""


def page(results: Results, document: dict[str, Any]) -> str:
    """The page.

    Args:
      document: what went into the JSON file; its settings are listed at the end.
    """
    method = document["model"]["method"]
    parts = [
        f"<h1>{_text(results.data)}</h1>",
        f'<p class="sub">{_text(method)} · {document["data"]["records"]} records · '
        "95% intervals from a bootstrap by patient</p>",
    ]
    names = [section.title for section in results.sections]
    names += [f"retrieval, {LANGUAGE_NAMES[language]} reports" for language in results.retrievals]
    if len(names) > 1:
        links = "".join(f'<a href="#s{i}">{_text(name)}</a>' for i, name in enumerate(names))
        parts.append(f"<nav>{links}</nav>")
    if results.sections:
        parts.append("<h3>Protocols</h3>" + _protocols(results.sections))
    if results.retrievals:
        parts.append("<h3>Retrieval</h3>" + _retrievals(results))
    for place, section in enumerate(results.sections):
        parts.append(f'<h2 id="s{place}">{_text(section.title)}</h2>' + _section(section))
    for number, language in enumerate(results.retrievals, start=len(results.sections)):
        picture = _png(results.gallery(language), "retrieval gallery")
        parts.append(f'<h2 id="s{number}">{_text(names[number])}</h2>{picture}')
    parts.append("<h2>Settings</h2>" + _settings(document))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{_text(results.data)}</title><style>{_STYLE}</style></head>\n"
        f"<body>\n{chr(10).join(parts)}\n</body></html>\n"
    )


def _text(value: Any) -> str:
    return html.escape(str(value))


def _table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    head = "".join(f"<th>{_text(name)}</th>" for name in header)
    body = "".join(
        "<tr>" + "".join(f"<td>{_cell(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return (
        f'<div class="wide"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


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
    return _table(["protocol", *(title for _, title in columns), "samples"], rows)


def _retrievals(results: Results) -> str:
    rows = [
        [f"{readable(direction)}, {LANGUAGE_NAMES[language]}", *recalls.values(), len(found.rows)]
        for language, found in results.retrievals.items()
        for direction, recalls in found.recalls.items()
    ]
    return _table(["query", *(f"recall at {k}" for k in RECALL_AT), "records"], rows)


def _section(section: Section) -> str:
    measured = section.measured
    parts = []
    if section.folds is not None:
        folds = len(next(iter(section.folds.values()))["folds"])
        parts.append(
            f'<p class="sub">Mean ± standard deviation over {folds} folds above; '
            "below is the first fold.</p>"
        )
    parts.append(_figure(pictures.curves({section.title: measured}, ""), "ROC and PR curves"))
    if measured.predictions.exclusive:
        confusion = pictures.confusion_matrix(measured, "Confusion matrix")
        calibration = pictures.calibration(measured, "Calibration")
        parts.append(
            f'<div class="pair">{_figure(confusion, "confusion matrix")}'
            f"{_figure(calibration, 'calibration')}</div>"
        )
    parts.append("<h3>Classes</h3>" + _classes(section))
    worst = mistakes(measured.predictions)
    if worst:
        figures = "".join(_mistake(section, mistake) for mistake in worst)
        parts.append(f'<h3>Most confident mistakes</h3><div class="gallery">{figures}</div>')
    return "\n".join(parts)


def _classes(section: Section) -> str:
    classes = section.measured.metrics.classes
    names = list(dict.fromkeys(name for row in classes.values() for name in row))
    rows = [[readable(label), *(row.get(name) for name in names)] for label, row in classes.items()]
    rows += [
        [readable(label), why, *[""] * (len(names) - 1)]
        for label, why in section.measured.metrics.left_out.items()
    ]
    return _table(["class", *map(readable, names)], rows)


def _cell(value: Any) -> str:
    """What stands in a cell of a table; an interval, or the spread over folds, stands below."""
    if value is None or (isinstance(value, Estimate) and math.isnan(value.value)):
        return "–"
    if isinstance(value, Mapping):
        spread = f"<small>± {value['spread'] or 0:.3f}</small>"
        return "–" if value["mean"] is None else f"{value['mean']:.3f}{spread}"
    if isinstance(value, Estimate):
        return f"{value.value:.3f}<small>{value.low:.3f}–{value.high:.3f}</small>"
    return _text(value)


def _mistake(section: Section, mistake: Mistake) -> str:
    record = section.records[mistake.row]
    shown = pictures.photographs(record)
    if mistake.eye is not None:
        shown = [(eye, data) for eye, data in shown if eye == mistake.eye]
    images = "".join(_photograph(data, record.record_id) for _, data in shown if data)
    where = record.record_id
    if isinstance(record, PatientRecord):
        where += f", {mistake.eye} eye" if mistake.eye else ""
    else:
        # The eye of a patient, or a file in its folder.
        where = "/".join(where.replace("\\", "/").split("/")[-2:])
    return (
        f'<figure><div class="eyes">{images}</div><figcaption>{_text(mistake.text)}'
        f"<small>{_text(where)}</small></figcaption></figure>"
    )


def _photograph(data: bytes, name: str) -> str:
    buffer = io.BytesIO()
    Image.fromarray(pictures.thumbnail(data, name)).save(buffer, "JPEG", quality=85)
    encoded = base64.b64encode(buffer.getvalue()).decode()
    return f'<img alt="" src="data:image/jpeg;base64,{encoded}">'


def _figure(figure: Figure, alt: str) -> str:
    return _png(pictures.png(figure), alt)


def _png(picture: bytes, alt: str) -> str:
    encoded = base64.b64encode(picture).decode()
    return f'<img class="figure" alt="{_text(alt)}" src="data:image/png;base64,{encoded}">'


def _settings(document: dict[str, Any]) -> str:
    entries = document["data"] | document["settings"]
    rows = "".join(
        f"<dt>{_text(readable(name))}</dt><dd>{_text(_plain(value))}</dd>"
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
