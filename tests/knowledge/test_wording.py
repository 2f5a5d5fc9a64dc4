"""The words of training reports, and the prompts that are made of them."""

import json

import pytest

from retfm_jax.errors import UserError
from retfm_jax.knowledge.prompts import class_prompts, weighted_prompts
from retfm_jax.knowledge.wording import ReportWording, learn_wording


def two_eyes(left, right):
    return {"en": f"Left eye: {left}. Right eye: {right}."}


@pytest.fixture(scope="module")
def graded(labeler):
    """Reports that name grades and signs, never the disease."""
    reports = [two_eyes("moderate nonproliferative retinopathy", "normal fundus")] * 12
    reports += [two_eyes("mild nonproliferative retinopathy", "drusen")] * 6
    reports += [two_eyes("large cup", "no glaucoma")] * 9
    reports += [two_eyes("suspected cataract", "not cataract")] * 9
    return learn_wording(reports, labeler)


def test_a_class_is_asked_by_its_cases_in_the_reports_sentences(graded):
    prompts = weighted_prompts("diabetic_retinopathy", "en", wording=graded)
    assert dict(prompts) == {
        "Left eye: moderate nonproliferative retinopathy. "
        "Right eye: moderate nonproliferative retinopathy.": pytest.approx(2 / 3),
        "Left eye: mild nonproliferative retinopathy. "
        "Right eye: mild nonproliferative retinopathy.": pytest.approx(1 / 3),
    }


def test_a_class_that_is_never_named_is_asked_by_its_signs(graded):
    (prompt,) = weighted_prompts("glaucoma", "en", wording=graded)
    assert prompt == ("Left eye: large cup. Right eye: large cup.", 1.0)
    assert class_prompts("glaucoma", "en", "left", wording=graded) == (
        "Left eye: large cup. Right eye: large cup.",
        "Left eye: large cup.",
    )


def test_what_is_denied_or_suspected_is_no_word_for_a_class(graded):
    assert "glaucoma" not in graded.forms["en"]
    assert "cataract" not in graded.forms["en"]
    assert class_prompts("cataract", "en", wording=graded) == class_prompts("cataract", "en")


def test_a_language_without_reports_has_the_usual_prompts(graded):
    for eye in (None, "left", "right"):
        assert weighted_prompts("amd", "zh", eye, wording=graded) == weighted_prompts(
            "amd", "zh", eye
        )


def test_weights_sum_to_one(graded, labeler):
    for condition in labeler.vocabulary:
        for wording in (None, graded):
            prompts = weighted_prompts(condition.id, "en", wording=wording)
            assert sum(prompt.weight for prompt in prompts) == pytest.approx(1)


def test_learned_prompts_say_their_class_of_their_eye(labeler):
    reports = []
    for term in ("drusen", "epiretinal membrane", "macular hole"):
        for name in ("OD", "OS", "Left eye", "Right eye"):
            reports += [{"en": f"{name}: {term}.", "zh": ""}] * 3
        reports += [{"en": f"Both eyes: {term} seen.", "zh": ""}] * 8
    wording = learn_wording(reports, labeler)
    for eye in ("left", "right"):
        prompts = class_prompts("drusen", "en", eye, wording=wording)
        assert {"Both eyes: drusen seen.", f"{eye.capitalize()} eye: drusen."} <= set(prompts)
        for prompt in prompts:
            assert getattr(labeler.label(prompt), eye) == ("drusen",)


def test_chinese_reports_keep_their_own_form(labeler):
    reports = [
        {"zh": f"左眼：{a}；右眼：{b}。"}
        for a in ("玻璃膜疣", "正常眼底")
        for b in ("轻度非增殖期糖网", "白内障")
    ]
    wording = learn_wording(reports * 3, labeler)
    assert class_prompts("diabetic_retinopathy", "zh", wording=wording) == (
        "左眼：轻度非增殖期糖网；右眼：轻度非增殖期糖网。",
    )


def test_a_patient_s_own_words_are_not_kept(labeler):
    own = [{"en": f"Left eye of Mrs {name}: drusen."} for name in ("Li", "Wang", "Kim", "Oto")]
    wording = learn_wording([*own, *[{"en": "Left eye: drusen."}] * 5], labeler)
    assert "Mrs" not in json.dumps(wording.to_json())
    assert class_prompts("drusen", "en", "left", wording=wording) == ("Left eye: drusen.",)


def test_the_order_of_reports_changes_nothing(labeler):
    reports = [
        two_eyes(a, b) for a in ("drusen", "cataract", "mild NPDR") for b in ("PDR", "AMD")
    ] * 4
    assert learn_wording(reports, labeler) == learn_wording(reports[::-1], labeler)


def test_wording_survives_json(graded):
    assert ReportWording.from_json(json.loads(json.dumps(graded.to_json()))) == graded
    for values in (
        None,
        [],
        {},
        {"forms": 1, "frames": {}, "shapes": {}},
        {"forms": {"en": {"a": 3}}},
    ):
        with pytest.raises(
            UserError, match=r"wording\.json: the wording of reports cannot be read"
        ):
            ReportWording.from_json(values, "wording.json")


def test_without_reports_nothing_is_known(labeler):
    wording = learn_wording([{"en": "", "zh": ""}, {}], labeler)
    assert class_prompts("drusen", "en", wording=wording) == class_prompts("drusen", "en")
