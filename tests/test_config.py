"""The experiment schema refuses what it does not know and keeps what it does."""

import dataclasses
import json

import pytest

from retfm_jax.config import ExperimentConfig, from_dict, load_config, load_variants, to_dict
from retfm_jax.errors import UserError


def test_every_bundled_config_survives_json():
    from pathlib import Path

    from retfm_jax import configs

    names = [path.stem for path in Path(configs.__file__).parent.glob("[a-z]*.py")]
    assert "quickstart" in names
    for name in names:
        config = load_config(name)
        assert isinstance(config, ExperimentConfig)
        assert from_dict(json.loads(json.dumps(to_dict(config)))) == config


def test_overrides_reach_their_entries():
    config = load_config(
        "quickstart",
        ["train.steps=7", "data.language=en", "optimizer.clip_norm=1", "model.text.layers=2"],
    )
    assert config.train.steps == 7
    assert config.data.language == "en"
    assert config.optimizer.clip_norm == 1.0
    assert config.model.text.layers == 2


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.batchsize=3", r"unknown key config\.train\.batchsize; did you mean .*batch_size"),
        ("model.image.imagesize=3", r"unknown key config\.model\.image\.imagesize; .*image_size"),
        ("modle.dtype=3", r"unknown key config\.modle; did you mean config\.model"),
        ("train.steps=many", r"config\.train\.steps must be int, not 'many'"),
        ("train.steps=true", r"config\.train\.steps must be int, not True"),
        ("data.language=fr", r"config\.data\.language must be one of 'en', 'zh', 'mixed'"),
        ("data.augment.crop_area=[0.5]", r"crop_area needs 2 values, not 1"),
        ("train.microbatches=7", r"does not divide"),
        ("train.microbatches=2", r"microbatches 2 .*norm_batch is not set.*norm_batch to 32"),
        ("mesh.fsdp=-1", r"only one of data and fsdp"),
        ("model.image.image_size=50", r"no multiple of 32"),
        ("train", r"give a value"),
        ("method=clip", r"no method 'clip'"),
    ],
)
def test_bad_overrides_are_named(override, message):
    with pytest.raises(UserError, match=message):
        load_config("quickstart", [override])


def test_misspelt_config_name_gets_a_suggestion():
    with pytest.raises(UserError, match="did you mean 'quickstart'"):
        load_config("quikstart")


def test_json_config_is_read_back(tmp_path):
    config = load_config("quickstart")
    path = tmp_path / "config.json"
    path.write_text(json.dumps(to_dict(config)))
    assert load_config(str(path)) == config
    path.write_text("{")
    with pytest.raises(UserError, match="not valid JSON"):
        load_config(str(path))


def test_configs_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        load_config("quickstart").train.steps = 3


def test_variants_are_overrides_that_fit_their_config():
    variants = load_variants("vilref_synthetic")
    models = {
        name: load_config("vilref_synthetic", changes).model for name, changes in variants.items()
    }
    assert next(iter(models)) == "plain InfoNCE"
    assert (models["plain InfoNCE"].use_labels, models["plain InfoNCE"].queue_size) == (False, 0)
    assert models["all"] == load_config("vilref_synthetic").model
    assert len(set(models.values())) == len(models) == 6


def test_a_config_without_variants_says_how_to_name_them():
    with pytest.raises(UserError, match=r"get_variants\(\)"):
        load_variants("quickstart")
