"""A network as a folder for the Hub comes back to the same bits, and trusts nothing in it."""

import dataclasses
import json
import os
import re

import jax
import numpy as np
import pytest
import yaml
from golden_files import Golden
from hub_cache import COMMIT, cached, hub_cache
from PIL import Image
from test_towers import SYSTEMS, torch_file, tower

import retfm_jax
from retfm_jax import cli
from retfm_jax.config import ImageConfig, InitConfig, to_dict
from retfm_jax.errors import UserError
from retfm_jax.interop.hub_folder import write_hub_folder
from retfm_jax.interop.huggingface import PREPROCESSOR, image_processor
from retfm_jax.interop.zoo import zoo
from retfm_jax.knowledge.wording import ReportWording

PIXELS = np.random.default_rng(0).integers(0, 255, (2, 50, 60, 3), np.uint8)
GOLDENS = {
    "vilref": "vilref_vit.npz",
    "vilref resnet": "vilref_rn.npz",
    "retclip": "retclip_vit.npz",
    "keepfit": "keepfit_resnet.npz",
}
WORDING = ReportWording(
    {"zh": {"drusen": {"玻璃膜疣": 3}}}, {"zh": {"{}": {"x": 1}}}, {"zh": {"x": 1}}
)


def read(name):
    golden = Golden(GOLDENS[name])
    heads = golden.config.get("text_num_attention_heads")
    return retfm_jax.from_torch(golden["state"], name.split()[0], text_num_heads=heads)


def assert_same(one, other):
    assert jax.tree.structure(one.params) == jax.tree.structure(other.params)
    for ours, theirs in zip(
        jax.tree.leaves((one.params, one.state.batch_stats)),
        jax.tree.leaves((other.params, other.state.batch_stats)),
        strict=True,
    ):
        np.testing.assert_array_equal(ours, theirs)
    assert one.config.model == other.config.model
    assert one.config.method == other.config.method
    assert one.data_config.image == other.data_config.image
    assert one.wording == other.wording
    assert one.notes == other.notes


@pytest.mark.parametrize("name", GOLDENS)
def test_a_network_comes_back_to_the_same_bits(name, tmp_path, monkeypatch):
    model = read(name)
    model.wording, model.notes = WORDING, ("found by *names*", "a | b")
    image = dataclasses.replace(model.data_config.image, field_of_view="crop", std=(0.3, 0.2, 0.1))
    text = dataclasses.replace(model.data_config.text, tokenizer="bert-base-chinese")
    data = dataclasses.replace(model.data_config, image=image, text=text)
    model.config = dataclasses.replace(model.config, data=data)
    write_hub_folder(tmp_path / "out", model.stored)
    again = retfm_jax.load(tmp_path / "out")
    assert_same(model, again)
    assert_same(model, retfm_jax.load(tmp_path / "out" / "model.safetensors"))
    assert again.data_config.text == model.data_config.text
    np.testing.assert_array_equal(model.encode_images(PIXELS), again.encode_images(PIXELS))
    cache = hub_cache(tmp_path, monkeypatch)
    cached(cache, "me/mine", {p.name: p for p in (tmp_path / "out").iterdir()})
    there = retfm_jax.load("hf:me/mine")
    assert_same(model, there)
    assert there.origin.source == f"hf:me/mine@{COMMIT}"


@pytest.mark.parametrize("system", ["RETFound-MAE", "RETFound-Green", "RetiZero", "EyeCLIP"])
def test_a_tower_comes_back_with_what_is_known_of_it(system, tmp_path):
    names = {"RETFound-MAE": "retfound-mae-cfp", "RETFound-Green": "retfound-green",
             "RetiZero": "retizero", "EyeCLIP": "eyeclip"}  # fmt: skip
    entry = zoo()[names[system]]
    path = torch_file(tmp_path / "weights.pth", SYSTEMS[system][0])
    assert (
        cli.main(["import", str(path), "--zoo", entry.name, "--workdir", str(tmp_path / "run")])
        == 0
    )
    out = tmp_path / "out"
    given = ["export", "--workdir", str(tmp_path / "run"), "--to", "hub_folder", "--out", str(out)]
    assert cli.main(given) == 0
    model, again = retfm_jax.load(tmp_path / "run"), retfm_jax.load(out)
    assert_same(model, again)
    # The file's name, not its place on this machine.
    assert again.origin == dataclasses.replace(model.origin, source="weights.pth")
    card = (out / "README.md").read_text()
    header = yaml.safe_load(card.split("---")[1])
    assert header["license"] == entry.license
    assert header["library_name"] == "retfm_jax"
    assert str(tmp_path) not in "".join(p.read_text() for p in out.glob("*.json")) + card
    for said in (entry.title, entry.citation, entry.page, *entry.trained_on[:1]):
        assert said in card.replace("\\", "") or said == "unknown"
    assert cli.main(given) == 1  # nothing is written over


