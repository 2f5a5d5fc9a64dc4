"""Fine-tuning from class folders: runs that can be killed, networks that keep their classes."""

import dataclasses
import shutil

import jax
import numpy as np
import pytest
import torch
from written_metrics import written_metrics

import retfm_jax
from retfm_jax.config import LoraConfig, from_dict, load_config, to_dict
from retfm_jax.data.labeled import open_labeled
from retfm_jax.data_builders.synthetic_fundus.as_files import (
    CLASSES,
    photograph,
    write_class_folders,
)
from retfm_jax.errors import UserError
from retfm_jax.experiments import finetuning
from retfm_jax.experiments.training import run_training
from retfm_jax.methods import make_method
from retfm_jax.model import to_torch
from retfm_jax.runtime.checkpoints import load_network, whole_steps
from retfm_jax.trees import flatten

pytestmark = pytest.mark.usefixtures("one_device")

TINY = [
    "model.image.image_size=32", "model.image.patch_size=16", "model.image.width=16",
    "model.image.layers=2", "model.image.heads=2", "data.image.size=32", "data.threads=2",
    "data.shares=[0.6,0.2,0.2]", "train.batch_size=8", "train.epochs=4", "train.keep=10",
    "optimizer.warmup_epochs=1", "optimizer.layer_decay=0.8", "model.class_weights=balanced",
    "data.augment.mixup=0.2", "train.log_every=1",
]  # fmt: skip


@pytest.fixture(scope="module")
def eyes(tmp_path_factory):
    """Twenty-four patients with two eyes each, in folders of four classes."""
    return write_class_folders(tmp_path_factory.mktemp("eyes") / "clinic", 24, 32)


def config_for(folder, *overrides):
    return load_config("finetune_synthetic", [*TINY, f"data.dataset={folder}", *overrides])


@pytest.fixture(scope="module")
def finished(eyes, tmp_path_factory):
    """The workdir of a run that went to its end."""
    workdir = tmp_path_factory.mktemp("run") / "W"
    assert run_training(config_for(eyes), workdir)
    return workdir


def test_the_workdir_is_a_model_with_its_classes(finished, eyes):
    model = retfm_jax.load(finished)
    assert model.classes == tuple(CLASSES)
    stored = model.config
    assert stored.model.outcome == stored.data.outcome == "exclusive"
    assert stored.data.classes == model.classes
    train = open_labeled(stored.data).sources["train"]
    np.testing.assert_allclose(stored.model.prevalence, train.prevalence, atol=1e-6)
    probabilities = model.predict([photograph("drusen", 900, size=32), photograph("normal", 901)])
    np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-6)
    assert model.decisions.conformal.coverage == 0.9
    assert model.decisions.fitted_on["split"] == "validation"
    assert model.decisions.fitted_on["patients_known"]


def test_the_best_on_validation_is_kept_and_read(finished):
    scores = {
        line["step"]: line["eval/score"]
        for line in written_metrics(finished)
        if "eval/score" in line
    }
    assert len(scores) == 4
    best = max(scores, key=lambda step: (scores[step], -step))
    assert whole_steps(finished / "best") == [best]
    params, _, meta = load_network(finished)
    assert meta["best"] == {"metric": "score", "value": scores[best], "step": best}
    if best in whole_steps(finished / "checkpoints"):
        there = flatten(load_network(finished / "checkpoints" / str(best))[0])
        for path, leaf in flatten(params).items():
            np.testing.assert_array_equal(there[path], leaf)


