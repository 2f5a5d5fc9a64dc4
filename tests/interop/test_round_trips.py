"""Every container that is written comes back whole, and nothing of the user's is written over."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
from golden_files import Golden, assert_same_bits
from PIL import Image

import retfm_jax
from retfm_jax import cli
from retfm_jax.config import TextConfig
from retfm_jax.errors import UserError
from retfm_jax.interop.huggingface import write_chinese_clip
from retfm_jax.interop.initial import initial_network
from retfm_jax.interop.state_dict import to_state_dict
from retfm_jax.interop.weights import read_tensors, write_tensors


@pytest.fixture(scope="module")
def model():
    model = retfm_jax.from_torch(Golden("vilref_vit.npz")["state"], "vilref", text_num_heads=4)
    data = model.config.data
    image = dataclasses.replace(data.image, mean=(0.5, 0.25, 0.125), std=(0.2, 0.3, 0.4))
    data = dataclasses.replace(data, image=image, text=TextConfig(context_length=21))
    model.config = dataclasses.replace(model.config, data=data)
    return model


@pytest.fixture(scope="module")
def folder(tmp_path_factory, model):
    folder = tmp_path_factory.mktemp("round_trips")
    model.save(folder / "saved")
    write_chinese_clip(folder / "clip", model.method, model.params, model.state, model.data_config)
    return folder


def test_a_folder_of_transformers_comes_back_with_its_preprocessing(model, folder):
    for path in (folder / "clip", folder / "clip" / "model.safetensors"):
        again = retfm_jax.load(path, "vilref")
        assert_same_bits(retfm_jax.to_torch(again), retfm_jax.to_torch(model))
        assert again.method.config.text.num_heads == 4
        assert again.data_config.image == model.data_config.image
        assert again.data_config.text == model.data_config.text


def test_a_vocabulary_of_its_own_stays_with_the_network(model, tmp_path):
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{n}" for n in range(155))]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    text = TextConfig(tokenizer=str(tmp_path / "vocab.txt"), context_length=9)
    data = dataclasses.replace(model.data_config, text=text)
    write_chinese_clip(tmp_path / "clip", model.method, model.params, model.state, data)
    own = retfm_jax.RetinalModel(
        model.method, model.params, model.state, dataclasses.replace(model.config, data=data)
    )
    again = retfm_jax.load(tmp_path / "clip", "vilref")
    assert again.data_config.text.context_length == 9
    np.testing.assert_array_equal(again.encode_texts("w3 w150"), own.encode_texts("w3 w150"))


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("preprocessor_config.json", "{}", "no image_mean and image_std"),
        ("preprocessor_config.json", '{"image_mean": [1, 2], "image_std": [1, 1, 1]}', "no image_"),
        ("preprocessor_config.json", "[", "not valid JSON"),
        ("config.json", "{", "not valid JSON"),
        ("tokenizer_config.json", "{", "not valid JSON"),
        ("tokenizer_config.json", '{"auto_map": {"AutoTokenizer": "x.X"}}', "auto_map"),
    ],
)
def test_a_damaged_folder_gives_one_message(folder, tmp_path, file, content, message):
    shutil.copytree(folder / "clip", tmp_path / "clip")
    (tmp_path / "clip" / file).write_text(content)
    with pytest.raises(UserError, match=message):
        retfm_jax.load(tmp_path / "clip", "vilref")


def test_a_folder_of_transformers_begins_a_training(model, folder):
    init = dataclasses.replace(model.config.init, weights=str(folder / "clip"))
    config = dataclasses.replace(model.config, init=init)
    network = initial_network(config, model.method)
    assert_same_bits(to_state_dict(model.method, *network), retfm_jax.to_torch(model))


@pytest.mark.parametrize(
    ("name", "container"),
    [("a.pt", "checkpoint"), ("deep/er/b.pth", "state_dict"), ("c.safetensors", "checkpoint")],
)
def test_exports_are_imported_again(model, folder, tmp_path, name, container):
    out = tmp_path / name
    arguments = ["export", "--workdir", str(folder / "saved"), "--to", "vilref", "--out", str(out)]
    assert cli.main([*arguments, "--container", container]) == 0
    assert cli.main([*arguments, "--container", container]) == 0  # over itself
    again = retfm_jax.from_torch(read_tensors(out), "vilref", text_num_heads=4)
    assert_same_bits(retfm_jax.to_torch(again), retfm_jax.to_torch(model))
    assert [path.name for path in out.parent.iterdir()] == [out.name]


@pytest.mark.parametrize(
    ("to", "out", "message"),
    [
        ("vilref", "ORIGINAL", "is the file that the network began with"),
        ("vilref", "FOLDER/run/../original.safetensors", "is the file that the network began with"),
        ("vilref", "LINK", "is the file that the network began with"),
        ("vilref", "FOLDER/run/checkpoints/0/w.pt", "is within a checkpoint"),
        ("vilref", "FOLDER/w.onnx", "written as .pt, .pth or .safetensors"),
        ("vilref", "FOLDER/w", "written as .pt, .pth or .safetensors"),
        ("vilref", "FOLDER/folder.pt", "is a folder"),
        ("retclip", "FOLDER/w.pt", "holds a vilref network"),
        ("clip", "FOLDER/w.pt", "give one of"),
        ("chinese_clip", "FOLDER/run", "is not empty"),
        ("chinese_clip", "ORIGINAL", "original.safetensors"),
    ],
)  # fmt: skip
def test_an_export_writes_over_nothing_that_it_came_from(model, tmp_path, capsys, to, out, message):
    original = tmp_path / "original.safetensors"
    write_tensors(original, retfm_jax.to_torch(model))
    content = original.read_bytes()
    (tmp_path / "link.safetensors").symlink_to(original)
    (tmp_path / "folder.pt").mkdir()
    arguments = ["import", str(original), "--method", "vilref", "--workdir", str(tmp_path / "run")]
    assert cli.main([*arguments, "--text_num_heads", "4"]) == 0
    before = sorted(tmp_path.rglob("*"))
    out = out.replace("ORIGINAL", str(original)).replace("FOLDER", str(tmp_path))
    out = out.replace("LINK", str(tmp_path / "link.safetensors"))
    export = ["export", "--workdir", str(tmp_path / "run"), "--to", to, "--out", out]
    assert cli.main(export) == 1
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert original.read_bytes() == content
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("weights", "options", "message"),
    [
        ("absent.pt", {}, "does not exist"),
        ("empty.pt", {}, "is empty (0 bytes)"),
        ("picture.png", {}, "is no weight file"),
        ("clip", {"method": "retclip"}, "does not fit a retclip network"),
        ("clip", {"method": "clip"}, "no method 'clip'"),
        ("clip", {"text_num_heads": "7"}, "does not divide into 7 heads"),
        ("clip", {"workdir": "picture.png"}, "is not empty: give a new folder"),
    ],
)
def test_a_wrong_import_gives_one_message(folder, tmp_path, capsys, weights, options, message):
    shutil.copytree(folder / "clip", tmp_path / "clip")
    (tmp_path / "empty.pt").touch()
    Image.new("RGB", (4, 4)).save(tmp_path / "picture.png")
    options = {"method": "vilref", "workdir": "run"} | options
    options["workdir"] = str(tmp_path / options["workdir"])
    flags = [part for name, value in options.items() for part in (f"--{name}", value)]
    assert cli.main(["import", str(tmp_path / weights), *flags]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert not (tmp_path / "run").exists()


def _import(folder, run):
    arguments = ["import", str(folder / "clip"), "--method", "vilref", "--workdir", str(run)]
    return cli.main(arguments)


def test_an_import_that_was_killed_is_made_by_the_same_command(folder, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert _import(folder, whole) == 0
    (killed / "checkpoints" / "0.orbax-checkpoint-tmp-1" / "network").mkdir(parents=True)
    shutil.copy(whole / "config.json", killed)
    with pytest.raises(UserError, match="no checkpoint"):
        retfm_jax.load(killed)
    assert _import(folder, killed) == 0
    assert [path.name for path in (killed / "checkpoints").iterdir()] == ["0"]
    assert_same_bits(*(retfm_jax.to_torch(retfm_jax.load(run)) for run in (whole, killed)))
    assert _import(folder, killed) == 1


@pytest.mark.parametrize("name", ["config.json", "checkpoints/notes.txt", "metrics.jsonl"])
def test_an_import_takes_nothing_of_others_for_its_own(folder, tmp_path, capsys, name):
    theirs = tmp_path / "run" / name
    theirs.parent.mkdir(parents=True)
    theirs.write_text("{}")
    assert _import(folder, tmp_path / "run") == 1
    assert "is not empty: give a new folder" in capsys.readouterr().err
    assert [path for path in (tmp_path / "run").rglob("*") if path.is_file()] == [theirs]
    assert theirs.read_text() == "{}"


def test_what_was_imported_is_noted(folder, tmp_path):
    run = tmp_path / "run"
    arguments = ["import", str(folder / "clip"), "--method", "vilref", "--workdir", str(run)]
    assert cli.main(arguments) == 0
    meta = json.loads((run / "checkpoints" / "0" / "meta" / "metadata").read_text())
    assert meta["imported_from"] == str(folder / "clip")
    assert retfm_jax.load(run).method.config.text.num_heads == 4
