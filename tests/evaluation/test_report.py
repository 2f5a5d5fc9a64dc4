"""The most confident mistakes, tables over folds, and galleries in their own languages."""

import dataclasses
import re

import numpy as np
from colour_world import CLASSES, ColourModel, patient

from retfm_jax.cli.evaluate import tables as console_tables
from retfm_jax.evaluation.embeddings import embed_split
from retfm_jax.evaluation.metrics.classification import over_folds
from retfm_jax.evaluation.metrics.predictions import Predictions
from retfm_jax.evaluation.metrics.retrieval import retrieve
from retfm_jax.evaluation.report import answer, tables
from retfm_jax.evaluation.report import figures as pictures
from retfm_jax.evaluation.report.html import page
from retfm_jax.evaluation.report.summary import mistakes
from retfm_jax.evaluation.results import Results, Section
from retfm_jax.rendering import figures, fonts


def predictions(labels, scores, exclusive):
    count = len(labels)
    return Predictions(
        names=("normal", "drusen"),
        labels=np.array(labels),
        scores=np.array(scores),
        patients=tuple(map(str, range(count))),
        samples=tuple((row, None) for row in range(count)),
        exclusive=exclusive,
    )


def test_wrong_classes_are_shown_the_most_confident_first():
    found = mistakes(
        predictions(
            [[1, 0], [1, 0], [0, 1], [0, 1]],
            [[0.4, 0.6], [0.9, 0.1], [0.95, 0.05], [0.2, 0.8]],
            exclusive=True,
        )
    )
    assert [mistake.row for mistake in found] == [2, 0]
    assert found[0].text == "normal 0.95, is drusen"


def test_false_alarms_and_misses_of_findings():
    found = mistakes(
        predictions([[0, 1], [1, 1], [0, 0], [1, 0]], [[9.0, 3], [1, 4], [2, 1], [5, 2]], False)
    )
    # "normal" has a false alarm at the top and a miss at the bottom; drusen is ranked perfectly.
    assert [(mistake.row, mistake.text.split(":")[0]) for mistake in found] == [
        (0, "false alarm"),
        (1, "missed"),
    ]


def test_folds_stand_in_the_table_as_mean_and_spread():
    right = predictions([[1, 0], [0, 1]], [[0.9, 0.1], [0.2, 0.8]], True).measured(draws=5)
    half = predictions([[1, 0], [0, 1]], [[0.9, 0.1], [0.8, 0.2]], True).measured(draws=5)
    folds = over_folds([right.overall, half.overall])
    results = Results("data", [Section("probe, 1 shot", right, (), folds)])
    assert any("0.750 ± 0.354" in str(table) for table in console_tables(results))


def test_on_the_page_an_interval_stands_below_its_number():
    right = predictions([[1, 0], [0, 1]], [[0.9, 0.1], [0.2, 0.8]], True).measured(draws=5)
    document = {
        "model": {"method": "keepfit"},
        "data": {"dataset": "a <set>", "records": 2},
        "settings": {},
    }
    text = page(Results("a <set>", [Section("probe", right, ())]), document)
    # Two of two: the exact interval of Clopper and Pearson.
    assert "<td>1.000<small>0.158–1.000</small></td>" in text
    assert "1.000–1.000" not in text
    assert "accuracy" in text.split("Clopper-Pearson")[0].rpartition("95% intervals.")[2]
    assert "a &lt;set&gt;" in text
    assert "<set>" not in text


def test_the_page_opens_with_what_was_found():
    scores = np.random.default_rng(0).random((40, 3))
    labels = np.eye(3, dtype=int)[np.arange(40) % 3]
    names = ("normal", "drusen", "glaucoma")
    everyone = tuple(map(str, range(40)))
    samples = tuple((row, None) for row in range(40))
    exclusive = Predictions(
        names, labels, scores / scores.sum(1, keepdims=True), everyone, samples, True
    ).measured(draws=20)
    accuracy = exclusive.overall["accuracy"]
    (said,) = answer.sentences(Results("clinic", [Section("probe", exclusive, ())]))
    assert said.startswith(f"probe: {100 * accuracy.value:.1f} % (")
    assert "of 40 samples get their right class of 3; ACA" in said
    assert "chance 0.33" in said
    findings = Predictions(names, labels, scores, everyone, samples, False).measured(draws=20)
    sections = [Section("first", findings, ()), Section("second", findings, ())]
    (said,) = answer.sentences(Results("clinic", sections))
    assert f"Mean AUROC over 3 classes: {findings.overall['auroc'].value:.3f} (95 %" in said
    best = max(names, key=lambda name: findings.metrics.classes[name]["auroc"].value)
    assert f"highest for {best}" in said
    assert "Over all 2 settings" in said
    assert answer.of(Results("clinic")) == ""


def test_a_confusion_matrix_is_shaded_by_the_share_of_the_true_class():
    text = tables.confusion(np.array([[3, 1], [0, 0]]), ["normal", "<b>"])
    assert text.count('rgba(0, 114, 178, 0.45)">3</td>') == 1
    assert text.count('rgba(0, 114, 178, 0.15)">1</td>') == 1
    assert text.count('0.00)">0</td>') == 2
    assert "<b>" not in text


