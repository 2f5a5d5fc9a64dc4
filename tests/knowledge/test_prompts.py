"""Prompts: what zero-shot and KeepFIT ask of a text tower."""

import numpy as np
import pytest

from retfm_jax.errors import UserError
from retfm_jax.knowledge.prompts import (
    MODALITIES,
    class_prompts,
    descriptions,
    joint_modality,
    knowledge_prompts,
    training_prompt,
)
from retfm_jax.knowledge.vocabulary import LANGUAGES, load_vocabulary


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("eye", [None, "left", "right"])
def test_a_class_prompt_says_its_class_of_its_eye(labeler, language, eye):
    for condition in labeler.vocabulary:
        if condition.absence_of:
            continue
        for prompt in class_prompts(condition.id, language, eye):
            labels = labeler.label(prompt)
            assert condition.id in (getattr(labels, eye) if eye else labels.patient), prompt
            assert condition.id not in labels.uncertain, prompt


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("modality", [*MODALITIES, "mixed"])
def test_prompts_call_an_image_what_it_is(labeler, language, modality):
    words = {
        "cfp": ("fundus photograph", "眼底照片"),
        "ffa": ("angiogra", "造影"),
        "oct": ("OCT", "OCT"),
    }
    own = words.pop(modality, ("retinal image", "视网膜图像"))[LANGUAGES.index(language)]
    others = [word for pair in words.values() for word in pair]
    rng = np.random.default_rng(0)
    for name in ("drusen", "amd", "normal", "tessellation", "new thing"):
        reports = class_prompts(name, language, "left", modality=modality)
        if name in ("drusen", "amd", "tessellation"):
            assert all(name in labeler.label(text).left for text in reports)
        texts = [*reports, knowledge_prompts(name, language, modality=modality)[0]]
        assert own in texts[-1]
        if modality in MODALITIES:  # a record is of one
            drawn = training_prompt([name], [modality, "noisy"], rng, language=language)
            assert own in drawn.text
            assert "noisy" in drawn.text
            texts.append(drawn.text)
        for text in texts:
            assert not any(word in text for word in others), text
    with pytest.raises(UserError, match="modality 'mri': there are cfp, ffa, oct, mixed"):
        class_prompts("drusen", language, modality="mri")


def test_descriptions_of_fundus_photographs_are_of_nothing_else():
    assert knowledge_prompts("severe_npdr", modality="oct") == (
        "A retinal OCT scan of severe non-proliferative diabetic retinopathy",
    )
    assert joint_modality([("noisy",), ()]) == "cfp"
    assert joint_modality([("OCT", "noisy"), ("oct",)]) == "oct"
    assert joint_modality([("ffa",), ()]) == "mixed"


@pytest.mark.parametrize("language", LANGUAGES)
def test_an_oct_scan_is_described_by_what_oct_shows(language):
    vocabulary = load_vocabulary()
    medkco = (
        "amd", "drusen", "choroidal_neovascularisation", "central_serous_chorioretinopathy",
        "diabetic_retinopathy", "diabetic_macular_oedema", "retinal_artery_occlusion",
        "retinal_vein_occlusion", "vitreomacular_interface_disease", "macular_hole",
        *(f"macular_hole_stage_{stage}" for stage in (1, 2, 3, 4)),
        "epiretinal_membrane", "glaucoma", "normal",
    )  # fmt: skip
    assert len(medkco) == 17
    for name in medkco:
        condition = vocabulary[name]
        seen = condition.oct_signs[language]
        found = descriptions(condition, language, vocabulary, "oct")
        assert seen
        assert found[: len(seen)] == seen
        prompts = knowledge_prompts(name, language, modality="oct")
        assert len(prompts) == 1 + len(found)
        assert not set(found) & set(condition.signs[language]), "words of another modality"
    only = {each.id for each in vocabulary if each.seen_on("cfp") is None}
    assert "intraretinal_fluid" in only
    assert not only & {"drusen", "macular_hole", "normal"}
    named = {vocabulary[name].name[language] for name in only}
    for condition in vocabulary:
        assert not named & set(descriptions(condition, language, vocabulary))
    assert knowledge_prompts("normal", modality="oct")[0] == "A retinal OCT scan of normal retina"
    assert knowledge_prompts("normal")[0] == "A fundus photograph of normal fundus"


def test_class_prompts_are_written_like_reports():
    assert "Left eye: hard exudates." in class_prompts("hard_exudates", "en", "left")
    assert "左眼：可见硬性渗出。" in class_prompts("hard_exudates", "zh", "left")
    assert "Both eyes: hard exudates." in class_prompts("hard_exudates", "en")
    assert class_prompts("硬性渗出", "en", "right") == class_prompts("hard_exudates", "en", "right")


def test_an_unknown_class_is_called_by_its_name():
    assert "Right eye: blue spots." in class_prompts("blue_spots", "en", "right")
    assert knowledge_prompts("blue_spots") == ("A fundus photograph of blue spots",)


def test_domain_knowledge_is_the_name_and_its_descriptions():
    vocabulary = load_vocabulary()
    prompts = knowledge_prompts("severe NPDR")
    condition = vocabulary["severe_npdr"]
    assert prompts[0] == f"A fundus photograph of {condition.name['en']}"
    assert len(prompts) == 1 + len(descriptions(condition, "en", vocabulary))
    assert any("venous beading" in prompt for prompt in prompts)
    assert knowledge_prompts("severe_npdr") == prompts
    assert all(not prompt.isascii() for prompt in knowledge_prompts("severe_npdr", "zh"))


def test_training_prompts_draw_category_attribute_and_description():
    vocabulary = load_vocabulary()
    phrases = (
        vocabulary["drusen"].name["en"],
        *descriptions(vocabulary["drusen"], "en", vocabulary),
    )
    rng = np.random.default_rng(0)
    drawn = [training_prompt(["drusen", "new thing"], ["noisy", "dark"], rng) for _ in range(300)]
    assert {prompt.category for prompt in drawn} == {"drusen", "new thing"}
    assert {prompt.text for prompt in drawn} == {
        f"A {attribute} fundus photograph of {phrase}"
        for attribute in ("noisy", "dark")
        for phrase in (*phrases, "new thing")
    }


def test_original_text_and_missing_attributes():
    rng = np.random.default_rng(0)
    for _ in range(20):
        prompt = training_prompt(["drusen"], [], rng, domain_knowledge=False)
        assert prompt == ("A fundus photograph of drusen", "drusen")


def test_the_same_generator_draws_the_same_prompts():
    def draw():
        rng = np.random.default_rng(7)
        return [training_prompt(["pdr", "amd"], ["noisy"], rng) for _ in range(20)]

    assert draw() == draw()


def test_refusals():
    with pytest.raises(UserError, match="not in 'fr'"):
        class_prompts("drusen", "fr")
    with pytest.raises(UserError, match="eye must be"):
        class_prompts("drusen", "en", "both")
    with pytest.raises(UserError, match="at least one category"):
        training_prompt([], ["noisy"], np.random.default_rng(0))
