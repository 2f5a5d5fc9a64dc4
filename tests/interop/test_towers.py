"""Image towers of other systems, in the names and containers that their owners give them."""

import dataclasses
import json
import logging
import re

import numpy as np
import pytest
import torch
from golden_files import Golden, assert_same_bits
from PIL import Image

import retfm_jax
from retfm_jax import cli
from retfm_jax.config import InitConfig, load_config
from retfm_jax.errors import UserError
from retfm_jax.interop.initial import initial_network
from retfm_jax.methods import make_method
from retfm_jax.trees import flatten

TIMM = Golden("timm_towers.npz")


def tower(form):
    """State dict of a small tower of timm."""
    return {n.removeprefix("state/"): v for n, v in TIMM[form].items() if n.startswith("state/")}


def prefixed(prefix, state):
    return {prefix + name: value for name, value in state.items()}


def _zeros(*shape):
    return np.zeros(shape, np.float32)


def mae_file():
    """RETFound's pretraining: encoder, decoder, an optimizer and arguments beside."""
    state = dict(Golden("mae_vit.npz")["state"])
    del state["fc_norm.weight"], state["fc_norm.bias"]
    return {"model": state, "optimizer": {"state": {0: {"step": 3}}}, "epoch": 7}


def with_updates(state, rank=3):
    """RetiZero's names: low-rank updates of queries and values beside every fused weight."""
    rng, found = np.random.default_rng(0), {}
    for name, value in state.items():
        parent, _, last = name.rpartition(".")
        if not name.endswith(("attn.qkv.weight", "attn.qkv.bias")):
            found[name] = value
            continue
        found[f"{parent}.qkv.{last}"] = value
        if last == "weight":
            width = value.shape[1]
            for part in "qv":
                down, up = (rank, width), (width, rank)
                found[f"{parent}.linear_a_{part}.weight"] = rng.normal(size=down).astype("f4")
                found[f"{parent}.linear_b_{part}.weight"] = rng.normal(size=up).astype("f4")
    return found


#: For each system: what its file holds, the form by which it is known, and what must be said.
SYSTEMS = {
    "RETFound-MAE": (mae_file(), {"pooling": "mean_norm"}, r"decoder\* \(.*the norm .* is new"),
    "RETFound fine-tuned": (
        {"model": tower("mean_norm") | {"head.weight": _zeros(5, 32), "head.bias": _zeros(5)}},
        {"pooling": "mean_norm"},
        r"head\* \(2\)",
    ),
    "RETFound-DINOv2": (
        {
            "teacher": prefixed("backbone.", tower("layer_scale"))
            | {"dino_head.mlp.0.weight": _zeros(4, 4), "backbone.mask_token": _zeros(1, 32)}
        },
        {"layer_scale": True},
        r"dino\* \(1\)",
    ),
    "RETFound-Green": (tower("registers"), {"registers": 4, "class_position": False}, "timm"),
    "UrFound": (
        {"model": tower("plain") | {"bert_encoder.embeddings.a": _zeros(3)}},
        {"patch_bias": True},
        r"bert\* \(1\)",
    ),
    "VisionFM": (
        {"teacher": prefixed("module.backbone.", tower("plain")) | {"module.head.a": _zeros(3)}},
        {"layer_scale": False},
        r"head\* \(1\)",
    ),
    "DINORET": (tower("layer_scale") | {"mask_token": _zeros(1, 32)}, {"layer_scale": True}, ""),
    "DINOv2 hub with registers": (
        {
            name.replace("reg_token", "register_tokens"): value
            for name, value in tower("registers").items()
        },
        {"registers": 4},
        "DINOv2's own code",
    ),
    "RetiZero": (
        prefixed("vision_model.model.lora_vit.", with_updates(tower("plain")))
        | {"text_model.model.embeddings.word_embeddings.weight": _zeros(9, 4)},
        {"patch_bias": True},
        r"updates of 2 blocks are merged.*text\* \(1\)",
    ),
    "EyeCLIP": (
        {
            "model_state_dict": {
                name: value
                for name, value in Golden("vilref_vit.npz")["state"].items()
                if name.startswith("visual.")
            }
            | {"token_embedding.weight": _zeros(9, 4), "transformer.resblocks.0.a": _zeros(2)}
        },
        {"pre_norm": True, "activation": "quick_gelu"},
        r"token\* \(1\), transformer\* \(1\)",
    ),
    "open_clip with a tower of timm": (
        prefixed("visual.trunk.", tower("attention")) | {"logit_scale": _zeros()},
        {"pooling": "attention"},
        r"logit\* \(1\)",
    ),
    "torchvision ResNet": (
        {
            name.removeprefix("vision_model.model."): value
            for name, value in Golden("keepfit_resnet.npz")["state"].items()
            if name.startswith("vision_model.model.")
        }
        | {"fc.weight": _zeros(1000, 8), "fc.bias": _zeros(1000)},
        {"kind": "resnet"},
        r"fc\* \(2\)",
    ),
    "CLIP ResNet": (
        {
            name: value
            for name, value in Golden("vilref_rn.npz")["state"].items()
            if name.startswith("visual.")
        },
        {"kind": "clip_resnet"},
        "residual network",
    ),
}


