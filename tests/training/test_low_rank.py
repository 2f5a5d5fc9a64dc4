"""Low-rank updates: what they add, what they leave alone, and how runs with them resume."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy_training import Toy, ToyConfig, batches, flat, prepare, toy_config, toy_run

from retfm_jax.config import LoraConfig
from retfm_jax.errors import UserError
from retfm_jax.methods.image_tower import TowerConfig
from retfm_jax.methods.vision import Vision
from retfm_jax.models.resnet import ResNetConfig
from retfm_jax.models.vit import ViTConfig
from retfm_jax.runtime.checkpoints import load_network
from retfm_jax.runtime.mesh import make_mesh, place_batch
from retfm_jax.training.low_rank import Adapter, LowRank
from retfm_jax.training.optimizers import Partition, make_optimizer
from retfm_jax.training.setup import Setup
from retfm_jax.trees import flatten

METHOD = Toy(ToyConfig(width=8))
PARAMS = METHOD.init(jax.random.key(0))[0]
TOWER = Vision(TowerConfig(ViTConfig(32, 16, width=32, layers=3, heads=2)))
LORA = LoraConfig(rank=4, alpha=6.0, trained=("logit_scale", "text/ln_bias"))


def _config(steps, mesh=(-1, 1), lora=LORA, **options):
    return dataclasses.replace(toy_config(steps, mesh, **options), lora=lora)


def _setup(mesh_sizes, **options):
    config = _config(4, mesh_sizes, **options)
    mesh = make_mesh(config.mesh, jax.devices()[: mesh_sizes[0] * mesh_sizes[1]])
    return Setup.of(config, Toy(config.model), mesh, horizon=10)


def _train(mesh_sizes, steps=4, **options):
    setup = _setup(mesh_sizes, **options)
    state = setup.create()
    first, step = jax.device_get(state), setup.jit(setup.step(prepare))
    for _, batch in zip(range(steps), batches(0), strict=False):
        state, _ = step(state, place_batch(batch.arrays, setup.mesh))
    assert step._cache_size() == 1
    return first, jax.device_get(state)


def _random(low_rank, params):
    """A state whose B are not zero."""
    state = low_rank.init(jax.random.key(1), params)
    drawn = jax.tree.map(
        lambda leaf: jax.random.normal(jax.random.key(leaf.size), leaf.shape), state["adapters"]
    )
    return state | {"adapters": drawn}


def _gradients(low_rank, state, params, loss):
    """Gradients by A and B as a step has them: of the kernels first, then pulled back."""
    variables = low_rank.variables(params, state)

    def effective(variables):
        return low_rank.effective(variables, state)

    merged, pull_back = jax.vjp(effective, variables)
    (found,) = pull_back(jax.grad(loss)(merged))
    return found


def test_gradients_are_those_of_x_a_b():
    inputs, outputs, scale = 6, 5, 1.5
    x = jax.random.normal(jax.random.key(0), (7, inputs))
    params = {"head": {"kernel": jax.random.normal(jax.random.key(2), (inputs, outputs))}}
    low_rank = LowRank.of(LoraConfig(rank=2, alpha=3.0, targets=("head",)), params)
    state = _random(low_rank, params)
    a, b = (factor[0] for factor in state["adapters"]["head"]["kernel"])

    def explicit(a, b):
        return jnp.sin(x @ params["head"]["kernel"] + scale * (x @ a) @ b).sum()

    found = _gradients(low_rank, state, params, lambda p: jnp.sin(x @ p["head"]["kernel"]).sum())
    for ours, theirs in zip(found["head"]["kernel"], jax.grad(explicit, (0, 1))(a, b), strict=True):
        np.testing.assert_allclose(ours[0], theirs, rtol=2e-5, atol=2e-5)


def test_queries_and_values_have_updates_of_their_own():
    params = TOWER.init(jax.random.key(0))[0]
    targets = ("visual/blocks/qkv/kernel:[qv]", "*/fc")
    low_rank = LowRank.of(LoraConfig(rank=4, alpha=2.0, targets=targets), params)
    assert dict(low_rank.maps) == {
        "visual/blocks/qkv/kernel": (0, 2),
        "visual/blocks/fc/kernel": (0,),
    }
    state = _random(low_rank, params)
    merged = low_rank.effective(low_rank.variables(params, state), state)
    adapter = state["adapters"]["visual"]["blocks"]["qkv"]["kernel"]
    assert adapter.a.shape == (3, 2, 32, 4)
    assert adapter.b.shape == (3, 2, 4, 32)
    before, after = (np.asarray(p["visual"]["blocks"]["qkv"]["kernel"]) for p in (params, merged))
    for layer in range(3):
        query, value = (np.asarray(adapter.a[layer, m] @ adapter.b[layer, m]) for m in (0, 1))
        added = np.concatenate([query, np.zeros((32, 32)), value], 1) / 2
        np.testing.assert_allclose(after[layer] - before[layer], added, atol=2e-5)
    changed = {
        path for path, leaf in flatten(params).items() if (flatten(merged)[path] != leaf).any()
    }
    assert changed == set(low_rank.maps)


def test_a_convolution_counts_as_a_matrix():
    method = Vision(TowerConfig(ResNetConfig(stages=(1, 1, 1, 1), width=4)))
    params = method.init(jax.random.key(0))[0]
    low_rank = LowRank.of(LoraConfig(rank=3, alpha=3.0), params)
    assert len(low_rank.maps) == 4 * 4
    state = _random(low_rank, params)
    adapter = state["adapters"]["visual"]["layer2"]["block0"]["conv2"]["kernel"]
    assert adapter.a.shape == (1, 9 * 8, 3)
    merged = low_rank.effective(low_rank.variables(params, state), state)
    before, after = (p["visual"]["layer2"]["block0"]["conv2"]["kernel"] for p in (params, merged))
    images = jax.random.normal(jax.random.key(4), (1, 5, 5, 8))

    def convolved(kernel):
        numbers = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(
            images, kernel, (1, 1), "SAME", dimension_numbers=numbers
        )

    narrow = convolved(adapter.a[0].reshape(3, 3, 8, 3))
    np.testing.assert_allclose(convolved(after - before), narrow @ adapter.b[0], atol=1e-4)


def test_a_run_begins_with_the_network_and_moves_its_targets_alone():
    first, last = _train((1, 1))
    plain = _setup((1, 1), lora=None).create()
    for path, leaf in flat(plain.params).items():
        np.testing.assert_array_equal(flat(first.params)[path], leaf)
    moved = {
        path
        for path, leaf in flatten(first.params).items()
        if not np.array_equal(leaf, flatten(last.params)[path])
    }
    assert moved == {"visual/blocks/kernel", "text/blocks/kernel", "logit_scale", "text/ln_bias"}
    jax.tree.map(np.testing.assert_array_equal, first.low_rank["base"], last.low_rank["base"])
    for tower in ("visual", "text"):
        a, b = last.low_rank["adapters"][tower]["blocks"]["kernel"]
        update = 1.5 * np.einsum("lmir,lmro->lio", a, b)
        np.testing.assert_allclose(
            last.params[tower]["blocks"]["kernel"],
            first.params[tower]["blocks"]["kernel"] + update,
            atol=1e-6,
        )
    # The momentum encoder follows the network with its updates.
    followed = last.carry["momentum"]["text"]["blocks"]["kernel"]
    assert not np.array_equal(followed, first.carry["momentum"]["text"]["blocks"]["kernel"])


def test_only_what_is_moved_has_moments():
    lora = dataclasses.replace(LORA, targets=("visual/blocks",))
    config = _config(1, lora=lora)
    partition = Partition.of(METHOD, config.optimizer, PARAMS, lora)
    state = partition.low_rank.init(jax.random.key(0), PARAMS)
    variables = partition.variables(PARAMS, state)
    optimizer = make_optimizer(config.optimizer, METHOD, lambda step: 1.0)
    moments = optimizer.init(variables)[0].mu
    assert flat(moments).keys() == {
        "['visual']['blocks']['kernel'].a", "['visual']['blocks']['kernel'].b",
        "['text']['ln_bias']", "['logit_scale']",
    }  # fmt: skip
    # The decay of kernels reaches their updates: without a gradient these shrink.
    zeros = jax.tree.map(jnp.zeros_like, variables)
    updates: Any = optimizer.update(zeros, optimizer.init(variables), variables)[0]
    adapter = variables["visual"]["blocks"]["kernel"]
    assert isinstance(adapter, Adapter)
    np.testing.assert_allclose(updates["visual"]["blocks"]["kernel"].a, -0.1 * adapter.a, rtol=1e-6)
    assert not updates["logit_scale"].any()


@pytest.mark.parametrize("microbatches", [1, 2])
def test_eight_devices_equal_one(microbatches):
    options = {"microbatches": microbatches, "learning_rate": 1e-3}
    _, one = _train((1, 1), **options)
    _, eight = _train((4, 2), **options)
    for path, leaf in flat(one).items():
        np.testing.assert_allclose(flat(eight)[path], leaf, atol=1e-5, err_msg=path)
    abstract = _setup((4, 2), lora=LoraConfig(rank=64)).abstract
    factors = abstract.low_rank["adapters"]["visual"]["blocks"]["kernel"]
    assert factors.a.sharding.shard_shape((2, 1, 64, 64)) == (2, 1, 32, 64)


def test_stopped_and_resumed_is_the_same_to_the_bit(tmp_path):
    whole = toy_run(tmp_path / "whole", _config(12, every=4))
    stopped = toy_run(tmp_path / "parts", _config(12, every=4), signals={6: "SIGTERM"})
    assert 6 <= stopped.step < 12
    resumed = toy_run(tmp_path / "parts", _config(12, every=4))
    for path, leaf in flat(whole).items():
        np.testing.assert_array_equal(flat(resumed)[path], leaf, err_msg=path)
    params, _, meta = load_network(tmp_path / "parts")
    for path, leaf in flat(resumed.params).items():
        np.testing.assert_array_equal(flat(params)[path], leaf, err_msg=path)
    assert meta["config"]["lora"]["rank"] == 4
    with pytest.raises(UserError, match=r"config.lora.rank was 4 and is 8"):
        toy_run(tmp_path / "parts", _config(14, lora=dataclasses.replace(LORA, rank=8)))


def test_patterns_name_what_there_is():
    frozen = toy_config(1, frozen=("text",)).optimizer
    partition = Partition.of(METHOD, frozen, PARAMS, LoraConfig(rank=2))
    assert set(partition.low_rank.maps) == {"visual/blocks/kernel"}
    for lora, said in (
        (LoraConfig(targets=("*/attn",)), r"'\*/attn' .* no kernel .*text/blocks/kernel, visual/"),
        (LoraConfig(trained=("head",)), r"trained: 'head' .* no parameter .* logit_scale"),
        (LoraConfig(rank=9), r"rank 9 is larger than the rank of text/blocks/kernel"),
    ):
        with pytest.raises(UserError, match=said):
            Partition.of(METHOD, toy_config(1).optimizer, PARAMS, lora)
