"""ViLReF computes what the published networks compute, and its momentum and queues keep faith."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_files import Golden, assert_gradients_near, assert_near, assert_same_bits
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from retfm_jax.errors import UserError
from retfm_jax.interop import state_dict as interop
from retfm_jax.losses import memory_queue
from retfm_jax.losses.coupling import weighted_similarity_coupling
from retfm_jax.methods.vilref import Vilref

LABELS = jnp.array([[1, 0, 0], [1, 0, 0], [0, 1, 0], [1, 1, 0], [0, 0, 0], [0, 0, 1]], jnp.float32)


@pytest.fixture(scope="module", params=["vilref_vit.npz", "vilref_rn.npz"])
def golden(request):
    return Golden(request.param)


@pytest.fixture(scope="module")
def network(golden):
    return golden.network("vilref", golden.config["text_num_attention_heads"])


@pytest.fixture(scope="module")
def trained():
    """A network with batch norms as it is trained: labels, a queue that no batch divides."""
    golden = Golden("vilref_rn.npz")
    published, *network = golden.network("vilref", golden.config["text_num_attention_heads"])
    config = dataclasses.replace(published.config, use_labels=True, num_labels=3, queue_size=10)
    method = Vilref(config)
    params, state = interop.from_state_dict(method, interop.to_state_dict(published, *network))
    return method, params, state, golden.batch() | {"labels": LABELS}


@pytest.fixture(scope="module")
def encode(trained):
    return jax.jit(functools.partial(trained[0].encode, train=True))


def test_outputs_and_losses(golden, network):
    method, params, state = network
    batch = golden.batch()
    features = jax.jit(method.features)(params, state, batch)
    loss, (losses, _) = jax.jit(method.loss)(params, state, batch)
    assert_near({**features, **losses}, golden["out"], 2e-5)
    assert float(loss) == pytest.approx(float(losses["loss_clip"]), rel=1e-6)


def test_gradients(golden, network):
    method, params, state = network
    batch = golden.batch()
    gradient = jax.jit(jax.grad(lambda p: method.loss(p, state, batch)[0]))(params)
    assert_gradients_near(interop.to_state_dict(method, gradient, state), golden)


def test_state_dict_round_trip_keeps_bits(golden, network):
    assert_same_bits(interop.to_state_dict(*network), golden["state"])


def test_labels_and_queue_that_say_nothing_leave_the_published_loss(trained):
    method, params, state, batch = trained
    unknown = batch | {"labels": jnp.zeros_like(LABELS)}
    loss, _ = jax.jit(method.loss)(params, state, unknown)
    published = {"loss_clip": Golden("vilref_rn.npz")["out"]["loss_clip"]}
    assert_near({"loss_clip": loss}, published, 2e-5)


@pytest.fixture(scope="module")
def step(trained):
    method = trained[0]

    @jax.jit
    def run(params, state, batch):
        """One plain gradient step, as the training loop makes it."""

        def loss(params):
            return method.loss(params, state, batch, train=True)

        (_, (metrics, new_state)), gradient = jax.value_and_grad(loss, has_aux=True)(params)
        params = jax.tree.map(lambda p, g: p - 0.1 * g, params, gradient)
        return (*method.after_update(params, new_state), metrics)

    return run


def test_the_queue_takes_momentum_embeddings_after_the_loss(trained, encode, step):
    _, params, state, batch = trained
    first_params, first_state, metrics = step(params, state, batch)
    queue = first_state.carry["queue"]
    assert (int(queue["filled"]), int(queue["cursor"])) == (6, 6)
    # The momentum encoders are still the encoders, so that the first entries are the embeddings.
    embeddings, _ = encode(params, state, batch)
    np.testing.assert_allclose(queue["image"][:6], embeddings["image"], atol=1e-6)
    np.testing.assert_allclose(queue["text"][:6], embeddings["text"], atol=1e-6)
    np.testing.assert_array_equal(queue["labels"][:6], LABELS)
    expected = weighted_similarity_coupling(
        *(embeddings["image"], embeddings["text"], jnp.exp(params["log_scale"]), LABELS),
        calibrated=True,
    )
    np.testing.assert_allclose(metrics["loss_total"], expected, rtol=1e-5)

    # The second step sees the first one's pairs, and writes over the oldest of them.
    second, _ = encode(first_params, first_state, batch)
    expected = weighted_similarity_coupling(
        *(second["image"], second["text"], jnp.exp(first_params["log_scale"]), LABELS, queue),
        momentum=(second["momentum_image"], second["momentum_text"]),
        calibrated=True,
    )
    _, second_state, metrics = step(first_params, first_state, batch)
    np.testing.assert_allclose(metrics["loss_total"], expected, rtol=1e-5)
    expected = memory_queue.push(queue, second["momentum_image"], second["momentum_text"], LABELS)
    for name, value in second_state.carry["queue"].items():
        np.testing.assert_allclose(value, expected[name], atol=1e-5)


def test_momentum_encoders_follow_the_updated_parameters(trained, step):
    method, params, state, batch = trained
    new_params, new_state, _ = step(params, state, batch)
    momentum = method.config.momentum
    expected = jax.tree.map(
        lambda old, new: momentum * old + (1 - momentum) * new, params, new_params
    )
    for ours, want in zip(
        jax.tree.leaves(new_state.carry["momentum_params"]), jax.tree.leaves(expected), strict=True
    ):
        np.testing.assert_allclose(ours, want, atol=1e-6)


def test_no_gradient_passes_through_the_momentum_encoders(trained):
    method, params, state, batch = trained

    def remembered(params, carry):
        embeddings, _ = method.encode(params, state._replace(carry=carry), batch, train=True)
        return embeddings["momentum_image"].sum() + embeddings["momentum_text"].sum()

    gradients = jax.jit(jax.grad(remembered, argnums=(0, 1), allow_int=True))(params, state.carry)
    floats = [g for g in jax.tree.leaves(gradients) if jnp.issubdtype(g.dtype, jnp.floating)]
    assert not any(np.any(gradient) for gradient in floats)


def test_a_step_on_eight_devices_is_the_step_on_one(trained, step):
    _, params, state, batch = trained
    batch = jax.tree.map(lambda x: jnp.concatenate([x, x[:2]]), batch)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    over_data = NamedSharding(mesh, PartitionSpec("data"))
    everywhere = NamedSharding(mesh, PartitionSpec())
    single = step(params, state, batch)
    sharded = step(
        jax.device_put(params, everywhere),
        jax.device_put(state, everywhere),
        jax.device_put(batch, over_data),
    )
    for one, eight in zip(jax.tree.leaves(single), jax.tree.leaves(sharded), strict=True):
        np.testing.assert_allclose(eight, one, rtol=1e-3, atol=2e-5)


def test_evaluation_leaves_the_state_alone(trained):
    method, params, state, batch = trained
    _, (_, after) = jax.jit(method.loss)(params, state, batch)
    jax.tree.map(np.testing.assert_array_equal, after, state)


@pytest.mark.parametrize(
    ("changes", "gamma", "labeled", "remembers", "quantile"),
    [
        ({"use_labels": False, "queue_size": 0}, 1.0, False, False, None),
        ({"gamma": 0.0, "queue_size": 0}, 0.0, True, False, None),
        (
            {"eliminate": "text_similarity", "use_labels": False, "queue_size": 0},
            *(1.0, False, False, 0.77),
        ),
        ({"queue_size": 0}, 1.0, True, False, None),
        ({"use_labels": False}, 1.0, False, True, None),
        ({}, 1.0, True, True, None),
    ],
    ids=["info_nce", "elimination", "by_text", "weights", "queue", "all"],
)
def test_the_paper_s_ablations_are_configurations(
    trained, changes, gamma, labeled, remembers, quantile
):
    full, params, state, _ = trained
    method = Vilref(dataclasses.replace(full.config, **changes))
    rng = np.random.default_rng(0)
    dim = full.config.embed_dim
    embeddings = {
        name: jnp.asarray(rng.normal(size=(6, dim)) / dim**0.5, jnp.float32)
        for name in ("image", "text")
    }
    queue = memory_queue.push(state.carry["queue"], embeddings["text"], embeddings["image"], LABELS)
    carry = {"queue": queue} if remembers else method.init_carry(params, state.batch_stats)
    total, _ = method.objective(params, state._replace(carry=carry), embeddings, {"labels": LABELS})
    expected = weighted_similarity_coupling(
        embeddings["image"],
        embeddings["text"],
        jnp.exp(params["log_scale"]),
        LABELS if labeled else jnp.zeros_like(LABELS),
        queue if remembers else None,
        gamma,
        calibrated=True,
        text_quantile=quantile,
    )
    np.testing.assert_allclose(total, expected, rtol=1e-6)
    assert bool(carry) == remembers


def test_labels_of_another_length_are_refused_with_the_remedy(trained):
    method, params, state, batch = trained
    wrong = batch | {"labels": jnp.zeros((6, 5))}
    with pytest.raises(UserError, match=r"num_labels is 3.*carries 5 labels: set it to 5"):
        jax.eval_shape(method.loss, params, state, wrong)


@pytest.mark.parametrize(
    "changes", [{"gamma": -1.0}, {"momentum": 1.5}, {"queue_size": -1}], ids=lambda c: next(iter(c))
)
def test_impossible_settings_are_refused(trained, changes):
    with pytest.raises(ValueError, match=next(iter(changes))):
        dataclasses.replace(trained[0].config, **changes)


def test_clamps_the_log_temperature(trained):
    method, params, state, _ = trained
    for wild, clamped in ((9.0, np.log(100)), (-1.0, 0.0), (2.0, 2.0)):
        new, _ = method.after_update(params | {"log_scale": jnp.asarray(wild)}, state)
        assert float(new["log_scale"]) == pytest.approx(clamped)
