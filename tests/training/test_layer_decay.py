"""Layers of a tower learn the slower the earlier they are."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy_training import Toy, ToyConfig, toy_config

from retfm_jax.config import LoraConfig, OptimizerConfig
from retfm_jax.errors import UserError
from retfm_jax.methods.classifier import Classifier, ClassifierConfig
from retfm_jax.methods.image_tower import TowerConfig
from retfm_jax.methods.keepfit import Keepfit, KeepfitConfig
from retfm_jax.methods.retclip import RetClip, RetClipConfig
from retfm_jax.methods.vision import Vision
from retfm_jax.models.bert import BertConfig
from retfm_jax.models.resnet import ClipResNetConfig, ResNetConfig
from retfm_jax.models.vit import ViTConfig
from retfm_jax.training.gradient_cache import loss_and_gradients
from retfm_jax.training.optimizers import Partition, layer_factors, make_optimizer, scale_layers
from retfm_jax.trees import flatten

DEPTH = 3
TOWER = ViTConfig(32, 16, width=16, layers=DEPTH, heads=2, patch_bias=True, registers=2)
TEXT = BertConfig(vocab_size=30, width=16, layers=2, heads=2, mlp_width=16, positions=8)


def _published(name: str, depth: int) -> int:
    """Number of a layer by its published name, as fine-tuning code for MAE's ViTs counts."""
    if name in ("cls_token", "pos_embed", "reg_token") or name.startswith("patch_embed."):
        return 0
    if name.startswith("blocks."):
        return int(name.split(".")[1]) + 1
    return depth + 1


def _factors(method, decay=0.5):
    params = jax.eval_shape(method.init, jax.random.key(0))[0]
    return flatten(layer_factors(method, params, decay))


@pytest.mark.parametrize("depth", [DEPTH, 24])
def test_layers_are_those_of_the_published_names(depth):
    image = ViTConfig(
        32, 16, width=16, layers=depth, heads=2, patch_bias=True, registers=2, pre_norm=False
    )
    method = Vision(TowerConfig(image, 8, "timm"))
    found = _factors(method)
    seen = set()
    for name, path, _ in method.weight_names:
        for number in range(depth) if "{n}" in name else [0]:
            published = name.replace("{n}", str(number))
            factor = found[path][number] if "{n}" in name else found[path]
            assert factor == 0.5 ** (depth + 1 - _published(published, depth)), published
            seen.add(path)
    assert seen == found.keys()


def test_each_tower_goes_by_its_own_depth():
    method = RetClip(RetClipConfig(image=TOWER, text=TEXT, embed_dim=8))
    found = _factors(method)
    assert found["visual/ln_pre/scale"] == found["visual/patch/kernel"] == 0.5**4
    np.testing.assert_array_equal(found["visual/blocks/fc/kernel"], [0.125, 0.25, 0.5])
    assert found["bert/words/embedding"] == found["bert/ln/bias"] == 0.5**3
    np.testing.assert_array_equal(found["bert/blocks/fc/kernel"], [0.25, 0.5])
    ones = jax.tree.map(jnp.ones_like, method.init(jax.random.key(0))[0])
    scaled = flatten(scale_layers(ones, layer_factors(method, ones, 0.5)))
    assert all(np.max(scaled[path]) == np.max(factor) for path, factor in found.items())
    for behind in ("visual/projection", "visual/ln_post/bias", "log_scale/left"):
        assert found[behind] == 1
    heads = {path: leaf for path, leaf in found.items() if "_head/" in path}
    assert heads
    assert set(map(float, heads.values())) == {1.0}


