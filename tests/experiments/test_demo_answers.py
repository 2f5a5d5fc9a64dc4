"""What is said of photographs is what the network computes, and names nobody."""

import dataclasses

import cv2
import jax
import numpy as np
import pytest
from demo_world import build, cases, image, of_texts, patient, pixels
from scipy.special import softmax

from retfm_jax.data.laterality_guess import guess_side
from retfm_jax.decisions import Conformal
from retfm_jax.errors import UserError
from retfm_jax.experiments.demo import examples, words
from retfm_jax.experiments.demo.answers import Reader
from retfm_jax.experiments.demo.guard import Limits, Refused, photograph
from retfm_jax.experiments.demo.words import class_name
from retfm_jax.zero_shot import class_embeddings, model_prompts

LIMITS = Limits(classes=4, shown=2)
NAMES = ("normal", "drusen", "amd")
RECORDS = [
    patient(1, "Drusen in both eyes.", ("drusen",)),
    patient(2, "Normal.", ("normal",)),
    patient(3, "drusen in both eyes.", ("my own class", "drusen"), eyes=("right",)),
    patient(4, "Drusen in both eyes.", ()),
]


@pytest.fixture(scope="module")
def model():
    return of_texts()


@pytest.fixture(scope="module")
def reader(model):
    return Reader(model, LIMITS, cases(model, RECORDS))


@pytest.fixture(scope="module")
def both(reader):
    return reader.answer({"left": pixels(11), "right": pixels(10)}, NAMES)


def column(answer, view, language):
    (found,) = [
        each.probabilities
        for each in answer.columns
        if each.view == view and each.prompts == words.LANGUAGE_OF_PROMPTS[language]
    ]
    return np.array(found)


def test_probabilities_are_those_of_each_eye_and_of_the_patient_in_both_languages(model, both):
    images = model.encode_patients([pixels(11)], [pixels(10)])
    views = {"patient": words.BOTH_EYES, **words.EYES}
    assert len(both.columns) == 6
    for view, title in views.items():
        for language in ("en", "zh"):
            texts = class_embeddings(model, NAMES, language, model_prompts(model), (view,))[view]
            wanted = softmax(model.logit_scale * images[f"image_{view}"][0] @ texts.T)
            np.testing.assert_allclose(column(both, title, language), wanted, atol=1e-5)
            assert column(both, title, language).sum() == pytest.approx(1, abs=1e-5)
    assert both.classes == tuple(map(class_name, NAMES))
    assert class_name("drusen").zh == "玻璃膜疣"


def test_one_eye_is_one_eye(model, reader, both):
    one = reader.answer({"right": pixels(10)}, NAMES)
    assert {each.view for each in one.columns} == {words.EYES["right"]}
    assert [each.view for each in one.seen] == [words.EYES["right"]]
    for language in ("en", "zh"):
        found = column(one, words.EYES["right"], language)
        np.testing.assert_allclose(found, column(both, words.EYES["right"], language), atol=1e-5)


def test_the_order_of_the_classes_changes_their_order_alone(reader, both):
    other = reader.answer({"left": pixels(11), "right": pixels(10)}, NAMES[::-1])
    for ours, theirs in zip(both.columns, other.columns, strict=True):
        np.testing.assert_allclose(ours.probabilities, theirs.probabilities[::-1], atol=1e-5)
    assert other.target == both.target


def test_maps_are_of_the_likeliest_class_or_of_the_one_that_was_asked_for(model, reader, both):
    means = np.mean([each.probabilities for each in both.columns], axis=0)
    assert both.target == both.classes[int(means.argmax())]
    asked = reader.answer({"left": pixels(11), "right": pixels(10)}, NAMES, "amd")
    assert asked.target == class_name("amd")
    assert [each.view for each in asked.seen] == [words.EYES["right"], words.EYES["left"]]
    for each in asked.seen:
        assert each.photograph.shape == each.overlay.shape == (48, 60, 3)
        assert (each.photograph != each.overlay).any()


def test_the_nearest_case_of_a_case_is_itself_and_says_what_it_is_labeled_as(both):
    (beside,) = both.beside
    assert beside.view == words.BOTH_EYES
    first, second = beside.cases
    assert first.cosine == pytest.approx(1, abs=1e-5)
    assert first.cosine >= second.cosine
    assert first.labels == (class_name("drusen"),)
    assert len(first.photographs) == 2


def test_equal_reports_are_one(model, reader):
    found = reader.cases.reports(model.encode_texts("Normal.")[0], 5)
    assert list(found) == ["en"]
    texts = [report.text for report in found["en"]]
    assert sorted(texts) == ["Drusen in both eyes.", "Normal.", "drusen in both eyes."]
    cosines = [report.cosine for report in found["en"]]
    assert cosines == sorted(cosines, reverse=True)


def test_nobody_is_named(both):
    assert "SECRET" not in repr(both)


def test_single_images_are_compared_eye_by_eye():
    model = of_texts("vilref")
    records = [image(1, ("drusen",)), image(2, ()), image(3, ("my own class",))]
    reader = Reader(model, LIMITS, cases(model, records))
    assert not reader.cases.of_patients
    found = reader.answer({"left": pixels(3), "right": pixels(2)}, NAMES)
    assert [each.view for each in found.beside] == [words.EYES["right"], words.EYES["left"]]
    right, left = (each.cases[0] for each in found.beside)
    assert right.cosine == pytest.approx(1, abs=1e-5)
    assert right.labels is None
    assert left.labels == (class_name("my own class"),)
    assert str(class_name("my own class")) == "my own class"
    assert all(not each.reports for each in found.beside)


