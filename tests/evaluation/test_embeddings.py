"""A split is embedded once: eyes, patients, reports, and what is missing."""

import dataclasses

import numpy as np
import pytest
from colour_world import CLASSES, ColourModel, hot, image, patient

from retfm_jax.errors import UserError
from retfm_jax.evaluation.embeddings import embed_split
from retfm_jax.zero_shot import class_embeddings, unit


def embedded(model, records, **options):
    return embed_split(model, records, CLASSES, progress=False, **options)


def test_a_model_of_single_images_knows_a_patient_by_the_mean_of_the_eyes():
    records = [patient(0, "drusen", "glaucoma"), patient(1, "drusen", None)]
    split = embedded(ColourModel(), records)
    left, right = split.views["left"], split.views["right"]
    expected = unit(left.images + right.images)
    np.testing.assert_allclose(split.views["patient"].images, expected, rtol=1e-6)
    np.testing.assert_array_equal(right.seen, [True, False])
    assert not right.images[1].any()
    np.testing.assert_allclose(split.views["patient"].images[1], left.images[1], rtol=1e-6)
    np.testing.assert_array_equal(split.views["patient"].labels[0], hot("drusen", "glaucoma"))
    np.testing.assert_array_equal(right.labels[1], np.full(4, -1))


def test_a_model_of_patients_embeds_them_itself_and_missing_eyes_stay_empty():
    records = [patient(0, "drusen", "glaucoma"), patient(1, None, "normal")]
    model = ColourModel(patients=True)
    split = embedded(model, records)
    features = model.encode_patients(
        [record.left or None for record in records], [record.right or None for record in records]
    )
    np.testing.assert_array_equal(split.views["patient"].images, features["image_patient"])
    assert not split.views["left"].images[1].any()
    assert split.main_view == "patient"


@pytest.mark.parametrize("patients", [False, True])
def test_a_damaged_image_counts_as_missing_and_is_named(patients, caplog):
    model = ColourModel(patients=patients)
    records = [patient(0, "drusen", "glaucoma"), patient(1, "normal", "drusen")]
    damaged = dataclasses.replace(records[1], left=records[1].left[:60])
    missing = dataclasses.replace(records[1], left=b"")
    split = embedded(model, [records[0], damaged])
    wanted = embedded(model, [records[0], missing])
    assert "1 images of the split cannot be decoded" in caplog.text
    assert "p1/left" in caplog.text
    for name, view in wanted.views.items():
        np.testing.assert_array_equal(split.views[name].seen, view.seen)
        np.testing.assert_allclose(split.views[name].images, view.images, rtol=1e-6)


def test_a_damaged_photograph_has_no_row(caplog):
    photographs = [image(0, "drusen"), image(1, "normal"), image(2, "drusen")]
    broken = dataclasses.replace(photographs[1], image=b"text")
    split = embedded(ColourModel(), [photographs[0], broken, photographs[2]])
    wanted = embedded(ColourModel(), [photographs[0], photographs[2]])
    assert split.views["image"].seen.tolist() == [True, False, True]
    np.testing.assert_array_equal(split.views["image"].images[[0, 2]], wanted.views["image"].images)
    assert "i1" in caplog.text
    with pytest.raises(UserError, match="none of 1 records has an image that can be decoded: i1"):
        embedded(ColourModel(), [broken])


def test_batches_do_not_change_anything():
    records = [patient(number, "drusen", "normal") for number in range(5)]
    whole = embedded(ColourModel(), records, batch_size=64)
    parts = embedded(ColourModel(), records, batch_size=2)
    for view in whole.views:
        np.testing.assert_allclose(whole.views[view].images, parts.views[view].images, rtol=1e-6)
        np.testing.assert_allclose(
            whole.views[view].texts["en"], parts.views[view].texts["en"], rtol=1e-6
        )


def test_equal_reports_are_encoded_once_and_languages_without_reports_are_skipped():
    records = [patient(1, "drusen", "normal")] * 3 + [patient(2, "drusen", None, report=False)]
    model = ColourModel()
    split = embedded(model, records)
    assert len(model.texts_seen) == 1
    assert set(split.views["patient"].texts) == {"en"}
    assert not split.views["patient"].texts["en"][3].any()
    assert split.reports["zh"] == ("",) * 4


def test_single_images_have_one_view_and_keep_their_patients():
    split = embedded(ColourModel(), [image(0, "drusen", "anna"), image(1, "normal", "anna")])
    assert tuple(split.views) == ("image",)
    assert split.patient_ids == ("anna", "anna")


def test_an_empty_split_and_mixed_records_are_refused():
    with pytest.raises(UserError, match="no record"):
        embedded(ColourModel(), [])
    with pytest.raises(UserError, match="mixes"):
        embedded(ColourModel(), [image(0, "drusen"), patient(0, "drusen", None)])


def test_a_class_embedding_is_the_unit_mean_of_its_prompts_for_the_eye():
    asked = []

    def prompts(name, language, eye):
        asked.append((name, language, eye))
        return [f"{name} {eye}", f"{name} or drusen"]

    model = ColourModel()
    found = class_embeddings(model, ("normal", "drusen"), "en", prompts, ("patient", "left"))
    rows = model.encode_texts(["normal None", "normal or drusen"])
    np.testing.assert_allclose(found["patient"][0], unit(rows.mean(0)), rtol=1e-6)
    assert set(asked) == {
        (name, "en", eye) for name in ("normal", "drusen") for eye in (None, "left")
    }