def test_a_residual_network_has_a_layer_for_each_stage():
    image = ResNetConfig(stages=(1, 2, 1, 1), width=4)
    found = _factors(Keepfit(KeepfitConfig(image=image, text=TEXT, embed_dim=8)))
    assert found["visual/conv1/kernel"] == found["visual/bn1/scale"] == 0.5**5
    for stage in (1, 2, 3, 4):
        assert found[f"visual/layer{stage}/block0/conv2/kernel"] == 0.5 ** (5 - stage)
    assert found["visual/layer2/block1/bn3/bias"] == 0.5**3
    clip = _factors(Vision(TowerConfig(ClipResNetConfig((1, 1, 1, 1), 16, image_size=32), 8)))
    assert clip["visual/attnpool/query/kernel"] == 1
    assert clip["visual/conv3/kernel"] == 0.5**5


def test_an_update_is_scaled_and_nothing_else():
    method = Vision(TowerConfig(TOWER, 8))
    params = method.init(jax.random.key(0))[0]
    gradients = jax.tree.map(jnp.sin, params)
    updates: list[Any] = []
    states = []
    for decay in (None, 0.65):
        config = OptimizerConfig(weight_decay=0.1, layer_decay=decay, decay="all", clip_norm=1.0)
        optimizer = make_optimizer(config, method, lambda step: 0.1)
        found, state = jax.jit(optimizer.update)(gradients, optimizer.init(params), params)
        updates.append(flatten(found))
        states.append(state)
    plain, scaled = updates
    jax.tree.map(np.testing.assert_array_equal, *states)
    for block in range(DEPTH):
        ratio = 0.65 ** (DEPTH - block)
        for path in plain:
            if "/blocks/" in path:
                np.testing.assert_allclose(
                    scaled[path][block], ratio * plain[path][block], rtol=1e-6
                )
    for path, above in (("patch/bias", 4), ("registers", 4), ("ln_post/bias", 0)):
        wanted = 0.65**above * plain[f"visual/{path}"]
        np.testing.assert_allclose(scaled[f"visual/{path}"], wanted, rtol=1e-6)


def test_low_rank_updates_learn_at_their_layers_rate():
    method = Vision(TowerConfig(TOWER, 8))
    params = method.init(jax.random.key(0))[0]
    config = OptimizerConfig(layer_decay=0.5, weight_decay=0.0, eps=1e-12)
    partition = Partition.of(method, config, params, LoraConfig(rank=2, trained=("*/projection",)))
    variables = partition.variables(params, partition.low_rank.init(jax.random.key(1), params))
    optimizer = make_optimizer(config, method, lambda step: 1.0)
    ones = jax.tree.map(jnp.ones_like, variables)
    found: Any = optimizer.update(ones, optimizer.init(variables), variables)[0]
    moved = found["visual"]
    for factor in moved["blocks"]["qkv"]["kernel"]:
        np.testing.assert_allclose(factor[:, 0, 0, 0], [-0.125, -0.25, -0.5], rtol=1e-5)
    np.testing.assert_allclose(moved["projection"], -1, rtol=1e-5)


def test_a_network_without_towers_is_refused():
    config = toy_config(1, layer_decay=0.5).optimizer
    method = Toy(ToyConfig(width=8))
    params = method.init(jax.random.key(0))[0]
    optimizer = make_optimizer(config, method, lambda step: 1.0)
    with pytest.raises(UserError, match="toy has no towers"):
        optimizer.update(params, optimizer.init(params), params)


HEADED = Classifier(ClassifierConfig(image=TOWER, classes=("a", "b")))


@pytest.fixture(scope="module")
def gradients():
    """Parameters, a batch's gradients by all of them, and a function to gradients by some."""
    params, state = jax.jit(HEADED.init)(jax.random.key(0))
    # The head begins near 0, where nothing of the tower matters.
    params["head"]["kernel"] = jax.random.normal(jax.random.key(1), (16, 2))
    images = jax.random.normal(jax.random.key(2), (4, 32, 32, 3))
    batch = {"image": images, "labels": jnp.eye(2)[jnp.array([0, 1, 1, 0])]}

    def by(partition):
        args = params, state, batch, None
        return jax.jit(lambda: loss_and_gradients(HEADED, partition, *args)[3])()

    return params, by(Partition()), by


