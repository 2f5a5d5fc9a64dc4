"""Runs that learn masks: prepared from data and weights, validated, killed, divided into folds."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest
from mask_photographs import STRUCTURES, png, scene
from PIL import Image
from written_metrics import written_metrics

import retfm_jax
from retfm_jax.config import LoraConfig, from_dict, load_config, to_dict
from retfm_jax.data.segmented import open_segmented
from retfm_jax.errors import UserError
from retfm_jax.evaluation.metrics.segmentation import Tally
from retfm_jax.evaluation.segmentation import tally
from retfm_jax.evaluation.structure_metrics import measured
from retfm_jax.experiments import finetuning
from retfm_jax.experiments.cross_validation import measure_fold
from retfm_jax.experiments.training import run_training
from retfm_jax.methods import make_method
from retfm_jax.model import RetinalModel
from retfm_jax.runtime.checkpoints import load_network, whole_steps
from retfm_jax.trees import flatten

pytestmark = pytest.mark.usefixtures("one_device")

TINY = [
    "model.image.image_size=32", "model.image.width=16", "model.image.layers=2",
    "model.image.heads=2", "model.decoder={'kind':'unetr','channels':4}", "data.image.size=32",
    "data.masks.working_size=40", "data.threads=2", "data.shares=[0.5,0.25,0.25]",
    "data.classes=['vessels','disc']", "optimizer.warmup_epochs=0", "optimizer.last_layers=1",
    "optimizer.learning_rate=0.01", "train.batch_size=8", "train.epochs=2", "train.keep=10",
    "train.checkpoint_epochs=1", "train.log_every=1",
]  # fmt: skip

#: As folders are read.
STRUCTURES_IN_FOLDER = tuple(sorted(STRUCTURES))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Sixteen patients with two eyes each, whose masks are the colors of their photographs."""
    root = tmp_path_factory.mktemp("masks") / "clinic"
    for name in ("images", *(f"masks/{structure}" for structure in STRUCTURES)):
        (root / name).mkdir(parents=True)
    for seed in range(32):
        image, drawn = scene(30, 40, seed)
        name = f"{seed // 2}_{('left', 'right')[seed % 2]}"
        Image.fromarray(image).save(root / "images" / f"{name}.jpg", quality=95)
        for structure in STRUCTURES:
            (root / "masks" / structure / f"{name}.png").write_bytes(png(drawn[structure]))
    return root


def config_for(folder, *overrides):
    return load_config("segment", [*TINY, f"data.dataset={folder}", *overrides])


@pytest.fixture(scope="module")
def finished(folder, tmp_path_factory):
    """The workdir of a run that went to its end."""
    workdir = tmp_path_factory.mktemp("run") / "W"
    assert run_training(config_for(folder), workdir)
    return workdir


@pytest.fixture(scope="module")
def model(finished):
    return retfm_jax.load(finished)


@pytest.fixture(scope="module")
def validation(model):
    return open_segmented(model.config.data, ("validation",)).sources["validation"]


@pytest.fixture(scope="module")
def counted(model, validation):
    """What the best network finds on validation."""
    return tally(model, validation, progress=False)


def test_a_run_leaves_its_curves_beside_its_metrics(finished):
    text = (finished / "training.html").read_text(encoding="utf-8")
    assert "The loss went from" in text
    assert "Validation: dice" in text


def test_the_workdir_is_a_model_with_structures_and_their_thresholds(model, validation, counted):
    assert model.structures == model.config.data.classes == ("vessels", "disc")
    decisions = model.mask_decisions
    assert decisions.by_name == counted.best_thresholds()
    metrics = counted.measured(decisions.by_name, draws=1)
    for name, row in metrics.classes.items():
        assert decisions.fitted_on["dice"]["after"][name] == round(row["best_dice"].value, 6)
    assert decisions.fitted_on["patients"] == len(set(validation.patients)) < len(validation)
    assert decisions.fitted_on["split"] == "validation"


def test_the_best_on_validation_is_kept_and_is_worth_what_was_measured(finished, counted):
    evaluated = {line["step"]: line for line in written_metrics(finished) if "eval/dice" in line}
    scores = {step: line["eval/average_precision"] for step, line in evaluated.items()}
    assert len(scores) == 2
    best = max(scores, key=lambda step: (scores[step], -step))
    assert load_network(finished)[2]["best"] == {
        "metric": "average_precision", "value": scores[best], "step": best,
    }  # fmt: skip
    for name, value in measured(counted).items():
        np.testing.assert_allclose(evaluated[best][f"eval/{name}"], value, atol=1e-6)
    of_each = [measured(counted)[f"{structure}/dice"] for structure in ("vessels", "disc")]
    np.testing.assert_allclose(measured(counted)["dice"], np.mean(of_each))


def test_what_no_photograph_shows_has_names_and_no_numbers():
    nothing = Tally(("vessels", "disc"))
    nothing.add("x", np.full((4, 4, 2), 0.25), np.zeros((4, 4, 2), np.uint8))
    found = measured(nothing, {"vessels": 0.2, "disc": 0.5})
    assert {"average_precision", "best_dice", "disc/best_dice"} <= found.keys()
    assert all(np.isnan(value) for value in found.values())


def test_the_tower_before_its_last_layer_keeps_its_bits(finished, model):
    steps = whole_steps(finished / "checkpoints")
    first, last = (
        flatten(load_network(finished / "checkpoints" / str(step))[0])
        for step in (steps[0], steps[-1])
    )
    tower = model.method.towers["visual"]
    for path, leaf in last.items():
        if path.startswith("visual/"):
            same = np.asarray(leaf) == np.asarray(first[path])
            above = np.asarray(tower.layers_above(path.removeprefix("visual/")))
            assert same[above > 1].all()
            assert not above.ndim or not same[above == 1].all()


