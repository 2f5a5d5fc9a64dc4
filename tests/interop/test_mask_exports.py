"""A network that finds structures leaves with its decoder, and finds the same elsewhere."""

import ast
import dataclasses
import json

import jax
import numpy as np
import pytest
import yaml
from exported_models import random_network, run_without
from golden_files import Golden
from mask_photographs import reader
from PIL import Image

import retfm_jax
from retfm_jax.config import from_dict
from retfm_jax.errors import UserError
from retfm_jax.experiments import exporting
from retfm_jax.experiments.exporting import PARITY, write_program
from retfm_jax.interop.formats import get_form, onnx
from retfm_jax.interop.formats.arrays import arrays_of
from retfm_jax.interop.formats.programs import load_program
from retfm_jax.interop.formats.steps import tower_sizes
from retfm_jax.interop.hub_folder import write_hub_folder
from retfm_jax.interop.parts.numpy_decoders import unet, unetr
from retfm_jax.interop.parts.numpy_towers import resnet_maps, vit_maps
from retfm_jax.interop.parts.resizing import linear_weights
from retfm_jax.mask_decisions import MaskDecisions
from retfm_jax.methods import make_method
from retfm_jax.model import RetinalModel

_PHOTOGRAPH = np.random.default_rng(1).integers(0, 256, (50, 70, 3), np.uint8)


@pytest.fixture(scope="module")
def model() -> RetinalModel:
    """CLIP's residual network below a narrow U-Net; a pixel shows one of two structures."""
    tower = {"kind": "clip_resnet", "stages": (1, 1, 1, 1), "width": 4, "image_size": 32}
    masks = {"geometry": "windows", "working_size": 48}
    config = from_dict(
        {
            "method": "segmenter",
            "model": {
                "image": tower,
                "decoder": {"kind": "unet", "bridge": "narrow"},
                "structures": ("disc", "cup"),
                "loss": "exclusive",
            },
            "data": {"image": {"size": 32, "field_of_view": "crop"}, "masks": masks},
        }
    )
    method = make_method(config.method, config.model)
    fitted_on = {"dataset": "/home/me/eyes", "split": "validation", "images": 9, "patients": 5}
    decisions = MaskDecisions(("disc", "cup"), (0.35, 0.4), fitted_on)
    params, state = random_network(method)
    return RetinalModel(method, params, state, config, mask_decisions=decisions)


@pytest.fixture(scope="module")
def exports(model, tmp_path_factory):
    """Reports and folders by form, each made once."""
    made = {}

    def export(form):
        if form not in made:
            out = tmp_path_factory.mktemp("exports") / form
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(onnx, "_SECONDS", 0.01)  # of measuring a speed
                made[form] = write_program(model, get_form(form), out), out
        return made[form]

    return export


@pytest.mark.parametrize("form", ["torch", "saved_npz", "onnx", "stablehlo"])
def test_every_pixel_is_what_it_is_here(form, exports, model):
    made, folder = exports(form)
    shapes = {name: each.shape for name, each in made.parity.items()}
    assert shapes["pixel_logits"] == (4, 32, 32, 3)
    assert shapes["pixel_probabilities"] == (4, 32, 32, 2)
    assert shapes["photograph_probabilities"][1] == 2
    assert max(each.largest for each in made.parity.values()) < 1e-5
    program = load_program(folder)
    ours, theirs = model.segment(_PHOTOGRAPH), program.segment(_PHOTOGRAPH)
    assert ours.shape == (50, 70, 2)
    assert ours.std() > 0.05
    np.testing.assert_allclose(theirs, ours, atol=1e-5)


def test_a_program_goes_alone_and_turns_photographs_upright(exports, model, tmp_path):
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.fromarray(_PHOTOGRAPH).save(tmp_path / "eye.jpg", quality=95, exif=turned)
    _, folder = exports("saved_npz")
    found, photograph = str(tmp_path / "found.npz"), str(tmp_path / "eye.jpg")
    run_without(
        ("retfm_jax", "jax", "flax", "torch", "onnxruntime"),
        f"sys.path.insert(0, {str(folder)!r})\n"
        "import model\nimport numpy as np\n"
        f"np.savez({found!r}, **model.load().masks({photograph!r}))\n",
    )
    assert model.mask_decisions is not None
    masks = model.mask_decisions.masks(model.segment(photograph))
    assert masks.shape == (70, 50, 2)
    assert 0 < masks.mean() < 1
    with np.load(found) as file:
        for index, name in enumerate(model.structures):
            assert (file[name] == masks[..., index]).mean() > 0.999


@pytest.mark.parametrize("form", ["torch", "saved_npz", "onnx", "stablehlo"])
def test_a_program_is_one_file_that_defines_each_name_once(form, exports):
    tree = ast.parse((exports(form)[1] / "model.py").read_text())
    named = [each.name for each in tree.body if isinstance(each, ast.FunctionDef | ast.ClassDef)]
    assert len(set(named)) == len(named)
    imported = [each.module for each in ast.walk(tree) if isinstance(each, ast.ImportFrom)]
    assert not [name for name in imported if str(name).startswith("retfm_jax")]


