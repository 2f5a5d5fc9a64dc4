"""The page of a benchmark says who is best, is the same each time, and shows no name as markup."""

import csv
import dataclasses
import math
import re
from html.parser import HTMLParser

import benchmark_world as world
import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from retfm_jax import cli
from retfm_jax.errors import UserError
from retfm_jax.evaluation.metrics import ranks
from retfm_jax.experiments.benchmark import comparisons, running, tables
from retfm_jax.experiments.benchmark.page import COST, PAGE, PICTURE, TABLE, TIMING, write_report
from retfm_jax.experiments.benchmark.results import Contamination

MODELS = {"good": 2.0, "also good": 1.9, "poor": 0.2}


def read(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def written(tmp_path, findings):
    files = write_report(findings, tmp_path)
    assert all(path.is_file() for path in files)
    return (tmp_path / PAGE).read_text(encoding="utf-8")


class Outline(HTMLParser):
    """Text by element, and everything that a page would load or run."""

    def __init__(self):
        super().__init__()
        self.open, self.loaded, self.ids, self.links, self.text = [], [], set(), set(), []

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if tag not in ("meta", "img", "br", "path", "circle"):
            self.open.append(tag)
        self.loaded += [tag] if tag in ("script", "link", "iframe", "object") else []
        self.loaded += [v for k, v in attrs.items() if k == "src" and not v.startswith("data:")]
        self.loaded += [k for k in attrs if k.startswith("on")]
        self.ids |= {attrs["id"]} if "id" in attrs else set()
        self.links |= {attrs["href"]} if "href" in attrs else set()

    def handle_endtag(self, tag):
        if tag not in ("path", "circle"):
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def outline(page):
    found = Outline()
    found.feed(page)
    assert not found.open
    assert not found.loaded
    assert {link[1:] for link in found.links if link.startswith("#")} <= found.ids
    assert {link for link in found.links if not link.startswith("#")} <= {COST}
    return found


def test_the_page_is_whole_and_opens_with_the_answer(tmp_path):
    findings = world.findings(MODELS, without_texts=["good"], failed=[("poor", "IDRiD")])
    page = written(tmp_path, findings)
    found = outline(page)
    text = " ".join("".join(found.text).split())
    assert "few-shot, 5 shots: good has the best average rank over 2 tasks, 1.00;" in text.replace(
        "†", ""
    )
    start, end = page.index('class="answer"'), page.index("<nav>")
    assert "can be told apart" in page[start:end]
    assert page.index('class="answer"') < page.index("<h2")
    assert "APTOS2019</bdi> is synthetic" in page
    assert "it has no text tower" in page
    assert "no such folder; build it first" in page
    assert "Patients are unknown" in page
    for word in ("Holm", "ECE", "Brier", "SHA-256", "ab12", "0.2.0", "303 M", "CC BY 4.0"):
        assert word in page
    assert not re.search(r"\d+(\.\d+)? (s|min|h)<", page), "seconds stand elsewhere"


def test_the_same_findings_give_the_same_bytes_whatever_was_measured_of_time(tmp_path):
    first = world.findings(MODELS)
    cells = [
        dataclasses.replace(
            cell, cost=dataclasses.replace(cell.cost, seconds={"embedding": 77.7}, peak_rss=5)
        )
        for cell in first.cells
    ]
    for name, findings in (("a", first), ("b", dataclasses.replace(first, cells=tuple(cells)))):
        (tmp_path / name).mkdir()
        write_report(findings, tmp_path / name)
    for file in (PAGE, TABLE, PICTURE):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes(), file
    assert "77.7 s" in (tmp_path / "b" / COST).read_text()
    assert {row["seconds_embedding"] for row in read(tmp_path / "b" / TIMING)} == {"77.7"}
    assert {row["peak_memory_bytes"] for row in read(tmp_path / "b" / TIMING)} == {"5"}


def test_the_table_has_a_row_for_each_cell_and_its_numbers_are_right(tmp_path):
    findings = world.findings(MODELS, without_texts=["good"])
    written(tmp_path, findings)
    rows = read(tmp_path / TABLE)
    assert len(rows) == len(findings.cells)
    assert list(rows[0]) == list(tables.COLUMNS)
    cells = {
        (r.cell.task, r.cell.protocol, r.cell.setting, r.cell.model): r for r in findings.cells
    }
    for row in rows:
        cell = cells[row["task"], row["protocol"], row["setting"], row["model"]]
        assert row["status"] == cell.status
        if cell.status != "measured":
            assert (row["value"], row["reason"]) == ("", "it has no text tower")
            continue
        if cell.predictions:
            each = [roc_auc_score(p.labels, p.scores, average="macro") for p in cell.predictions]
            assert float(row["value"]) == pytest.approx(np.mean(each), abs=1e-5)
            assert int(row["seeds"]) == len(each)
        else:
            hits = np.mean([of for of in cell.hits.found.values()])
            assert float(row["value"]) == pytest.approx(hits, abs=1e-5)
        assert float(row["low"]) < float(row["value"]) < float(row["high"])
        best = row["model"] == row["best"]
        assert best == (row["p_against_best"] == "")
        assert best or float(row["behind_best"]) <= 0
        found = findings.contamination[row["model"], row["task"]]
        assert row["contamination"] == found.verdict
        assert row["copies_of_test_in_training"] == str(found.copies)
        assert row["chosen"] == "; ".join(["strength 0.01"] * len(cell.chosen))


def test_ranks_are_of_corrected_differences():
    compared = comparisons.compare(world.findings(MODELS, protocols=["linear_probe"]))
    for each in compared:
        p = [difference.p for difference in each.found.differences.values()]
        assert list(each.corrected.values()) == pytest.approx(ranks.holm(p))
        assert each.ranks["poor"] == 3
        for name in MODELS:
            better = [
                other
                for other in MODELS
                if other != name
                and each.values[other].value > each.values[name].value
                and each.corrected_p(name, other) <= 0.05
            ]
            assert each.ranks[name] == 1 + len(better)
            tied = name in (each.best, *each.tied_with_best)
            assert tied == (name == each.best or each.corrected_p(name, each.best) > 0.05)


def test_names_are_text_and_never_markup(tmp_path):
    names = {'<script>alert("x")</script>': 1.5, "a & b | =1+1": 1.0, "眼底" * 30: 0.2}
    tasks = ["<img src=x onerror=alert(1)>", "=HYPERLINK(1)"]
    findings = world.findings(names, tasks=tasks, protocols=["linear_probe"], about="<b>x</b>")
    found = outline(written(tmp_path, findings))
    assert '<script>alert("x")</script>' in "".join(found.text)
    assert "<b>x</b>" in "".join(found.text)
    assert not any(row["task"].startswith("=") for row in read(tmp_path / TABLE))


@pytest.mark.parametrize(
    ("models", "more", "said"),
    [
        ({"alone": 1.0}, {}, "there is nothing to compare it with"),
        ({"a": 1.0, "b": 1.0}, {"failed": [("a", "APTOS2019"), ("b", "APTOS2019")]}, "Nothing was"),
        ({"a": 1.0, "b": 0.9}, {}, "linear probe"),
    ],
)
def test_small_benchmarks_have_a_page_too(tmp_path, models, more, said):
    (tmp_path / PICTURE).write_bytes(b"of an earlier run")
    findings = world.findings(models, tasks=["APTOS2019"], protocols=["linear_probe"], **more)
    page = written(tmp_path, findings)
    outline(page)
    assert said in page
    pictured = len(models) > 1 and not more
    assert (tmp_path / PICTURE).exists() == pictured
    assert ("Average ranks over tasks" in page) == pictured


def test_twenty_models_have_all_their_pairs(tmp_path):
    names = {f"a model whose name is long {number}": 2 - number / 10 for number in range(20)}
    findings = world.findings(names, tasks=["IDRiD"], protocols=["linear_probe"], draws=50)
    page = written(tmp_path, findings)
    assert "Differences of all 190 pairs" in page
    assert page.count("told apart</td>") > 20
    assert len(page) < 500_000


def test_published_numbers_stand_beside_ours(tmp_path):
    row = {"task": "IDRiD", "protocol": "linear_probe", "value": 0.5, "source": "A table, row 1"}
    rows = [
        {**row, "model": "good", "metric": "auroc", "verified": True},
        {**row, "model": "good", "metric": "kappa", "note": "five folds"},
        {**row, "model": "of others", "metric": "auroc"},
    ]
    findings = world.findings(MODELS, protocols=["linear_probe"], published=rows)
    page = written(tmp_path, findings)
    start = page.index('<h2 id="published">')
    section = page[start : page.index("<h2", start + 1)]
    assert section.count("<li>") == 3  # sources: checked, with a note, not checked
    assert "five folds. Not checked against the article itself." in section
    compared = {c.task: c for c in comparisons.compare(findings)}["IDRiD"]
    ours = tables.ours(findings, compared, findings.suite.published[1])
    from sklearn.metrics import cohen_kappa_score

    predictions = compared.cells["good"].predictions[0]
    kappa = cohen_kappa_score(predictions.labels.argmax(1), predictions.scores.argmax(1))
    assert ours.value == pytest.approx(kappa)
    assert tables.ours(findings, compared, findings.suite.published[2]) is None
    by_model = {(r["task"], r["model"]): r for r in read(tmp_path / TABLE)}
    assert by_model["IDRiD", "good"]["published"].startswith("auroc 0.5 (A table, row 1); kappa")
    assert by_model["APTOS2019", "good"]["published"] == ""


def test_models_on_other_photographs_are_refused(tmp_path):
    findings = world.findings(MODELS, protocols=["linear_probe"])
    cells = list(findings.cells)
    (whole,) = cells[0].predictions
    less = dataclasses.replace(
        whole, **{n: getattr(whole, n)[2:] for n in ("labels", "scores", "patients", "samples")}
    )
    cells[0] = dataclasses.replace(cells[0], predictions=(less,))
    with pytest.raises(UserError, match="good on APTOS2019 and also good on APTOS2019 were"):
        write_report(dataclasses.replace(findings, cells=tuple(cells)), tmp_path)


def test_scores_that_are_no_numbers_are_a_failure(tmp_path):
    findings = world.findings(MODELS, protocols=["linear_probe"])
    cells = list(findings.cells)
    (scores,) = cells[0].predictions
    scores = dataclasses.replace(scores, scores=np.full_like(scores.scores, math.nan))
    cells[0] = dataclasses.replace(cells[0], predictions=(scores,))
    page = written(tmp_path, dataclasses.replace(findings, cells=tuple(cells)))
    outline(page)
    assert "the scores of 80 of 80 samples are no finite numbers" in page
    failed = [row for row in read(tmp_path / TABLE) if row["status"] == "failed"]
    assert [(row["model"], row["task"]) for row in failed] == [("good", "APTOS2019")]


def test_a_metric_that_findings_have_not_is_replaced_and_said(tmp_path):
    tasks = ["A", "B", "C"]  # the third one has findings
    findings = world.findings(MODELS, tasks=tasks, protocols=["linear_probe"], metric="aca")
    by_task = {each.task: each for each in comparisons.compare(findings)}
    assert [by_task[task].metric for task in tasks] == ["aca", "aca", "auroc"]
    assert "Compared by auroc, not by aca" in written(tmp_path, findings)


def test_calibration_is_of_probabilities_alone():
    tasks = ["A", "B", "C"]
    findings = world.findings(MODELS, tasks=tasks, protocols=["zero_shot", "linear_probe"])
    for each in comparisons.compare(findings):
        has = all(set(found) == {"expected_calibration_error", "brier"}
                  for found in each.calibration.values())  # fmt: skip
        assert has == (each.task != "C" or each.protocol != "zero_shot")


def test_a_panel_has_no_gaps_and_says_what_it_leaves_out():
    tasks = ["A", "B", "C", "D"]
    failed = [("poor", task) for task in tasks[1:]]
    findings = world.findings(MODELS, tasks=tasks, protocols=["linear_probe"], failed=failed)
    (panel,) = comparisons.panels(findings, comparisons.compare(findings))
    assert (set(panel.order), panel.tasks) == ({"good", "also good"}, tuple(tasks))
    assert panel.left_out == ("poor: not measured on all of these tasks",)
    assert sum(panel.average_ranks.values()) == pytest.approx(3)
    whole = world.findings(MODELS, tasks=tasks, protocols=["linear_probe"])
    (panel,) = comparisons.panels(whole, comparisons.compare(whole))
    assert panel.order[-1] == "poor"
    assert panel.groups == (panel.order[:2],)
    assert panel.friedman.p < 0.05


def test_what_is_not_measured_yet_is_said(tmp_path):
    findings = world.findings(MODELS, protocols=["linear_probe"])
    findings = dataclasses.replace(findings, cells=findings.cells[:-1], models={}, tasks={})
    page = written(tmp_path, findings)
    assert "1 of 6 cells are not measured yet" in page
    assert "not yet measured" in page
    outline(page)


def test_contamination_is_explained_and_marks_the_best(tmp_path):
    findings = world.findings({"good": 2.0, "poor": 0.1}, ["IDRiD"], ["linear_probe"])
    for verdict, marked in (("holds its test", True), ("none known", False)):
        found = {("good", "IDRiD"): Contamination(verdict, ("Because of <that>.",), None)}
        page = written(tmp_path, dataclasses.replace(findings, contamination=found))
        answer = page[page.index('class="answer"') : page.index("<nav>")]
        assert ("good</bdi><sup" in answer) == marked
        assert "Because of &lt;that&gt;." in page
        assert "no audit of the photographs was given" in page


def test_the_console_has_a_line_for_each_comparison():
    columns, rows = tables.console_rows(comparisons.compare(world.findings(MODELS)))
    assert len(rows) == 2 * 9
    assert {len(row) for row in rows} == {len(columns)}
    assert rows[0][:3] == ("APTOS2019", "zero-shot, English", "macro AUROC")


def test_tasks_of_the_same_photographs_are_not_counted_twice():
    tasks = {"A": "one", "B": "one", "C": "other"}
    findings = world.findings(MODELS, list(tasks), ["linear_probe"], failed=[("poor", "C")])
    entries = {
        name: dataclasses.replace(findings.suite.tasks[name], dataset=of)
        for name, of in tasks.items()
    }
    findings = dataclasses.replace(
        findings, suite=dataclasses.replace(findings.suite, tasks=entries)
    )
    compared = comparisons.compare(findings)
    assert comparisons.populations(findings, compared) == [0, 0, 2]
    same = [dataclasses.replace(each, patients=frozenset("ab")) for each in compared]
    assert comparisons.populations(findings, same) == [0, 0, 0]


def test_a_perfect_model_has_an_interval_too():
    findings = world.findings({"perfect": 60.0, "poor": 0.5}, ["A"], ["linear_probe", "retrieval"])
    probe, *_ = (c for c in comparisons.compare(findings) if c.protocol == "linear_probe")
    found = probe.values["perfect"]
    assert found.value == 1.0
    assert 0.8 < found.low < found.high == 1.0


def test_the_command_shows_who_is_best(tmp_path, capsys, monkeypatch):
    compared = comparisons.compare(world.findings(MODELS, protocols=["linear_probe"]))
    outcome = running.Outcome(6, (), (tmp_path / PAGE,), compared)
    monkeypatch.setattr(running, "run_benchmark", lambda *of, **more: outcome)
    assert cli.main(["benchmark", "retfound8", "--out", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    for each in compared:
        (line,) = (line for line in said.splitlines() if line.startswith(each.task))
        assert each.best in line
        assert str(each.values[each.best]) in line
    assert f"wrote {tmp_path / PAGE}" in said