def torch_file(path, content):
    def tensors(value):
        if isinstance(value, dict):
            return {key: tensors(each) for key, each in value.items()}
        return torch.from_numpy(np.array(value)) if isinstance(value, np.ndarray) else value

    torch.save(tensors(content), path)
    return path


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_system_is_recognized_said_and_comes_back(system, tmp_path, capsys):
    content, form, said = SYSTEMS[system]
    path = torch_file(tmp_path / "weights.pth", content)
    assert cli.main(["import", str(path), "--workdir", str(tmp_path / "run")]) == 0
    notes = capsys.readouterr().out
    model = retfm_jax.load(tmp_path / "run")
    for entry, value in form.items():
        assert getattr(model.config.model.image, entry) == value, entry
    again = retfm_jax.load(path)
    assert again.notes == model.notes
    assert " ".join(model.notes) in " ".join(notes.split("\n"))
    if said:
        assert re.search(said, " ".join(notes.split())), notes
    # Every tensor of the tower has the values of the file again.
    out = tmp_path / "out.safetensors"
    cli.main(["export", "--workdir", str(tmp_path / "run"), "--to", "vision", "--out", str(out)])
    assert_same_bits(retfm_jax.to_torch(retfm_jax.load(out)), retfm_jax.to_torch(model))
    flat = content
    while not any(isinstance(value, np.ndarray) for value in flat.values()):
        flat = next(value for value in flat.values() if isinstance(value, dict))
    flat = {
        name.removeprefix("module.").removeprefix("backbone.").replace("lora_vit.", ""): value
        for name, value in flat.items()
    }
    exported = retfm_jax.to_torch(model)
    new = {name for name in exported if name not in flat}
    fresh = {"fc_norm.weight", "fc_norm.bias"} if system == "RETFound-MAE" else set()
    merged = {name for name in new if system == "RetiZero" and ".attn.qkv." in name}
    assert new == fresh | merged
    assert_same_bits({n: v for n, v in exported.items() if n not in new},
                     {n: flat[n] for n in exported if n not in new})  # fmt: skip


def test_low_rank_updates_are_added_where_they_belong():
    state = tower("plain")
    given = with_updates(state)
    model = retfm_jax.from_torch(prefixed("lora_vit.", given))
    merged = retfm_jax.to_torch(model)["blocks.1.attn.qkv.weight"]
    name = "blocks.1.attn.qkv"
    want = state[f"{name}.weight"].copy()
    for rows, part in ((slice(None, 32), "q"), (slice(64, None), "v")):
        want[rows] += (
            given[f"{name}.linear_b_{part}.weight"] @ given[f"{name}.linear_a_{part}.weight"]
        )
    np.testing.assert_allclose(merged, want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("blocks.1.mlp.fc2.bias"), r"missing blocks\.1\.mlp\.fc2\.bias"),
        (lambda s: s.update({"blocks.1.odd": _zeros(2)}), r"extra blocks\.1\.odd"),
        (lambda s: s.update({"pos_embed": _zeros(1, 20, 32)}), "no square grid"),
        (lambda s: s.update({"norm.weight": _zeros(7)}), r"misshaped norm\.weight: \(7,\)"),
        (lambda s: s.update({"norm.bias": np.full(32, np.nan, np.float32)}), r"not finite.*norm"),
        (lambda s: s.pop("blocks.0.norm1.weight"), "no image tower is found"),
        (
            lambda s: s.update({"blocks.0.attn.qkv.linear_a_q.weight": _zeros(3, 32)}),
            "update of blocks.0.attn.qkv is incomplete",
        ),
    ],
)
def test_what_cannot_be_placed_is_listed_in_one_error(change, message):
    state = tower("plain")
    change(state)
    with pytest.raises(UserError, match=message):
        retfm_jax.from_torch(state)