@pytest.mark.parametrize("best_is_there", [True, False])
def test_a_run_that_was_killed_ends_with_the_same_bits(finished, eyes, tmp_path, best_is_there):
    """As after a kill: later checkpoints are missing, metrics and the best are of any time."""
    workdir = tmp_path / "W"
    shutil.copytree(finished, workdir)
    steps = whole_steps(workdir / "checkpoints")
    for step in steps[1:]:
        shutil.rmtree(workdir / "checkpoints" / str(step))
    (workdir / "decisions.json").unlink()
    if not best_is_there and whole_steps(workdir / "best")[0] > steps[0]:
        shutil.rmtree(workdir / "best")
    assert run_training(config_for(eyes), workdir)
    for place in ("", f"checkpoints/{steps[-1]}"):
        ours, theirs = (flatten(load_network(each / place)[0]) for each in (workdir, finished))
        for path, leaf in theirs.items():
            np.testing.assert_array_equal(ours[path], leaf, err_msg=path)
    assert written_metrics(workdir) == written_metrics(finished)
    for name in ("decisions.json", "config.json"):
        assert (workdir / name).read_bytes() == (finished / name).read_bytes()


def test_a_run_resumes_without_the_weights_that_it_began_with(eyes, tmp_path):
    weights = tmp_path / "tower.pth"
    write_tower(weights, image_size=32, width=16)
    config = config_for(
        eyes, f"init.image={weights}", "train.steps=2", "train.evaluate_epochs=None",
        "train.evaluate_every=0", "train.checkpoint_every=1",
    )  # fmt: skip
    assert run_training(config, tmp_path / "W")
    weights.unlink()
    assert run_training(
        dataclasses.replace(config, train=dataclasses.replace(config.train, steps=3)),
        tmp_path / "W",
    )
    assert whole_steps(tmp_path / "W" / "checkpoints")[-1] == 3
    with pytest.raises(UserError, match="does not exist"):
        finetuning.prepare(config, tmp_path / "other")


def write_tower(path, **changed):
    """A tower with timm's names, as pretraining leaves it."""
    image = {"size": "MAE-B/16", "image_size": 48, "patch_size": 16, "width": 32, "layers": 2,
             "heads": 2, "pooling": "class", **changed}  # fmt: skip
    config = from_dict(
        {
            "method": "vision",
            "model": {"image": image},
            "data": {"image": {"size": image["image_size"]}},
        }
    )
    method = make_method("vision", config.model)
    params, state = jax.jit(method.init)(jax.random.key(1))
    model = retfm_jax.model.RetinalModel(method, params, state, config)
    state = {name: torch.from_numpy(np.array(value)) for name, value in to_torch(model).items()}
    torch.save({"model": state}, path)
    return state


def test_form_and_preprocessing_are_those_of_the_weights(eyes, tmp_path):
    write_tower(tmp_path / "tower.pth")
    config = load_config(
        "finetune", [f"data.dataset={eyes}", f"init.image={tmp_path / 'tower.pth'}"]
    )
    found = finetuning.prepare(config, tmp_path / "W").config
    image = found.model.image
    assert (image.width, image.layers, image.image_size, found.model.layout) == (32, 2, 48, "timm")
    assert image.drop_path == 0.2  # of the recipe
    assert (found.data.image.resize, found.data.image.size) == ("crop", 48)
    assert found.data.image.mean == (0.485, 0.456, 0.406)
    larger = dataclasses.replace(
        config, data=dataclasses.replace(config.data, image=dataclasses.replace(
            config.data.image, size=64, field_of_view="crop"))
    )  # fmt: skip
    found = finetuning.prepare(larger, tmp_path / "W").config
    assert (found.model.image.image_size, found.data.image.size) == (64, 64)
    assert (found.data.image.field_of_view, found.data.image.resize) == ("crop", "crop")
    again = finetuning.prepare(found, tmp_path / "W").config
    assert to_dict(again) == to_dict(found)


def test_a_network_of_oct_scans_knows_what_it_reads(tmp_path):
    for number, name in enumerate(["NORMAL", "AMRD", "CSR", "DR", "MH"] * 6):
        folder = tmp_path / "octid" / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}.jpg").write_bytes(photograph("normal", number, size=32))
    asked = ("data.image.field_of_view=crop", f"data.data_dir={tmp_path}")
    found = finetuning.prepare(config_for("OCTID", *asked), tmp_path / "W")
    image = found.config.data.image
    assert (image.modality, image.field_of_view) == ("oct", "whole")
    assert any("config.data.image.field_of_view is whole" in sentence for sentence in found.said)
    assert to_dict(finetuning.prepare(found.config, tmp_path / "W").config) == to_dict(found.config)
    with pytest.raises(UserError, match="field_of_view of modality oct must be whole"):
        config_for("OCTID", *asked, "data.image.modality=oct")


