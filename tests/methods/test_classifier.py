"""The head for classes: what it sees, its loss, its weights, over microbatches and meshes."""

import dataclasses

import jax
import numpy as np
import pytest

import retfm_jax
from retfm_jax.config import MeshConfig, from_dict
from retfm_jax.data.kinds import get_kind
from retfm_jax.errors import UserError
from retfm_jax.interop.state_dict import from_state_dict, to_state_dict
from retfm_jax.methods import make_method
from retfm_jax.methods.classifier import Classifier, ClassifierConfig
from retfm_jax.models.resnet import ClipResNetConfig, ResNetConfig
from retfm_jax.models.vit import ViTConfig
from retfm_jax.runtime.mesh import make_mesh, place_batch
from retfm_jax.training.setup import Setup
from retfm_jax.trees import flatten

VIT = ViTConfig(32, 16, width=32, layers=2, heads=2, drop_path=0.5)
CONFIG = from_dict(
    {
        "method": "classifier",
        "model": {
            "image": {"size": "MAE-B/16", "image_size": 32, "patch_size": 16, "width": 32,
                      "layers": 2, "heads": 2, "drop_path": 0.5, "pooling": "mean_norm"},
            "classes": ["normal", "drusen", "glaucoma"],
            "outcome": "exclusive",
            "label_smoothing": 0.1,
            "head_dropout": 0.2,
        },
        "data": {"image": {"size": 32}},
        "optimizer": {"learning_rate": 1e-2, "warmup_steps": 0, "layer_decay": 0.8},
        "train": {"batch_size": 8},
    }
)  # fmt: skip
METHOD = make_method(CONFIG.method, CONFIG.model)


def changed(**entries):
    return Classifier(dataclasses.replace(CONFIG.model, **entries))


def batch(classes=3):
    arrays = get_kind(METHOD.sample_kind).random_batch(CONFIG, 8, seed=0)
    labels = np.eye(classes, dtype=np.float32)[np.arange(8) % classes]
    return {"image": (arrays["image"] / 128 - 1).astype(np.float32), "labels": labels}


def test_classes_and_logits_are_told_by_the_method_itself():
    assert METHOD.classes == ("normal", "drusen", "glaucoma")
    assert METHOD.outcome == "exclusive"
    params, state = jax.jit(METHOD.init)(jax.random.key(0))
    features = METHOD.image_features(params, state, batch()["image"])
    want = features @ params["head"]["kernel"] + params["head"]["bias"]
    logits = METHOD.class_logits(params, state, batch()["image"])
    np.testing.assert_allclose(logits, want, rtol=1e-4, atol=1e-7)
    loss, _ = METHOD.loss(params, state, batch())
    np.testing.assert_allclose(loss, np.log(3), atol=1e-3)  # the head begins next to 0


@pytest.mark.parametrize("outcome", ["exclusive", "findings", "grades"])
def test_balanced_weights_are_1_in_the_mean(outcome):
    prevalence = (0.7, 0.2, 0.1)
    method = changed(outcome=outcome, class_weights="balanced", prevalence=prevalence)
    weights = method.class_weights
    if outcome == "findings":
        mean = (weights * np.stack([1 - np.array(prevalence), prevalence])).sum(0)
    else:
        mean = (weights * prevalence).sum()
        np.testing.assert_allclose(weights * prevalence, 1 / 3, rtol=1e-6)
    np.testing.assert_allclose(mean, 1, rtol=1e-6)
    rare = changed(outcome=outcome, class_weights="balanced", prevalence=(0.75, 0.25, 0))
    assert np.isfinite(rare.class_weights).all()


