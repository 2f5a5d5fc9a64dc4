"""Published models by name: every entry, and files in their owners' names read with them."""

import dataclasses
import logging
import re
import urllib.request

import numpy as np
import pytest
from golden_files import Golden, assert_same_bits
from hub_cache import COMMIT, cached, hub_cache, json_bytes
from safetensors.numpy import save
from test_towers import SYSTEMS, torch_file, tower

import retfm_jax
from retfm_jax import cli, hub
from retfm_jax.config import ImageConfig, build_section
from retfm_jax.errors import UserError
from retfm_jax.interop import downloads, sources
from retfm_jax.interop.zoo import ZooModel, entry_of, zoo

#: What the Hub takes for the license of a model, as far as the zoo has it.
LICENSES = {"apache-2.0", "mit", "cc-by-nc-4.0", "cc-by-nc-nd-4.0", "other", "unknown"}


@pytest.mark.parametrize("name", zoo())
def test_an_entry_is_whole(name):
    model = zoo()[name]
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name)
    assert model.license in LICENSES
    assert model.license != "other" or model.terms
    assert model.image.size % 1 == 0
    assert {*model.modality} <= {"cfp", "oct", "ffa", "slo", "natural"}
    for each in (model.address, model.tokenizer):
        if each is not None and hub.is_address(each):
            assert str(hub.address(each)) == each
    if model.address and hub.is_address(model.address):
        assert entry_of(hub.address(model.address)) == model
    assert model.source
    assert model.citation


def test_names_and_addresses_are_unique():
    addresses = [model.address for model in zoo().values() if model.address]
    assert len(addresses) == len(set(addresses))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"address": None}, "give address, or by_hand"),
        ({"by_hand": "Drive"}, "give address, or by_hand"),
        ({"page": "http://x"}, "is none of https"),
        ({"address": "hf:x"}, "is no address on the Hub"),
        ({"sha256": "12"}, "sha256 has 64 digits"),
        ({"licence": "mit"}, "unknown key zoo.x.licence; did you mean zoo.x.license"),
        ({"trained_on": []}, "trained_on must not be empty"),
        ({"pooling": "max"}, "pooling must be one of"),
        ({"image": {"resize": "stretch"}}, "zoo.x.image.resize must be one of"),
    ],
)
def test_a_malformed_entry_is_one_sentence(change, said):
    entry = {
        "name": "x", "title": "X", "reads": "tower", "tower": "ViT", "modality": ["cfp"],
        "page": "https://x", "license": "mit", "image": {}, "trained_on": ["unknown"],
        "citation": "X", "address": "hf:a/b",
    }  # fmt: skip
    build_section(ZooModel, entry, "zoo.x")
    with pytest.raises(UserError, match=re.escape(said)):
        build_section(ZooModel, entry | change, "zoo.x")


def system_file(tmp_path, system):
    return torch_file(tmp_path / "weights.pth", SYSTEMS[system][0])


@pytest.mark.parametrize(
    ("system", "name", "image", "pooling"),
    [
        ("RETFound-Green", "retfound-green",
         "RGB, squashed to {n} x {n} px (bilinear, antialiased), "
         "(x / 255 - (0.5, 0.5, 0.5)) / (0.5, 0.5, 0.5)", "mean"),
        ("VisionFM", "visionfm-oct",
         "RGB, squashed to {n} x {n} px (bicubic), "
         "(x / 255 - (0.2109, 0.2109, 0.2109)) / (0.176, 0.176, 0.176)", "class"),
        ("VisionFM", "visionfm-fundus",
         "RGB, squashed to {n} x {n} px (bicubic), "
         "(x / 255 - (0.4237, 0.2609, 0.1284)) / (0.2948, 0.2017, 0.1367)", "class"),
        ("RetiZero", "retizero",
         "RGB, squashed to {n} x {n} px (bicubic), "
         "(x / 255 - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)", "class"),
        ("RETFound-MAE", "retfound-mae-cfp",
         "RGB, cropped to the lit disc, short side to 36 px (bicubic), central {n} x {n} px, ",
         "mean_norm"),
        ("RETFound-DINOv2", "retfound-dinov2-meh", "cropped to the lit disc", "class"),
    ],
)  # fmt: skip
def test_a_file_has_the_preprocessing_of_its_entry(system, name, image, pooling, tmp_path):
    path = system_file(tmp_path, system)
    model = retfm_jax.load(path, zoo=name)
    size = model.method.image_size
    assert image.format(n=size) in repr(model)
    assert model.config.model.image.pooling == pooling
    entry = zoo()[name]
    assert f"weights: {entry.title}, license {entry.license}" in repr(model)
    assert any(f"images have {size} px, those of {entry.title}" in note for note in model.notes)
    assert model.origin.trained_on == entry.trained_on
    # The choice of the pooling is no guess any more.
    guesses = [note for note in model.notes if note.startswith("guesses")]
    assert not (entry.pooling and any("as features" in note for note in guesses))


