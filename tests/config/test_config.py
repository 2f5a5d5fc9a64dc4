"""The experiment schema refuses what it does not know and keeps what it does."""

import dataclasses
import json
import math
import re

import pytest

from retfm_jax.config import (
    ExperimentConfig,
    MeshConfig,
    from_dict,
    load_config,
    load_variants,
    model_entries,
    to_dict,
)
from retfm_jax.errors import UserError
from retfm_jax.models.resnet import ResNetConfig
from retfm_jax.ranges import hints


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


@pytest.mark.parametrize("text", ["[0.7, 1.0]", "(0.7, 1.0)"])
def test_lists_are_read_as_json_or_as_config_files_have_them(text):
    given = [f"data.augment.crop_area={text}", "evaluation.languages=('en',)", "init.image=None"]
    config = load_config("quickstart", given)
    assert config.data.augment.crop_area == (0.7, 1.0)
    assert config.evaluation.languages == ("en",)
    assert config.init.image is None


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
        ("data.augment.crop_area=(0.5, x)", r"crop_area must be a list, not '\(0.5, x\)'"),
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


def _numbers(section, where):
    """Every entry of a configuration that is a number or holds numbers: path, type, value."""
    for name, hint in hints(type(section)).items():
        value, path = getattr(section, name), f"{where}{name}"
        if dataclasses.is_dataclass(value):
            yield from _numbers(value, f"{path}.")
        elif re.search(r"\b(int|float)\b", str(hint)):
            yield path, hint, value


@pytest.mark.parametrize(
    "name", ["quickstart", "retclip_vit_b16", "vilref_rn50", "keepfit_resnet50"]
)
def test_every_number_of_every_section_has_a_range(name):
    config = load_config(name)
    found = list(_numbers(config, ""))
    assert len(found) > 50
    for path, hint, value in found:
        for wild in (-7, 2**70 if "int" in str(hint) else math.nan):
            given = [wild] * len(value) if isinstance(value, tuple) else wild
            with pytest.raises(UserError, match=rf"config\.{path}"):
                load_config(name, [f"{path}={json.dumps(given)}"])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.batch_size=0", r"config\.train\.batch_size must be at least 1, not 0"),
        ("train.keep=0", r"config\.train\.keep must be at least 1, not 0"),
        ("train.seed=4294967296", r"config\.train\.seed must be at most 4294967295"),
        ("train.steps=3000000000", r"config\.train\.steps must be at most 2147483647"),
        ("optimizer.clip_norm=0", r"config\.optimizer\.clip_norm must be greater than 0, not 0\.0"),
        ("optimizer.b2=1", r"config\.optimizer\.b2 must be at least 0 and less than 1, not 1\.0"),
        ("data.augment.crop_area=[1.0, 0.5]", r"crop_area must be the smaller one first"),
        ("data.augment.crop_area=[0, 1]", r"crop_area must be greater than 0 and at most 1, not 0"),
        ("data.image.std=[0, 1, 1]", r"config\.data\.image\.std must be greater than 0"),
        ("mesh.data=0", r"config\.mesh\.data must be at least 1 or -1, not 0"),
        ("evaluation.languages=[]", r"config\.evaluation\.languages must not be empty"),
        ('evaluation.languages=["fr"]', r"languages must be one of 'en', 'zh', not 'fr'"),
        ('evaluation.languages=["en", "en"]', r"languages names something twice"),
        ("data.dataset=", r"config\.data\.dataset must not be empty"),
        ("model.image.stages=[1, 1]", r"stages needs 4 values, not 2"),
        ("model.text.heads=3", r"width 64 does not divide into 3 heads"),
        ("data.image.size=48", r"data\.image\.size 48 is not .*image_size 64"),
        ("model.image.image_size=96", r"data\.image\.size 64 is not .*image_size 96"),
        ("data.text.context_length=129", r"context_length 129 is longer than .*positions 128"),
        ("model.text.positions=40", r"context_length 64 is longer than .*positions 40"),
        ('train.profile={"steps": 2, "first_step": 490}', r"first_step 490 .*steps 490"),
        (f"optimizer.learning_rate=1{'0' * 400}", r"learning_rate must be finite, not 10+\.\.\.$"),
        (f"optimizer.learning_rate=-1{'0' * 4000}", r"learning_rate must be finite"),
        (f"train.batch_size={'9' * 9000}", r"batch_size must be int, not '9{199}\.\.\.$"),
        (f"train.steps={'[' * 1000}", r"steps must be int, not '\[{199}\.\.\.$"),
        ("data.expert={}", r"config\.data\.expert\.dataset is missing"),
        ("data.vocabulary=", r"config\.data\.vocabulary must not be empty"),
        ("init.weights=", r"config\.init\.weights must not be empty"),
        ('optimizer.frozen=[""]', r"config\.optimizer\.frozen must not be empty"),
        ("method=ret_clip", r"no method 'ret_clip'.*did you mean 'retclip'"),
        ("method=ViLReF", r"did you mean 'vilref'"),
    ],
)
def test_values_that_make_no_sense_are_named_with_their_entry(override, message):
    with pytest.raises(UserError, match=message):
        load_config("quickstart", [override])