def test_mistakes_say_what_is_true_and_what_the_report_says():
    records = [patient(number, "drusen", "cataract") for number in range(4)]
    long = dataclasses.replace(records[0], report={"en": "word " * 100, "zh": ""})
    measured = predictions(
        [[0, 1], [1, 1], [0, 0], [1, 0]], [[9.0, 3], [1, 4], [2, 1], [5, 2]], False
    )
    section = Section("zero-shot", measured.measured(draws=5), [long, *records[1:]])
    document = {"model": {"method": "m"}, "data": {"records": 4}, "settings": {}}
    text = page(Results("clinic", [section]), document)
    assert "truth: <bdi>drusen</bdi>" in text
    assert "truth: <bdi>normal, drusen</bdi>" in text
    shown = re.search(r"report: <bdi[^>]*>((word ?)+ …)</bdi>", text)
    assert shown is not None
    assert len(shown[1]) <= 242


def chinese_patients():
    """Three patients with reports in both languages, one of them full of markup."""
    reports = ("左眼：玻璃膜疣。", "<script>alert(1)</script> $x_{1}$ 正常 & 😀", "右眼\n白内障。")
    records = [
        dataclasses.replace(
            patient(number, "drusen", "cataract"), report={"en": f"English {number}", "zh": text}
        )
        for number, text in enumerate(reports)
    ]
    return embed_split(ColourModel(), records, CLASSES, progress=False)


def test_the_page_shows_reports_as_text_in_their_own_language():
    split = chinese_patients()
    results = Results("clinic", retrievals={"zh": retrieve(split, "zh")}, split=split)
    document = {"model": {"method": "m"}, "data": {"records": 3}, "settings": {}}
    text = page(results, document)
    assert "左眼：玻璃膜疣。" in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt; $x_{1}$ 正常 &amp; 😀" in text
    assert "<script" not in text
    assert "English" not in text.replace("Chinese", "")
    assert "no font" not in text


def test_a_picture_says_once_that_no_font_draws_its_text(monkeypatch):
    monkeypatch.setattr(fonts, "_drawn", lambda character: ord(character) < 0x2E80)
    split = chinese_patients()
    retrieval = retrieve(split, "zh")
    figure = pictures.retrieval_gallery(split, retrieval, pictures.queries(split, retrieval))
    assert figures.png(figure)[1:4] == b"PNG"
    assert "no font of this machine draws" in figure.get_supxlabel()
    english = retrieve(split, "en")
    figure = pictures.retrieval_gallery(split, english, pictures.queries(split, english))
    figures.png(figure)
    assert figure.get_supxlabel() == ""


def test_a_record_whose_photograph_is_damaged_stays_in_the_gallery():
    records = [patient(number, "drusen", "cataract") for number in range(3)]
    records[1] = dataclasses.replace(records[1], left=records[1].left[:-40])
    split = embed_split(ColourModel(), records, CLASSES, progress=False)
    results = Results("c", retrievals={"en": retrieve(split, "en")}, split=split)
    document = {"model": {"method": "m"}, "data": {"records": 3}, "settings": {}}
    assert "left cannot be decoded" in page(results, document)


def test_classes_that_no_font_draws_are_told_apart_by_numbers(monkeypatch):
    monkeypatch.setattr(fonts, "_drawn", lambda character: ord(character) < 0x2E80)
    assert pictures.class_labels(["正常", "mild_npdr", "my_class", "青光眼"]) == [
        f"class 1 {fonts.UNDRAWN}",
        "mild NPDR",
        "my_class",
        f"class 4 {fonts.UNDRAWN}",
    ]


def test_many_classes_with_long_names_fit_into_pictures(monkeypatch):
    monkeypatch.setattr(pictures, "_DRAWS", 5)
    count = 150
    names = tuple(f"{'very ' * 30}long name {number}" for number in range(count))
    truth = np.eye(count, dtype=int)
    scores = np.full((count, count), 0.5 / count)
    scores[np.arange(count), (np.arange(count) + np.arange(count) % 2) % count] += 0.5
    everyone = tuple(map(str, range(count)))
    samples = tuple((row, None) for row in range(count))
    measured = Predictions(names, truth, scores, everyone, samples, True).measured(draws=2)
    figure = pictures.curves({"t" * 300: measured}, "d" * 500)
    width, height = figure.get_size_inches()
    assert width < 25
    assert height < 25
    assert len(figures.png(figure, dpi=40)) > 5000
    assert any("138 more classes" in text.get_text() for text in figure.texts)
    results = Results(
        "many", [Section("probe", measured, [patient(0, "drusen", "cataract")] * count)]
    )
    document = {"model": {"method": "m"}, "data": {"records": count}, "settings": {}}
    text = page(results, document)
    assert "120 more classes are in the table below" in text
    assert text.count('<figure class="card">') == 31  # and the calibration