def test_a_run_that_was_killed_ends_with_the_same_bits(finished, folder, tmp_path):
    workdir = tmp_path / "W"
    shutil.copytree(finished, workdir)
    steps = whole_steps(workdir / "checkpoints")
    shutil.rmtree(workdir / "checkpoints" / str(steps[-1]))
    (workdir / "decisions.json").unlink()
    assert run_training(config_for(folder), workdir)
    for place in ("", f"checkpoints/{steps[-1]}"):
        ours, theirs = (flatten(load_network(each / place)[0]) for each in (workdir, finished))
        for path, leaf in theirs.items():
            np.testing.assert_array_equal(ours[path], leaf, err_msg=path)
    assert written_metrics(workdir) == written_metrics(finished)
    for name in ("decisions.json", "config.json"):
        assert (workdir / name).read_bytes() == (finished / name).read_bytes()


def test_a_fold_is_measured_at_its_thresholds_too(finished, model, tmp_path):
    shutil.copytree(finished, tmp_path / "fold-0")
    said = measure_fold(tmp_path / "fold-0")
    test = open_segmented(model.config.data, ("test",)).sources["test"]
    assert (said["photographs"], said["patients"]) == (len(test), len(set(test.patients)))
    wanted = measured(tally(model, test, progress=False), model.mask_decisions.by_name)
    assert said["metrics"] == pytest.approx(wanted, abs=1e-6)
    assert json.loads((tmp_path / "fold-0" / "test.json").read_text()) == said


def written(path, method, model, size):
    """A network of zeros as a checkpoint."""
    config = from_dict({"method": method, "model": model, "data": {"image": {"size": size}}})
    built = make_method(method, config.model)
    shapes = jax.eval_shape(built.init, jax.random.key(0))
    params, state = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    RetinalModel(built, params, state, config).save(path)
    return path


@pytest.fixture(scope="module")
def vit(tmp_path_factory):
    """A vision transformer of 48 pixels with a projection."""
    tower = {"image_size": 48, "width": 16, "layers": 4, "heads": 2, "drop_path": 0.1}
    model = {"image": tower, "embed_dim": 8}
    return written(tmp_path_factory.mktemp("weights") / "vit", "vision", model, 48)


def test_form_is_that_of_the_weights_and_geometry_that_of_the_config(folder, vit, tmp_path):
    config = load_config("segment", [f"data.dataset={folder}", f"init.image={vit}"])
    found = finetuning.prepare(config, tmp_path / "W").config
    assert found.model.structures == found.data.classes == STRUCTURES_IN_FOLDER
    assert (found.model.image.width, found.model.image.image_size) == (16, 512)
    assert (found.data.image.size, found.data.image.resize) == (512, "pad")
    assert found.data.masks.working_size == 1440
    assert make_method(found.method, found.model).config.map_levels == (0, 1, 2, 3)
    again = finetuning.prepare(found, tmp_path / "W").config
    assert to_dict(again) == to_dict(found)
    small = ["data.image.size=224", "model.image.image_size=224", "data.image.resize=squash"]
    config = load_config("segment", [f"data.dataset={folder}", f"init.image={vit}", *small])
    found = finetuning.prepare(config, tmp_path / "W").config
    assert (found.model.image.image_size, found.data.image.size) == (224, 224)
    assert found.data.image.resize == "squash"
    lora = dataclasses.replace(config, lora=LoraConfig(2))
    assert finetuning.prepare(lora, tmp_path / "W").config.lora.trained == ("decoder",)


def test_a_residual_network_has_a_unet_without_a_word(folder, tmp_path):
    tower = {"kind": "resnet", "stages": [1, 1, 1, 1], "width": 4}
    weights = written(tmp_path / "resnet", "vision", {"image": tower}, 32)
    config = load_config("segment", [f"data.dataset={folder}", f"init.image={weights}"])
    prepared = finetuning.prepare(config, tmp_path / "W")
    assert prepared.config.model.form.kind == "unet"
    assert prepared.config.data.image.size == 512
    assert not any("without effect" in sentence for sentence in prepared.said)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data.classes=['disc']", "model.structures=['cup']"], "data.classes and .*structures"),
        (["data.classes=['disk']"], "did you mean 'disc'"),
        (["model.decoder={'kind':'unet'}", "model.image={'kind':'resnet'}"], "does not fit"),
        (["data.image.size=72", "model.image.image_size=72", "model.image.patch_size=8"],
         "size 72 is no multiple of 16, .*to 64 or 80"),
        (["init.text=x"], "a text tower, and a segmenter has none"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_said(folder, vit, tmp_path, overrides, message):
    given = [f"data.dataset={folder}", f"init.image={vit}", *overrides]
    with pytest.raises(UserError, match=message):
        finetuning.prepare(load_config("segment", given), tmp_path / "W")


def test_a_workdir_of_a_classifier_is_no_place_for_a_segmenter(folder, finished, tmp_path):
    shutil.copytree(finished, tmp_path / "W")
    stored = json.loads((tmp_path / "W" / "config.json").read_text())
    stored["method"], stored["model"] = "classifier", {"image": stored["model"]["image"]}
    (tmp_path / "W" / "config.json").write_text(json.dumps(stored))
    with pytest.raises(UserError, match="holds a run of method classifier; take another workdir"):
        finetuning.prepare(config_for(folder), tmp_path / "W")