def test_a_tokenizer_of_its_own_goes_with_the_network(tmp_path):
    model = read("retclip")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *(f"word{n}" for n in range(50))]
    vocabulary = tmp_path / "private" / "vocab.txt"
    vocabulary.parent.mkdir()
    vocabulary.write_text("\n".join(words))
    text = dataclasses.replace(model.data_config.text, tokenizer=str(vocabulary))
    data = dataclasses.replace(
        model.data_config, text=text, data_dir="/home/someone/patients", dataset="/x/clinic",
        vocabulary="/home/someone/v.yaml", extend=("/home/someone/w.yaml",),
    )  # fmt: skip
    init = InitConfig(image="/home/someone/tower.pth")
    model.config = dataclasses.replace(model.config, data=data, init=init)
    write_hub_folder(tmp_path / "out", model.stored)
    texts = ["word3 word4", "word49"]
    want = model.encode_texts(texts)
    vocabulary.unlink()
    (tmp_path / "out").rename(tmp_path / "moved")
    again = retfm_jax.load(tmp_path / "moved")
    np.testing.assert_array_equal(want, again.encode_texts(texts))
    written = "".join(
        p.read_text() for p in (tmp_path / "moved").glob("*.[jm][sd]*") if p.stat().st_size < 1e5
    )
    assert "someone" not in written
    assert "private" not in written
    # Exported once more it is the same.
    write_hub_folder(tmp_path / "third", again.stored)
    assert_same(again, retfm_jax.load(tmp_path / "third"))


