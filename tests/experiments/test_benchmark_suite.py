"""Suites are read strictly: every mistake is named with its file and entry."""

import pytest

from retfm_jax.cli.benchmark import _names
from retfm_jax.errors import UserError
from retfm_jax.experiments.benchmark.suite import (
    STRENGTHS,
    FewShot,
    ModelEntry,
    Suite,
    TaskEntry,
    bundled_suites,
    read_suite,
)

SUITE = """
title: two models
models:
  mine: runs/mine
  fresh: {load: runs/mine, untrained: true, trained_on: [ODIR]}
tasks:
  IDRiD: IDRiD
  No: {dataset: folder, test: "test[:50]", classes: [normal, "1"]}
protocols:
  zero_shot: {languages: [en], prompts: name}
  few_shot: {shots: [1, 5], strength: [1e-3, 1]}
  linear_probe: {}
seeds: 2
published:
  - {task: IDRiD, protocol: few_shot, setting: 5 shots, model: theirs, metric: auroc, value: 0.8,
     source: "An article, Table 2", verified: true}
"""


def read(tmp_path, text):
    path = tmp_path / "suite.yaml"
    path.write_text(text, encoding="utf-8")
    return read_suite(path)


def test_a_suite_is_read_with_its_defaults(tmp_path):
    suite = read(tmp_path, SUITE)
    assert suite.models == {
        "mine": ModelEntry("runs/mine"),
        "fresh": ModelEntry("runs/mine", untrained=True, trained_on=("ODIR",)),
    }
    assert suite.tasks["No"] == TaskEntry("folder", test="test[:50]", classes=("normal", "1"))
    assert suite.protocols["few_shot"] == FewShot((1, 5), (1e-3, 1.0))
    assert suite.protocols["linear_probe"].strength == STRENGTHS
    assert (suite.metric, suite.draws, list(suite.seed_range())) == ("auroc", 2000, [0, 1])
    assert suite.published[0].verified


def test_cells_are_every_model_by_every_task_by_every_setting(tmp_path):
    cells = read(tmp_path, SUITE).cells()
    assert len(cells) == len(set(cells)) == 2 * 2 * 4
    assert {cell.setting for cell in cells} == {"en", "1 shot", "5 shots", ""}
    assert [cell.model for cell in cells] == ["mine"] * 8 + ["fresh"] * 8


def test_some_can_be_taken_alone(tmp_path):
    suite = read(tmp_path, SUITE)
    some = suite.only(models=["fresh"], protocols=["few_shot"])
    assert [*some.models, *some.tasks, *some.protocols] == ["fresh", "IDRiD", "No", "few_shot"]
    assert suite.only() == suite
    with pytest.raises(UserError, match=r"tasks IDRID: .*did you mean 'IDRiD'"):
        suite.only(tasks=["IDRID"])


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("seeds: 2", "seed_s: 2", r"suite.yaml: suite.seed_s; did you mean 'seeds'"),
        ("seeds: 2", "seeds: two", r"suite.yaml: suite.seeds must be a whole number, not 'two'"),
        ("seeds: 2", "seeds: 0", r"seeds must be at least 1"),
        ("seeds: 2", "metric: aurok", r"metric must be one of .*did you mean 'auroc'"),
        ("seeds: 2", "draws: 1.5", "draws must be a whole number"),
        ("untrained: true", "untrained: yes", r"models.fresh.untrained must be true or false"),
        ("untrained: true", "untraned: true", r"models.fresh.untraned; did you mean .*untrained"),
        ("load: runs/mine, ", "", r"models.fresh.load is missing"),
        ("shots: [1, 5]", "shots: [1, 1]", r"protocols.few_shot.shots names something twice"),
        ("shots: [1, 5]", "shots: 5", r"protocols.few_shot.shots must be a list"),
        ("shots: [1, 5]", "shots: [0]", r"protocols.few_shot.shots must be at least 1"),
        ("strength: [1e-3, 1]", "strength: [nan]", r"strength must be finite"),
        ("strength: [1e-3, 1]", "strength: [-1]", r"strength must be greater than 0"),
        ("linear_probe", "linear_prob", r"protocols.linear_prob .*did you mean 'linear_probe'"),
        ("prompts: name", "prompts: names", r"prompts must be one of .*did you mean 'name'"),
        ("languages: [en]", "languages: [fr]", r"languages must be one of 'en', 'zh'"),
        ("task: IDRiD", "task: IDRID", r"published\[0\].task: .*did you mean 'IDRiD'"),
        ("setting: 5 shots", "setting: 2 shots", r"published\[0\].setting: few_shot has"),
        ("metric: auroc", "metric: aroc", r"published\[0\].metric: .*did you mean 'auroc'"),
        ("value: 0.8", "value: 80", r"published\[0\].value must be at least -1 and at most 1"),
        ("  mine: runs/mine", "  mine: [1]", r"models.mine must be a section"),
        ("title: two models", "", r"suite.title is missing"),
        ("title:", "title: a\ntitle:", "occurs twice"),
    ],
)
def test_a_mistake_is_named_with_its_place(tmp_path, before, after, said):
    assert before in SUITE
    with pytest.raises(UserError, match=said) as raised:
        read(tmp_path, SUITE.replace(before, after, 1))
    assert "suite.yaml" in str(raised.value)


@pytest.mark.parametrize("text", ["", "[]", "title: a", "title: a\nmodels: {a: b}\ntasks: [a]"])
def test_what_is_no_suite_is_refused(tmp_path, text):
    with pytest.raises(UserError, match=r"suite.yaml"):
        read(tmp_path, text)


def test_decided_entries_of_fine_tuning_are_not_changed(tmp_path):
    change = "linear_probe: {}\n  fine_tune: {changes: [train.seed=3]}"
    with pytest.raises(UserError, match=r"fine_tune.changes holds train.seed"):
        read(tmp_path, SUITE.replace("linear_probe: {}", change))


def test_a_name_may_hold_commas():
    known = ("FLAIR", "FLAIR, untrained", "KeepFIT")
    assert _names("KeepFIT,FLAIR, untrained", known) == ["KeepFIT", "FLAIR, untrained"]
    assert _names("FLAIR, KeepFIT", known) == ["FLAIR", "KeepFIT"]
    assert _names("FLAR,KeepFIT", known) == ["FLAR", "KeepFIT"]
    assert _names(None, known) == []


def test_a_suite_is_its_json(tmp_path):
    suite = read(tmp_path, SUITE)
    document = suite.to_json()
    assert document["protocols"]["linear_probe"]["strength"] == list(STRENGTHS)
    assert document["models"]["fresh"]["untrained"] is True
    assert document["published"][0]["value"] == 0.8


def test_a_name_is_a_bundled_suite():
    for name in bundled_suites():
        assert isinstance(read_suite(name), Suite)
    with pytest.raises(UserError, match="no suite 'nosuch'"):
        read_suite("nosuch")
