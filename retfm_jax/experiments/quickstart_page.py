"""The page of the quickstart: the answer, what was done, what to look at, what to do next."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float32

from retfm_jax.data.records import ImageRecord, PatientRecord
from retfm_jax.evaluation.metrics.predictions import Predictions
from retfm_jax.evaluation.report import answer
from retfm_jax.evaluation.report.figures import Query, class_name, photographs, queries, shown
from retfm_jax.evaluation.results import Results
from retfm_jax.experiments import training_page
from retfm_jax.rendering import charts, markup, overlays

#: Patients on the page, findings that are told of each, and the side of a photograph in pixels.
_PATIENTS, _FINDINGS, _SIDE = 4, 3, 300
#: Charts of the training that the page repeats.
_CURVES = 2


#: The class without a finding, for which no map is made.
_NOTHING = "normal"

#: From an encoded photograph and a finding to a map over the photograph.
Heat = Callable[[bytes, str], Float32[np.ndarray, "h w"]]


class Stage(NamedTuple):
    """A part of the quickstart.

    Attributes:
      title: what it did, as a sentence without its period.
      seconds: how long it took.
    """

    title: str
    seconds: float


def page(
    results: Results,
    courses: training_page.Courses,
    stages: Sequence[Stage],
    links: Mapping[str, str],
    commands: Mapping[str, str],
    workdir: object,
    trained_on: int,
    heat: Heat,
) -> str:
    """Makes the page.

    Args:
      results: of the evaluation, with zero-shot classification and retrieval.
      courses: of the training, see `training_page.read`.
      stages: what was done.
      links: names of files beside the page, and what each is.
      commands: what a reader may run next, and what it does.
      workdir: of the quickstart, for the header.
      trained_on: patients that the network learned from.
      heat: maps of what speaks for a finding.
    """
    minutes = max(1, round(sum(stage.seconds for stage in stages) / 60))
    steps = "".join(
        f"<li>{markup.text(stage.title)} <small>({stage.seconds:.0f} s)</small></li>"
        for stage in stages
    )
    files = "".join(
        f'<li><a href="{markup.text(name)}">{markup.text(name)}</a>: {markup.text(said)}</li>'
        for name, said in links.items()
    )
    following = "".join(
        f"<p>{markup.text(said)}</p><pre><code>{markup.text(command)}</code></pre>"
        for command, said in commands.items()
    )
    parts = [
        markup.answer(*map(markup.explained, sentences(results, trained_on))),
        f"<h2>What was done, in {minutes} minute{'s' * (minutes > 1)}</h2><ol>{steps}</ol>",
        charts.gallery(training_page.panels(courses)[:_CURVES], wide=True),
        "<h2>What to look at</h2>",
        '<p class="note">Patients of the test split, whom the network has never seen: both eyes, '
        "what they have, which findings zero-shot classification ranks highest for them, a map of "
        "what speaks for the first of these (the line is half of its range; maps are no evidence "
        "of disease), and which of all reports the network finds nearest.</p>",
        *_patients(results, heat),
        f"<ul>{files}</ul>",
        f"<h2>What to do next</h2>{following}",
    ]
    facts = {"network": results.document["model"]["method"], "workdir": workdir}
    return markup.page("Quickstart", parts, facts, synthetic=True)


def sentences(results: Results, trained_on: int) -> list[str]:
    """The answer, in sentences.

    Args:
      results: see `page`.
      trained_on: patients that the network learned from.
    """
    measured = results.sections[0].measured
    count = sum("auroc" in row for row in measured.metrics.classes.values())
    patients = len(set(measured.predictions.patients))
    found = [
        f"A network that learned from the photographs and reports of {trained_on:,} patients, and "
        f"from no label, tells {count} findings apart in {patients:,} patients whom it has never "
        f"seen: macro AUROC {measured.overall['auroc']}, where 0.5 is chance and 1 is best."
    ]
    for language, retrieval in list(results.retrievals.items())[:1]:
        found.append(answer.of_retrieval(retrieval, language))
    return found


def _patients(results: Results, heat: Heat) -> list[str]:
    """Some patients with both eyes, the truth and what the network says."""
    split = results.split
    assert split is not None, "a retrieval is over it"
    retrieval = next(iter(results.retrievals.values()))
    predictions = results.sections[0].measured.predictions
    ranks = _ranks(predictions)
    positions = {sample: at for at, sample in enumerate(predictions.samples)}
    return [
        _patient(split.records[query.row], query, predictions, ranks[at], at, heat)
        for query in queries(split, retrieval, _PATIENTS)
        if (at := positions.get((query.row, None))) is not None
    ]


def _ranks(predictions: Predictions) -> np.ndarray:
    """Of every sample and class the rank of its score among the samples, 1 the highest."""
    order = np.argsort(-predictions.scores, axis=0, kind="stable")
    return order.argsort(axis=0) + 1


def _patient(
    record: PatientRecord | ImageRecord,
    query: Query,
    predictions: Predictions,
    ranks: np.ndarray,
    at: int,
    heat: Heat,
) -> str:
    names = predictions.names
    there = {name for name, label in zip(names, predictions.labels[at], strict=True) if label == 1}
    truth = ", ".join(map(class_name, sorted(there))) or "none of the findings"
    order = [column for column in np.argsort(ranks, kind="stable") if names[column] != _NOTHING]
    count = len(predictions.samples)
    told = "".join(
        f'<li><span class="{"right" if names[column] in there else "wrong"}">'
        f"{'✓' if names[column] in there else '✗'}</span> {markup.own(class_name(names[column]))}"
        f" <small>rank {ranks[column]} of {count}</small></li>"
        for column in order[:_FINDINGS]
    )
    answers = "".join(
        f'<li><span class="{"right" if answer.right else "wrong"}">'
        f"{'✓ own' if answer.right else '✗ another'}</span> "
        f"{markup.own(answer.text, 'report')}</li>"
        for answer in query.answers
    )
    return (
        f'<div class="query"><figure>{_eyes(record, names[order[0]], heat)}'
        f"<figcaption>{markup.own(record.record_id)}<small>has: {markup.text(truth)}</small>"
        f"<small>below: what speaks for {markup.own(class_name(names[order[0]]))}</small>"
        "</figcaption></figure>"
        f"<div><h4>findings that rank highest</h4><ul>{told}</ul>"
        f"<h4>nearest reports; the own one is at rank {query.rank}</h4>"
        f"<ol>{answers}</ol></div></div>"
    )


def _eyes(record: PatientRecord | ImageRecord, finding: str, heat: Heat) -> str:
    """Both eyes, and below them the same with what speaks for a finding."""
    eyes, maps = [], []
    for name, data in photographs(record):
        found = shown(data, record.record_id, _SIDE)
        if isinstance(found, str):
            eyes.append(f"<span>{name} {found}</span>")
            maps.append(eyes[-1])
            continue
        laid = cv2.resize(heat(data, finding), found.shape[1::-1], interpolation=cv2.INTER_LINEAR)
        eyes.append(markup.photograph(found, name))
        maps.append(markup.photograph(overlays.overlay(found, laid), f"heat map, {name}"))
    return "".join(f'<div class="eyes">{"".join(row)}</div>' for row in (eyes, maps))
