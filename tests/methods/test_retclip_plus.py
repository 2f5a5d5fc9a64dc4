"""RET-CLIP+ is the published network in each of its stages, and a run goes through them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_files import Golden, assert_gradients_near, assert_near, assert_same_bits
from toy_training import Batch, flat

import retfm_jax
from retfm_jax.config import MeshConfig, from_dict
from retfm_jax.data import device_augment
from retfm_jax.data.kinds import get_kind
from retfm_jax.errors import UserError
from retfm_jax.interop.state_dict import to_state_dict
from retfm_jax.losses.masked_image import (
    denormalize_patches,
    normalize_patches,
    patchify,
    unpatchify,
)
from retfm_jax.methods.dual_encoder import as_dual_encoder
from retfm_jax.methods.patients import PatientMethod
from retfm_jax.methods.retclip_plus import RetClipPlus
from retfm_jax.runtime.mesh import make_mesh, place_batch
from retfm_jax.training import loop
from retfm_jax.training.gradient_cache import loss_and_gradients
from retfm_jax.training.optimizers import Partition
from retfm_jax.training.setup import Setup
from retfm_jax.trees import flatten

ROWS, STEPS_PER_EPOCH = 8, 2
TOWER = {"width": 16, "layers": 1, "heads": 2}
CONFIG = from_dict(
    {
        "method": "retclip_plus",
        "model": {
            "image": {"image_size": 16, "patch_size": 4, **TOWER},
            "text": {"vocab_size": 40, "mlp_width": 32, "positions": 12, "dropout": 0.1, **TOWER},
            "embed_dim": 8,
            "decoder": {"width": 8, "layers": 1, "heads": 2},
            "stages": [{"until": 1}, {"until": 2, "mae": 10}, {"reconstruction": True, "mae": 10}],
            "initial_scale": 14.0,
        },
        "data": {"image": {"size": 16}, "text": {"context_length": 6}},
        "optimizer": {"learning_rate": 1e-3, "warmup_steps": 1},
        "train": {
            "batch_size": ROWS, "steps": 6, "log_every": 1, "evaluate_every": 0,
            "checkpoint_every": 100,
        },
    }
)  # fmt: skip
METHOD = RetClipPlus(CONFIG.model)
STAGES = [as_dual_encoder(stage.method, "a test") for stage in METHOD.stages]


@pytest.fixture(scope="module")
def golden():
    return Golden("retclip_plus.npz")


@pytest.fixture(scope="module")
def model(golden):
    heads = golden.config["text_num_attention_heads"]
    return retfm_jax.from_torch(golden["state"], text_num_heads=heads)


@pytest.fixture(scope="module")
def network():
    return jax.jit(METHOD.init)(jax.random.key(0))


def _batch(seed=0):
    """Prepared patients, of whom one lacks the left eye and one the right one."""
    batch = get_kind(METHOD.sample_kind).random_batch(CONFIG, ROWS, seed)
    batch["has_left"][1] = batch["has_right"][2] = False
    return device_augment.prepare(batch, CONFIG.data.image)


def test_names_alone_tell_the_system_and_its_sizes(golden, model):
    want, sizes = golden.config, model.config.model
    assert model.method.name == "retclip_plus"
    assert dataclasses.astuple(sizes.decoder)[:3] == (
        want["decoder_width"], want["decoder_depth"], want["decoder_heads"],
    )  # fmt: skip
    assert (sizes.mask_ratio, sizes.stages[1].mae) == (want["mask_ratio"], want["mae_weight"])
    wrapped = {f"module.{name}": tensor for name, tensor in golden["state"].items()}
    assert retfm_jax.from_torch(wrapped).method.name == "retclip_plus"
    without = {n: t for n, t in golden["state"].items() if not n.startswith("MAE_decoder.")}
    del without["visual.transformer.ln_post.weight"], without["visual.transformer.ln_post.bias"]
    assert retfm_jax.from_torch(without).method.name == "retclip"


def test_outputs_and_losses_of_every_stage_are_the_published_ones(golden, model):
    batch = golden.batch()
    assert_near(model.features(batch) | model.losses(batch), golden["out"], 2e-5)


@pytest.mark.parametrize("number", [2, 3])
def test_gradients_are_the_published_ones(golden, model, number):
    method, batch = model.method.stages[number - 1].method, golden.batch()
    gradient = jax.jit(jax.grad(lambda params: method.loss(params, model.state, batch)[0]))
    golden.groups["grad"] = golden[f"grad_stage{number}"]
    golden.groups["grad_norm"] = golden[f"grad_stage{number}_norm"]
    assert_gradients_near(to_state_dict(method, gradient(model.params), model.state), golden)


def test_the_state_dict_comes_back_with_its_bits(golden, model):
    assert_same_bits(retfm_jax.to_torch(model), golden["state"])


def test_the_first_stage_is_a_third_of_the_sum_of_the_levels(network):
    params, state = network

    @jax.jit
    def levels(batch):
        embeddings, _ = PatientMethod.encode(METHOD, params, state, batch)
        return METHOD.level_losses(params, embeddings, batch)[0]

    loss, (metrics, _) = jax.jit(STAGES[0].loss)(params, state, _batch())
    assert float(loss) == pytest.approx(float(levels(_batch())) / 3, rel=1e-6)
    assert set(metrics) == {"loss_patient", "loss_left", "loss_right", "loss_total"}


def test_patients_and_texts_are_embedded_without_views(network):
    params, state = network
    batch = {name: array for name, array in _batch().items() if not name.startswith("view")}
    found = jax.jit(METHOD.features)(params, state, batch)
    assert "latent" not in found
    patients = jax.jit(METHOD.encode_patients)(params, state, batch)
    np.testing.assert_allclose(found["image_patient"], patients["image_patient"], atol=1e-6)


def test_the_error_is_the_mean_over_the_eyes_that_there_are(network):
    params, state = network
    batch = _batch()
    method = STAGES[1]
    keys = jax.random.split(jax.random.key(3), ROWS)
    embeddings, _ = jax.jit(method.encode)(params, state, batch, keys=keys)
    _, (metrics, _) = method.objective(params, state, embeddings, batch)
    error = np.asarray(embeddings["error"])
    there = np.stack([batch["has_left"], batch["has_right"]], axis=1)
    assert there.sum() == 2 * ROWS - 2
    assert float(metrics["loss_mae"]) == pytest.approx(error[there].mean(), rel=1e-6)
    assert float(metrics["loss_total"]) == pytest.approx(
        sum(float(metrics[f"loss_{level}"]) for level in ("patient", "left", "right")) / 3
        + 10 * error[there].mean(),
        rel=1e-5,
    )


@pytest.mark.parametrize("method", STAGES)
def test_pixels_of_a_missing_eye_do_not_matter(network, method):
    params, state = network
    batch = _batch()
    other = batch | {name: batch[name].at[1].set(7.0) for name in ("image_left", "view_left")}
    loss = jax.jit(jax.value_and_grad(lambda p, b: method.loss(p, state, b)[0]))
    (value, gradient), (other_value, other_gradient) = loss(params, batch), loss(params, other)
    assert float(value) == float(other_value)
    jax.tree.map(np.testing.assert_array_equal, gradient, other_gradient)


def test_what_is_hidden_belongs_to_the_patient(network):
    params, state = network
    keys = jax.random.split(jax.random.key(1), ROWS)
    encode = jax.jit(lambda batch, keys: METHOD.encode(params, state, batch, keys=keys)[0])
    whole = encode(_batch(), keys)
    order = np.random.default_rng(0).permutation(ROWS)
    turned = encode({name: array[order] for name, array in _batch().items()}, keys[order])
    for name, found in whole.items():
        np.testing.assert_allclose(turned[name], found[order], atol=1e-5, err_msg=name)
    assert not np.allclose(encode(_batch(), keys[order])["error"], whole["error"])


def test_the_contrast_of_reconstructions_teaches_decoder_and_encoder(network):
    params, state = network
    stage = dataclasses.replace(CONFIG.model.stages[-1], mae=0.0)
    method = RetClipPlus(dataclasses.replace(CONFIG.model, stages=(stage,)))
    loss = jax.jit(jax.value_and_grad(lambda p, batch: method.loss(p, state, batch)[0]))
    value, gradient = loss(params, _batch())
    norms = {name: float(jnp.abs(leaf).max()) for name, leaf in flatten(gradient).items()}
    for path in ("decoder/predict/kernel", "decoder/embed/kernel", "visual/patch/kernel"):
        assert norms[path] > 0, path
    # The photographs themselves are not seen.
    other = _batch() | {"image_left": jnp.zeros((ROWS, 16, 16, 3))}
    assert loss(params, other)[0] == value


def test_denormalized_reconstructions_have_the_scale_of_the_visible_patches(network):
    images = jnp.asarray(np.random.default_rng(0).normal(2, 3, (2, 16, 16, 3)), jnp.float32)
    patches = patchify(images, 4)
    np.testing.assert_array_equal(unpatchify(patches, 4), images)
    predicted = denormalize_patches(normalize_patches(patches), patches)
    np.testing.assert_allclose(predicted, patches, atol=1e-5)
    params, state = network
    views = dict.fromkeys(("view_left", "view_right"), images[:1].repeat(ROWS, 0))
    found = []
    for form in ("published", "denormalized"):
        config = dataclasses.replace(CONFIG.model, reconstruction=form)
        method = RetClipPlus(config)
        features = jax.jit(method.features)(params, state, _batch() | views)
        found.append(np.abs(features["reconstruction_mean"] - 2))
    assert found[1].max() < found[0].min()


def _gradients(method, network, microbatches, data, fsdp):
    mesh = make_mesh(MeshConfig(data, fsdp), jax.devices()[: data * fsdp])
    params, state = network
    partition = Partition.of(method, CONFIG.optimizer, params)

    @jax.jit
    def compute(params, batch):
        arguments = params, state, batch, jax.random.key(5)
        loss, _, _, gradients = loss_and_gradients(
            method, partition, *arguments, microbatches, mesh
        )
        return loss, gradients

    loss, gradients = compute(params, place_batch(jax.tree.map(np.asarray, _batch()), mesh))
    return float(loss), flatten(gradients)


@pytest.mark.parametrize("method", STAGES)
def test_microbatches_and_meshes_change_nothing(network, method):
    loss, gradients = _gradients(method, network, 1, 1, 1)
    largest = max(np.abs(leaf).max() for leaf in gradients.values())
    other_loss, other = _gradients(method, network, 2, 2, 2)
    assert other_loss == pytest.approx(loss, rel=1e-5)
    for name, leaf in gradients.items():
        np.testing.assert_allclose(other[name], leaf, atol=2e-5 * largest, err_msg=name)


def _data():
    def opened(start, mesh):
        index = start
        while True:
            arrays = get_kind(METHOD.sample_kind).random_batch(CONFIG, ROWS, index)
            batch = Batch(arrays, ["p"] * ROWS, index)
            yield batch._replace(arrays=place_batch(arrays, mesh))
            index += 1

    def prepare(batch, key):
        return device_augment.prepare(batch, CONFIG.data.image, CONFIG.data.augment, key)

    return loop.TrainingData(
        open=opened, prepare=prepare, identity={}, steps_in=lambda epochs: STEPS_PER_EPOCH * epochs
    )


def _run(workdir, steps):
    """Runs to a step of the same run: its learning rates are those of all steps."""
    train = dataclasses.replace(CONFIG.train, steps=steps, horizon_epochs=3)
    return loop.run(dataclasses.replace(CONFIG, train=train), workdir, METHOD, _data())


def test_a_run_goes_through_its_stages_and_resumes_with_the_same_bits(
    tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(loop, "make_mesh", lambda config: make_mesh(config, jax.devices()[:1]))
    whole = _run(tmp_path / "whole", 6)
    said = capsys.readouterr().out
    titles = [stage.title for stage in METHOD.stages]
    assert titles[1] == "stage 2 of 3 (1 contrast + 10 MAE)"
    places = [said.index(title) for title in titles]
    assert places == sorted(places)
    # Within a stage, and where two of them meet.
    for steps in (2, 5, 6):
        resumed = _run(tmp_path / "resumed", steps)
    said = capsys.readouterr().out
    assert [said.count(title) for title in titles] == [1, 1, 2]
    for path, leaf in flat(whole).items():
        np.testing.assert_array_equal(flat(resumed)[path], leaf, err_msg=path)


def test_parameters_that_nothing_uses_stay(network):
    params, _ = network
    trained, fixed = Partition.of(METHOD, CONFIG.optimizer, params).split(params)
    assert set(flatten(fixed)) == {
        "decoder/position_embedding", "unused_norm/scale", "unused_norm/bias",
    }  # fmt: skip
    assert len(flatten(trained)) + 3 == len(flatten(params))


def test_a_stage_without_a_step_is_refused():
    setup = Setup.of(CONFIG, METHOD, make_mesh(MeshConfig(), jax.devices()[:1]), horizon=6)
    assert list(setup.stages(lambda epochs: 10 * epochs)) == [0, 10, 20]
    first = dataclasses.replace(CONFIG.model.stages[0], until=0.1)
    second = dataclasses.replace(CONFIG.model.stages[1], until=0.2)
    config = dataclasses.replace(CONFIG.model, stages=(first, second, CONFIG.model.stages[2]))
    short = dataclasses.replace(setup, method=RetClipPlus(config))
    with pytest.raises(UserError, match=r"stage 2 of 3 .* after 0.2 epochs, which are 1 steps"):
        short.stages(lambda epochs: 4 * epochs)


def test_the_last_stage_needs_most():
    setup = Setup.of(CONFIG, METHOD, make_mesh(MeshConfig(), jax.devices()[:1]), horizon=6)
    batch = get_kind(METHOD.sample_kind).random_batch(CONFIG, ROWS, 0)
    stages = setup.stages(lambda epochs: epochs).values()
    flops = [stage.model_flops(batch) or 0 for stage in stages]
    assert flops == sorted(flops)
    assert len(set(flops)) == 3
    assert setup.costliest(batch).title.startswith("stage 3 of 3")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image": {"registers": 2}}, "takes no registers"),
        ({"stages": [{"until": 2}, {"until": 1}, {}]}, "must increase"),
        ({"stages": [{"until": 2}]}, "end with null"),
        ({"stages": [{"contrast": 0}]}, "needs a weight"),
        ({"stages": []}, "must not be empty"),
        ({"stages": [{"untl": 2}]}, r"did you mean config.model.stages\[0\].until"),
    ],
)
def test_stages_that_contradict_each_other_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        from_dict({"method": "retclip_plus", "model": changes})