def test_weights_of_a_residual_network_and_of_a_dual_encoder_are_adopted(eyes, tmp_path):
    from retfm_jax.interop.initial import initial_network

    for name, method, model in (
        ("resnet", "vision", {"image": {"kind": "resnet", "stages": [1, 1, 1, 1], "width": 8}}),
        ("pairs", "siglip", {
            "image": {"image_size": 32, "patch_size": 16, "width": 32, "layers": 1, "heads": 2},
            "text": {"vocab_size": 60, "width": 16, "layers": 1, "heads": 2, "mlp_width": 16},
            "embed_dim": 8,
        }),
    ):  # fmt: skip
        source = from_dict({"method": method, "model": model, "data": {"image": {"size": 32}}})
        built = make_method(method, source.model)
        params, state = jax.jit(built.init)(jax.random.key(0))
        trained = retfm_jax.model.RetinalModel(built, params, state, source)
        trained.save(tmp_path / name)
        config = load_config(
            "finetune_retclip_plus", [f"data.dataset={eyes}", f"init.image={tmp_path / name}"]
        )
        found = finetuning.prepare(config, tmp_path / "W").config
        ours = make_method(found.method, found.model)
        began, _ = initial_network(found, ours)
        for path, leaf in flatten(began["visual"]).items():
            np.testing.assert_array_equal(leaf, flatten(params["visual"])[path], err_msg=path)
        assert ours.classes == tuple(CLASSES)


def test_grades_have_an_order_and_low_rank_updates_a_head(tmp_path):
    for number in range(30):
        folder = tmp_path / "grades" / ("severe", "mild", "no dr", "moderate")[number % 4]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number // 2}_{('left', 'right')[number % 2]}.jpg").write_bytes(
            photograph("normal", number, size=32)
        )
    config = config_for(tmp_path / "grades", "data.outcome=grades")
    config = dataclasses.replace(config, lora=LoraConfig(2))
    found = finetuning.prepare(config, tmp_path / "W")
    assert found.config.model.classes == ("no dr", "mild", "moderate", "severe")
    assert found.config.lora.trained == ("head",)
    plain = finetuning.prepare(config_for(tmp_path / "grades"), tmp_path / "W")
    assert plain.config.model.outcome == "exclusive"
    assert any("look like grades" in sentence for sentence in plain.said)
    for old, new in (("mild", "a"), ("severe", "b")):
        (tmp_path / "grades" / old).rename(tmp_path / "grades" / new)
    with pytest.raises(UserError, match="nothing tells the order of the grades a, b"):
        finetuning.prepare(config, tmp_path / "W")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data.classes=['drusen','normal']", "model.classes=['normal','drusen']"], "differ"),
        (["data.classes=['drusen','norml']"], "did you mean 'normal'"),
        (["train.batch_size=800"], "less than one batch of 800"),
        (["train.best=aurok"], "no metric of the evaluation.*did you mean 'auroc'"),
        (["init.text=x", "init.image=x"], "text tower"),
        (["data.dataset=nowhere"], "nowhere"),
        (["data.shares=[0.5,0.2,0.2]"], "sum to 1"),
        (["data.fold=[3,3]"], "from 0 to K - 1"),
    ],
)
def test_what_cannot_be_trained_is_said_and_nothing_is_left(eyes, tmp_path, overrides, message):
    with pytest.raises(UserError, match=message):
        run_training(config_for(eyes, "train.epochs=1", *overrides), tmp_path / "W")
    assert not (tmp_path / "W" / "decisions.json").exists()
