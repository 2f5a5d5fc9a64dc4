"""What transformers computes from an exported folder is what we compute."""

import dataclasses

import numpy as np
import pytest
import torch
from golden_files import Golden
from PIL import Image

import retfm_jax
from retfm_jax.data.text import Tokenizer
from retfm_jax.errors import UserError
from retfm_jax.interop.huggingface import write_chinese_clip


@pytest.fixture(scope="module")
def model():
    golden = Golden("vilref_vit.npz")
    heads = golden.config["text_num_attention_heads"]
    return retfm_jax.from_torch(golden["state"], "vilref", text_num_heads=heads)


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exports") / "chinese_clip"
    write_chinese_clip(folder, model.method, model.params, model.state, model.data_config)
    return folder


@pytest.fixture(scope="module")
def theirs(folder):
    from transformers import ChineseCLIPModel

    loaded, info = ChineseCLIPModel.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values()), info
    return loaded.eval()


def test_transformers_computes_the_same_embeddings(model, theirs):
    size = model.method.image_size
    rng = np.random.default_rng(0)
    images = rng.normal(size=(3, size, size, 3)).astype(np.float32)
    tokens = rng.integers(1, 100, (3, 12))
    tokens[1, 5:] = 0
    ours = model.features({"image": images, "tokens": tokens})
    with torch.inference_mode():
        out = theirs(
            input_ids=torch.from_numpy(tokens),
            attention_mask=torch.from_numpy((tokens != 0).astype(np.int64)),
            pixel_values=torch.from_numpy(images).permute(0, 3, 1, 2),
        )
    np.testing.assert_allclose(out.image_embeds, ours["image"], atol=2e-5)
    np.testing.assert_allclose(out.text_embeds, ours["text"], atol=2e-5)
    np.testing.assert_allclose(theirs.logit_scale.exp().item(), ours["scale"], rtol=1e-6)


def test_its_tokenizer_is_ours(model, folder):
    from transformers import AutoTokenizer

    texts = ["右眼可见硬性渗出", "Drusen of the macula, OD"]
    length = model.data_config.text.context_length
    found = AutoTokenizer.from_pretrained(folder)(texts, padding="max_length", truncation=True)
    assert np.shape(found["input_ids"]) == (2, length)
    np.testing.assert_array_equal(found["input_ids"], Tokenizer(model.data_config.text)(texts))


def test_its_image_preprocessing_is_ours(model, folder):
    from transformers import AutoImageProcessor

    pixels = np.random.default_rng(1).integers(0, 256, (40, 50, 3), np.uint8)
    processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
    found = processor(Image.fromarray(pixels), return_tensors="np")["pixel_values"][0]
    image = model.data_config.image
    ours = (model._pixels(pixels, "image") / 255 - image.mean) / image.std
    np.testing.assert_allclose(found.transpose(1, 2, 0), ours, atol=1e-5)


def test_what_chinese_clip_does_not_have_is_refused(model, folder, tmp_path):
    def export(network, data=model.data_config, out=tmp_path / "out"):
        write_chinese_clip(out, network.method, network.params, network.state, data)

    padded = dataclasses.replace(model.data_config.image, resize="pad")
    with pytest.raises(UserError, match="resize=pad"):
        export(model, dataclasses.replace(model.data_config, image=padded))
    cropped = dataclasses.replace(model.data_config.image, field_of_view="crop")
    with pytest.raises(UserError, match="field_of_view=crop"):
        export(model, dataclasses.replace(model.data_config, image=cropped))
    with pytest.raises(UserError, match="is not empty"):
        export(model, out=folder)
    for name, method, message in (
        ("vilref_rn.npz", "vilref", "no residual image tower: export the network to vilref"),
        ("retclip_vit.npz", "retclip", "export it to retclip"),
    ):
        tensors = Golden(name)["state"]
        with pytest.raises(UserError, match=message):
            export(retfm_jax.from_torch(tensors, method, text_num_heads=4))
    assert not list(tmp_path.iterdir())
