"""`classify`: what a network with classes says of a split, in numbers and on a page."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from colour_classifier import Source, build, many
from colour_world import CLASSES, ColourModel, image, photograph

import retfm_jax
from retfm_jax.config import DataConfig, ExperimentConfig, ImageConfig, TextConfig
from retfm_jax.errors import UserError
from retfm_jax.evaluation import evaluate as module
from retfm_jax.evaluation.decision_fitting import fit_decisions
from retfm_jax.evaluation.evaluate import evaluate
from retfm_jax.evaluation.metrics.classification import expected_calibration_error
from retfm_jax.evaluation.options import Options
from retfm_jax.evaluation.protocols import default_protocol
from retfm_jax.methods import get_method_class
from retfm_jax.models.bert import BertConfig
from retfm_jax.models.vit import ViTConfig


@pytest.fixture(scope="module", params=["exclusive", "grades", "findings"])
def fitted(request):
    model = build(request.param)
    model.decisions = fit_decisions(model, Source(many()), coverage=0.8, progress=False)
    return model


def run(tmp_path, monkeypatch, model, records, **options):
    source = Source(records)
    source.split = "test"
    monkeypatch.setattr(module, "open_task", lambda *_: source)
    out = tmp_path / "out.json"
    document = evaluate(
        model,
        protocols=["classify"],
        dataset="colors",
        data_dir="",
        split="test",
        out=out,
        options=Options(draws=20, **options),
    )
    assert json.loads(out.read_text()) == document
    return document, out.with_suffix(".html").read_text()


def test_numbers_are_those_of_the_calibrated_probabilities(fitted, tmp_path, monkeypatch):
    document, page = run(tmp_path, monkeypatch, fitted, many())
    found, outcome = document["classify"], fitted.decisions.outcome
    assert found["counts"]["samples"] == 40
    assert found["counts"]["patients"] == 20
    assert found["decisions"] == fitted.decisions.to_json()
    assert ("quadratic_kappa" in found.get("overall", {})) == (outcome == "grades")
    warm = found["calibration"]["calibrated"]["negative_log_likelihood"]
    plain = found["calibration"]["as_trained"]["negative_log_likelihood"]
    assert warm["value"] <= plain["value"]
    assert warm["low"] < warm["value"] < warm["high"]
    p = fitted.predict([record.image for record in many()])
    truth = np.stack([record.labels for record in many()])
    if outcome != "findings":
        right = (p.argmax(1) == truth.argmax(1)).astype(int)
        assert found["overall"]["accuracy"]["value"] == pytest.approx(right.mean(), abs=1e-6)
        error = expected_calibration_error(right, p.max(1).astype(float))[0]
        for place in (found["overall"], found["calibration"]["calibrated"]):
            assert place["expected_calibration_error"]["value"] == pytest.approx(error, abs=1e-5)
        assert "statements" not in found
    else:
        said = fitted.decisions.predicted(p)
        for column, name in enumerate(CLASSES):
            there = truth[:, column] == 1
            row = found["statements"][name]
            assert row["sensitivity"]["value"] == pytest.approx(said[there, column].mean())
            assert row["specificity"]["value"] == pytest.approx(1 - said[~there, column].mean())
        assert "What is said to be present" in page
    sets = found["conformal"]
    assert sets["target"] == 0.8
    assert sets["overall"]["coverage"]["value"] >= 0.8, "on the very photographs of the fit"
    assert set(sets["coverage_of_classes"]) == set(CLASSES)
    assert "Prediction sets" in page
    assert "Here are 20 patients: few" in page


def test_a_network_without_fitted_decisions_says_so(tmp_path, monkeypatch):
    document, page = run(tmp_path, monkeypatch, build(), many(12))
    assert "conformal" not in document["classify"]
    assert "decisions" not in document["classify"]
    assert any("no decisions were fitted" in note for note in document["data"]["notes"])
    assert "no decisions were fitted" in page
    assert "Prediction sets" not in page


def test_what_is_left_out_is_counted(tmp_path, monkeypatch):
    records = many(12)
    records[0] = dataclasses.replace(records[0], labels=np.full(4, -1, np.int8))
    records[1] = dataclasses.replace(records[1], image=b"broken")
    document, _ = run(tmp_path, monkeypatch, build(), records)
    assert document["classify"]["counts"]["samples"] == 10
    notes = "\n".join(document["data"]["notes"])
    assert "1 images are left out" in notes
    assert "i1" in notes


def wrong(count=6):
    """Photographs that were filed under another class, one with a name that is code."""
    records = [
        dataclasses.replace(image(number, "drusen"), labels=image(number, "cataract").labels)
        for number in range(count)
    ]
    records[0] = dataclasses.replace(records[0], record_id='<script>alert("x")</script>')
    return [*records, *many(8)]


def test_mistakes_have_maps_of_the_predicted_and_the_true_class(fitted, tmp_path, monkeypatch):
    _, plain = run(tmp_path, monkeypatch, fitted, wrong())
    _, page = run(tmp_path, monkeypatch, fitted, wrong(), mistakes=3)
    assert "Most confident mistakes" in plain
    assert 'class="maps"' not in plain
    shown = 3 if fitted.decisions.outcome != "findings" else min(3, page.count('class="maps"'))
    assert page.count('class="maps"') == shown
    assert shown > 0
    of_each = 1 if fitted.decisions.outcome == "findings" else 2
    assert page.count("<figcaption>for ") == of_each * shown
    assert "no evidence of disease" in page
    for each in (plain, page):
        assert "<script" not in each


def test_mistakes_of_zero_shot_are_explained_by_texts(tmp_path, monkeypatch):
    cls = get_method_class("siglip")
    sizes = cls.config_class(
        image=ViTConfig(16, 8, 16, 1, heads=2),
        text=BertConfig(21128, width=16, layers=1, heads=2, mlp_width=16, positions=12),
        embed_dim=8,
    )
    method = cls(sizes)
    params, state = jax.jit(method.init)(jax.random.key(0))
    data = DataConfig(image=ImageConfig(size=16), text=TextConfig(context_length=8))
    config = ExperimentConfig("siglip", sizes, data)
    monkeypatch.setattr(module, "open_task", lambda *_: Source(wrong()))
    evaluate(
        retfm_jax.RetinalModel(method, params, state, config),
        protocols=["zero_shot"],
        dataset="colors",
        data_dir="",
        split="test",
        out=tmp_path / "out.json",
        options=Options(draws=5, languages=("en",), prompts="name", mistakes=2),
    )
    page = (tmp_path / "out.html").read_text()
    assert page.count('class="maps"') == 2
    assert page.count("<figcaption>for ") == 4


@pytest.mark.parametrize(
    ("records", "options", "message"),
    [
        ([image(0, "normal")], {"mistakes": -1}, "mistakes -1: give a whole number from 0 to 200"),
        (
            [dataclasses.replace(image(0, "normal"), labels=np.full(4, -1, np.int8))] * 2,
            {},
            "none of its records",
        ),
    ],
)
def test_what_cannot_be_is_one_message(tmp_path, monkeypatch, records, options, message):
    if message == "none of its records":
        message = "label"
    with pytest.raises(UserError, match=message):
        run(tmp_path, monkeypatch, build(), records, **options)
    assert not list(tmp_path.iterdir())


def test_a_network_without_classes_is_sent_elsewhere(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="ask for zero_shot or linear_probe"):
        run(tmp_path, monkeypatch, ColourModel(), many(4))
    assert default_protocol(()) == "zero_shot"
    assert default_protocol(CLASSES) == "classify"


def test_a_split_of_other_classes_is_refused_before_anything_is_computed(tmp_path, monkeypatch):
    model = build()
    monkeypatch.setattr(model, "class_logits", None)
    source = Source(many(4), ("Normal", "Drusen", "Glaucoma", "Cataract"))
    monkeypatch.setattr(module, "open_task", lambda *_: source)
    with pytest.raises(UserError, match=r"name the labels as its classes.*'Normal'"):
        evaluate(
            model, protocols=["classify"], dataset="c", data_dir="", split="t",
            out=tmp_path / "o.json",
        )  # fmt: skip


def test_the_picture_of_a_class_is_of_that_color():
    assert build().predict(photograph("cataract", 99)).argmax() == CLASSES.index("cataract")
