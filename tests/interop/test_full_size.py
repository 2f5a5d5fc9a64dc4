"""The published sizes, whole: every tensor finds its place and comes back with its bits."""

import jax
import numpy as np
import pytest
from golden_files import assert_same_bits

import retfm_jax
from retfm_jax.interop.state_dict import to_state_dict
from retfm_jax.methods import get_method_class
from retfm_jax.methods.keepfit import KeepfitConfig
from retfm_jax.methods.vilref import VilrefConfig
from retfm_jax.models.resnet import ClipResNetConfig


def _bert(layers, width=768, mlp=3072, vocabulary=21128):
    shapes = {
        "embeddings.word_embeddings.weight": (vocabulary, width),
        "embeddings.position_embeddings.weight": (512, width),
        "embeddings.token_type_embeddings.weight": (2, width),
        "embeddings.LayerNorm.weight": (width,),
        "embeddings.LayerNorm.bias": (width,),
    }
    for layer in range(layers):
        prefix = f"encoder.layer.{layer}."
        for name, outputs, inputs in (
            ("attention.self.query", width, width),
            ("attention.self.key", width, width),
            ("attention.self.value", width, width),
            ("attention.output.dense", width, width),
            ("intermediate.dense", mlp, width),
            ("output.dense", width, mlp),
        ):
            shapes[f"{prefix}{name}.weight"] = (outputs, inputs)
            shapes[f"{prefix}{name}.bias"] = (outputs,)
        for name in ("attention.output.LayerNorm", "output.LayerNorm"):
            shapes[f"{prefix}{name}.weight"] = (width,)
            shapes[f"{prefix}{name}.bias"] = (width,)
    return shapes


def _vit(layers=12, width=768, patch=16, tokens=197, embed=512):
    shapes = {
        "class_embedding": (width,),
        "positional_embedding": (tokens, width),
        "proj": (width, embed),
        "conv1.weight": (width, 3, patch, patch),
    }
    for name in ("ln_pre", "ln_post"):
        shapes[f"{name}.weight"] = shapes[f"{name}.bias"] = (width,)
    for layer in range(layers):
        prefix = f"transformer.resblocks.{layer}."
        shapes[f"{prefix}attn.in_proj_weight"] = (3 * width, width)
        shapes[f"{prefix}attn.in_proj_bias"] = (3 * width,)
        shapes[f"{prefix}attn.out_proj.weight"] = (width, width)
        shapes[f"{prefix}attn.out_proj.bias"] = (width,)
        shapes[f"{prefix}mlp.c_fc.weight"] = (4 * width, width)
        shapes[f"{prefix}mlp.c_fc.bias"] = (4 * width,)
        shapes[f"{prefix}mlp.c_proj.weight"] = (width, 4 * width)
        shapes[f"{prefix}mlp.c_proj.bias"] = (width,)
        for name in ("ln_1", "ln_2"):
            shapes[f"{prefix}{name}.weight"] = shapes[f"{prefix}{name}.bias"] = (width,)
    return shapes


def _drawn(shapes):
    rng = np.random.default_rng(0)
    return {name: rng.random(shape, np.float32) for name, shape in shapes.items()}


def test_retclip_vit_b16_with_bert_base():
    shapes = {f"visual.{name}": shape for name, shape in _vit().items()}
    shapes |= {f"bert.{name}": shape for name, shape in _bert(12).items()}
    for suffix in ("", "_left", "_right"):
        shapes[f"logit_scale{suffix}"] = ()
        shapes[f"text_projection{suffix}.0.weight"] = (768, 768)
        shapes[f"text_projection{suffix}.0.bias"] = (768,)
        shapes[f"text_projection{suffix}.2.weight"] = (512, 768)
        shapes[f"text_projection{suffix}.2.bias"] = (512,)
    shapes["global_feature_mapping.weight"] = (512, 1024)
    shapes["left_feature_mapping.weight"] = shapes["right_feature_mapping.weight"] = (512, 512)
    tensors = _drawn(shapes)
    model = retfm_jax.from_torch(tensors, "retclip")
    assert model.method.config.image.num_heads == model.method.config.text.num_heads == 12
    assert model.data_config.image.size == 224
    assert_same_bits(retfm_jax.to_torch(model), tensors)


@pytest.mark.parametrize(
    ("method", "config", "count"),
    [
        ("vilref", VilrefConfig(image=ClipResNetConfig(), embed_dim=1024), 538),
        ("keepfit", KeepfitConfig(), 524),
        ("keepfit", KeepfitConfig(attention=False, expert_weight=0.0, revision_weight=0.0), 520),
    ],
    ids=["vilref_rn50", "keepfit_resnet50", "flair_resnet50"],
)
def test_residual_networks_with_bert_base(method, config, count):
    built = get_method_class(method)(config)
    params, state = jax.eval_shape(built.init, jax.random.key(0))
    shapes = {
        name: value.shape
        for name, value in to_state_dict(built, *jax.tree.map(_empty, (params, state))).items()
    }
    assert len(shapes) == count
    counters = {name: np.int64(7) for name in shapes if name.endswith("num_batches_tracked")}
    tensors = _drawn(shapes) | {name: np.asarray(value) for name, value in counters.items()}
    model = retfm_jax.from_torch(tensors, method)
    assert model.method.config.image == config.image
    assert model.method.config.text == config.text
    assert_same_bits(retfm_jax.to_torch(model), tensors)


def _empty(leaf):
    return np.empty(leaf.shape, leaf.dtype)
