"""Many samples are divided over all devices of the host, and embedded as on one."""

import jax
import numpy as np

from retfm_jax.config import DataConfig, ExperimentConfig, ImageConfig, TextConfig
from retfm_jax.methods.retclip import RetClip, RetClipConfig
from retfm_jax.model import RetinalModel
from retfm_jax.models.bert import BertConfig
from retfm_jax.models.vit import ViTConfig


def test_all_devices_embed_as_one(monkeypatch):
    text = BertConfig(width=16, layers=1, heads=1, mlp_width=16, positions=8)
    sizes = RetClipConfig(image=ViTConfig(16, 16, 16, 1, heads=1), text=text, embed_dim=8)
    data = DataConfig(image=ImageConfig(size=16), text=TextConfig(context_length=8))
    method = RetClip(sizes)
    params, state = jax.jit(method.init)(jax.random.key(0))
    model = RetinalModel(method, params, state, ExperimentConfig("retclip", sizes, data))
    images = list(np.random.default_rng(0).integers(0, 256, (258, 16, 16, 3), np.uint8))
    spread = model.encode_images(images)
    assert len(model._copies[-1].devices.flat) == 8
    copies = model._copies
    np.testing.assert_array_equal(model.encode_images(images), spread)
    assert model._copies is copies
    first = jax.local_devices()[:1]
    monkeypatch.setattr(jax, "local_devices", lambda: first)
    np.testing.assert_allclose(spread, model.encode_images(images), atol=1e-6)