def test_an_import_keeps_the_entry_and_says_the_license_once(tmp_path, capsys, caplog):
    path = system_file(tmp_path, "RETFound-Green")
    sources._say_license.cache_clear()
    with caplog.at_level(logging.WARNING):
        for run in ("a", "b"):
            given = ["import", str(path), "--zoo", "retfound-green", "--workdir"]
            assert cli.main([*given, str(tmp_path / run)]) == 0
    said = [r.getMessage() for r in caplog.records if "license" in r.getMessage()]
    assert said == [
        "RETFound-Green: license other (its own, for non-commercial use), see "
        "https://github.com/justinengelmann/RETFound_Green"
    ]
    assert "(bilinear, antialiased)" in capsys.readouterr().out
    model, given = retfm_jax.load(tmp_path / "a"), retfm_jax.load(path, zoo="retfound-green")
    assert repr(model) == repr(given)
    assert model.origin == given.origin
    assert model.notes == given.notes
    with pytest.raises(UserError, match="is a network with a configuration of its own"):
        retfm_jax.load(tmp_path / "a", zoo="retfound-green")


@pytest.mark.parametrize("pooling", ["class", "mean", "mean_norm"])
def test_the_pooling_is_a_choice_that_is_said(pooling, tmp_path):
    path = system_file(tmp_path, "RETFound-DINOv2")
    model = retfm_jax.load(path, pooling=pooling, zoo="retfound-dinov2-meh")
    assert model.config.model.image.pooling == pooling
    assert sum("features, by choice" in note for note in model.notes) == 1
    assert ("the norm behind the mean of patches is new" in " ".join(model.notes)) == (
        pooling == "mean_norm"
    )
    rows = np.random.default_rng(0).integers(0, 255, (2, 40, 40, 3), np.uint8)
    assert np.isfinite(model.encode_images(rows)).all()


def test_a_pooling_that_cannot_be_is_refused(tmp_path):
    path = torch_file(tmp_path / "a.pth", tower("attention"))
    with pytest.raises(UserError, match="its pooling is attention, which it was trained with"):
        retfm_jax.load(path, pooling="mean")
    with pytest.raises(UserError, match="pooling 'max' is none of class, mean, mean_norm"):
        retfm_jax.load(system_file(tmp_path, "RETFound-Green"), pooling="max")
    with pytest.raises(UserError, match="a residual network has one pooling"):
        retfm_jax.load(system_file(tmp_path, "torchvision ResNet"), pooling="mean")
    with pytest.raises(UserError, match="has a pooling of its own"):
        retfm_jax.from_torch({"a": np.zeros(1)}, "keepfit", pooling="mean")


