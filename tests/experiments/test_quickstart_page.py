"""The quickstart's page opens with the answer and ends with what is next; text stays text."""

import io
import re

import numpy as np
from PIL import Image

from retfm_jax.data.records import PatientRecord
from retfm_jax.evaluation.embeddings import EmbeddedSplit, View
from retfm_jax.evaluation.metrics.predictions import Predictions
from retfm_jax.evaluation.metrics.retrieval import retrieve
from retfm_jax.evaluation.results import Results, Section
from retfm_jax.experiments import quickstart_page
from retfm_jax.experiments.quickstart_page import Stage

COUNT, CLASSES = 24, ("drusen", "laser_scars")


def photograph(number):
    buffer = io.BytesIO()
    Image.new("RGB", (24, 24), (number * 9, 40, 20)).save(buffer, "PNG")
    return buffer.getvalue()


def patient(number):
    labels = np.array([number % 2, number % 3 == 0], np.int8)
    text = {"en": f"Visit {number} <script>alert(1)</script>", "zh": f"第{number}次"}
    return PatientRecord(
        record_id=f"p<{number}>",
        left=photograph(number),
        right=photograph(number) if number % 5 else b"",
        report=text,
        left_report=dict.fromkeys(text, ""),
        right_report=dict.fromkeys(text, ""),
        labels=labels,
        left_labels=labels,
        right_labels=labels,
    )


def results():
    """Photographs find their own reports, and all patients with drusen rank first for it."""
    records = [patient(number) for number in range(COUNT)]
    labels = np.stack([record.labels for record in records])
    unit = np.eye(COUNT, dtype=np.float32)
    view = View(unit, np.ones(COUNT, bool), labels, {"en": unit, "zh": unit})
    ids = tuple(record.record_id for record in records)
    reports = {language: tuple(r.report[language] for r in records) for language in ("en", "zh")}
    split = EmbeddedSplit({"patient": view}, records, ids, ids, reports, CLASSES)
    scores = labels + np.linspace(0, 0.5, COUNT)[:, None]
    samples = tuple((row, None) for row in range(COUNT))
    found = Predictions(CLASSES, labels.astype(int), scores, ids, samples, False).measured(draws=5)
    document = {"model": {"method": "m"}, "data": {"records": COUNT}, "settings": {}}
    sections = [Section("zero-shot, English, patient", found, records)]
    return Results("s", sections, {"en": retrieve(split, "en")}, split=split, document=document)


def heat(photograph, finding):
    assert photograph
    assert finding in CLASSES
    return np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)


def made():
    stages = [Stage("generate <patients>", 60.0), Stage("train", 120.0)]
    steps = np.arange(10.0)
    return quickstart_page.page(
        results(),
        {"loss": (steps, 5 - steps / 4)},
        stages,
        {"evaluation.html": "the evaluation"},
        {"retfm train --workdir 'a b'": "Train."},
        "quick<start>",
        2400,
        heat,
    )


def test_the_answer_comes_first_and_what_is_next_last():
    text = made()
    order = [
        "Synthetic patients",
        "learned from the photographs and reports of 2,400 patients",
        ">macro</abbr>",
        "among the first 10 for 100.0 %",
        "By chance it would be about 4.2 % and 41.7 %.",
        "What was done, in 3 minutes",
        "generate &lt;patients&gt; <small>(60 s)",
        "<svg",
        "What to look at",
        'href="evaluation.html"',
        "What to do next",
        "retfm train --workdir &#x27;a b&#x27;",
    ]
    places = [text.index(each) for each in order]
    assert places == sorted(places)


def test_patients_are_shown_with_the_truth_and_what_the_network_says():
    text = made()
    assert text.count('<div class="query">') == 4
    assert text.count("the own one is at rank 1") == 4
    assert text.count("✓ own") == 4
    assert "<script" not in text
    assert "p&lt;" in text
    told = re.findall(r"(✓|✗)</span> <bdi>([a-z ]+)</bdi> <small>rank (\d+) of 24", text)
    assert len(told) == 8
    positives = {"drusen": COUNT // 2, "laser scars": COUNT // 3}
    for mark, finding, rank in told:  # labels are ranked without a mistake
        assert (mark == "✓") == (int(rank) <= positives[finding])
    shown = text.count("no image</span>") + text.count("<img alt=")
    assert text.count('alt="heat map') >= 4
    assert shown == 16  # two photographs of each, and their maps
