"""Heat maps of a model: what may be asked for, what comes back, and where it lies."""

import csv
import dataclasses
import json

import jax
import numpy as np
import pytest
from PIL import Image

import retfm_jax
from retfm_jax.config import DataConfig, ExperimentConfig, ImageConfig, TextConfig
from retfm_jax.errors import UserError
from retfm_jax.experiments import explaining
from retfm_jax.experiments.explaining import explain
from retfm_jax.experiments.faithfulness import faithfulness
from retfm_jax.experiments.pointing import pointing_game
from retfm_jax.heatmaps import HeatMap, heat_maps, read_targets
from retfm_jax.methods import get_method_class
from retfm_jax.models.bert import BertConfig
from retfm_jax.models.relevance import ways
from retfm_jax.models.resnet import ClipResNetConfig
from retfm_jax.models.vit import ViTConfig
from retfm_jax.zero_shot import class_embeddings, model_prompts

SIZE = 32
VIT = ViTConfig(SIZE, 8, 16, 2, heads=2)


def build(name, image, **more):
    cls = get_method_class(name)
    sizes = cls.config_class(image=image, **more)
    method = cls(sizes)
    rng = np.random.default_rng(0)
    params, state = jax.tree.map(
        lambda leaf: (0.3 * rng.normal(size=leaf.shape)).astype(leaf.dtype),
        jax.eval_shape(method.init, jax.random.key(0)),
    )
    state = jax.tree.map(np.abs, state)
    data = DataConfig(image=ImageConfig(size=SIZE), text=TextConfig(context_length=8))
    return retfm_jax.RetinalModel(method, params, state, ExperimentConfig(name, sizes, data))


def made(model, pixels, targets, way):
    return [each for each in heat_maps(model, pixels, targets, way) if each is not None]


@pytest.fixture(scope="module")
def model():
    text = BertConfig(21128, width=16, layers=1, heads=2, mlp_width=16, positions=12)
    return build("retclip", VIT, text=text, embed_dim=8)


@pytest.fixture(scope="module")
def alone():
    return build("vision", VIT)


@pytest.fixture(scope="module")
def pixels():
    return [
        np.random.default_rng(seed).integers(0, 256, (40, 30 + seed, 3), np.uint8)
        for seed in range(3)
    ]


def test_one_target_gives_a_map_over_each_photograph_and_several_give_several(model, pixels):
    one = model.heatmap(pixels, "drusen")
    assert [each.shape for each in one] == [each.shape[:2] for each in pixels]
    assert all(each.dtype == np.float32 and 0 <= each.min() < each.max() <= 1 for each in one)
    several = model.heatmap(pixels, ["drusen", "a text of my own"])
    assert [each.shape for each in several] == [(2, *each.shape[:2]) for each in pixels]
    for single, all_of_it in zip(one, several, strict=True):
        np.testing.assert_allclose(all_of_it[0], single, atol=1e-4)
        assert np.abs(all_of_it[1] - single).max() > 1e-3


def test_a_condition_is_its_prompts_against_those_of_a_normal_eye(model, pixels):
    targets = read_targets(model, ["Drusen", "quite another text"])
    assert targets.kinds == ("condition drusen", "text")
    (way, *_) = ways(model.method.config.image).values()
    found = made(model, pixels, targets, way)
    wanted = model.encode_images(pixels) @ targets.arrays.T
    np.testing.assert_allclose(np.stack([each.scores for each in found]), wanted, atol=1e-5)
    prompts = model_prompts(model)
    names = ["drusen", "normal"]
    drusen, normal = class_embeddings(model, names, "en", prompts, ("image",))["image"]
    np.testing.assert_allclose(targets.arrays[0], drusen - normal, atol=1e-6)
    np.testing.assert_allclose(read_targets(model, "normal").arrays[0], normal, atol=1e-6)
    text = model.encode_texts("quite another text")[0]
    np.testing.assert_allclose(targets.arrays[1], text, atol=1e-6)


def test_a_name_that_is_nearly_a_condition_is_said_to_be_a_text(model):
    (hint,) = read_targets(model, "drusenn").hints
    assert "taken as a text" in hint
    assert "'drusen'" in hint
    assert not read_targets(model, ["drusen", "a photograph of a cat"]).hints


def test_another_photograph_is_a_target_of_a_network_without_texts(alone, pixels):
    vector = alone.encode_images(pixels[0])[0]
    maps = alone.heatmap(pixels, vector)
    assert [each.shape for each in maps] == [each.shape[:2] for each in pixels]
    assert alone.heatmap(pixels, np.stack([vector, -vector]))[0].shape == (2, 40, 30)


def test_rollout_needs_no_target_and_depends_on_none(model, pixels):
    plain = model.heatmap(pixels, None)
    for target in ("drusen", "normal"):
        found = model.heatmap(pixels, target, method="rollout")
        for each, other in zip(found, plain, strict=True):
            np.testing.assert_allclose(each, other, atol=1e-5)


