"""What a traced program is told of the platform that it will run on, and what towers do with it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AbstractMesh

from retfm_jax.models import target
from retfm_jax.models.bert import Bert, BertConfig
from retfm_jax.models.layers import pad_tokens
from retfm_jax.models.mae import Decoder, DecoderConfig
from retfm_jax.models.vit import ViT, ViTConfig

SMALL = {"width": 16, "layers": 2, "heads": 2}


def test_the_mesh_in_use_tells_the_platform():
    assert target.platform() == jax.default_backend()
    for name, ours in (("tpu", "tpu"), ("cuda", "gpu"), ("rocm", "gpu"), ("cpu", "cpu")):
        device = jax.sharding.AbstractDevice(device_kind="a device", num_cores=1, platform=name)
        mesh = AbstractMesh((2,), ("data",), abstract_device=device)
        with jax.sharding.use_abstract_mesh(mesh):
            assert target.platform() == ours
            with target.assumed("cpu"):
                assert target.platform() == "cpu"
    with pytest.raises(KeyError), target.assumed("tpu"):
        raise KeyError
    assert target.platform() == jax.default_backend()


@pytest.mark.parametrize(("tokens", "padded"), [(5, 8), (8, 8), (197, 200)])
def test_accelerators_store_tokens_in_rows_of_eight(tokens, padded):
    x = jnp.ones((2, tokens, 4))
    assert pad_tokens(x) is x
    with target.assumed("gpu"):
        found = pad_tokens(x)
    assert found.shape == (2, padded, 4)
    assert (found[:, :tokens] == 1).all()
    assert (found[:, tokens:] == 0).all()


def _vit(**entries):
    network = ViT(ViTConfig(image_size=24, patch_size=8, **SMALL, **entries), 8, rngs=nnx.Rngs(0))
    images = jax.random.normal(jax.random.key(1), (3, 24, 24, 3))
    keys = jax.random.split(jax.random.key(2), 3)
    return network, lambda network: network(images, keys=keys)


def _bert():
    config = BertConfig(vocab_size=30, positions=11, mlp_width=32, dropout=0.3, **SMALL)
    tokens = jnp.array([[3, 4, 5, 6, 7, 8, 9, 2, 1, 4, 3], [3, 4, 5] + 8 * [0], [6] + 10 * [0]])
    keys = jax.random.split(jax.random.key(2), 3)
    return Bert(config, rngs=nnx.Rngs(0)), lambda network: network(tokens, keys=keys)


def _decoder():
    form = ViTConfig(image_size=24, patch_size=8, **SMALL)
    network = Decoder(DecoderConfig(width=16, layers=2, heads=2), form, rngs=nnx.Rngs(0))
    tokens = jax.random.normal(jax.random.key(1), (2, 4, 16))
    restore = jnp.stack([jnp.arange(9), jnp.arange(9)[::-1]])
    return network, lambda network: network(tokens, restore)


@pytest.mark.parametrize(
    "made",
    [
        lambda: _vit(patch_dropout=0.3, drop_path=0.2),
        lambda: _vit(positions="rope", registers=2),
        _bert,
        _decoder,
    ],
    ids=["vit", "rope", "bert", "decoder"],
)
def test_padding_changes_neither_outputs_nor_gradients(made):
    network, run = made()

    def loss(network):
        return sum(jnp.square(x).mean() for x in jax.tree.leaves(run(network)))

    def both():
        computed = nnx.jit(lambda network: (run(network), nnx.grad(loss)(network)))
        return jax.tree.leaves(computed(network))

    wanted = both()
    with target.assumed("gpu"):
        # float32 does not go to cuDNN's attention, so that only the padding differs.
        found = both()
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)