@pytest.mark.parametrize("resize", ["squash", "squash_bilinear", "crop"])
def test_the_image_processor_of_transformers_does_the_same(resize, tmp_path):
    from transformers import AutoImageProcessor

    from retfm_jax.data.images import fit

    config = ImageConfig(56, resize, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
    (tmp_path / PREPROCESSOR).write_text(json.dumps(image_processor(config)))
    processor = AutoImageProcessor.from_pretrained(tmp_path, backend="pil")
    for shape in ((90, 70), (61, 200), (56, 56)):
        pixels = np.random.default_rng(1).integers(0, 256, (*shape, 3), np.uint8)
        found = processor(Image.fromarray(pixels), return_tensors="np")["pixel_values"][0]
        ours = (fit(pixels, config) / 255 - config.mean) / config.std
        np.testing.assert_allclose(found.transpose(1, 2, 0), ours, atol=1e-5)


def test_a_rule_without_terms_has_no_processor(tmp_path):
    assert image_processor(ImageConfig(resize="pad")) is None
    assert image_processor(ImageConfig(field_of_view="crop")) is None


REPORT = {
    "model": {"method": "x"},
    "data": {"dataset": "synthetic_fundus", "split": "test", "records": 6},
    "zero_shot": {"en": {"levels": {"patient": {
        "macro": {"auroc": {"value": 0.5521, "low": 0.3042, "high": 0.743},
                  "kappa": {"value": None, "low": None, "high": None}},
        "classes": {"drusen": {"auroc": {"value": 0.9, "low": 0.8, "high": 1.0}}},
    }}}},
    "a|b\n## x": {"<b>": {"value": 1.0, "low": None, "high": None}},
}  # fmt: skip


def test_the_card_has_the_numbers_with_their_intervals_and_says_what_is_synthetic(tmp_path):
    model = retfm_jax.from_torch(tower("plain"))
    hostile = "[x](javascript:1) <script>\n# y | `z`\x1b[2J"
    model.notes = (hostile,)
    write_hub_folder(tmp_path / "out", model.stored, REPORT)
    card = (tmp_path / "out" / "README.md").read_text()
    assert "| zero\\_shot, en, patient | auroc | 0.552 | 0.304 to 0.743 |" in card
    assert "| a\\|b \\#\\# x | &lt;b&gt; | 1.000 | none |" in card
    assert "**Synthetic images.**" in card
    assert "0.900" not in card
    assert "kappa" not in card
    assert "<script>" not in card
    assert "\x1b" not in card
    assert not re.search(r"^# y", card, re.MULTILINE)
    assert retfm_jax.load(tmp_path / "out").notes == (hostile,)
    for wrong in ({}, {"data": {}}, [], {"data": {"dataset": "x"}, "a": 1}):
        with pytest.raises(UserError, match="the evaluation holds no numbers"):
            write_hub_folder(tmp_path / "none", model.stored, wrong)
    assert not (tmp_path / "none").exists()


def test_a_training_that_began_with_a_published_model_has_its_license(tmp_path):
    model = retfm_jax.from_torch(tower("plain"))
    model.origin = None
    for init, license_ in (
        (InitConfig(image="retfound-mae-cfp"), "cc-by-nc-4.0"),
        (InitConfig(image="hf:yyyyk/UrFound"), "mit"),
        (InitConfig(image="urfound", text="/home/someone/bert"), "unknown"),
        (InitConfig(), "unknown"),
    ):
        model.config = dataclasses.replace(model.config, init=init)
        write_hub_folder(tmp_path / "out", model.stored)
        card = (tmp_path / "out" / "README.md").read_text()
        assert yaml.safe_load(card.split("---")[1])["license"] == license_
        assert "Trained on: synthetic\\_fundus" in card
        for path in (tmp_path / "out").iterdir():
            path.unlink()


@pytest.fixture
def folder(tmp_path):
    write_hub_folder(tmp_path / "out", retfm_jax.from_torch(tower("plain")).stored)
    return tmp_path / "out"


def change(folder, **entries):
    path = folder / "config.json"
    content = json.loads(path.read_text())
    content["retfm_jax"].update(entries)
    path.write_text(json.dumps(content))


def test_code_from_outside_is_not_imported_because_a_folder_says_so(folder, tmp_path, monkeypatch):
    (tmp_path / "evil_lab.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    config = json.loads((folder / "config.json").read_text())["retfm_jax"]["config"]
    change(folder, config=config | {"method": "evil_lab:Evil"})
    with pytest.raises(UserError, match=r"names the method 'evil_lab:Evil', which is code"):
        retfm_jax.load(folder)
    with pytest.raises(UserError, match="holds a evil_lab:Evil network, not a vision one"):
        retfm_jax.load(folder, "vision")


def test_a_method_from_outside_is_read_where_the_user_names_it(folder):
    config = json.loads((folder / "config.json").read_text())["retfm_jax"]["config"]
    name = "retfm_jax.methods.vision:Vision"
    change(folder, config=config | {"method": name})
    with pytest.raises(UserError, match="is not imported because a folder says so"):
        retfm_jax.load(folder)
    assert retfm_jax.load(folder, name).config.method == name


def test_nothing_outside_is_followed(folder, tmp_path):
    config = json.loads((folder / "config.json").read_text())["retfm_jax"]["config"]
    data = config["data"] | {"data_dir": "/etc", "vocabulary": "/etc/passwd", "extend": ["/etc/x"]}
    init = {"weights": "/etc/passwd", "image": "hf:a/b", "text": None}
    change(folder, config=config | {"data": data, "init": init})
    read = to_dict(retfm_jax.load(folder).config)
    assert "/etc" not in json.dumps(read)
    assert read["init"] == {"weights": None, "image": None, "text": None}
    for tokenizer in ("/etc/passwd", "hf:a/b", "../x"):
        text = config["data"]["text"] | {"tokenizer": tokenizer}
        change(folder, config=config | {"data": config["data"] | {"text": text}})
        with pytest.raises(UserError, match="which is not in the folder: it is not read"):
            retfm_jax.load(folder)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "vocab.txt"])
