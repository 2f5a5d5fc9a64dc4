"""A batch in parts trains the published networks as the whole batch does, dropout and norms too."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy_training import flat

from retfm_jax.methods.keepfit import Keepfit, KeepfitConfig
from retfm_jax.methods.retclip import RetClip, RetClipConfig
from retfm_jax.methods.vilref import Vilref, VilrefConfig
from retfm_jax.models.bert import BertConfig
from retfm_jax.models.resnet import ClipResNetConfig, ResNetConfig
from retfm_jax.models.vit import ViTConfig
from retfm_jax.training.gradient_cache import loss_and_gradients
from retfm_jax.training.optimizers import Partition

SAMPLES = 16
TEXT = BertConfig(vocab_size=40, width=16, layers=2, heads=2, mlp_width=16, positions=8)
SMALL = {"text": TEXT, "embed_dim": 8}
STAGES = (1, 1, 1, 1)

RETCLIP = RetClip(
    RetClipConfig(image=ViTConfig(64, 16, 16, 2, heads=2, patch_dropout=0.5), **SMALL)
)
VILREF = Vilref(
    VilrefConfig(
        image=ClipResNetConfig(STAGES, 4, norm_batch=4, image_size=64),
        queue_size=12,
        num_labels=3,
        **SMALL,
    )
)
KEEPFIT = Keepfit(
    KeepfitConfig(image=ResNetConfig(STAGES, 4, norm_batch=4), revision_weight=1.0, **SMALL)
)


def _batch(method):
    rng = np.random.default_rng(0)

    def image():
        return jnp.asarray(rng.normal(size=(SAMPLES, 64, 64, 3)), jnp.float32)

    tokens = rng.integers(1, 40, (2, SAMPLES, 8)) * (rng.random((2, SAMPLES, 8)) < 0.8)
    tokens = jnp.asarray(np.sort(tokens)[..., ::-1], jnp.int32)
    if method is RETCLIP:
        eyes = {"image_left": image(), "image_right": image()}
        has = {"has_left": np.arange(SAMPLES) != 1, "has_right": np.arange(SAMPLES) != 2}
        return eyes | has | {"tokens": tokens[0]}
    batch = {"image": image(), "tokens": tokens[0]}
    if method is VILREF:
        return batch | {"labels": jnp.asarray(rng.random((SAMPLES, 3)) < 0.3, jnp.float32)}
    expert = {"expert_image": image(), "expert_tokens": tokens[1]}
    return batch | expert | {"category": jnp.asarray(rng.integers(0, 4, SAMPLES))}


@pytest.mark.parametrize(
    ("method", "parts"),
    [(RETCLIP, 4), (VILREF, 2), (KEEPFIT, 2)],
    ids=["retclip", "vilref", "keepfit"],
)
def test_parts_equal_the_whole(method, parts):
    batch, partition = _batch(method), Partition(method.untrained)
    params, state = jax.jit(method.init)(jax.random.key(0))

    @functools.partial(jax.jit, static_argnums=3)
    def compute(params, state, batch, microbatches):
        key = jax.random.key(1)
        return loss_and_gradients(method, partition, params, state, batch, key, microbatches)

    wanted = compute(params, state, batch, 1)
    largest = max(np.abs(leaf).max() for leaf in flat(wanted[-1]).values())
    for ours, theirs in zip(compute(params, state, batch, parts), wanted, strict=True):
        for path, leaf in flat(theirs).items():
            # float32 sums in another order, through norms: some steps of 6e-8 each.
            bound = 2e-5 * max(np.abs(leaf).max(initial=0), 1e-2 * largest)
            np.testing.assert_allclose(flat(ours)[path], leaf, atol=bound, err_msg=path)