def test_a_folder_says_what_it_finds_and_from_which_probability(exports):
    made, folder = exports("torch")
    shared = {"README.md", "model.py", "parity.json", "preprocessing.json"}
    assert {path.name for path in folder.iterdir()} == shared | {"structures.json", "weights.pt"}
    said = json.loads((folder / "structures.json").read_text())
    assert (said["structures"], said["thresholds"]) == (["disc", "cup"], [0.35, 0.4])
    assert said["fitted_on"]["dataset"] == "eyes"
    seen = json.loads((folder / "preprocessing.json").read_text())["masks"]
    assert seen == {"geometry": "windows", "working_size": 48}
    card = (folder / "README.md").read_text()
    assert yaml.safe_load(card.split("---")[1])["pipeline_tag"] == "image-segmentation"
    assert "disc (0.35), cup (0.4)" in card
    assert "eyes, validation: 9 images of 5 patients" in card
    assert "windows of 32 pixels" in card
    assert 'program.masks("photograph.jpg")' in card
    assert "/home" not in card
    assert made.photographs == "4 generated fundus photographs"


def test_eight_bits_are_measured_by_their_masks(exports):
    _, folder = exports("onnx")
    report = json.loads((folder / PARITY).read_text())["int8"]["image.onnx"]
    assert 0.8 < report["dice"] <= 1
    assert f"{report['dice']:.4f}" in (folder / "README.md").read_text()
    assert load_program(folder, int8=True).segment(_PHOTOGRAPH).shape == (50, 70, 2)
    pixels = np.zeros((5, 32, 32, 3), np.uint8)
    pixels[3] = _PHOTOGRAPH[:32, :32]
    run = load_program(folder).run_images
    alone = run(pixels[3:4])["pixel_logits"][0]
    np.testing.assert_allclose(run(pixels)["pixel_logits"][3], alone, atol=1e-5)


@pytest.mark.parametrize("name", ["flair_unet.npz", "vit_unetr.npz"])
def test_decoders_for_torch_and_numpy_give_the_published_logits(name):
    import torch

    golden = Golden(name)
    network = exporting._exported(retfm_jax.from_torch(golden["state"]))
    images, wanted = golden["in"]["image"], golden["out"]["logits"]
    largest = np.abs(wanted).max()
    built = onnx._torch_network(network)
    with torch.inference_mode():
        found = built.normalized_images(torch.from_numpy(images))["pixel_logits"].numpy()
    assert np.abs(np.moveaxis(found, -1, 1) - wanted).max() < 2e-5 * largest
    arrays, planes = arrays_of(network), np.moveaxis(images, 1, -1)
    assert network.maps is not None
    tower, _ = network.maps
    maps, decoder = (resnet_maps, unet) if name.startswith("flair") else (vit_maps, unetr)
    levels = maps(arrays, "visual", tower_sizes(tower, network), planes, tower.levels)
    found = decoder(arrays, "decoder", levels, planes)
    assert np.abs(np.moveaxis(found, -1, 1) - wanted).max() < 2e-5 * largest


@pytest.mark.parametrize(("old", "new"), [(3, 2), (4, 7), (42, 48), (48, 42), (5, 1), (1, 3)])
def test_maps_are_resized_as_the_decoders_do(old, new):
    wanted = jax.image.resize(np.eye(old, dtype=np.float32), (new, old), "bilinear")
    np.testing.assert_allclose(linear_weights(old, new), wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("form", ["timm", "transformers"])
def test_a_form_of_towers_alone_says_so_in_one_sentence(form, model, tmp_path):
    with pytest.raises(UserError, match=r"has no model of .* decoder for disc, cup") as raised:
        write_program(model, get_form(form), tmp_path / "out")
    assert "\n" not in str(raised.value)
    assert not list(tmp_path.iterdir())


def test_structures_without_names_cannot_leave(tmp_path):
    with pytest.raises(UserError, match="finds no structures"):
        write_program(reader(()), get_form("torch"), tmp_path / "out")


def test_a_folder_for_the_hub_keeps_bits_and_thresholds(model, tmp_path):
    write_hub_folder(tmp_path / "out", model.stored)
    again = retfm_jax.load(tmp_path / "out")
    for ours, theirs in zip(
        jax.tree.leaves((model.params, model.state.batch_stats)),
        jax.tree.leaves((again.params, again.state.batch_stats)),
        strict=True,
    ):
        np.testing.assert_array_equal(ours, theirs)
    assert again.mask_decisions is not None
    assert again.mask_decisions.thresholds == (0.35, 0.4)
    assert again.mask_decisions.fitted_on["dataset"] == "eyes"
    assert again.config.data.masks == model.config.data.masks
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"README.md", "config.json", "model.safetensors", "structures.json"}
    card = (tmp_path / "out" / "README.md").read_text()
    assert 'model.segment("photograph.jpg")' in card
    assert "disc (0.35), cup (0.4)" in card
    assert model.mask_decisions is not None
    unfitted = dataclasses.replace(model.mask_decisions, fitted_on={})
    write_hub_folder(tmp_path / "other", model.stored._replace(mask_decisions=unfitted))
    assert "The thresholds were not fitted" in (tmp_path / "other" / "README.md").read_text()