def test_a_link_out_of_the_folder_is_not_followed(name, folder, tmp_path):
    config = json.loads((folder / "config.json").read_text())["retfm_jax"]["config"]
    text = config["data"]["text"] | {"tokenizer": "{folder}"}
    change(folder, config=config | {"data": config["data"] | {"text": text}})
    elsewhere = tmp_path / "elsewhere"
    if (folder / name).exists():
        os.replace(folder / name, elsewhere)
    else:
        elsewhere.write_text("secret")
    (folder / name).symlink_to(elsewhere)
    with pytest.raises(UserError, match=rf"{re.escape(name)} is a link that leads out"):
        retfm_jax.load(folder)


def test_damage_is_one_sentence(folder):
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-100])
    with pytest.raises(UserError, match=r"is not a readable safetensors file, or is cut short"):
        retfm_jax.load(folder)
    weights.write_bytes(whole)
    for entries, said in (
        ({"format": 2}, "is of format 2, and this version of retfm_jax reads 1: install a later"),
        ({"format": 1, "notes": "x"}, "notes is no list of sentences"),
        ({"notes": [], "origin": {"sauce": 1}}, "unknown key .*origin.sauce"),
        ({"origin": None, "wording": {"x": 1}}, "wording of reports cannot be read"),
        ({"wording": None, "config": {"model": {}}}, "config.method is missing"),
        ({"config": "x"}, "a config is a mapping"),
    ):
        change(folder, **entries)
        with pytest.raises(UserError, match=said):
            retfm_jax.load(folder)


def test_an_upload_is_exactly_the_folder(tmp_path, monkeypatch):
    from huggingface_hub import HfApi

    monkeypatch.setenv("HF_TOKEN", "hf_made_up")
    uploaded = {}

    def upload(self, *, repo_id, folder_path, **more):
        uploaded.update({path.name: path.read_bytes() for path in folder_path.iterdir()}, **more)

    monkeypatch.setattr(HfApi, "create_repo", lambda *_, **__: None)
    monkeypatch.setattr(HfApi, "upload_folder", upload)
    model = retfm_jax.from_torch(tower("plain"))
    assert model.push_to_hub("me/mine") == "https://huggingface.co/me/mine"
    assert {"model.safetensors", "config.json", "README.md", PREPROCESSOR} <= {*uploaded}
    for name in ("model.safetensors", "config.json", "README.md"):
        (tmp_path / name).write_bytes(uploaded[name])
    assert_same(model, retfm_jax.load(tmp_path))


def test_an_evaluation_is_for_the_card_alone(tmp_path, capsys):
    retfm_jax.from_torch(tower("plain")).save(tmp_path / "run")
    report = tmp_path / "report.json"
    report.write_text(json.dumps(REPORT))
    given = ["export", "--workdir", str(tmp_path / "run"), "--evaluation", str(report)]
    assert cli.main([*given, "--to", "vision", "--out", str(tmp_path / "x.safetensors")]) == 1
    assert "evaluation is for the model card of hub_folder" in capsys.readouterr().err
    assert cli.main([*given, "--to", "hub_folder", "--out", str(tmp_path / "out")]) == 0
    assert "Synthetic images" in (tmp_path / "out" / "README.md").read_text()
    assert cli.main(["export", "--workdir", str(tmp_path / "run"), "--to", "hub_foldr", "--out",
                     str(tmp_path / "y")]) == 1  # fmt: skip
    assert "did you mean 'hub_folder'" in capsys.readouterr().err


def test_a_folder_of_a_training_run_is_imported(tmp_path):
    model = retfm_jax.from_torch(tower("plain"))
    model.origin = None
    write_hub_folder(tmp_path / "out", model.stored)
    given = ["import", str(tmp_path / "out"), "--workdir", str(tmp_path / "run")]
    assert cli.main(given) == 0
    assert_same(model, retfm_jax.load(tmp_path / "run"))
