"""Zero-shot: a model that sees scores 1, one that does not about a half, whatever the level."""

import numpy as np
import pytest
from colour_world import CLASSES, ColourModel, image, patient

from retfm_jax.errors import UserError
from retfm_jax.evaluation.embeddings import embed_split
from retfm_jax.evaluation.protocols.zero_shot import zero_shot
from retfm_jax.knowledge.prompts import prompts_of
from retfm_jax.zero_shot import finding_directions


def patients(count, seed=0):
    generator = np.random.default_rng(seed)
    return [patient(number, *generator.choice(CLASSES, 2)) for number in range(count)]


def scored(model, records, **options):
    split = embed_split(model, records, CLASSES, progress=False)
    return zero_shot(model, split, "en", prompts_of("report"), **options)


@pytest.mark.parametrize("trained_on_patients", [False, True])
def test_a_model_that_sees_scores_one_per_eye_and_nearly_so_per_patient(trained_on_patients):
    result = scored(ColourModel(1.0, trained_on_patients), patients(40))
    assert set(result.levels) == {"patient", "eye"}
    for name, row in result.levels["eye"].measured(draws=20).metrics.classes.items():
        assert row["auroc"].value == 1.0, name
    # Here a finding in one eye and health in the other cancel out, as in a patient without either.
    for name, row in result.levels["patient"].measured(draws=20).metrics.classes.items():
        assert row["auroc"].value > 0.9, name
    assert len(result.levels["eye"].samples) == 80


def test_a_model_that_sees_nothing_scores_about_a_half():
    result = scored(ColourModel(0.0, True), patients(200))
    for predictions in result.levels.values():
        area = predictions.measured(draws=100).overall["auroc"]
        assert area.value == pytest.approx(0.5, abs=0.08)
        assert area.low < 0.5 < area.high


def test_eyes_are_asked_with_prompts_that_name_them():
    model = ColourModel(patients=True)
    scored(model, patients(4))
    for side in ("Left eye", "Right eye", "Both eyes"):
        assert any(text.startswith(side) and "drusen" in text for text in model.texts_seen)


def test_one_class_a_sample_gives_probabilities_and_the_metrics_of_grading():
    records = [image(number, CLASSES[number % 4]) for number in range(20)]
    predictions = scored(ColourModel(), records).levels["image"]
    assert predictions.exclusive
    np.testing.assert_allclose(predictions.scores.sum(1), 1, rtol=1e-5)
    assert predictions.measured(draws=20).overall["aca"].value == 1.0


def test_skipped_classes_are_said_and_nothing_left_is_an_error():
    result = scored(ColourModel(), patients(10), skip=("cataract",))
    assert result.left_out == ("cataract",)
    assert "cataract" not in result.levels["eye"].names
    with pytest.raises(UserError, match="no label of the dataset is known"):
        scored(ColourModel(), patients(10), skip=CLASSES)


def test_directions_of_findings_are_log_odds_against_a_normal_eye():
    classes = np.random.default_rng(0).normal(size=(4, 6))
    image_row = np.random.default_rng(1).normal(size=6)
    logits = finding_directions(classes, 1) @ image_row
    cosine = classes @ image_row
    for finding in (0, 2, 3):
        assert logits[finding] == pytest.approx(cosine[finding] - cosine[1])
    assert logits[1] == pytest.approx(cosine[1] - cosine[[0, 2, 3]].mean())
    np.testing.assert_array_equal(finding_directions(classes, None), classes)