def test_a_head_is_a_target_like_any_other(alone, pixels):
    """What is explained is any function of the method; no map knows of texts."""
    weights = np.random.default_rng(0).normal(size=(2, 16)).astype(np.float32)

    def logits(method, params, state, images, arrays):
        return method.image_features(params, state, images) @ arrays.T

    targets = read_targets(alone, np.ones(16, np.float32))._replace(score=logits, arrays=weights)
    (way, *_) = ways(alone.method.config.image).values()
    found = made(alone, pixels, targets, way)
    wanted = alone.image_features(pixels) @ weights.T
    np.testing.assert_allclose(np.stack([each.scores for each in found]), wanted, atol=1e-4)
    assert found[0].maps.shape == (2, 4, 4)


@pytest.mark.parametrize(
    ("target", "options", "said"),
    [
        ("drusen", {"method": "grad_cam"}, "relevance or rollout"),
        ("drusen", {"language": "fr"}, "'fr'"),
        (None, {"method": "relevance"}, "explains a target"),
        ("", {}, "is empty"),
        ([], {}, "there are no targets"),
        (np.ones(5), {}, r"\(8,\) or \(k, 8\), .* not \(5,\)"),
        (np.full(8, np.nan), {}, "no finite number"),
    ],
)
def test_what_cannot_be_explained_is_one_sentence(model, pixels, target, options, said):
    with pytest.raises(UserError, match=said):
        model.heatmap(pixels, target, **options)


def test_a_network_without_texts_says_what_to_give_instead(alone, pixels):
    with pytest.raises(UserError, match=r"has no texts.*embedding.*rollout"):
        alone.heatmap(pixels, "drusen")


def test_a_residual_network_without_a_target_is_refused():
    tower = build("vision", ClipResNetConfig((1, 1, 1, 1), 4, image_size=SIZE), embed_dim=8)
    with pytest.raises(UserError, match="explains a target"):
        tower.heatmap(np.zeros((8, 8, 3), np.uint8), None)


def test_a_map_of_zeros_stays_zero():
    nothing = HeatMap(np.zeros((1, 4, 4), np.float32), np.zeros(1, np.float32), 10, 12)
    assert not nothing.onto_photograph(ImageConfig(size=SIZE)).any()


@pytest.fixture
def folder(tmp_path, pixels):
    images = tmp_path / "images"
    (images / "sub").mkdir(parents=True)
    for name, each in zip(("a b.png", "sub/<i>右.png", "c.png"), pixels, strict=True):
        Image.fromarray(each).save(images / name)
    (images / "broken.jpg").write_bytes(b"\xff\xd8\xffcut")
    (images / "notes.txt").write_text("not an image")
    return images


