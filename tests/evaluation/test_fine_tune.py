"""Fine-tuning learns, moves the image tower and nothing else, and repeats with its seed."""

import dataclasses

import jax
import numpy as np
import pytest
from colour_world import CLASSES, ColourModel
from colour_world import image as image_of

from retfm_jax.config import (
    AugmentConfig,
    DataConfig,
    ExperimentConfig,
    ImageConfig,
    LoraConfig,
)
from retfm_jax.data.sources import Subset
from retfm_jax.errors import UserError
from retfm_jax.evaluation.protocols.fine_tune import FineTuneConfig, FineTuning
from retfm_jax.methods.image_tower import TowerConfig
from retfm_jax.methods.vision import Vision
from retfm_jax.model import RetinalModel
from retfm_jax.models.resnet import ResNetConfig
from retfm_jax.models.vit import ViTConfig
from retfm_jax.trees import flatten


class _Records(list):
    name, kind, split, label_names = "colors", "image", "train", CLASSES
    ordered = False


def test_colors_are_learned_and_the_text_tower_stays():
    model = ColourModel()
    records = _Records(image_of(number, CLASSES[number % 3]) for number in range(12))
    source = Subset(records, np.arange(12), "all")
    labels = np.stack([record.labels for record in records])
    before = jax.tree.map(np.array, model.params)
    tuning = FineTuning(model, FineTuneConfig(1e-2, 3e-2, epochs=12, batch_size=5), 4, True)
    params = tuning.fit(source, range(12), labels, seed=3, progress=False)
    scores = tuning.predict(params, source)
    assert scores.shape == (12, 4)
    np.testing.assert_allclose(scores.sum(1), 1, rtol=1e-5)
    np.testing.assert_array_equal(scores.argmax(1), labels.argmax(1))
    assert list(flatten(params["backbone"])) == ["visual/kernel"]
    assert (params["backbone"]["visual"]["kernel"] != before["visual"]["kernel"]).any()
    jax.tree.map(np.testing.assert_array_equal, model.params, before)
    again = tuning.fit(source, range(12), labels, seed=3, progress=False)
    jax.tree.map(np.testing.assert_array_equal, params, again)


TOWER = ViTConfig(
    16, 8, width=32, layers=2, heads=2, activation="gelu", norm_eps=1e-6, pre_norm=False,
    patch_bias=True, layer_scale=True,
)  # fmt: skip


def _tuned(image, tuning, seed=0):
    """A tower in timm's layout, and the parameters after two epochs on six photographs."""
    method = Vision(TowerConfig(image))
    params, state = jax.jit(method.init)(jax.random.key(0))
    still = AugmentConfig(
        (1.0, 1.0), "none", brightness=0, contrast=0, saturation=0, hue=0, erasing_probability=0
    )
    data = DataConfig(image=ImageConfig(size=16), augment=still)
    model = RetinalModel(method, params, state, ExperimentConfig("vision", method.config, data))
    records = _Records(image_of(number, CLASSES[number % 3]) for number in range(6))
    source = Subset(records, np.arange(6), "all")
    labels = np.stack([record.labels for record in records])
    tuning = dataclasses.replace(tuning, epochs=2, batch_size=6)
    network = FineTuning(model, tuning, 4, True)
    found = network.fit(source, range(6), labels, seed, progress=False)
    assert np.isfinite(network.predict(found, source)).all()
    return params, found


RECIPE = FineTuneConfig(1e-3, 1e-2, weight_decay=0.0, layer_decay=0.1)


def _largest(tree):
    return {path: np.abs(leaf).max() for path, leaf in flatten(tree).items()}


def test_layers_learn_at_their_rates_and_branches_drop():
    before, plain = _tuned(TOWER, RECIPE)
    moved = jax.tree.map(np.subtract, plain["backbone"]["visual"], before["visual"])
    blocks = np.abs(moved["blocks"]["qkv"]["kernel"]).max((1, 2))
    assert np.abs(moved["patch"]["kernel"]).max() < 0.3 * blocks[0] < 0.09 * blocks[1]
    _, dropped = _tuned(TOWER, dataclasses.replace(RECIPE, drop_path=0.9))
    assert not np.array_equal(plain["kernel"], dropped["kernel"])


def test_low_rank_updates_alone_are_trained_and_repeat_with_their_seed():
    lora = dataclasses.replace(RECIPE, lora=LoraConfig(rank=2), drop_path=0.2)
    _, found = _tuned(TOWER, lora)
    moved = _largest(found["backbone"])
    assert {path.rpartition("/")[0] for path in moved} == {
        f"visual/blocks/{part}/kernel" for part in ("qkv", "out", "fc", "proj")
    }
    assert moved["visual/blocks/fc/kernel/b"] > 0
    jax.tree.map(np.testing.assert_array_equal, found, _tuned(TOWER, lora)[1])


def test_a_residual_network_is_tuned_by_stages_and_has_no_branches_to_drop():
    image = ResNetConfig(stages=(1, 1, 1, 1), width=4)
    with pytest.raises(UserError, match="only vision transformers"):
        _tuned(image, dataclasses.replace(RECIPE, drop_path=0.2))
    targets = ("visual/layer*/conv3",)
    _, found = _tuned(image, dataclasses.replace(RECIPE, lora=LoraConfig(rank=2, targets=targets)))
    stages = [_largest(found["backbone"]["visual"][f"layer{stage}"]) for stage in (2, 3, 4)]
    second, third, fourth = (stage["block0/conv3/kernel/b"] for stage in stages)
    assert second < 0.3 * third < 0.09 * fourth
