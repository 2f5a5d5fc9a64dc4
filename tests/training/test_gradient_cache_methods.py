"""Gradient caching is exact for the published networks as well."""

import dataclasses

import jax
import numpy as np
import pytest
from golden_files import Golden
from toy_training import flat

from retfm_jax.methods.method import MethodState
from retfm_jax.training.gradient_cache import loss_and_gradients
from retfm_jax.training.optimizers import Partition


@pytest.mark.parametrize(("name", "method"), [("retclip_vit", "retclip"), ("vilref_vit", "vilref")])
def test_parts_equal_the_whole(name, method):
    golden = Golden(f"{name}.npz")
    network, params, state = golden.network(method, golden.config["text_num_attention_heads"])
    if method == "vilref":
        network = type(network)(dataclasses.replace(network.config, queue_size=16))
    state = MethodState(state.batch_stats, network.init_carry(params, state.batch_stats))
    batch = golden.batch()
    samples = len(batch["tokens"])
    if method == "retclip":
        batch |= {"has_left": np.arange(samples) != 1, "has_right": np.arange(samples) != 2}
    partition = Partition(network.unused)

    def compute(microbatches):
        return jax.jit(
            lambda: loss_and_gradients(network, partition, params, state, batch, None, microbatches)
        )()

    parts = next(count for count in (2, 3, 5) if samples % count == 0)
    loss, metrics, new_state, gradients = compute(parts)
    wanted_loss, wanted_metrics, wanted_state, wanted = compute(1)
    np.testing.assert_allclose(loss, wanted_loss, rtol=1e-6)
    largest = max(np.abs(leaf).max() for leaf in flat(wanted).values())
    for ours, theirs in ((gradients, wanted), (metrics, wanted_metrics), (new_state, wanted_state)):
        for path, leaf in flat(theirs).items():
            bound = 1e-5 * max(np.abs(leaf).max(initial=0), 1e-2 * largest)
            np.testing.assert_allclose(flat(ours)[path], leaf, atol=bound, err_msg=path)
