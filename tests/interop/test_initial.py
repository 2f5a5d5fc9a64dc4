"""Weights of others to begin with: towers and whole networks find their places or are refused."""

import dataclasses
import json

import jax
import numpy as np
import pytest
import torch
from golden_files import Golden

import retfm_jax
from retfm_jax.config import InitConfig, from_dict, load_config, to_dict
from retfm_jax.errors import UserError
from retfm_jax.interop.initial import initial_network
from retfm_jax.interop.state_dict import resize_positions, to_state_dict
from retfm_jax.methods import get_method_class, make_method
from retfm_jax.model import RetinalModel


@pytest.fixture(scope="module")
def published():
    return Golden("retclip_vit.npz")["state"]


@pytest.fixture(scope="module")
def model(published):
    return retfm_jax.from_torch(published, "retclip", text_num_heads=4)


def _initial(model, init, **image):
    network = dataclasses.replace(
        model.method.config, image=dataclasses.replace(model.method.config.image, **image)
    )
    config = dataclasses.replace(load_config("quickstart"), model=network, init=init)
    method = get_method_class("retclip")(network)
    return to_state_dict(method, *initial_network(config, method))


def _save(path, tensors):
    torch.save({name: torch.from_numpy(np.array(value)) for name, value in tensors.items()}, path)
    return str(path)


def test_nothing_named_draws_by_seed(model):
    first, again = _initial(model, InitConfig()), _initial(model, InitConfig())
    for name, value in first.items():
        np.testing.assert_array_equal(value, again[name])


def test_chinese_clip_image_tower(tmp_path, model, published):
    theirs = {f"module.{k}": v for k, v in published.items() if k.startswith(("visual.", "bert."))}
    theirs["module.text_projection"] = np.zeros((48, 32), np.float32)
    tensors = _initial(model, InitConfig(image=_save(tmp_path / "clip.pt", theirs)))
    drawn = _initial(model, InitConfig())
    for name, value in tensors.items():
        expected = published if name.startswith("visual.") else drawn
        np.testing.assert_array_equal(value, expected[name])


def test_image_tower_of_another_image_size(tmp_path, model, published):
    path = _save(tmp_path / "clip.pt", published)
    name = "visual.positional_embedding"
    for init in (InitConfig(image=path), InitConfig(weights=path)):
        tensors = _initial(model, init, image_size=64)
        np.testing.assert_array_equal(tensors[name], resize_positions(published[name], 65))


def test_positions_of_attention_pooling_fit_another_image_size(tmp_path):
    sizes = {"stages": [1, 1, 1, 1], "width": 8, "image_size": 64}
    small = load_config("quickstart", [f"model.image={json.dumps(sizes)}", "model.embed_dim=16"])
    method = make_method(small.method, small.model)
    network = method.init(jax.random.key(0))
    theirs = to_state_dict(method, *network)
    RetinalModel(method, *network, small).save(tmp_path / "saved")
    name = "visual.attnpool.positional_embedding"
    changes = [
        "data.image.size=96",
        "model.embed_dim=16",
        'model.classes=["a","b"]',
        f"model.image={json.dumps(sizes | {'image_size': 96})}",
    ]
    for init in (_save(tmp_path / "clip.pt", theirs), str(tmp_path / "saved")):
        config = load_config("finetune", [*changes, f"init.image={init}"])
        classifier = make_method(config.method, config.model)
        params, _ = initial_network(config, classifier)
        found = params["visual"]["attnpool"]["position_embedding"]
        np.testing.assert_allclose(found, resize_positions(theirs[name], 10), atol=1e-6)


def test_hugging_face_bert_folder(tmp_path, model):
    from transformers import BertConfig, BertModel

    theirs = BertModel(
        BertConfig(
            vocab_size=160,
            hidden_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=96,
            max_position_embeddings=80,
        )
    )
    theirs.save_pretrained(tmp_path)
    tensors = _initial(model, InitConfig(text=str(tmp_path)))
    for name, value in theirs.state_dict().items():
        if not name.startswith("pooler."):
            want = value.numpy()
            # The longer text's positions are cut to those of the network.
            np.testing.assert_array_equal(
                tensors[f"bert.{name}"], want[: len(tensors[f"bert.{name}"])]
            )


def test_bert_of_tensorflow_times(tmp_path, model, published):
    theirs = {k: v for k, v in published.items() if k.startswith("bert.")}
    theirs = {
        k.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        ): v
        for k, v in theirs.items()
    }
    theirs["cls.predictions.bias"] = np.zeros(160, np.float32)
    tensors = _initial(model, InitConfig(text=_save(tmp_path / "bert.bin", theirs)))
    np.testing.assert_array_equal(
        tensors["bert.embeddings.LayerNorm.weight"], published["bert.embeddings.LayerNorm.weight"]
    )


def test_workdir_as_initial_weights(tmp_path, model, published):
    model.save(tmp_path / "saved")
    tensors = _initial(model, InitConfig(weights=str(tmp_path / "saved")))
    for name, value in published.items():
        np.testing.assert_array_equal(tensors[name], value)


def test_tower_that_does_not_fit_is_named(tmp_path, model, published):
    theirs = {k: v for k, v in published.items() if k.startswith("visual.")}
    del theirs["visual.ln_post.bias"]
    theirs["visual.proj"] = np.zeros((128, 7), np.float32)
    with pytest.raises(UserError) as error:
        _initial(model, InitConfig(image=_save(tmp_path / "clip.pt", theirs)))
    assert "missing visual.ln_post.bias" in str(error.value)
    assert "misshaped visual.proj: (128, 7) where (128, 32)" in str(error.value)


def test_other_network_and_empty_folder_are_refused(tmp_path, model):
    model.save(tmp_path / "saved")
    with pytest.raises(UserError, match="holds another network"):
        _initial(model, InitConfig(weights=str(tmp_path / "saved")), layers=1)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"neither model\.safetensors"):
        _initial(model, InitConfig(text=str(tmp_path / "empty")))


def test_leaves_are_float32_arrays_on_the_device(model):
    leaves = jax.tree.leaves(model.params)
    assert all(isinstance(leaf, jax.Array) and leaf.dtype == np.float32 for leaf in leaves)


def test_a_file_of_the_system_that_it_adds_to_begins_both_towers(tmp_path, model, published):
    """RET-CLIP's file lacks a norm that RET-CLIP+ has in its tower and does not use."""
    path = _save(tmp_path / "retclip.pt", published)
    small = {"width": 16, "layers": 1, "heads": 2}
    sections = to_dict(load_config("retclip_plus_synthetic"))
    ours = to_dict(model.config)
    sections["model"] |= {name: ours["model"][name] for name in ("image", "text", "embed_dim")}
    sections["model"]["decoder"] = small
    sections["data"] = ours["data"]
    config = from_dict(sections | {"init": {"image": path, "text": path}})
    method = make_method(config.method, config.model)
    tensors = to_state_dict(method, *initial_network(config, method))
    for name, value in published.items():
        if name.startswith(("visual.", "bert.")):
            np.testing.assert_array_equal(tensors[name], value)
    assert any(name.startswith("MAE_decoder.") for name in tensors)