def test_a_path_wins_over_a_name_and_a_near_miss_is_suggested(tmp_path, monkeypatch):
    hub_cache(tmp_path, monkeypatch)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="did you mean 'retfound-green'"):
        retfm_jax.load("retfound-gren")
    with pytest.raises(UserError, match=r"VisionFM \(OCT\) has no address .*Google Drive"):
        retfm_jax.load("visionfm-oct")
    with pytest.raises(UserError, match=r"MIRAGE .* cannot be read: it is a MultiMAE"):
        retfm_jax.load("mirage-base")
    with pytest.raises(UserError, match="no published model is called 'x'"):
        retfm_jax.load(system_file(tmp_path, "VisionFM"), zoo="x")
    with pytest.raises(UserError, match="natureCFP is not in the cache"):
        retfm_jax.load("retfound-mae-cfp")
    with pytest.raises(UserError, match=r"does not exist; give a workdir, .* `retfm models`"):
        retfm_jax.load("no/such/thing")
    retfm_jax.from_torch(tower("plain")).save(tmp_path / "retfound-mae-cfp")
    assert retfm_jax.load("retfound-mae-cfp").config.model.image.width == 32


def test_a_model_of_the_hub_is_pinned_and_known_by_its_address(tmp_path, monkeypatch):
    cache = hub_cache(tmp_path, monkeypatch)
    path = system_file(tmp_path, "RETFound-MAE")
    cached(cache, "YukunZhou/RETFound_mae_natureCFP", {"RETFound_mae_natureCFP.pth": path})
    pinned = f"hf:YukunZhou/RETFound_mae_natureCFP@{COMMIT}"
    for name in ("retfound-mae-cfp", "hf:YukunZhou/RETFound_mae_natureCFP", pinned):
        model = retfm_jax.load(name)
        assert model.origin.source == pinned
        assert model.origin.license == "cc-by-nc-4.0"
        assert model.data_config.image.field_of_view == "crop"
    assert cli.main(["import", "retfound-mae-cfp", "--workdir", str(tmp_path / "run")]) == 0
    assert pinned in (tmp_path / "run").joinpath("checkpoints/0/meta/metadata").read_text()
    out = tmp_path / "w.safetensors"
    given = ["export", "--workdir", str(tmp_path / "run"), "--to", "vision", "--out", str(out)]
    assert cli.main(given) == 0


def test_initial_weights_come_through_the_same_door(tmp_path, monkeypatch):
    from retfm_jax.config import InitConfig, from_dict, load_config, to_dict
    from retfm_jax.config.stored_paths import located, portable
    from retfm_jax.interop.initial import initial_network
    from retfm_jax.methods import make_method
    from retfm_jax.trees import flatten

    cache = hub_cache(tmp_path, monkeypatch)
    file = torch_file(tmp_path / "w.pth", tower("plain"))
    cached(cache, "yyyyk/UrFound", {"urfound.pth": file})
    want = flatten(retfm_jax.load(file).params)
    sizes = retfm_jax.load(file).config.model.image
    image = dataclasses.asdict(sizes) | {"kind": "vit"}
    model = {"image": image, "text": {"width": 32, "layers": 1, "heads": 2}, "embed_dim": 16}
    base = load_config(
        "siglip_vit_b16",
        [f"data.image.size={sizes.image_size}", *(f"model.{k}={v}" for k, v in model.items())],
    )
    for name in ("urfound", "hf:yyyyk/UrFound"):
        config = dataclasses.replace(base, init=InitConfig(image=name))
        params, _ = initial_network(config, make_method(config.method, config.model))
        for path, leaf in want.items():
            np.testing.assert_array_equal(flatten(params)[path], leaf)
        # A name is no path, wherever the run began.
        stored = portable(to_dict(config), tmp_path / "run")
        assert stored["init"]["image"] == name
        assert from_dict(located(stored, tmp_path / "run")).init.image == name


