"""The step computes the same on every mesh, and moves only what is trained."""

import jax
import numpy as np
import pytest
from toy_training import Toy, batches, flat, prepare, toy_config

from retfm_jax.runtime.mesh import make_mesh, place_batch
from retfm_jax.training.setup import Setup


def _train(mesh_sizes, steps=3, **options):
    config = toy_config(steps, mesh_sizes, **options)
    mesh = make_mesh(config.mesh, jax.devices()[: mesh_sizes[0] * mesh_sizes[1]])
    setup = Setup.of(config, Toy(config.model), mesh, horizon=10)
    state = setup.create()
    first = jax.device_get(state)
    step = setup.jit(setup.step(prepare))
    losses = []
    for _, batch in zip(range(steps), batches(0), strict=False):
        state, metrics = step(state, place_batch(batch.arrays, mesh))
        losses.append(float(metrics["loss"]))
    assert step._cache_size() == 1
    return first, jax.device_get(state), losses, setup.abstract


@pytest.mark.parametrize("microbatches", [1, 2])
def test_eight_devices_equal_one(microbatches):
    # Adam divides by the gradient's size: at a learning rate of 1e-2 an entry whose gradient is
    # all rounding would move by 1e-5 and more.
    options = {"microbatches": microbatches, "learning_rate": 1e-3}
    _, one, losses_of_one, _ = _train((1, 1), **options)
    _, eight, losses_of_eight, abstract = _train((4, 2), **options)
    np.testing.assert_allclose(losses_of_eight, losses_of_one, rtol=1e-5)
    for path, leaf in flat(one).items():
        np.testing.assert_allclose(flat(eight)[path], leaf, atol=1e-5, err_msg=path)
    divided = abstract.params["visual"]["blocks"]["kernel"].sharding
    assert divided.shard_shape((2, 64, 64)) == (2, 32, 64)


def test_frozen_parameters_stay_bit_for_bit():
    first, last, _, _ = _train((1, 1), frozen=("visual",))
    for path, leaf in flat(first.params).items():
        same = np.array_equal(leaf, flat(last.params)[path])
        assert same == ("visual" in path or "leftover" in path), path


def test_key_and_step_change_the_masks_but_state_does_not_alias():
    first, last, losses, _ = _train((1, 1))
    assert last.step == 3
    np.testing.assert_array_equal(first.key_data, last.key_data)
    momentum, params = last.carry["momentum"]["text"]["embed"], last.params["text"]["embed"]
    assert not np.array_equal(momentum, params)
    assert len(set(losses)) == 3
