"""A batch that is encoded in parts has the loss and the gradients of the whole batch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy_training import Toy, ToyConfig, batches, flat

from retfm_jax.training.gradient_cache import divide, join, loss_and_gradients
from retfm_jax.training.optimizers import Partition

METHOD = Toy(ToyConfig())
PARAMS, STATE = METHOD.init(jax.random.key(0))
STATE = STATE._replace(
    carry=STATE.carry | {"queue": jax.random.normal(jax.random.key(1), (32, 64)) / 8}
)
BATCH = jax.tree.map(jnp.asarray, next(batches(0)).arrays)
PARTITION = Partition(("leftover",))


def _assert_same(ours, wanted):
    for path, leaf in flat(wanted).items():
        scale = np.abs(leaf).max()
        np.testing.assert_allclose(flat(ours)[path], leaf, atol=1e-6 * scale + 1e-9, err_msg=path)


@pytest.mark.parametrize("key", [None, jax.random.key(5)], ids=["plain", "dropout"])
@pytest.mark.parametrize("microbatches", [1, 2, 8])
def test_equals_the_method_s_own_loss(microbatches, key):
    loss, metrics, state, gradients = loss_and_gradients(
        METHOD, PARTITION, PARAMS, STATE, BATCH, key, microbatches
    )
    (wanted_loss, (wanted_metrics, wanted_state)), wanted = jax.value_and_grad(
        METHOD.loss, has_aux=True
    )(PARAMS, STATE, BATCH, key, train=True)
    np.testing.assert_allclose(loss, wanted_loss, rtol=1e-6)
    assert abs(flat(wanted)["['logit_scale']"]) > 1e-4
    _assert_same(gradients, PARTITION.split(wanted)[0])
    _assert_same(state, wanted_state)
    _assert_same(metrics, wanted_metrics)


def test_parts_are_strided_and_join_again():
    array = jnp.arange(12).reshape(6, 2)
    parts = divide({"a": array}, 3)["a"]
    np.testing.assert_array_equal(parts[1], array[1::3])
    np.testing.assert_array_equal(join(parts), array)


def test_memory_is_flat_in_the_number_of_parts():
    """At a fixed part size, a batch four times as large needs little more than its inputs."""

    def temporary_bytes(microbatches):
        size = 64 * microbatches
        batch = {
            "image": jax.ShapeDtypeStruct((size, 4, 4, 3), jnp.float32),
            "tokens": jax.ShapeDtypeStruct((size, 5), jnp.int32),
        }
        method = _Wide(ToyConfig())
        compiled = (
            jax.jit(
                lambda batch: loss_and_gradients(
                    method, PARTITION, PARAMS, STATE, batch, None, microbatches
                )
            )
            .lower(batch)
            .compile()
        )
        return compiled.memory_analysis().temp_size_in_bytes

    whole_at_once = 16 * temporary_bytes(1)
    assert temporary_bytes(16) < temporary_bytes(4) + whole_at_once / 4


class _Wide(Toy):
    """The toy with wide activations and a loss that keeps no B x B matrix."""

    def encode(self, params, state, batch, *, keys=None, train=False):
        embeddings, stats = super().encode(params, state, batch, keys=keys, train=train)
        wide = embeddings["image"]
        for _ in range(8):
            wide = jnp.tanh(jnp.tile(wide, (1, 8)) @ jnp.ones((512, 64)) / 64)
        return {"image": wide, "text": embeddings["text"]}, stats

    def objective(self, params, state, embeddings, batch, *, key=None):
        loss = jnp.mean(embeddings["image"] * embeddings["text"])
        return loss, ({}, state)