def test_ranges_hold_where_sections_are_made_by_hand():
    with pytest.raises(UserError, match="seed must be at least 0, not -1"):
        dataclasses.replace(load_config("quickstart").train, seed=-1)
    assert MeshConfig(data=-1, fsdp=4).data == -1


def test_misspelled_config_name_gets_a_suggestion():
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
    assert len(set(models.values())) == len(models) == 7


def test_a_config_without_variants_says_how_to_name_them():
    with pytest.raises(UserError, match=r"get_variants\(\)"):
        load_variants("quickstart")


@pytest.mark.parametrize(
    ("returned", "message"),
    [("{}['x']", "KeyError"), ("['a']", "AttributeError"), ("{'a': {'b': {1}}}", "TypeError")],
)
def test_variants_that_fail_are_named_with_their_file(tmp_path, returned, message):
    path = tmp_path / "mine.py"
    path.write_text(f"def get_variants():\n    return {returned}")
    with pytest.raises(UserError, match=rf"mine\.py.*{message}"):
        load_variants(str(path))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def get_config(:", r"mine\.py.*SyntaxError"),
        ("import no_such_module", r"mine\.py, line 1: ModuleNotFoundError"),
        ("def get_config():\n    return {}['x']", r"mine\.py, line 2: KeyError"),
        ("def get_config():\n    return None", r"must hold a mapping of entries, not NoneType"),
        ("x = 1", r"has no get_config"),
    ],
)
def test_a_config_file_that_fails_is_named_with_its_line(tmp_path, text, message):
    path = tmp_path / "mine.py"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        load_config(str(path))


def test_a_config_may_return_plain_dicts(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(f"def get_config():\n    return {to_dict(load_config('quickstart'))!r}")
    assert load_config(str(path)) == load_config("quickstart")


def test_json_that_holds_no_entries_is_refused(tmp_path):
    path = tmp_path / "config.json"
    path.write_text("[1, 2]")
    with pytest.raises(UserError, match="mapping of entries, not list"):
        load_config(str(path))


def test_a_tower_is_named_by_kind_by_size_or_by_its_entries():
    def image(*overrides):
        small = ["model.text.layers=1", "data.image.size=224"]
        return load_config("quickstart", [*small, *overrides]).model.image

    vit = image("model.image=ViT-L/14", "model.image.layers=2")
    assert (vit.kind, vit.width, vit.patch_size, vit.layers) == ("vit", 1024, 14, 2)
    assert image("model.image=RN101").stages == (3, 4, 23, 3)
    # What both kinds know says nothing: the kind does.
    assert image('model.image={"kind": "clip_resnet", "width": 32}').kind == "clip_resnet"
    assert image('model.image={"kind": "vit", "width": 64}').kind == "vit"
    # Version 0.1 went by the entries.
    assert image('model.image={"stages": [1, 1, 1, 1]}').kind == "clip_resnet"
    for entry, said in (
        ("ViT-B16", r"image\.size must be one of .*not 'ViT-B16'.*did you mean 'ViT-B/16'"),
        ('{"kind": "resnet"}', r"image\.kind must be one of vit, clip_resnet, not 'resnet'"),
        ('{"kind": "vit", "size": "RN50"}', r"image\.size must be one of ViT-S/16, .*not 'RN50'"),
        ("7", r"image must be a section with entries, or a size, not 7"),
    ):
        with pytest.raises(UserError, match=said):
            image(f"model.image={entry}")


@pytest.mark.parametrize("entry", ["{kind: unetr}", "unetr"])
def test_what_has_no_named_sizes_is_given_by_entries(entry):
    with pytest.raises(UserError, match=r"decoder must be entries in JSON, such as .*kind"):
        load_config("segment", [f"model.decoder={entry}"])


def test_model_entries_of_version_0_1_are_those_of_today():
    config = load_config("retclip_vit_b16")
    now = to_dict(config)["model"]
    before = {**now, "image": {key: now["image"][key] for key in now["image"] if key != "kind"}}
    assert before != now
    assert model_entries(type(config.model), before) == now


def test_a_tower_of_another_kind_is_given_as_a_whole():
    with pytest.raises(UserError, match=r"kind resnet has no image_size.*config\.model\.image=\{"):
        load_config("segment", ["model.image.kind=resnet"])
    image = load_config("segment", ['model.image={"kind": "resnet"}']).model.image
    assert image == ResNetConfig()
