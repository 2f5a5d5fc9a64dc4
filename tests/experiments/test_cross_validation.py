"""Folds: every patient is tested once, by a network that has not seen them."""

import json

import numpy as np
import pytest

from retfm_jax.config import load_config
from retfm_jax.data.labeled import open_labeled
from retfm_jax.data_builders.synthetic_fundus.as_files import write_class_folders
from retfm_jax.errors import UserError
from retfm_jax.experiments.cross_validation import cross_validate, summary
from retfm_jax.model import load

pytestmark = pytest.mark.usefixtures("one_device")

TINY = [
    "model.image.image_size=32", "model.image.patch_size=16", "model.image.width=16",
    "model.image.layers=1", "model.image.heads=2", "data.image.size=32", "data.threads=2",
    "train.batch_size=8", "train.epochs=1", "train.best=auroc",
]  # fmt: skip


def test_every_patient_is_tested_once_and_a_second_call_trains_nothing(tmp_path):
    eyes = write_class_folders(tmp_path / "eyes", 36, 32)
    config = load_config("finetune_synthetic", [*TINY, f"data.dataset={eyes}"])
    said = cross_validate(config, tmp_path / "W", 3)
    tested = []
    for number in range(3):
        stored = load(tmp_path / "W" / f"fold-{number}").config.data
        sources = open_labeled(stored, ("train", "validation", "test")).sources
        tested += sorted(set(sources["test"].patients))
        others = set(sources["train"].patients) | set(sources["validation"].patients)
        assert not others & set(sources["test"].patients)
    assert len(tested) == len(set(tested)) == 36
    assert sum(each["photographs"] for each in said["folds"]) == 72
    values = [each["metrics"]["nll"] for each in said["folds"]]
    np.testing.assert_allclose(said["summary"]["nll"]["mean"], np.mean(values))
    np.testing.assert_allclose(said["summary"]["nll"]["deviation"], np.std(values, ddof=1))
    before = (tmp_path / "W" / "fold-1" / "metrics.jsonl").read_bytes()
    (tmp_path / "W" / "folds.json").unlink()
    assert cross_validate(config, tmp_path / "W", 3) == said
    assert json.loads((tmp_path / "W" / "folds.json").read_text()) == said
    assert (tmp_path / "W" / "fold-1" / "metrics.jsonl").read_bytes() == before


def test_undefined_metrics_are_left_out_of_the_mean():
    found = summary([{"auroc": 0.5}, {"auroc": None}, {"auroc": 0.7}])["summary"]["auroc"]
    assert found["folds"] == 2
    np.testing.assert_allclose(found["mean"], 0.6)
    assert summary([{"auroc": None}])["summary"]["auroc"]["mean"] is None


@pytest.mark.parametrize(
    ("config", "overrides", "message"),
    [
        ("quickstart", [], "folds divide photographs with labels or masks, and retclip learns"),
        ("finetune_synthetic", ["data.fold=[0,3]"], "names one fold"),
    ],
)
def test_what_has_no_folds_is_said(tmp_path, config, overrides, message):
    with pytest.raises(UserError, match=message):
        cross_validate(load_config(config, overrides), tmp_path, 3)