def test_explain_writes_overlays_a_table_and_a_page(model, folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(explaining, "load", lambda workdir: model)
    out = tmp_path / "out"
    made = explain("W", folder, ["drusen", "<b>my & text</b>"], out)
    assert (made.count, made.targets, len(made.left_out)) == (3, 2, 1)
    assert "notes.txt" in capsys.readouterr().out
    with (out / explaining.TABLE).open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 6
    assert {row["kind"] for row in rows} == {"condition drusen", "text"}
    for row in rows:
        with Image.open(out / row["overlay"]) as overlay:
            assert overlay.height == explaining._OVERLAY_SIDE
        assert row["overlay"].isascii()
        assert "<" not in row["overlay"]
        with Image.open(row["image"]) as photograph:
            assert 0 <= int(row["peak_x"]) < photograph.width
            assert 0 <= int(row["peak_y"]) < photograph.height
    page = (out / explaining.PAGE).read_text(encoding="utf-8")
    assert "<b>my" not in page
    assert "&lt;b&gt;my &amp; text" in page
    assert "broken.jpg" in page
    summary = json.loads((out / explaining.SUMMARY).read_text(encoding="utf-8"))
    assert summary["method"] == "relevance"
    assert summary["explained"] == 3
    with pytest.raises(UserError, match="not empty"):
        explain("W", folder, ["drusen"], out)


def test_explain_leaves_nothing_where_nothing_can_be_explained(
    model, folder, tmp_path, monkeypatch
):
    monkeypatch.setattr(explaining, "load", lambda workdir: model)
    with pytest.raises(UserError, match=r"broken\.jpg"):
        explain("W", folder, ["drusen"], tmp_path / "out", on_error="refuse")
    (folder / "deep.png").write_bytes((folder / "c.png").read_bytes()[:-60])
    with pytest.raises(UserError, match=r"deep\.png|c\.png"):
        explain("W", folder / "deep.png", ["drusen"], tmp_path / "out")
    assert not list(tmp_path.glob("*out*"))


def test_the_pointing_game_counts_every_eye_with_the_finding(model):
    found = pointing_game(
        model, findings=("drusen", "hazy_media"), targets=["drusen", "haze"], patients=12, size=48
    )
    assert set(found) <= {"drusen", "hazy_media"}
    assert found
    for each in found.values():
        assert each.eyes > 0
        assert 0 <= each.hits.low <= each.hits.value <= each.hits.high <= 1
        assert 0 < each.random <= 1
        assert 0 <= each.center <= 1
        assert 0 <= each.others <= 1
    if "hazy_media" in found:  # has the whole field
        assert found["hazy_media"].random == pytest.approx(1)
        assert found["hazy_media"].center == 1


CLASSES = ("normal", "drusen", "glaucoma")


@pytest.fixture(scope="module", params=["exclusive", "findings"])
def classifier(request):
    made = build("classifier", VIT, classes=CLASSES, outcome=request.param)
    made.decisions = dataclasses.replace(made.decisions, temperature=2.5)
    return made


def test_a_class_is_explained_by_its_odds_against_the_others(classifier, pixels):
    targets = read_targets(classifier, ["glaucoma", "normal"])
    assert targets.kinds == ("class", "class")
    (way, *_) = ways(VIT).values()
    found = made(classifier, pixels, targets, way)
    p = classifier.predict(pixels).astype(np.float64)[:, [2, 0]]
    wanted = np.log(p / (1 - p))
    np.testing.assert_allclose(np.stack([each.scores for each in found]), wanted, rtol=1e-3)
    one = classifier.heatmap(pixels, "glaucoma")
    several = classifier.heatmap(pixels, ["normal", "glaucoma"])
    for single, both in zip(one, several, strict=True):
        np.testing.assert_allclose(both[1], single, atol=1e-4)
        assert np.abs(both[0] - single).max() > 1e-3
        assert 0 <= single.min() < single.max() <= 1


def test_a_resnet_with_classes_is_explained_too(pixels):
    resnet = ClipResNetConfig(image_size=SIZE, stages=(1, 1, 1, 1), width=4)
    model = build("classifier", resnet, classes=CLASSES, outcome="exclusive")
    assert [each.shape for each in model.heatmap(pixels, "drusen")] == [
        each.shape[:2] for each in pixels
    ]


def test_of_two_classes_one_speaks_against_the_other(pixels):
    model = build("classifier", VIT, classes=("normal", "drusen"), outcome="exclusive")
    (way, *_) = ways(VIT).values()
    found = made(model, pixels, read_targets(model, ["normal", "drusen"]), way)
    scores = np.stack([each.scores for each in found])
    np.testing.assert_allclose(scores[:, 0], -scores[:, 1], rtol=1e-4)


def test_a_class_that_the_network_does_not_know_is_refused(classifier, pixels):
    with pytest.raises(UserError, match=r"'glaucma'.*normal, drusen, glaucoma.*'glaucoma'\?"):
        classifier.heatmap(pixels, "glaucma")


def test_curves_of_a_class_beat_shuffled_ones_where_the_class_is_a_place(pixels):
    """A head that reads brightness: the map has to find the bright square of a photograph."""
    model = build("classifier", VIT, classes=("dark", "bright"), outcome="exclusive")
    pictures = []
    for seed in range(6):
        picture = np.full((SIZE, SIZE, 3), 20, np.uint8)
        row, column = np.random.default_rng(seed).integers(0, 3, 2) * 8
        picture[row : row + 8, column : column + 8] = 250
        pictures.append(picture)
    found = faithfulness(model, pictures, "bright", steps=8)
    assert found.photographs == 6
    for gain, first, second in (
        (found.deletion_gain, found.shuffled_deletion, found.deletion),
        (found.insertion_gain, found.insertion, found.shuffled_insertion),
    ):
        assert gain.value == pytest.approx(first.value - second.value, abs=1e-9)
        assert gain.low <= gain.value <= gain.high
    assert 0 <= found.deletion.value <= 1
    with pytest.raises(UserError, match="rollout explains no target"):
        faithfulness(model, pixels, "bright", method="rollout")


def test_curves_of_a_vector_are_refused_for_text_alone(model, pixels):
    found = faithfulness(model, pixels[:2], "drusen", steps=4, patients=["a", "b"])
    assert found.photographs == 2


def test_the_pointing_game_asks_for_classes_that_are_findings():
    model = build("classifier", VIT, classes=("normal", "drusen", "large_cup"), outcome="findings")
    found = pointing_game(model, patients=8, size=64)
    assert set(found) <= {"drusen", "large_cup"}
    assert found
    other = build("classifier", VIT, classes=("yes", "no"), outcome="exclusive")
    with pytest.raises(UserError, match="yes, no apart, of which the generator draws none"):
        pointing_game(other, patients=1, size=32)