def test_a_projection_without_bias_is_one_and_a_classifier_is_none():
    state = tower("pre_norm")
    projection = np.random.default_rng(0).normal(size=(12, 32)).astype(np.float32)
    model = retfm_jax.from_torch(state | {"head.weight": projection})
    assert model.config.model.embed_dim == 12
    assert_same_bits(retfm_jax.to_torch(model), state | {"head.weight": projection})
    pixels = np.zeros((1, 32, 32, 3), np.uint8)
    want = model.image_features(pixels) @ projection.T
    np.testing.assert_allclose(
        model.encode_images(pixels), want / np.linalg.norm(want), rtol=1e-4, atol=1e-6
    )
    classifier = {"head.weight": projection, "head.bias": _zeros(12)}
    assert retfm_jax.from_torch(state | classifier).config.model.embed_dim is None


def test_other_networks_are_no_towers():
    with pytest.raises(UserError, match=r"MultiMAE.*not read"):
        retfm_jax.from_torch({"input_adapters.bscan.proj.weight": _zeros(2)})
    with pytest.raises(UserError, match="no image tower is found"):
        retfm_jax.from_torch({"a": _zeros(2)})


def test_weights_of_published_methods_are_known_without_their_name():
    for golden, method in (("retclip_vit", "retclip"), ("keepfit_resnet", "keepfit")):
        state = Golden(f"{golden}.npz")["state"]
        assert retfm_jax.from_torch(state, text_num_heads=4).method.name == method


def test_a_network_without_texts_says_so():
    model = retfm_jax.from_torch(tower("plain"))
    pixels = np.random.default_rng(0).integers(0, 255, (2, 40, 50, 3), dtype=np.uint8)
    embedded, features = model.encode_images(pixels), model.image_features(pixels)
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    np.testing.assert_allclose(embedded, unit, atol=1e-6)
    for ask in (
        lambda: model.encode_texts("drusen"),
        lambda: model.zero_shot(pixels, ["normal", "drusen"]),
        lambda: model.encoder,
    ):
        with pytest.raises(UserError, match="takes a method that embeds images and texts"):
            ask()
    with pytest.raises(UserError, match="has no objective: fine-tune it"):
        model.losses({"image": np.zeros((1, 32, 32, 3), np.float32)})


def test_the_preprocessing_belongs_to_the_model_and_is_said():
    plain, clip = (retfm_jax.from_torch(tower(form)) for form in ("plain", "pre_norm"))
    assert plain.data_config.image.mean == (0.485, 0.456, 0.406)
    assert "central 32 x 32 px, (x / 255 - (0.485, 0.456, 0.406))" in repr(plain)
    assert "squashed to 32 x 32 px (bicubic), (x / 255 - (0.4815, 0.4578, 0.4082))" in repr(clip)
    siglip = retfm_jax.from_torch(tower("attention")).data_config.image
    assert siglip.mean == siglip.std == (0.5, 0.5, 0.5)


def test_the_central_crop_is_that_of_torchvision():
    """Short side to 256, long side cut to whole pixels, margins rounded to even."""
    from retfm_jax.data.images import center_crop

    pixels = np.random.default_rng(0).integers(0, 255, (301, 417, 3), dtype=np.uint8)
    scaled = Image.fromarray(pixels).resize((int(256 * 417 / 301), 256), Image.Resampling.BICUBIC)
    left = round((scaled.width - 224) / 2)
    want = np.asarray(scaled)[16:240, left : left + 224]
    np.testing.assert_array_equal(center_crop(pixels, 224), want)
    upright = pixels.transpose(1, 0, 2)
    scaled = Image.fromarray(upright).resize((256, int(256 * 417 / 301)), Image.Resampling.BICUBIC)
    want = np.asarray(scaled)[left : left + 224, 16:240]
    np.testing.assert_array_equal(center_crop(upright, 224), want)


