"""The published captioner, its words and its training; cases of several images; other towers."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
from golden_files import Golden, assert_gradients_near, assert_near, assert_same_bits

from retfm_jax.config import ExperimentConfig, MeshConfig, OptimizerConfig, TrainConfig
from retfm_jax.config.parse import load_config
from retfm_jax.errors import UserError
from retfm_jax.inputs import as_batch
from retfm_jax.interop import state_dict as interop
from retfm_jax.methods import get_method_class
from retfm_jax.methods.base import Method
from retfm_jax.models.caption import CaptionerConfig, sine_positions
from retfm_jax.models.resnet import ResNetConfig
from retfm_jax.models.vit import ViTConfig
from retfm_jax.runtime.mesh import make_mesh, place_batch
from retfm_jax.training.gradient_cache import loss_and_gradients
from retfm_jax.training.optimizers import Partition
from retfm_jax.training.setup import Setup
from retfm_jax.trees import flatten

NAME = "ffa_captioner"
LENGTH = 14


@functools.cache
def golden() -> Golden:
    return Golden(f"{NAME}.npz")


@functools.cache
def network() -> tuple:
    """The golden's network without dropout, and its features of the golden's batch."""
    method, params, state = golden().network(NAME, golden().config["heads"])
    quiet = dataclasses.replace(method.config.captioner, dropout=0.0, feature_dropout=0.0)
    method = type(method)(dataclasses.replace(method.config, captioner=quiet))
    features = jax.jit(method.features)(params, state, golden().batch())
    return method, params, state, features


@functools.cache
def decoder(method: Method):
    return jax.jit(method.decode, static_argnames=("beams", "length", "block_trigrams"))


def written(**options):
    method, params, state, _ = network()
    return decoder(method)(params, state, golden().batch()["image"], length=LENGTH, **options)


def test_outputs_and_losses_are_those_of_the_published_network():
    method, params, state, features = network()
    out = golden()["out"]
    assert_near(features, {name: out[name] for name in features}, 2e-5)
    batch = as_batch(method, golden().batch(), losses=True)
    losses = jax.jit(method.losses)(params, state, batch)
    assert_near(losses, {"loss_total": out["loss_total"]}, 2e-5)


def test_gradients_are_those_of_the_published_network():
    method, params, state, _ = network()
    batch = golden().batch()
    gradients = jax.jit(jax.grad(lambda params: method.loss(params, state, batch)[0]))(params)
    assert_gradients_near(interop.to_state_dict(method, gradients, state), golden())


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("greedy", {"beams": 1}),
        ("greedy_trigrams", {"beams": 1, "block_trigrams": True}),
        ("beam", {"beams": 3}),
    ],
)
def test_words_are_the_published_ones(name, options):
    found, out = written(**options), golden()["out"]
    np.testing.assert_array_equal(found.words[:, 0], out[name])
    if name == "beam":
        np.testing.assert_array_equal(found.words, out["beams"])
        np.testing.assert_allclose(found.scores, out["beam_score"], rtol=1e-5)


def test_words_with_a_cache_are_as_likely_as_without():
    method, params, state, features = network()
    words = np.asarray(written(beams=1).words[:, 0])
    bound = method.bind(params, state.batch_stats).captioner
    read = np.concatenate([np.zeros((len(words), 1), np.int32), words[:, :-1]], axis=1)

    @jax.jit
    def both():
        cache = bound.begin(features["memory"], beams=1, length=LENGTH)
        steps = []
        for position in range(4):
            added, cache = bound.next(read[:, position, None], np.array(position, np.int32), cache)
            steps.append(added[:, 0])
        return bound.log_probabilities(read[:, :4], features["memory"]), steps

    whole, steps = both()
    np.testing.assert_allclose(np.stack(steps, axis=1), whole, atol=2e-5)


def test_a_state_dict_comes_out_with_the_bits_it_went_in_with():
    method, params, state, _ = network()
    assert_same_bits(interop.to_state_dict(method, params, state), golden()["state"])
    positions = golden()["state"]["encoder_decoder.model.tgt_embed.1.pe"][0]
    np.testing.assert_allclose(sine_positions(*positions.shape), positions, atol=5e-4)


def test_the_published_optimizer_goes_the_published_way():
    method, params, state, _ = network()
    method = type(method)(dataclasses.replace(method.config, norms="running"))
    experiment = load_config(NAME)
    assert isinstance(experiment.model.image, ResNetConfig)
    published = experiment.optimizer
    config = ExperimentConfig(
        NAME, method.config, optimizer=published, train=TrainConfig(batch_size=3)
    )
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    setup = Setup.of(config, method, mesh, horizon=10**9)
    train_state = setup.create((params, state.batch_stats))
    step = setup.jit(setup.step(lambda batch, key: batch))
    losses = []
    for _ in golden()["out"]["trajectory_loss"]:
        train_state, metrics = step(train_state, golden().batch())
        losses.append(float(metrics["loss"]))
    np.testing.assert_allclose(losses, golden()["out"]["trajectory_loss"], rtol=5e-5)


def cases(rows: int = 8) -> dict[str, np.ndarray]:
    """Random cases of one or two images with reports of different lengths."""
    rng = np.random.default_rng(0)
    tokens = np.zeros((rows, 7), np.int32)
    for row in range(rows):
        words = 1 + row % 5
        tokens[row, 1 : words + 1] = rng.integers(1, 9, words)
    has_image = np.ones((rows, 2), bool)
    has_image[1::2, 1] = False
    has_image[2::4, 0] = False  # as of a patient without a left eye
    image = rng.normal(size=(rows, 2, 32, 32, 3)).astype(np.float32)
    return {"image": image, "has_image": has_image, "tokens": tokens}


@functools.cache
def small() -> Method:
    """A captioner on a vision transformer, whose words see the patches of every image."""
    method = get_method_class(NAME)
    return method(
        method.config_class(
            image=ViTConfig(image_size=32, patch_size=16, width=16, layers=1, heads=2),
            captioner=CaptionerConfig(width=16, mlp_width=16, layers=1, heads=2, positions=8),
            vocabulary=9,
            images="all",
            places=2,
        )
    )


@functools.cache
def started() -> tuple:
    params, state = jax.jit(small().init)(jax.random.key(0))
    params["places"] = jax.random.normal(jax.random.key(1), params["places"].shape)
    return params, state


def test_an_image_that_is_missing_means_nothing_and_the_order_of_cases_neither():
    (params, state), batch = started(), cases()
    losses = jax.jit(small().sample_losses)(params, state, batch)["loss_total"]
    other = dict(batch, image=batch["image"].copy())
    other["image"][~batch["has_image"]] = 7.0
    order = np.arange(8)[::-1]
    moved = {name: array[order] for name, array in other.items()}
    again = jax.jit(small().sample_losses)(params, state, moved)["loss_total"]
    np.testing.assert_allclose(again, np.asarray(losses)[order], rtol=1e-5)


def test_padding_behind_reports_means_nothing():
    (params, state), batch = started(), cases()
    wide = dict(batch, tokens=np.pad(batch["tokens"], ((0, 0), (0, 1))))
    loss = jax.jit(lambda batch: small().loss(params, state, batch)[0])
    np.testing.assert_allclose(loss(batch), loss(wide), rtol=1e-6)


def test_microbatches_and_devices_change_nothing():
    (params, state), batch = started(), cases()
    partition = Partition.of(small(), OptimizerConfig(), params)
    key = jax.random.key(3)

    def run(microbatches, devices):
        mesh = make_mesh(MeshConfig(), jax.devices()[:devices])
        call = jax.jit(
            lambda params, batch: loss_and_gradients(
                small(), partition, params, state, batch, key, microbatches, mesh
            )
        )
        loss, _, _, gradients = call(params, place_batch(batch, mesh))
        return float(loss), flatten(jax.device_get(gradients))

    loss, gradients = run(1, 1)
    again, others = run(2, 4)
    assert again == pytest.approx(loss, rel=1e-5)
    for path, leaf in gradients.items():
        np.testing.assert_allclose(others[path], leaf, atol=2e-6, err_msg=path)
    assert "captioner/positions" not in gradients


def test_eight_devices_write_the_words_of_one():
    (params, state), batch = started(), cases()
    words = []
    for devices in (1, 8):
        mesh = make_mesh(MeshConfig(), jax.devices()[:devices])
        placed = place_batch(batch, mesh)
        found = decoder(small())(
            params, state, placed["image"], placed["has_image"], beams=3, length=6
        )
        words.append(np.asarray(found.words))
    np.testing.assert_array_equal(*words)


def test_a_captioner_on_another_tower_comes_back_from_its_tensors():
    params, state = started()
    tensors = interop.to_state_dict(small(), params, state)
    selected = get_method_class(NAME).select(tensors, 2)
    assert (selected.config.images, selected.config.places) == ("all", 2)
    method = get_method_class(NAME)(selected.config)
    back, _ = interop.from_state_dict(method, dict(selected.tensors))
    for path, leaf in flatten(params).items():
        np.testing.assert_array_equal(flatten(back)[path], leaf, err_msg=path)


def test_what_cannot_be_is_refused():
    (params, state), batch = started(), cases()
    three = np.concatenate([batch["image"], batch["image"][:, :1]], axis=1)
    with pytest.raises(ValueError, match="places 2"):
        small().features(params, state, {"image": three})
    with pytest.raises(ValueError, match="no captioner is found"):
        get_method_class(NAME).select({"conv1.weight": np.zeros((4, 3, 7, 7), np.float32)})
    with pytest.raises(ValueError, match="more than the 8 positions"):
        small().decode(params, state, batch["image"], length=9)
    method = network()[0]
    partition = Partition.of(method, OptimizerConfig(), network()[1])
    with pytest.raises(UserError, match="microbatches"):
        loss_and_gradients(method, partition, network()[1], network()[2], cases(), None, 2)
