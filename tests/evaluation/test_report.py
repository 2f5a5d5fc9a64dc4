"""The most confident mistakes, tables over folds, and text for which there is no font."""

import numpy as np
from colour_world import CLASSES, ColourModel, patient

from retfm_jax.evaluation import pictures
from retfm_jax.evaluation.embeddings import embed_split
from retfm_jax.evaluation.html import page
from retfm_jax.evaluation.metrics import over_folds
from retfm_jax.evaluation.predictions import Predictions
from retfm_jax.evaluation.report import (
    Results,
    Section,
    console_tables,
    mistakes,
    printable_reports,
)


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
        predictions([[0, 1], [1, 1], [0, 0], [1, 0]], [[9, 3], [1, 4], [2, 1], [5, 2]], False)
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
    assert "<td>1.000<small>1.000–1.000</small></td>" in text
    assert "a &lt;set&gt;" in text
    assert "<set>" not in text


def test_chinese_reports_are_shown_in_english_where_there_is_no_font(monkeypatch):
    split = embed_split(ColourModel(), [patient(0, "drusen", None)], CLASSES, progress=False)
    monkeypatch.setattr(pictures, "cjk_family", lambda: None)
    assert printable_reports(split, "zh") == list(split.reports["en"])
    monkeypatch.setattr(pictures, "cjk_family", lambda: "Noto Sans CJK SC")
    assert printable_reports(split, "zh") == split.reports["zh"]