def test_flair_of_the_hub_has_its_preprocessing_and_asks_for_its_vocabulary(tmp_path, monkeypatch):
    cache = hub_cache(tmp_path, monkeypatch)
    golden = Golden("keepfit_resnet.npz")
    tensors = {n: v for n, v in golden["state"].items() if not n.startswith("attention.")}
    mixin = {"bert_type": "emilyalsentzer/Bio_ClinicalBERT", "image_size": 512, "proj_dim": 512}
    files = {"model.safetensors": save(tensors), "config.json": json_bytes(mixin)}
    cached(cache, "jusiro2/FLAIR", files)
    folder = tmp_path / "FLAIR"
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    for place, entry in (("hf:jusiro2/FLAIR", None), ("flair", None), (folder, "flair")):
        model = retfm_jax.load(place, zoo=entry)
        assert model.data_config.image == ImageConfig(512, "pad", (0, 0, 0), (1, 1, 1))
        assert model.data_config.text.tokenizer == "hf:emilyalsentzer/Bio_ClinicalBERT"
        assert model.origin.license == "apache-2.0"
        assert "texts need a vocabulary that is not here yet: hf:emily" in " ".join(model.notes)
        with pytest.raises(UserError, match="hf:emilyalsentzer/Bio_ClinicalBERT is not in the"):
            model.encode_texts("drusen")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "drusen"]
    vocabulary = tmp_path / "vocab.txt"
    vocabulary.write_text("\n".join(words))
    model = retfm_jax.load("flair", tokenizer=str(vocabulary))
    assert np.isfinite(model.encode_texts("drusen")).all()
    cached(cache, "emilyalsentzer/Bio_ClinicalBERT", {"vocab.txt": vocabulary})
    pinned = retfm_jax.load("flair")
    address = f"hf:emilyalsentzer/Bio_ClinicalBERT@{COMMIT}"
    assert pinned.data_config.text.tokenizer == address
    np.testing.assert_array_equal(pinned.encode_texts("drusen"), model.encode_texts("drusen"))
    assert_same_bits(retfm_jax.to_torch(model), {n: tensors[n] for n in retfm_jax.to_torch(model)})
    with pytest.raises(UserError, match="takes no texts, and no tokenizer"):
        retfm_jax.load(system_file(tmp_path, "VisionFM"), tokenizer="x")


class Answer:
    def __init__(self, content, length=None):
        self.content = [content[start : start + 100] for start in range(0, len(content), 100)]
        self.headers = {} if length is None else {"Content-Length": str(length)}

    def read(self, _):
        return self.content.pop(0) if self.content else b""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None


def test_a_download_is_whole_or_not_at_all(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    url, content = "https://example.org/v1/weights.pth", bytes(range(250)) * 4
    answers = []
    monkeypatch.setattr(downloads, "_open", lambda url: answers.pop(0))
    for answer, more, said in (
        (Answer(content, 2000), {}, "ended after 1,000 of 2,000 bytes: try again"),
        (Answer(content), {"largest": 500}, "more than 500 bytes"),
        (Answer(content), {"sha256": "0" * 64}, "has the SHA-256 .*, not 0000"),
    ):
        answers[:] = [answer]
        with pytest.raises(UserError, match=said):
            downloads.cached_download(url, **more)
        assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    answers[:] = [Answer(content, 1000)]
    path = downloads.cached_download(url)
    assert path.name == "weights.pth"
    assert path.read_bytes() == content
    assert downloads.cached_download(url) == path  # of the cache: no answer is left


def test_downloads_stay_secure(monkeypatch):
    for url in ("http://example.org/w.pth", "file:///etc/passwd"):
        with pytest.raises(UserError, match="does not begin with https://"):
            downloads._open(url)
    redirect = downloads._SecureOnly()
    request = urllib.request.Request("https://example.org/w.pth")
    with pytest.raises(UserError, match="does not begin with https://"):
        redirect.redirect_request(request, None, 302, "Found", {}, "http://example.org/w.pth")


def test_models_are_listed(capsys):
    assert cli.main(["models"]) == 0
    out = capsys.readouterr().out
    assert all(f"\n{name} " in out for name in zoo())
    assert cli.main(["models", "retfound-green"]) == 0
    out = capsys.readouterr().out
    for said in ("AIROGS, DDR, ODIR-5K", "other (its own", "392 x 392", "releases/download"):
        assert said in out
    assert cli.main(["models", "retfound"]) == 1
    assert "no published model is called 'retfound'" in capsys.readouterr().err