def _experiment(tower, **init):
    model = {"image": tower, "text": {"width": 32, "layers": 1, "heads": 2}, "embed_dim": 16}
    overrides = [f"model.{name}={value}" for name, value in model.items()]
    size = tower["image_size"]
    config = load_config("siglip_vit_b16", [f"data.image.size={size}", *overrides])
    return dataclasses.replace(config, init=InitConfig(**init))


def _tower_config(form, **changes):
    image = retfm_jax.from_torch(tower(form)).config.model.image
    return dataclasses.asdict(dataclasses.replace(image, **changes)) | {"kind": "vit"}


@pytest.mark.parametrize("form", ["plain", "registers", "layer_scale"])
def test_any_tower_begins_that_of_a_dual_encoder(form, tmp_path, caplog):
    path = torch_file(tmp_path / "w.pth", {"teacher": prefixed("backbone.", tower(form))})
    config = _experiment(_tower_config(form), image=str(path))
    method = make_method(config.method, config.model)
    with caplog.at_level(logging.WARNING):
        params, _ = initial_network(config, method)
    assert "projection is not used" in caplog.text
    want = flatten(retfm_jax.from_torch(tower(form)).params)
    for name, leaf in want.items():
        np.testing.assert_array_equal(flatten(params)[name], leaf, err_msg=name)


def test_a_workdir_without_texts_begins_a_dual_encoder(tmp_path):
    model = retfm_jax.from_torch(tower("plain"))
    model.save(tmp_path / "saved")
    config = _experiment(_tower_config("plain", pooling="mean"), image=str(tmp_path / "saved"))
    params, _ = initial_network(config, make_method(config.method, config.model))
    for name, leaf in flatten(model.params).items():
        np.testing.assert_array_equal(flatten(params)[name], leaf, err_msg=name)


def test_positions_of_another_grid_are_resized_as_their_authors_do(tmp_path):
    from retfm_jax.interop.state_dict import resize_positions

    golden = Golden("mae_vit.npz")
    grid = golden.config["resized_grid"]
    given = golden["state"]["pos_embed"][0]
    resized = resize_positions(given, 1 + grid * grid, aligned=False)
    want = golden["out"]["pos_embed_resized"][0]
    assert np.abs(resized - want).max() <= 2e-5 * np.abs(want).max()
    path = torch_file(tmp_path / "w.pth", tower("plain"))
    config = _experiment(_tower_config("plain", image_size=48), image=str(path))
    params, _ = initial_network(config, make_method(config.method, config.model))
    want = resize_positions(tower("plain")["pos_embed"][0], 37, aligned=False)
    np.testing.assert_array_equal(params["visual"]["position_embedding"], want)


def test_a_tower_whose_sizes_contradict_each_other_begins_nothing(tmp_path):
    path = torch_file(tmp_path / "w.pth", tower("plain") | {"pos_embed": _zeros(1, 20, 32)})
    config = _experiment(_tower_config("plain"), image=str(path))
    with pytest.raises(UserError, match=r"w\.pth holds no image tower .*no square grid"):
        initial_network(config, make_method(config.method, config.model))


def test_a_tower_of_another_form_is_refused_with_both(tmp_path):
    path = torch_file(tmp_path / "w.pth", tower("plain"))
    config = _experiment(_tower_config("layer_scale"), image=str(path))
    with pytest.raises(UserError, match="layer_scale False where the config has True"):
        initial_network(config, make_method(config.method, config.model))


def test_heads_that_a_configuration_states_are_not_taken_for_those_of_the_config(tmp_path):
    torch_file(tmp_path / "pytorch_model.bin", tower("plain"))
    (tmp_path / "config.json").write_text(json.dumps({"num_attention_heads": 4}))
    config = _experiment(_tower_config("plain", heads=2), image=str(tmp_path))
    with pytest.raises(UserError, match="heads 4 where the config has 2"):
        initial_network(config, make_method(config.method, config.model))
