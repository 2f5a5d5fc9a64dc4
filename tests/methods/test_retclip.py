"""RET-CLIP computes what the published network computes, and is right about missing eyes."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_files import Golden, assert_gradients_near, assert_near, assert_same_bits

from retfm_jax.interop import state_dict as interop
from retfm_jax.losses.tripartite import LEVELS


@pytest.fixture(scope="module")
def golden():
    return Golden("retclip_vit.npz")


@pytest.fixture(scope="module")
def network(golden):
    return golden.network("retclip", golden.config["text_num_attention_heads"])


def test_outputs_and_losses(golden, network):
    method, params, state = network
    batch = golden.batch()
    features = jax.jit(method.features)(params, state, batch)
    _, (losses, _) = jax.jit(method.loss)(params, state, batch)
    assert_near({**features, **losses}, golden["out"], 2e-5)


def test_gradients(golden, network):
    method, params, state = network
    batch = golden.batch()
    gradient = jax.jit(jax.grad(lambda p: method.loss(p, state, batch)[0]))(params)
    assert_gradients_near(interop.to_state_dict(method, gradient, state), golden)


def test_state_dict_round_trip_keeps_bits(golden, network):
    assert_same_bits(interop.to_state_dict(*network), golden["state"])


def test_all_eyes_present_equals_no_masks(golden, network):
    method, params, state = network
    batch = golden.batch()
    everyone = jnp.ones(len(batch["tokens"]), bool)
    masked = batch | {"has_left": everyone, "has_right": everyone}
    plain, _ = method.loss(params, state, batch)
    assert float(method.loss(params, state, masked)[0]) == pytest.approx(float(plain), rel=1e-6)


def test_pixels_of_a_missing_eye_do_not_matter(golden, network):
    method, params, state = network
    batch = golden.batch()
    has_left = jnp.arange(len(batch["tokens"])) != 2
    batch = batch | {"has_left": has_left, "has_right": jnp.ones_like(has_left)}
    other = batch | {"image_left": batch["image_left"].at[2].set(7.0)}
    loss = jax.jit(jax.value_and_grad(lambda p, b: method.loss(p, state, b)[0]))
    (value, gradient), (other_value, other_gradient) = loss(params, batch), loss(params, other)
    assert float(value) == float(other_value)
    jax.tree.map(partial(np.testing.assert_allclose, atol=1e-6), gradient, other_gradient)


def test_one_eyed_patient_is_embedded_from_the_eye_that_is_there(golden, network):
    method, params, state = network
    batch = golden.batch()
    nobody = jnp.zeros(len(batch["tokens"]), bool)
    one_eyed = method.features(params, state, batch | {"has_left": nobody, "has_right": ~nobody})
    twice = method.features(params, state, batch | {"image_left": batch["image_right"]})
    np.testing.assert_allclose(one_eyed["image_patient"], twice["image_patient"], atol=1e-6)
    alone = method.encode_images(params, state, batch["image_right"])
    np.testing.assert_allclose(alone, twice["image_patient"], atol=1e-6)


def test_permuting_the_batch_permutes_the_embeddings_only(golden, network):
    method, params, state = network
    batch = golden.batch()
    order = np.random.default_rng(0).permutation(len(batch["tokens"]))
    shuffled = jax.tree.map(lambda x: x[order], batch)
    features = method.features(params, state, batch)
    permuted = method.features(params, state, shuffled)
    for level in LEVELS:
        for name in (f"image_{level}", f"text_{level}"):
            np.testing.assert_allclose(permuted[name], features[name][order], atol=2e-6)
    loss, _ = method.loss(params, state, batch)
    assert float(method.loss(params, state, shuffled)[0]) == pytest.approx(float(loss), rel=1e-5)


def test_clamps_log_temperatures(network):
    method, params, state = network
    wild = params | {"log_scale": {"patient": 9.0, "left": -1.0, "right": 2.0}}
    clamped, _ = method.after_update(wild, state)
    scales = {level: float(value) for level, value in clamped["log_scale"].items()}
    assert scales == pytest.approx({"patient": np.log(100), "left": 0.0, "right": 2.0})


def test_padding_changes_no_text_embedding(golden, network):
    method, params, state = network
    tokens = golden.batch()["tokens"]
    longer = jnp.pad(tokens, ((0, 0), (0, 8)))
    np.testing.assert_allclose(
        method.encode_texts(params, state, tokens),
        method.encode_texts(params, state, longer),
        atol=1e-6,
    )
