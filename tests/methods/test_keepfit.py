"""KeepFIT computes what the published network computes; FLAIR is the same without the attention."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_files import Golden, assert_gradients_near, assert_near, assert_same_bits

from retfm_jax.config import MeshConfig
from retfm_jax.errors import UserError
from retfm_jax.interop import state_dict as interop
from retfm_jax.losses.contrastive import info_nce, soft_target_info_nce
from retfm_jax.methods.keepfit import Keepfit, KeepfitConfig
from retfm_jax.runtime.mesh import make_mesh, place_batch, shardings


@pytest.fixture(scope="module")
def golden():
    return Golden("keepfit_resnet.npz")


@pytest.fixture(scope="module")
def network(golden):
    return golden.network("keepfit", golden.config["heads"])


@pytest.fixture(scope="module")
def encoded(golden, network):
    method, params, state = network
    return jax.jit(method.encode)(params, state, golden.batch())[0]


def changed(method: Keepfit, **changes) -> Keepfit:
    return Keepfit(dataclasses.replace(method.config, **changes))


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
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(gradient["pooler"]))


def test_state_dict_round_trip_keeps_bits(golden, network):
    assert_same_bits(interop.to_state_dict(*network), golden["state"])


def test_flair_is_the_network_without_attention(golden, network):
    full, params, state = network
    flair = {k: v for k, v in golden["state"].items() if not k.startswith("attention.")}
    shapes = {name: value.shape for name, value in flair.items()}
    method = Keepfit(Keepfit.infer_config(shapes, golden.config["heads"]))
    assert not method.config.attention
    flair_params, flair_state = interop.from_state_dict(method, flair)
    assert_same_bits(interop.to_state_dict(method, flair_params, flair_state), flair)
    batch = {name: golden.batch()[name] for name in ("image", "tokens", "category")}
    features = jax.jit(method.features)(flair_params, flair_state, batch)
    assert set(features) == {"image", "text", "scale"}
    np.testing.assert_allclose(features["image"], golden["out"]["image"], atol=1e-5)
    _, (losses, _) = jax.jit(method.loss)(flair_params, flair_state, batch)
    assert float(losses["loss_total"]) == float(losses["loss_category"])
    encoded = jax.jit(full.encode_images)(params, state, batch["image"])
    np.testing.assert_allclose(features["image"], encoded, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "weights"),
    [
        ({"expert_weight": 0.0}, (0, 100)),
        ({"revision_weight": 0.0}, (1, 0)),
        ({"revision_weight": 0.0, "attention": False}, (1, 0)),
        ({}, (1, 100)),
    ],
    ids=["revision_only", "mixed_only", "mixed_without_attention", "both"],
)
def test_the_paper_s_ablations_are_configurations(golden, network, encoded, changes, weights):
    method, params, state = network
    if not changes.get("attention", True):
        params = {name: value for name, value in params.items() if name != "attention"}
    total, _ = changed(method, **changes).objective(params, state, encoded, golden.batch())
    losses = golden["out"]
    expert, revision = weights
    expected = (
        losses["loss_category"]
        + expert * losses["loss_expert"]
        + revision * losses["loss_revision"]
    )
    np.testing.assert_allclose(total, expected, rtol=2e-5)


def test_categories_are_positives_of_each_other(golden, network, encoded):
    method, params, state = network
    pairs = encoded["image"], encoded["text"]

    def category_loss(category):
        batch = golden.batch() | {"category": jnp.asarray(category)}
        return method.objective(params, state, encoded, batch)[1][0]["loss_category"]

    scale = method.scale(params)
    np.testing.assert_allclose(
        category_loss([5, 3, 0, 2, 9, 1]), info_nce(*pairs, scale), rtol=1e-6
    )
    repeated = jnp.array([4, 4, 0, 4, 0, 7])
    expected = soft_target_info_nce(*pairs, scale, repeated)
    np.testing.assert_allclose(category_loss(repeated), expected, rtol=1e-6)
    assert category_loss(repeated) != category_loss([5, 3, 0, 2, 9, 1])


def test_only_the_published_mean_over_positions_sees_padding(golden, network):
    method, params, state = network
    tokens = golden.batch()["tokens"]
    longer = jnp.pad(tokens, ((0, 0), (0, 7)))
    own = changed(method, pooling="text")
    np.testing.assert_allclose(
        own.encode_texts(params, state, tokens), own.encode_texts(params, state, longer), atol=1e-6
    )
    published = method.encode_texts(params, state, tokens)
    assert np.abs(published - method.encode_texts(params, state, longer)).max() > 1e-3
    np.testing.assert_allclose(published, golden["out"]["text"], atol=1e-5)


def test_dropout_acts_only_with_a_key(golden, network, encoded):
    method, params, state = network

    def losses(key):
        return method.objective(params, state, encoded, golden.batch(), key=key)[1][0]

    plain, drawn = losses(None), losses(jax.random.key(0))
    assert plain["loss_category"] == drawn["loss_category"]
    assert plain["loss_revision"] != drawn["loss_revision"]
    assert drawn["loss_revision"] != losses(jax.random.key(1))["loss_revision"]


def test_batch_norms_see_the_streams_one_after_the_other(golden, network):
    method, params, state = network
    batch = golden.batch()
    encode = jax.jit(lambda state, batch: method.encode(params, state, batch, train=True)[1])
    together = encode(state, batch)
    category = {name: batch[name] for name in ("image", "tokens", "attention_mask")}
    expert = {name: batch[f"expert_{name}"] for name in category}
    in_turn = encode(state._replace(batch_stats=encode(state, category)), expert)
    for ours, theirs in zip(jax.tree.leaves(together), jax.tree.leaves(in_turn), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)
    assert int(together["visual"]["bn1"]["count"]) == 2 + int(
        state.batch_stats["visual"]["bn1"]["count"]
    )


def test_eight_devices_count_positives_and_experts_as_one(network):
    method, params, state = network
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(4, 16, method.config.embed_dim)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=-1, keepdims=True)
    embeddings = dict(zip(("image", "text", "expert_image", "expert_text"), rows, strict=True))
    # Two samples to a device, never of one category: every positive is on another device.
    batch = {"category": np.arange(16, dtype=np.int32) % 4}

    @jax.jit
    def compute(params, embeddings, batch):
        def loss(params, embeddings):
            total, (losses, _) = method.objective(
                params, state, embeddings, batch, key=jax.random.key(1)
            )
            return total, losses

        return jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(params, embeddings)

    (_, one), of_one = compute(params, embeddings, batch)
    mesh = make_mesh(MeshConfig(data=4, fsdp=2))
    divided = jax.device_put(params, shardings(params, mesh))
    (_, eight), of_eight = compute(divided, place_batch(embeddings, mesh), place_batch(batch, mesh))
    assert set(one) == {"loss_category", "loss_expert", "loss_revision", "loss_total"}
    for name, value in one.items():
        np.testing.assert_allclose(eight[name], value, rtol=1e-5, err_msg=name)
    for ours, theirs in zip(jax.tree.leaves(of_eight), jax.tree.leaves(of_one), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
    own, _ = method.objective(
        params,
        state,
        {name: value[:2] for name, value in embeddings.items()},
        {"category": batch["category"][:2]},
    )
    assert abs(own - one["loss_total"]) > 0.5  # what one device alone would find


def test_without_expert_pairs_the_remedy_is_named(golden, network, encoded):
    method, params, state = network
    alone = {name: encoded[name] for name in ("image", "text")}
    with pytest.raises(UserError, match=r"config\.data\.expert.*expert_weight=0"):
        method.objective(params, state, alone, golden.batch())
    lonely = changed(method, expert_weight=0.0, revision_weight=0.0)
    total, _ = lonely.objective(params, state, alone, golden.batch())
    np.testing.assert_allclose(total, golden["out"]["loss_category"], rtol=2e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attention": False}, "revision_weight needs attention"),
        ({"attention_heads": 3}, "does not divide into 3 heads"),
        (
            {"attention_dropout": 1.0},
            "attention_dropout must be at least 0 and less than 1",
        ),
        ({"expert_weight": -1.0}, "expert_weight must be at least 0, not -1.0"),
    ],
)
def test_impossible_settings_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        KeepfitConfig(**changes)


def test_clamps_the_log_temperature(network):
    method, params, state = network
    for wild, clamped in ((9.0, np.log(100)), (-1.0, 0.0), (2.0, 2.0)):
        new, _ = method.after_update(params | {"log_scale": jnp.asarray(wild)}, state)
        assert float(new["log_scale"]) == pytest.approx(clamped)


def test_a_self_paced_objective_weighs_the_texts_direction_by_the_epoch(golden, network, encoded):
    method, params, state = network
    paced = changed(method, self_paced_epochs=4.0, expert_weight=0.0, revision_weight=0.0)
    pairs = {name: encoded[name] for name in ("image", "text")}
    batch = golden.batch()
    args = pairs["image"], pairs["text"], method.scale(params), batch["category"], None
    for epoch, weight in ((0, 0.25), (3, 1.0), (9, 1.0)):
        epochs = {"epoch": jnp.full(len(batch["category"]), epoch)}
        total, _ = paced.objective(params, state, pairs, batch | epochs)
        np.testing.assert_allclose(total, soft_target_info_nce(*args, weight), rtol=1e-6)
    with pytest.raises(UserError, match=r"epoch missing; config\.model\.self_paced_epochs"):
        paced.objective(params, state, pairs, batch)