@pytest.mark.parametrize(
    ("head_input", "image", "embed_dim", "width"),
    [
        ("features", VIT, 16, 32),
        ("embedding", VIT, 16, 16),
        ("unit", VIT, 16, 16),
        ("unit", VIT, None, 32),
        ("features", ResNetConfig((1, 1, 1, 1), 8), None, 256),
        ("embedding", ClipResNetConfig((1, 1, 1, 1), 8, image_size=32), 24, 24),
    ],
)
def test_the_head_sees_what_is_asked_for_of_every_tower(head_input, image, embed_dim, width):
    method = changed(image=image, embed_dim=embed_dim, head_input=head_input)
    params, state = jax.jit(method.init)(jax.random.key(0))
    assert params["head"]["kernel"].shape == (width, 3)
    params["head"]["kernel"] = np.eye(width, 3, dtype=np.float32)
    logits = np.asarray(method.class_logits(params, state, batch()["image"]))
    if head_input == "features":
        want = method.image_features(params, state, batch()["image"])
    else:
        network = method.bind(params, state.batch_stats)
        want = np.asarray(method.outputs_of(network, batch()["image"])[0])
        if head_input == "unit":
            want = want / np.linalg.norm(want, axis=1, keepdims=True) / 0.07
    np.testing.assert_allclose(logits, np.asarray(want)[:, :3], rtol=1e-4, atol=1e-5)
    tensors = to_state_dict(method, params, state)
    head = (
        "class_head" if params["visual"].get("projection") is not None and image is VIT else "head"
    )
    assert tensors[f"{head}.weight"].shape == (3, width)
    back, _ = from_state_dict(method, tensors)
    for path, leaf in flatten(params).items():
        np.testing.assert_array_equal(flatten(back)[path], leaf, err_msg=path)


def test_smoothing_and_weights_belong_to_training_alone():
    params, state = jax.jit(METHOD.init)(jax.random.key(0))
    params["head"]["kernel"] = np.random.default_rng(0).normal(size=(32, 3)).astype(np.float32)
    plain = changed(label_smoothing=0.0)
    ours, theirs = (method.loss(params, state, batch())[0] for method in (METHOD, plain))
    assert float(ours) == float(theirs)
    ours, theirs = (
        method.loss(params, state, batch(), train=True)[0] for method in (METHOD, plain)
    )
    assert float(ours) != float(theirs)


def _trained(microbatches, data, fsdp):
    mesh = make_mesh(MeshConfig(data, fsdp), jax.devices()[: data * fsdp])
    setup = Setup.of(CONFIG, METHOD, mesh, horizon=10)
    step = setup.jit(setup.step(lambda batch, key: batch, microbatches))
    state, losses = setup.create(), []
    for _ in range(4):
        state, metrics = step(state, place_batch(batch(), mesh))
        losses.append(float(metrics["loss"]))
    return losses


def test_microbatches_and_meshes_change_nothing():
    losses = _trained(1, 1, 1)
    assert losses[3] < losses[0]
    np.testing.assert_allclose(_trained(2, 2, 2), losses, rtol=1e-4)


def test_a_fine_tuned_file_of_others_loads_with_its_head():
    params, state = jax.jit(METHOD.init)(jax.random.key(0))
    tensors = to_state_dict(METHOD, params, state)
    assert {"head.weight", "head.bias", "blocks.0.attn.qkv.weight"} <= tensors.keys()
    model = retfm_jax.from_torch(tensors, "classifier", 2)
    assert model.method.classes == ("class 0", "class 1", "class 2")
    assert any("by their number" in note for note in model.notes)
    images = batch()["image"]
    ours = model.method.class_logits(model.params, model.state, images)
    np.testing.assert_allclose(ours, METHOD.class_logits(params, state, images), atol=1e-6)
    tower = retfm_jax.from_torch(tensors)
    assert tower.method.classes == ()
    assert tower.method.outcome is None
    assert any("head" in note for note in tower.notes)
    one = tensors | {name: tensors[name][:1] for name in ("head.weight", "head.bias")}
    assert retfm_jax.from_torch(one, "classifier", 2).decisions.outcome == "findings"
    del tensors["head.weight"], tensors["head.bias"]
    with pytest.raises(UserError, match="no head for classes is found"):
        retfm_jax.from_torch(tensors, "classifier", 2)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"classes": ("a", "b", "a")}, "names a twice"),
        ({"classes": ("a",)}, "names one class"),
        ({"prevalence": (0.5, 0.5)}, "prevalence has 2 shares, classes 3 names"),
    ],
)
def test_contradictions_are_refused(entries, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(CONFIG.model, **entries)
    with pytest.raises(ValueError, match="prevalence"):
        _ = changed(class_weights="balanced").class_weights
    assert ClassifierConfig().outputs == 2