@pytest.mark.parametrize("last", [0, 1, 2])
def test_the_last_layers_learn_as_in_the_whole_and_all_before_stays(gradients, last):
    params, whole, by = gradients
    config = OptimizerConfig(
        last_layers=last, weight_decay=0.1, decay="all", layer_decay=0.7, learning_rate=0.1
    )
    partition = Partition.of(HEADED, config, params)
    found = by(partition)
    layers = flatten(layer_factors(HEADED, params, 1.0))
    optimizer = make_optimizer(config, HEADED, lambda step: 0.1)
    trainable, _ = partition.split(params)
    updates, state = jax.jit(optimizer.update)(found, optimizer.init(trainable), trainable)
    everything = make_optimizer(
        dataclasses.replace(config, last_layers=None), HEADED, lambda _: 0.1
    )
    plain: Any = jax.jit(everything.update)(whole, everything.init(params), params)[0]
    learning = 0
    for path, gradient in flatten(whole).items():
        above = HEADED.towers["visual"].layers_above(path.removeprefix("visual/"))
        learns = np.asarray(above <= last if last else False)
        if not path.startswith("visual/"):
            learns = np.ones((), bool)
        learning += int(np.broadcast_to(learns, layers[path].shape).sum() * gradient.size) // max(
            layers[path].size, 1
        )
        if not learns.any():
            assert path not in flatten(found)
            continue
        mask = learns.reshape(-1, *(1,) * (gradient.ndim - 1)) if learns.ndim else learns
        np.testing.assert_allclose(flatten(found)[path], gradient * mask, atol=1e-6)
        np.testing.assert_allclose(
            flatten(updates)[path], flatten(plain)[path] * mask, rtol=1e-3, atol=1e-6
        )
        for moment in (state[0].mu, state[0].nu):
            assert not np.any(
                np.asarray(flatten(moment)[path])[~np.broadcast_to(mask, gradient.shape)]
            )
    assert partition.size(params, {}) == learning


def test_so_many_last_layers_there_must_be():
    params = jax.eval_shape(HEADED.init, jax.random.key(0))[0]
    with pytest.raises(UserError, match="last_layers is 4, and the network's towers have 3 layers"):
        Partition.of(HEADED, OptimizerConfig(last_layers=4), params)
    bare = Vision(TowerConfig(TOWER, 8))
    params = jax.eval_shape(bare.init, jax.random.key(0))[0]
    with pytest.raises(UserError, match="nothing to train"):
        Partition.of(bare, OptimizerConfig(last_layers=0), params)


def test_low_rank_updates_of_early_layers_stay():
    config = OptimizerConfig(last_layers=1, layer_decay=0.5, weight_decay=0.0, eps=1e-12)
    params = jax.jit(HEADED.init)(jax.random.key(0))[0]
    partition = Partition.of(HEADED, config, params, LoraConfig(rank=2, trained=("head",)))
    variables = partition.variables(params, partition.low_rank.init(jax.random.key(1), params))
    assert "patch" not in variables["visual"]
    optimizer = make_optimizer(config, HEADED, lambda step: 1.0)
    ones = jax.tree.map(jnp.ones_like, variables)
    found: Any = optimizer.update(ones, optimizer.init(variables), variables)[0]
    for factor in found["visual"]["blocks"]["qkv"]["kernel"]:
        np.testing.assert_allclose(factor[:, 0, 0, 0], [0, 0, -0.5], rtol=1e-5)


def test_stages_of_a_residual_network_are_its_layers():
    image = ResNetConfig(stages=(1, 1, 1, 1), width=4)
    method = Classifier(ClassifierConfig(image=image, classes=("a", "b")))
    params = jax.eval_shape(method.init, jax.random.key(0))[0]
    partition = Partition.of(method, OptimizerConfig(last_layers=2), params)
    learned = {"/".join(path.split("/")[:2]) for path in flatten(partition.split(params)[0])}
    assert learned == {"head/kernel", "head/bias", "visual/layer3", "visual/layer4"}
