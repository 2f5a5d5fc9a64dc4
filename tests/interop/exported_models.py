"""Small networks of every system, as tests of exports take them."""

import dataclasses
import subprocess
import sys
from collections.abc import Callable, Collection
from typing import Any

import jax
import numpy as np

from retfm_jax.config import load_config
from retfm_jax.decisions import Conformal, Decisions
from retfm_jax.methods import make_method
from retfm_jax.methods.base import MethodState
from retfm_jax.model import RetinalModel
from retfm_jax.models.bert import BertConfig
from retfm_jax.models.resnet import ClipResNetConfig, ResNetConfig
from retfm_jax.models.vit import ViTConfig

TEXT = BertConfig(width=32, layers=2, heads=2, mlp_width=48, positions=64)
VIT = ViTConfig(image_size=32, patch_size=8, width=32, layers=2, heads=2)
CLASSES = ("normal", "drusen", "glaucoma")

_REFUSING = """
import sys


class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {names!r}:
            raise ImportError(name)


sys.meta_path.insert(0, Refuse())
"""


def run_without(packages: Collection[str], code: str) -> None:
    """Runs a program in a process of its own that cannot import some packages."""
    whole = _REFUSING.format(names=tuple(packages)) + code
    done = subprocess.run([sys.executable, "-c", whole], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def make(config_name: str, image: Any, decisions: Any = None, **sizes: Any) -> RetinalModel:
    """A network with random weights, of a bundled config with other sizes."""
    config = load_config(config_name)
    model = dataclasses.replace(config.model, image=image, **sizes)
    data = config.data
    size = getattr(image, "image_size", 64)
    text = dataclasses.replace(data.text, context_length=24, tokenizer="bert-base-chinese")
    picture = dataclasses.replace(data.image, size=size)
    if decisions is not None:
        picture = dataclasses.replace(picture, field_of_view="crop", contrast="clahe")
    data = dataclasses.replace(data, image=picture, text=text)
    config = dataclasses.replace(config, model=model, data=data)
    method = make_method(config.method, model)
    params, state = method.init(jax.random.key(0))
    if decisions is not None:  # heads begin near 0, where all classes are alike
        params["head"]["kernel"] = 5e4 * params["head"]["kernel"]
    state = state._replace(carry={})
    return RetinalModel(method, params, state, config, decisions=decisions)


def random_network(method: Any) -> tuple[Any, MethodState]:
    """Arrays of a size at which each matters; statistics, too."""
    rng = np.random.default_rng(0)

    def fill(path, leaf):
        last = path[-1].key
        if leaf.dtype.kind == "i":
            return np.ones(leaf.shape, leaf.dtype)
        fan_in = np.prod(leaf.shape[:-1]) if leaf.ndim > 1 else 100
        values = rng.normal(scale=1.5 * fan_in**-0.5, size=leaf.shape)
        return ((last in ("scale", "var")) + values).astype(np.float32)

    params, state = jax.eval_shape(method.init, jax.random.key(0))
    trees = (params, state.batch_stats)
    params, stats = (jax.tree_util.tree_map_with_path(fill, tree) for tree in trees)
    return params, MethodState(stats, {})


def patients() -> RetinalModel:
    return make("retclip_vit_b16", VIT, text=TEXT, embed_dim=16)


def pairs() -> RetinalModel:
    image = ClipResNetConfig(stages=(1, 1, 1, 1), width=16, image_size=64)
    return make("vilref_vit_b16", image, text=TEXT, embed_dim=16, queue_size=0)


def categories() -> RetinalModel:
    text = dataclasses.replace(TEXT, vocab_size=28996)
    image = ResNetConfig(stages=(1, 1, 1, 1), width=8)
    return make("keepfit_resnet50", image, text=text, embed_dim=16, dtype="bfloat16")


def tower() -> RetinalModel:
    form = {"registers": 2, "positions": "rope", "qkv_bias": False, "layer_scale": True}
    image = dataclasses.replace(VIT, activation="swiglu", pre_norm=False, pooling="mean", **form)
    return make("vision", image)


def grades() -> RetinalModel:
    image = dataclasses.replace(VIT, activation="gelu", pre_norm=False, pooling="mean_norm")
    decisions = Decisions(CLASSES, "grades", 1.7, (), Conformal(0.9, (0.8,)))
    return make("finetune", image, decisions, classes=CLASSES, outcome="grades")


MODELS: dict[str, Callable[[], RetinalModel]] = {
    each.__name__: each for each in (patients, pairs, categories, tower, grades)
}
