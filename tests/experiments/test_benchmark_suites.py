"""Bundled suites name tasks and models that exist, and numbers with their sources."""

import pytest

from retfm_jax.data.building.registry import builder_names
from retfm_jax.data.tasks import described_tasks
from retfm_jax.experiments.benchmark.suite import bundled_suites, read_suite
from retfm_jax.interop.zoo import zoo

SUITES = bundled_suites()


def test_the_published_tables_have_suites():
    assert {"keepfit", "medkco", "retclip", "retfound8"} <= set(SUITES)


@pytest.mark.parametrize("name", SUITES)
def test_tasks_and_models_of_a_suite_exist(name):
    suite = read_suite(name)
    for entry in suite.tasks.values():
        assert entry.dataset in {*described_tasks(), *builder_names()}
    for entry in suite.models.values():
        assert entry.load in zoo()
        assert zoo()[entry.load].unreadable is None
    # One network with fresh weights tells what the pretraining is worth.
    assert any(entry.untrained for entry in suite.models.values())


@pytest.mark.parametrize("name", SUITES)
def test_published_numbers_have_a_source_and_stand_once(name):
    suite = read_suite(name)
    seen = set()
    for row in suite.published:
        assert 0 < row.value < 1
        assert any(year in row.source for year in ("arXiv", "20"))
        key = (row.task, row.protocol, row.setting, row.model, row.metric)
        assert key not in seen
        seen.add(key)
        # What could not be read at its source says so.
        assert row.verified or row.note
    if not suite.published:
        assert "none of its numbers stand here" in suite.about


def test_numbers_of_a_suite_are_those_of_its_tables():
    numbers = {
        (row.task, row.protocol, row.setting, row.model, row.metric): row.value
        for suite in ("keepfit", "medkco", "retfound8")
        for row in read_suite(suite).published
    }
    assert numbers["REFUGE", "zero_shot", "en", "KeepFIT", "auroc"] == 0.941
    assert numbers["FIVES", "zero_shot", "en", "FLAIR", "aca"] == 0.670
    adapter = "KeepFIT, half of the category set, CLIP-Adapter"
    assert numbers["ODIR200x3", "few_shot", "5 shots", adapter, "aca"] == 0.873
    assert numbers["TAOP", "fine_tune", "", "RETFound (CFP)", "aca"] == 0.697
    assert numbers["AMD", "fine_tune", "", "KeepFIT, revision alone", "f1"] == 0.884
    assert numbers["OCTDL", "zero_shot", "en", "MedKCO on FILIP", "aca"] == 0.420
    assert numbers["RETFound_MESSIDOR2", "fine_tune", "", "RETFound (CFP)", "auroc"] == 0.884
