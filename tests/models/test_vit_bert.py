"""The transformer towers against Hugging Face's PyTorch, and what must not change a result."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from retfm_jax.models import bert, vit

VIT = vit.ViTConfig(image_size=32, patch_size=8, width=64, layers=2, heads=4)
BERT = bert.BertConfig(
    vocab_size=50, width=32, layers=3, heads=4, mlp_width=48, positions=20, dropout=0.3
)


def _vit(config=VIT, **arguments):
    return vit.ViT(config, 16, rngs=nnx.Rngs(0), **arguments)


@pytest.fixture(scope="module")
def images():
    return jax.random.normal(jax.random.key(1), (3, 32, 32, 3))


@pytest.mark.parametrize("remat", ["dots", "named", "full"])
def test_remat_changes_neither_value_nor_gradient(images, remat):
    def value_and_grad(config):
        graphdef, params = nnx.split(_vit(config))
        loss = lambda p: jnp.sum(jnp.square(nnx.merge(graphdef, p)(images)[0]))  # noqa: E731
        return jax.jit(jax.value_and_grad(loss))(params)

    plain = value_and_grad(VIT)
    again = value_and_grad(dataclasses.replace(VIT, remat=remat))
    for ours, theirs in zip(jax.tree.leaves(plain), jax.tree.leaves(again), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-4, atol=1e-5)


def test_named_computes_no_product_again_but_that_of_queries_with_keys(images):
    def products(remat):
        graphdef, params = nnx.split(_vit(dataclasses.replace(VIT, remat=remat)))
        loss = lambda p: jnp.sum(jnp.square(nnx.merge(graphdef, p)(images)[0]))  # noqa: E731
        return str(jax.make_jaxpr(jax.grad(loss))(params)).count(" dot_general")

    assert products("none") + 1 == products("named") < products("full")


def test_layers_are_drawn_differently():
    kernels = _vit().blocks.qkv.kernel[...]
    assert kernels.shape[0] == VIT.layers
    assert not np.allclose(kernels[0], kernels[1])


def test_dropped_patches_take_no_part(images):
    config = dataclasses.replace(VIT, patch_dropout=0.5)
    network = _vit(config)
    keys = jax.random.split(jax.random.key(3), len(images))
    embedded, _ = network(images, keys=keys)
    changed = jnp.stack(
        [
            images[0].at[8 * row : 8 * row + 8, 8 * column : 8 * column + 8].set(5.0)
            for row in range(4)
            for column in range(4)
        ]
    )
    # The same key drops the same patches, whatever the batch.
    embed = jax.jit(lambda image: network(image[None], keys=keys[:1])[0][0])
    unchanged = [np.allclose(embed(image), embedded[0], atol=1e-6) for image in changed]
    assert sum(unchanged) == 8
    assert not np.allclose(network(images)[0], embedded)


def test_wrong_image_size_is_refused():
    with pytest.raises(ValueError, match="32 x 32"):
        _vit()(jnp.zeros((1, 40, 40, 3)))


def test_bfloat16_is_near_float32(images):
    exact, _ = _vit()(images)
    rough, _ = _vit(dtype="bfloat16")(images)
    assert rough.dtype == jnp.float32
    cosine = jnp.sum(exact * rough, -1) / jnp.linalg.norm(exact, axis=-1)
    np.testing.assert_allclose(cosine / jnp.linalg.norm(rough, axis=-1), 1, atol=1e-2)


def test_bert_hidden_states_equal_hugging_face():
    import torch
    from transformers import BertConfig, BertModel

    theirs = BertModel(
        BertConfig(
            vocab_size=50,
            hidden_size=32,
            num_hidden_layers=3,
            num_attention_heads=4,
            intermediate_size=48,
            max_position_embeddings=20,
        )
    ).eval()
    ours = bert.Bert(BERT, rngs=nnx.Rngs(0))
    params = nnx.to_pure_dict(nnx.state(ours, nnx.Param))
    tensors = {name: value.numpy() for name, value in theirs.state_dict().items()}
    for published, path, transform in bert.NAMES:
        *parents, last = path.split("/")
        section = params
        for parent in parents:
            section = section[parent]
        layers = range(3) if "{n}" in published else [None]
        values = [tensors[published.replace("{n}", str(n))] for n in layers]
        values = [value.T if transform == "linear" else value for value in values]
        section[last] = jnp.asarray(values[0] if "{n}" not in published else np.stack(values))
    state = nnx.state(ours, nnx.Param)
    nnx.replace_by_pure_dict(state, params)
    nnx.update(ours, state)
    tokens = np.array([[2, 7, 9, 3, 0, 0], [2, 4, 4, 8, 9, 3]])
    mask = tokens != 0
    with torch.no_grad():
        expected = theirs(
            torch.tensor(tokens), torch.tensor(mask.astype(int)), output_hidden_states=True
        )
    last, hidden = ours(jnp.asarray(tokens))
    for layer, want in enumerate(expected.hidden_states):
        np.testing.assert_allclose(hidden[layer][mask], want.numpy()[mask], atol=2e-5)
    np.testing.assert_array_equal(last, hidden[-1])


def test_bert_dropout_depends_on_the_sample_s_key_alone():
    network = bert.Bert(BERT, rngs=nnx.Rngs(0))
    tokens = jnp.tile(jnp.arange(1, 7), (3, 1))
    keys = jax.random.split(jax.random.key(0), 2)
    texts, _ = network(tokens, keys=keys[jnp.array([0, 1, 0])])
    np.testing.assert_array_equal(texts[0], texts[2])
    assert not np.allclose(texts[0], texts[1])
    alone, _ = network(tokens[1:2], keys=keys[1:])
    np.testing.assert_allclose(alone[0], texts[1], atol=1e-6)


def test_too_long_text_is_refused():
    with pytest.raises(ValueError, match="20 positions"):
        bert.Bert(BERT, rngs=nnx.Rngs(0))(jnp.ones((1, 21), jnp.int32))
