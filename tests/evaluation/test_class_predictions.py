"""A network with classes: what it predicts, and the decisions that are fitted for it and kept."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from colour_classifier import Source, build, many
from colour_world import CLASSES, patient, photograph
from scipy.special import softmax

import retfm_jax
from retfm_jax.config import ExperimentConfig
from retfm_jax.decisions import Conformal, Decisions, write_decisions
from retfm_jax.errors import UserError
from retfm_jax.evaluation.class_predictions import class_columns, labels_of, predict_classes
from retfm_jax.evaluation.decision_fitting import fit_decisions, fitted
from retfm_jax.interop.hub_folder import read_hub_folder, write_hub_folder
from retfm_jax.methods import get_method_class
from retfm_jax.models.resnet import ResNetConfig


@pytest.fixture(scope="module")
def model():
    return build()


@pytest.fixture(scope="module")
def findings():
    return build("findings")


def test_probabilities_are_those_of_the_decisions(model):
    pictures = [photograph(name, 50) for name in CLASSES]
    logits = model.class_logits(pictures)
    np.testing.assert_allclose(model.predict(pictures), softmax(logits, 1), rtol=1e-5)
    assert model.predict(pictures).argmax(1).tolist() == [0, 1, 2, 3]
    assert model.classes == CLASSES
    warm = build()
    warm.decisions = dataclasses.replace(warm.decisions, temperature=4.0)
    np.testing.assert_allclose(warm.predict(pictures), softmax(logits / 4, 1), rtol=1e-4)


def test_the_batch_of_a_photograph_means_nothing(model):
    pictures = [photograph(CLASSES[seed % 4], seed) for seed in range(37)]
    together = model.class_logits(pictures)
    alone = np.concatenate([model.class_logits(picture) for picture in pictures[30:]])
    np.testing.assert_allclose(together[30:], alone, atol=1e-4)


def test_what_cannot_be_read_has_no_probabilities(model):
    unusable = []
    found = model.predict([photograph("normal"), b"nothing"], unusable=unusable)
    assert np.isnan(found[1]).all()
    assert not np.isnan(found[0]).any()
    assert [position for position, _ in unusable] == [1]
    earlier = [(7, "of a call before")]
    model.predict([photograph("normal"), b"nothing"], unusable=earlier)
    assert [position for position, _ in earlier] == [7, 1]
    with pytest.raises(UserError, match="image 1"):
        model.predict([photograph("normal"), b"nothing"])


def test_a_network_without_classes_predicts_none():
    cls = get_method_class("vision")
    method = cls(cls.config_class(image=ResNetConfig(stages=(1, 1, 1, 1), width=4)))
    params, state = jax.jit(method.init)(jax.random.key(0))
    plain = retfm_jax.RetinalModel(method, params, state, ExperimentConfig("vision", method.config))
    assert plain.classes == ()
    assert plain.decisions is None
    with pytest.raises(UserError, match="has no classes of its own"):
        plain.predict(photograph("normal"))
    with pytest.raises(UserError, match="belong to no vision network"):
        retfm_jax.RetinalModel(
            method, params, state, plain.config, decisions=Decisions(("a", "b"), "exclusive")
        )


def test_decisions_of_other_classes_are_refused(model):
    with pytest.raises(UserError, match=r"grades, a, b.*exclusive, normal"):
        retfm_jax.RetinalModel(
            model.method, model.params, model.state, model.config,
            decisions=Decisions(("a", "b"), "grades"),
        )  # fmt: skip


def test_labels_are_found_by_their_names():
    columns = class_columns(("cataract", "x", "normal"), ("normal", "drusen", "cataract"), "here")
    assert columns.tolist() == [2, -1, 0]
    assert labels_of(np.array([0, 1, 1]), columns, False).tolist() == [1, 0, 0]
    assert labels_of(np.array([1, 0, 1]), columns, False) is None, "two classes"
    assert labels_of(np.array([0, 1, 0]), columns, False) is None, "none of them"
    assert labels_of(np.array([-1, -1, -1]), columns, True) is None
    assert labels_of(np.array([0, 1, -1]), columns, True).tolist() == [-1, -1, 0]
    with pytest.raises(UserError, match=r"labels of Normal, Cat.*did you mean 'Normal'"):
        class_columns(("Normal", "Cat"), ("normal", "drusen"), "here")


def test_photographs_without_a_class_are_counted(model):
    records = many(6)
    records[1] = dataclasses.replace(records[1], labels=np.full(4, -1, np.int8))
    records[2] = dataclasses.replace(records[2], labels=np.array([1, 1, 0, 0], np.int8))
    records[3] = dataclasses.replace(records[3], image=b"nothing")
    found = predict_classes(model, Source(records), progress=False)
    assert found.rows == (0, 4, 5)
    assert found.left_out == 2
    assert found.unusable == ("i3",)
    assert found.patients == ("person 0", "person 2", "person 2")
    with pytest.raises(UserError, match="as on_error refuse asks"):
        predict_classes(model, Source(records), on_error="refuse", progress=False)
    with pytest.raises(UserError, match=r"no photograph with exactly one.*2 have no such label"):
        predict_classes(model, Source(records[1:3]), progress=False)


def test_eyes_of_patients_have_their_own_classes(model):
    records = [patient(0, "drusen", "normal"), patient(1, None, "cataract")]
    found = predict_classes(model, Source(records), progress=False)
    assert found.labels.argmax(1).tolist() == [1, 0, 3]
    assert found.patients == ("p0", "p0", "p1")


def test_decisions_are_fitted_on_the_logits(model):
    source = Source(many())
    decisions = fit_decisions(model, source, coverage=0.8, progress=False)
    found = predict_classes(model, source, progress=False)
    said = decisions.fitted_on
    assert decisions == fitted(model.decisions, found, 0.8, {
        name: said[name] for name in ("dataset", "split", "patients_known", "weights")
    })  # fmt: skip
    assert (said["images"], said["patients"], said["patients_known"]) == (40, 20, True)
    assert (said["dataset"], said["split"]) == ("colors", "validation")
    before, after = said["metrics"]["before"], said["metrics"]["after"]
    assert after["negative_log_likelihood"] <= before["negative_log_likelihood"] + 1e-6
    assert json.loads(json.dumps(decisions.to_json())) == decisions.to_json()
    sets = decisions.sets(decisions.probabilities(found.logits))
    share = np.mean([sets[[2 * k, 2 * k + 1], found.labels[[2 * k, 2 * k + 1]].argmax(1)].mean()
                     for k in range(20)])  # fmt: skip
    assert share >= 0.8


def test_findings_have_thresholds_and_a_quantile_each(findings):
    decisions = fit_decisions(findings, Source(many()), progress=False)
    assert len(decisions.thresholds) == len(decisions.conformal.quantiles) == 4
    said = decisions.fitted_on["thresholds"]
    assert set(said) == set(CLASSES)
    assert all(each["sensitivity"] > 0.5 for each in said.values())
    assert len(decisions.fitted_on["conformal_patients"]) == 4


FITTED = Decisions(CLASSES, "exclusive", 1.7, (), Conformal(0.9, (0.3,)), {"dataset": "/a/colors"})


def with_decisions(model, decisions):
    return retfm_jax.RetinalModel(
        model.method, model.params, model.state, model.config, decisions=decisions
    )


def test_a_saved_network_keeps_its_decisions(model, tmp_path):
    with_decisions(model, FITTED).save(tmp_path / "model")
    again = retfm_jax.load(tmp_path / "model")
    assert again.decisions == FITTED
    picture = photograph("drusen", 3)
    np.testing.assert_allclose(
        again.predict(picture), with_decisions(model, FITTED).predict(picture), rtol=1e-6
    )


def test_decisions_beside_a_saved_network_take_the_place_of_its_own(model, tmp_path):
    with_decisions(model, FITTED).save(tmp_path / "model")
    ours = dataclasses.replace(FITTED, temperature=3.0)
    write_decisions(tmp_path / "model", ours)
    assert retfm_jax.load(tmp_path / "model").decisions == ours
    for_others = dataclasses.replace(ours, fitted_on={"weights": 1})
    write_decisions(tmp_path / "model", for_others)
    assert retfm_jax.load(tmp_path / "model").decisions == FITTED


def test_a_folder_for_the_hub_keeps_them_without_paths(model, tmp_path):
    write_hub_folder(tmp_path / "hub", with_decisions(model, FITTED).stored)
    stored = read_hub_folder(tmp_path / "hub")
    assert stored.decisions == dataclasses.replace(FITTED, fitted_on={"dataset": "colors"})
    assert retfm_jax.load(tmp_path / "hub").decisions == stored.decisions
    card = (tmp_path / "hub" / "README.md").read_text()
    assert "pipeline_tag: image-classification" in card
    assert "4, of which exactly one of them holds: normal, drusen, glaucoma, cataract." in card
    assert "Logits are divided by 1.7, as fitted on colors" in card
    assert "the true class of 90% of new patients' images" in card
    damaged = json.loads((tmp_path / "hub" / "classes.json").read_text())
    (tmp_path / "hub" / "classes.json").write_text(json.dumps(damaged | {"temperature": -1}))
    with pytest.raises(UserError, match=r"classes\.json: decisions: temperature must be"):
        retfm_jax.load(tmp_path / "hub")
    (tmp_path / "hub" / "classes.json").unlink()
    (tmp_path / "hub" / "classes.json").symlink_to("/etc/hostname")
    with pytest.raises(UserError, match="leads out of its folder"):
        retfm_jax.load(tmp_path / "hub")


def test_a_workdir_has_decisions_for_its_own_weights_alone(model, tmp_path):
    plain = retfm_jax.RetinalModel(model.method, model.params, model.state, model.config)
    plain.decisions = None  # as a run's checkpoint has them: beside it, not in it
    plain.save(tmp_path / "run")
    decisions = fit_decisions(model, Source(many(10)), progress=False)
    write_decisions(tmp_path / "run", decisions)
    assert retfm_jax.load(tmp_path / "run").decisions == decisions
    other = dict(decisions.fitted_on, weights=1)
    write_decisions(tmp_path / "run", dataclasses.replace(decisions, fitted_on=other))
    loaded = retfm_jax.load(tmp_path / "run")
    assert loaded.decisions.fitted_on == {}
    assert "was fitted for another checkpoint" in loaded.notes[-1]