def test_classes_of_the_cases_are_those_to_begin_with(model, reader):
    assert reader.chosen == ("normal", "drusen")
    assert len(Reader(model, LIMITS).chosen) > 4
    assert not Reader(model, LIMITS).answer({"left": pixels(0)}, NAMES).beside


@pytest.mark.parametrize(
    ("eyes", "classes", "target", "said"),
    [
        ({}, NAMES, None, words.NO_PHOTOGRAPH),
        ({"left": pixels(0)}, ("drusen",), None, words.CLASSES_WANTED.filled(least=2, most=4)),
        ({"left": pixels(0)}, ("drusen",) * 3, None, words.CLASSES_WANTED.filled(least=2, most=4)),
        ({"left": pixels(0)}, (*NAMES, "glaucoma", "pdr"), None,
         words.CLASSES_WANTED.filled(least=2, most=4)),
        ({"left": pixels(0)}, (*NAMES, "../../etc/passwd"), None, words.UNKNOWN_CLASS),
        ({"left": pixels(0)}, NAMES, "glaucoma", words.UNKNOWN_CLASS),
    ],
)  # fmt: skip
def test_what_cannot_be_answered_is_said_in_both_languages(reader, eyes, classes, target, said):
    with pytest.raises(Refused) as refused:
        reader.answer(eyes, classes, target)
    assert refused.value.said == said


@pytest.mark.parametrize("tower", ["visual", "bert"])
def test_broken_weights_give_no_probabilities(tower):
    broken = of_texts()
    broken.params[tower] = jax.tree.map(lambda leaf: leaf * np.nan, broken.params[tower])
    with pytest.raises(Refused) as refused:
        Reader(broken, LIMITS).answer({"left": pixels(0)}, NAMES)
    assert refused.value.said == words.UNUSABLE


def test_a_network_that_knows_neither_classes_nor_texts_is_refused():
    with pytest.raises(UserError, match="fine-tune it"):
        Reader(build("vision"), LIMITS)


def of_classes(outcome, **decided):
    """A network with a head for three classes."""
    classes = ("drusen", "my own class", "normal")
    model = build("classifier", classes=classes, outcome=outcome)
    model.decisions = dataclasses.replace(model.decisions, **decided)
    return model


@pytest.mark.parametrize("outcome", ["exclusive", "grades", "findings"])
def test_a_head_answers_for_each_eye_with_its_own_classes(outcome):
    model = of_classes(outcome)
    reader = Reader(model, LIMITS)
    eyes = {"left": pixels(11), "right": pixels(10)}
    found = reader.answer(eyes, ("not", "looked at"))
    wanted = model.predict([eyes["right"], eyes["left"]])
    given = np.array([each.probabilities for each in found.columns])
    np.testing.assert_allclose(given, wanted, atol=1e-6)
    assert found.outcome == outcome
    assert [each.view for each in found.columns] == [words.EYES["right"], words.EYES["left"]]
    assert {each.prompts for each in found.columns} == {None}
    assert found.classes == tuple(map(class_name, model.classes))
    assert found.target == found.classes[int(wanted.mean(0).argmax())]
    assert [each.coverage for each in found.said] == [None, None]
    asked = reader.answer(eyes, (), "my own class")
    assert asked.target == class_name("my own class")


def test_a_head_says_what_its_decisions_say():
    sets = Conformal(0.9, (0.75,))
    model = of_classes("exclusive", temperature=2.0, conformal=sets)
    (said,) = Reader(model, LIMITS).answer({"left": pixels(1)}).said
    probabilities = model.predict([pixels(1)])
    index = int(model.decisions.predicted(probabilities)[0])
    assert said.predicted == (class_name(model.classes[index]),)
    assert said.coverage == 0.9
    inside = model.decisions.sets(probabilities)[0]
    named = [class_name(name) for name, is_in in zip(model.classes, inside, strict=True) if is_in]
    assert list(said.possible) == named


def test_findings_may_all_be_absent():
    model = of_classes("findings", thresholds=(1.0, 1.0, 1.0))
    (said,) = Reader(model, LIMITS).answer({"left": pixels(1)}).said
    assert said.predicted == ()


def test_a_head_has_cases_beside_it():
    model = of_classes("exclusive")
    both = Reader(model, LIMITS, cases(model, RECORDS))
    found = both.answer({"left": pixels(11), "right": pixels(10)})
    (beside,) = found.beside
    assert beside.cases[0].cosine == pytest.approx(1, abs=1e-5)
    assert not beside.reports


def test_what_is_to_be_doubted_of_a_photograph_is_said(reader):
    noise = reader.answer({"left": pixels(0)}, NAMES).notes
    assert noise == (words.NO_FUNDUS.filled(eye=words.EYES["left"]),)
    assert words.EYES["left"].zh in noise[0].zh
    pairs = (tuple(photograph(data, Limits()) for data in examples.patient()) for _ in range(50))
    right, _ = next(pair for pair in pairs if guess_side(pair[0]).side == "right")
    assert not reader.answer({"right": right}, NAMES).notes
    swapped = reader.answer({"left": right}, NAMES).notes
    assert swapped == (words.OTHER_EYE.filled(eye=words.EYES["left"]),)
    blurred = cv2.GaussianBlur(right, (0, 0), 12)
    (low,) = reader.answer({"right": blurred}, NAMES).notes
    assert "low quality (sharpness 0." in low.en
    assert "照片质量较低" in low.zh
