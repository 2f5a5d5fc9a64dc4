"""Every form of the vision transformer against timm and transformers, and what each form is."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from golden_files import Golden, assert_same_bits
from safetensors.numpy import save_file

import retfm_jax
from retfm_jax.config import from_dict
from retfm_jax.errors import UserError
from retfm_jax.models import vit, vit_names

TIMM = Golden("timm_towers.npz")
FORMS = {
    "plain": {"pooling": "class", "activation": "gelu", "norm_eps": 1e-6},
    "mean_norm": {"pooling": "mean_norm"},
    "registers": {"registers": 4, "class_position": False, "layer_scale": True},
    "layer_scale": {"registers": 0, "class_position": True, "layer_scale": True},
    "swiglu": {"activation": "swiglu", "layer_scale": True},
    "rope": {"positions": "rope", "qkv_bias": False, "registers": 4, "norm_eps": 1e-5},
    "attention": {"pooling": "attention", "class_token": False},
    "pre_norm": {"pre_norm": True, "activation": "quick_gelu", "patch_bias": False},
}
SMALL = vit.ViTConfig(
    image_size=32, patch_size=8, width=32, layers=3, heads=2,
    activation="gelu", pre_norm=False, patch_bias=True,
)  # fmt: skip


def features(model, images):
    """Of NCHW images, before any projection."""
    batch = {"image": jnp.asarray(np.moveaxis(images, 1, -1))}
    return np.asarray(model.features(batch)["image_features"])


def near(ours, theirs):
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() <= 2e-5 * np.abs(theirs).max()


@pytest.mark.parametrize("form", FORMS)
def test_a_tower_of_timm_gives_its_features_and_its_bits_again(form):
    groups = TIMM[form]
    state = {n.removeprefix("state/"): v for n, v in groups.items() if n.startswith("state/")}
    model = retfm_jax.from_torch(state)
    image = model.config.model.image
    for entry, value in FORMS[form].items():
        assert getattr(image, entry) == value, entry
    shape = (2, 3, image.image_size, image.image_size)
    images = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    near(features(model, images), groups["out/features"])
    assert_same_bits(retfm_jax.to_torch(model), state)


_NAMES = ("vit", "mae", "dinov2", "swiglu", "registers", "dinov3", "clip", "siglip")


def _transformers():
    """Small networks of transformers: their classes, configurations and what they give."""
    import transformers

    sizes = {
        "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 1, "image_size": 32,
        "patch_size": 8,
    }  # fmt: skip
    mlp = {"intermediate_size": 256}
    first = lambda network, x: network(x).last_hidden_state[:, 0]  # noqa: E731
    pooled_clip = lambda network, x: network.vision_model(x).pooler_output  # noqa: E731
    pooled = lambda network, x: network(x).pooler_output  # noqa: E731
    return {
        name: (getattr(transformers, network), getattr(transformers, config)(**entries), give)
        for name, network, config, entries, give in (
            ("vit", "ViTModel", "ViTConfig", sizes | mlp, first),
            ("mae", "ViTMAEModel", "ViTMAEConfig", sizes | mlp | {"mask_ratio": 0.0}, None),
            ("dinov2", "Dinov2Model", "Dinov2Config", sizes, first),
            ("swiglu", "Dinov2Model", "Dinov2Config", sizes | {"use_swiglu_ffn": True}, first),
            ("registers", "Dinov2WithRegistersModel", "Dinov2WithRegistersConfig", sizes, first),
            (
                "dinov3", "DINOv3ViTModel", "DINOv3ViTConfig",
                sizes | mlp | {"image_size": 224, "num_register_tokens": 4}, first,
            ),
            ("clip", "CLIPVisionModelWithProjection", "CLIPVisionConfig", sizes | mlp, pooled_clip),
            ("siglip", "SiglipVisionModel", "SiglipVisionConfig", sizes | mlp, pooled),
        )
    }  # fmt: skip


# The gated map is in two in memory alone, where nobody finds it.
@pytest.mark.parametrize(
    ("name", "generation"),
    [
        (name, generation)
        for name in _NAMES
        for generation in ("in memory", "in files")
        if (name, generation) != ("swiglu", "in memory")
    ],
)
def test_a_tower_of_transformers_gives_its_features_and_its_bits_again(name, generation, tmp_path):
    import torch
    from safetensors.numpy import load_file

    cls, config, give = _transformers()[name]
    torch.manual_seed(0)
    network = cls(config).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    if generation == "in files":  # under the names of earlier versions
        network.save_pretrained(tmp_path)
        state = load_file(tmp_path / "model.safetensors")
    else:
        state = {key: value.numpy() for key, value in network.state_dict().items()}
    model = retfm_jax.from_torch(state)
    size = model.config.model.image.image_size
    images = np.random.default_rng(1).normal(size=(2, 3, size, size)).astype(np.float32)
    if give is not None:
        with torch.no_grad():
            want = give(network, torch.from_numpy(images))
        near(features(model, images), want.numpy())
    back = retfm_jax.to_torch(model)
    plain = {key.removeprefix("model."): value for key, value in state.items()}
    assert_same_bits(back, {key: plain[key] for key in back})
    left = {key.split(".")[0] for key in plain.keys() - back.keys()}
    assert left <= {"embeddings", "pooler"}  # the mask's token, and a pooler that is not read


def test_a_folder_of_transformers_tells_the_heads(tmp_path):
    import torch
    import transformers

    config = transformers.ViTConfig(
        hidden_size=64, num_hidden_layers=1, num_attention_heads=4, intermediate_size=128,
        image_size=32, patch_size=8,
    )  # fmt: skip
    network = transformers.ViTModel(config).eval()
    network.save_pretrained(tmp_path)
    model = retfm_jax.load(tmp_path)
    assert model.config.model.image.num_heads == 4
    assert "channels a head" not in " ".join(model.notes)
    images = np.random.default_rng(1).normal(size=(2, 3, 32, 32)).astype(np.float32)
    with torch.no_grad():
        want = network(torch.from_numpy(images)).last_hidden_state[:, 0].numpy()
    near(features(model, images), want)
    # Of both towers each has its own.
    both = {"text_config": {"num_attention_heads": 1}, "vision_config": config.to_dict()}
    (tmp_path / "config.json").write_text(json.dumps(both))
    assert retfm_jax.load(tmp_path).config.model.image.num_heads == 4
    with pytest.raises(UserError, match="does not divide into 3 heads"):
        retfm_jax.from_torch(network.state_dict(), text_num_heads=3)


@pytest.mark.parametrize(
    ("entries", "found"),
    [
        ({"hidden_act": "gelu", "layer_norm_eps": 1e-3}, {"activation": "gelu", "norm_eps": 1e-3}),
        ({"hidden_act": "quick_gelu"}, {"activation": "quick_gelu"}),
        ({"hidden_act": "gelu_pytorch_tanh"}, {"activation": "gelu_tanh"}),
    ],
)
def test_a_folder_of_transformers_tells_activation_and_epsilon(tmp_path, entries, found):
    import torch
    import transformers

    config = transformers.CLIPVisionConfig(
        hidden_size=64, num_hidden_layers=2, num_attention_heads=2, intermediate_size=128,
        image_size=32, patch_size=8, projection_dim=16, **entries,
    )  # fmt: skip
    network = transformers.CLIPVisionModelWithProjection(config).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    network.save_pretrained(tmp_path)
    model = retfm_jax.load(tmp_path)
    for entry, value in found.items():
        assert getattr(model.config.model.image, entry) == value
    images = np.random.default_rng(1).normal(size=(2, 3, 32, 32)).astype(np.float32)
    with torch.no_grad():
        want = network.vision_model(torch.from_numpy(images)).pooler_output.numpy()
    near(features(model, images), want)


@pytest.mark.parametrize(
    ("file", "content", "activation"),
    [
        ("open_clip_config.json", {"model_cfg": {"vision_cfg": {}}}, "gelu"),
        ("open_clip_config.json", {"model_cfg": {"quick_gelu": True}}, "quick_gelu"),
        ("config.json", {"architecture": "vit_base_patch16_clip_224"}, "gelu"),
        ("config.json", {"architecture": "vit_base_patch16_clip_quickgelu_224"}, "quick_gelu"),
        ("config.json", {"architecture": "vit_base_patch16_224"}, "quick_gelu"),
    ],
)
def test_folders_of_open_clip_and_timm_tell_the_activation(tmp_path, file, content, activation):
    groups = TIMM["pre_norm"]
    state = {n.removeprefix("state/"): v for n, v in groups.items() if n.startswith("state/")}
    save_file(state, tmp_path / "model.safetensors")
    (tmp_path / file).write_text(json.dumps(content))
    model = retfm_jax.load(tmp_path)
    assert model.config.model.image.activation == activation
    guessed = content.get("architecture") == "vit_base_patch16_224"
    assert ("QuickGELU" in " ".join(model.notes)) == guessed


def test_an_activation_that_no_tower_has_is_refused_with_its_file(tmp_path):
    groups = TIMM["plain"]
    state = {n.removeprefix("state/"): v for n, v in groups.items() if n.startswith("state/")}
    save_file(state, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"hidden_act": "relu6"}))
    with pytest.raises(UserError, match=r"config\.json: hidden_act 'relu6' is none of gelu"):
        retfm_jax.load(tmp_path)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [  # as timm counts them
        ("MAE-L/16", 303_301_632),
        ("DINOv2-S/14-reg4", 21_629_952 + 384),  # here the class token has a position
        ("DINOv2-L/14", 303_227_904),
        ("DINOv2-g/14", 1_134_769_664),
        ("DINOv3-L/16", 303_079_424),
        ("SigLIP-B/16", 92_884_224),
    ],
)
def test_sizes_by_name_are_the_published_ones(name, parameters):
    config = from_dict({"method": "vision", "model": {"image": name}}).model.image
    abstract = nnx.eval_shape(lambda: vit.ViT(config, None, rngs=nnx.Rngs(0)))
    leaves = jax.tree.leaves(nnx.state(abstract, nnx.Param))
    assert sum(leaf.size for leaf in leaves) == parameters


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_size": 30}, "no multiple of patch_size"),
        ({"heads": 3}, "does not divide into 3 heads"),
        ({"positions": "rope", "heads": 16}, "multiple of 4"),
        ({"class_token": False}, "pooling class needs class_token"),
        ({"pooling": "attention", "activation": "swiglu"}, "knows no swiglu"),
    ],
)
def test_forms_that_contradict_themselves_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SMALL, **changes)


@pytest.mark.parametrize("pooling", ["class", "mean", "mean_norm", "attention"])
@pytest.mark.parametrize("positions", ["learned", "rope"])
def test_a_subset_of_the_patches_keeps_its_positions(pooling, positions):
    config = dataclasses.replace(SMALL, pooling=pooling, positions=positions, registers=2)
    tower = vit.ViT(config, None, rngs=nnx.Rngs(0))
    images = jax.random.normal(jax.random.key(1), (2, 32, 32, 3))
    patches = tower.patches(images)
    everything = jnp.broadcast_to(jnp.arange(16), (2, 16))
    whole = tower.pool(tower.tokens(patches))
    np.testing.assert_allclose(tower.pool(tower.tokens(patches, everything)), whole, atol=1e-5)
    # The order of the patches means nothing: each carries its position.
    turned = everything[:, ::-1]
    np.testing.assert_allclose(tower.pool(tower.tokens(patches, turned)), whole, atol=1e-5)
    assert tower.tokens(patches, turned[:, :4]).shape == (2, 1 + 2 + 4, 32)


def test_dropped_branches_belong_to_the_sample_and_vanish_on_average():
    config = dataclasses.replace(SMALL, drop_path=0.5, layer_scale=True)
    tower = vit.ViT(config, None, rngs=nnx.Rngs(0))
    tower.blocks.scale_1[...] = tower.blocks.scale_2[...] = jnp.ones((3, 32))
    images = jax.random.normal(jax.random.key(1), (4, 32, 32, 3))
    keys = jax.random.split(jax.random.key(2), 4)
    run = jax.jit(lambda images, keys: tower(images, keys=keys)[1])
    together = run(images, keys)
    np.testing.assert_allclose(run(images[2:], keys[2:]), together[2:], atol=1e-5)
    assert not np.allclose(together, tower(images)[1], atol=1e-3)
    # The first block drops nothing: its rate is 0.
    shallow = vit.ViT(dataclasses.replace(config, layers=1), None, rngs=nnx.Rngs(0))
    np.testing.assert_allclose(shallow(images, keys=keys)[1], shallow(images)[1], atol=1e-6)


def test_a_tower_of_foreign_form_computes_in_bfloat16_what_it_computes_in_float32():
    config = dataclasses.replace(SMALL, positions="rope", layer_scale=True, pooling="attention")
    images = jax.random.normal(jax.random.key(1), (2, 32, 32, 3))
    exact = vit.ViT(config, None, rngs=nnx.Rngs(0))(images)[1]
    rough = vit.ViT(config, None, dtype="bfloat16", rngs=nnx.Rngs(0))(images)[1]
    assert rough.dtype == jnp.float32
    cosine = jnp.sum(exact * rough, -1) / jnp.linalg.norm(exact, axis=-1)
    np.testing.assert_allclose(cosine / jnp.linalg.norm(rough, axis=-1), 1, atol=1e-2)


def test_every_layout_names_every_parameter_of_some_form_once():
    for name, layout in vit_names.LAYOUTS.items():
        published = [row[0] for row in layout.rows]
        assert len(published) == len(set(published)), name
        assert all(row[2].partition(":")[0] in ("copy", "linear", "conv", "token", "tokens")
                   for row in layout.rows)  # fmt: skip
