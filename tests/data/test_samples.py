"""A sample is what its record says: mirrored whole or not at all, damaged eyes counted missing."""

import dataclasses

import numpy as np
import pytest

from retfm_jax.config import AugmentConfig, DataConfig, ImageConfig, TextConfig
from retfm_jax.data.images import decode, fit
from retfm_jax.data.kinds import get_kind
from retfm_jax.data.kinds.category import category_id
from retfm_jax.data.records import ImageRecord, PatientRecord
from retfm_jax.data.samples import DAMAGED, SampleMaker, Unusable, choose_text, draw_flip
from retfm_jax.knowledge.vocabulary import load_vocabulary

LABELS = ("normal", "drusen")
MIRRORED = AugmentConfig(crop_area=(1.0, 1.0), flip="exchange", flip_probability=1.0)
CONFIG = DataConfig(
    image=ImageConfig(size=32), text=TextConfig(context_length=24), language="en", augment=MIRRORED
)


def patient(left: bytes, right: bytes, report: str) -> PatientRecord:
    unknown = np.full(2, -1, np.int8)
    nothing = {"en": "", "zh": ""}
    return PatientRecord(
        "p", left, right, {"en": report, "zh": ""}, nothing, nothing, unknown, unknown, unknown
    )


def image(data: bytes, caption: str = "", names: tuple[str, ...] = ()) -> ImageRecord:
    labels = np.array([0, 1], np.int8)
    return ImageRecord("i", "p", data, {"en": caption, "zh": ""}, names, (), labels)


def maker(kind: str = "patient", **changes) -> SampleMaker:
    return get_kind(kind).maker(dataclasses.replace(CONFIG, **changes), LABELS)


def unchanged(record, kind: str = "patient", **changes) -> dict:
    """The sample of a record as it is, neither mirrored nor cropped."""
    still = dataclasses.replace(MIRRORED, flip="none")
    return maker(kind, augment=still, **changes).training(record, rng())


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def disc_at(side: str) -> bytes:
    """A black fundus of which only the disc is bright, on one side of the picture."""
    import io

    from PIL import Image

    pixels = np.zeros((32, 32, 3), np.uint8)
    columns = slice(4, 10) if side == "left" else slice(22, 28)
    pixels[12:20, columns] = 255
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def disc_side(pixels: np.ndarray) -> str:
    return "left" if pixels[..., 0].sum(0).argmax() < 16 else "right"


def labels_of(sample: dict) -> set[str]:
    ids = load_vocabulary().ids
    assert len(ids) == len(sample["labels"])
    return {ids[column] for column in np.flatnonzero(sample["labels"])}


# The disc of a right eye is on the right of its photograph, that of a left eye on the left.
BOTH = patient(disc_at("left"), disc_at("right"), "Left eye: drusen. Right eye: normal.")


def test_exchange_keeps_the_disc_on_the_nasal_side_and_the_report_true():
    sample = maker().training(BOTH, rng())
    assert disc_side(sample["image_left"]) == "left"
    assert disc_side(sample["image_right"]) == "right"
    other = unchanged(
        dataclasses.replace(BOTH, report={"en": "Right eye: drusen. Left eye: normal.", "zh": ""})
    )
    np.testing.assert_array_equal(sample["tokens"], other["tokens"])
    # The left eye of the mirrored patient is the mirrored right eye.
    np.testing.assert_array_equal(
        sample["image_left"], fit(decode(BOTH.right, "x"), CONFIG.image)[:, ::-1]
    )


def test_exchange_moves_a_lone_eye_to_the_other_side():
    lone = dataclasses.replace(BOTH, right=b"")
    sample = maker().training(lone, rng())
    assert (bool(sample["has_left"]), bool(sample["has_right"])) == (False, True)
    assert not sample["image_left"].any()
    assert disc_side(sample["image_right"]) == "right"
    assert sample[DAMAGED] == []


def test_a_report_that_cannot_be_mirrored_leaves_the_patient_as_it_is():
    clock = dataclasses.replace(BOTH, report={"en": "Left eye: haemorrhage at 3 o'clock", "zh": ""})
    sample, still = maker().training(clock, rng()), unchanged(clock)
    for name, value in still.items():
        np.testing.assert_array_equal(sample[name], value)


def test_exchange_twice_is_the_patient_again():
    text = "Left eye: drusen. OD normal. 左眼正常"
    mirror, once = draw_flip(MIRRORED, text, rng())
    assert mirror
    assert once != text
    assert draw_flip(MIRRORED, once, rng()) == (True, text)


def test_independent_flips_leave_eyes_and_report_in_their_place():
    flips = set()
    augment = dataclasses.replace(MIRRORED, flip="independent", flip_probability=0.5)
    make, still = maker(augment=augment), unchanged(BOTH)
    for seed in range(40):
        sample = make.training(BOTH, rng(seed))
        np.testing.assert_array_equal(sample["tokens"], still["tokens"])
        flips.add((disc_side(sample["image_left"]), disc_side(sample["image_right"])))
    assert len(flips) == 4
    none = maker(augment=dataclasses.replace(MIRRORED, flip="none")).training(BOTH, rng())
    np.testing.assert_array_equal(none["image_left"], still["image_left"])


def test_views_of_an_eye_are_cropped_apart_and_exchanged_together():
    cropped = dataclasses.replace(MIRRORED, crop_area=(0.3, 0.6), flip_probability=0.5)
    make, sides = maker("patient_views", augment=cropped), set()
    for seed in range(20):
        sample = make.training(BOTH, rng(seed))
        assert not np.array_equal(sample["image_left"], sample["view_left"])
        text = sample["tokens"].tobytes()
        still = maker("patient_views", augment=MIRRORED).training(BOTH, rng(seed))
        sides.add(text == still["tokens"].tobytes())
    assert sides == {False, True}
    whole = maker("patient_views").training(BOTH, rng())
    for side in ("left", "right"):
        # An exchange mirrors both views; without a crop they are one picture.
        np.testing.assert_array_equal(whole[f"image_{side}"], whole[f"view_{side}"])
        assert disc_side(whole[f"view_{side}"]) == side


def test_independent_flips_are_those_of_each_view():
    augment = dataclasses.replace(MIRRORED, flip="independent", flip_probability=0.5)
    make, flips = maker("patient_views", augment=augment), set()
    for seed in range(80):
        sample = make.training(BOTH, rng(seed))
        names = ("image_left", "image_right", "view_left", "view_right")
        flips.add(tuple(disc_side(sample[name]) for name in names))
    assert len(flips) == 16


def test_a_missing_eye_has_no_view():
    still = dataclasses.replace(MIRRORED, flip="none")
    make = maker("patient_views", augment=still)
    sample = make.training(dataclasses.replace(BOTH, left=b""), rng())
    assert not sample["image_left"].any()
    assert not sample["view_left"].any()
    assert sample["view_right"].any()


def test_a_single_image_is_mirrored_with_its_caption():
    record = image(disc_at("left"), "drusen of the left eye")
    exchanged = maker("image").training(record, rng())
    assert disc_side(exchanged["image"]) == "right"
    want = unchanged(image(disc_at("right"), "drusen of the right eye"), "image")
    np.testing.assert_array_equal(exchanged["tokens"], want["tokens"])
    assert labels_of(exchanged) == {"drusen"}


def test_a_damaged_eye_counts_as_missing_and_a_patient_without_eyes_is_unusable():
    damaged = dataclasses.replace(BOTH, left=BOTH.left[:60])
    sample = unchanged(damaged)
    assert (bool(sample["has_left"]), bool(sample["has_right"])) == (False, True)
    assert sample[DAMAGED] == ["p/left"]
    with pytest.raises(Unusable):
        maker().training(dataclasses.replace(damaged, right=b"text"), rng())
    with pytest.raises(Unusable):
        maker("image").training(image(b"text"), rng())


def test_labels_are_read_from_the_report_in_either_language():
    both = image(disc_at("left"), "possible drusen, no haemorrhage")
    both = dataclasses.replace(both, caption=both.caption | {"zh": "可疑玻璃膜疣，未见出血"})
    for language in ("en", "zh"):
        sample = maker("image", language=language).training(both, rng())
        assert labels_of(sample) == {"drusen"}
        assert sample["labels"].dtype == np.float32


def test_a_vocabulary_of_ones_own_gives_the_labels(tmp_path):
    extension = tmp_path / "more.yaml"
    extension.write_text(
        "- {id: starry_disc, name: {en: starry disc, zh: 星状视盘},\n"
        "   synonyms: {en: [glittering disc], zh: []}}\n"
    )
    make = maker("image", extend=(str(extension),))
    vocabulary = load_vocabulary(extend=extension)
    labels = make.training(image(disc_at("left"), "glittering disc"), rng())["labels"]
    found = {vocabulary.ids[column] for column in np.flatnonzero(labels)}
    assert found == {"starry_disc"}
    assert len(labels) == len(vocabulary)
    assert make.identity != maker("image").identity


def test_a_report_without_findings_is_unknown_whatever_the_stored_labels_say():
    for caption in ("", "follow-up in six months"):
        assert labels_of(unchanged(image(disc_at("left"), caption), "image")) == set()


def test_expert_pairs_have_no_labels():
    make = get_kind("category").second_maker(CONFIG, LABELS)
    sample = make.training(image(disc_at("left"), "drusen"), rng())
    assert sample.keys() == {"image", "tokens", DAMAGED}


def test_the_prompt_and_the_category_are_drawn_together():
    make = maker("category")
    record = image(disc_at("left"), names=("drusen", "my own class"))
    seen = {}
    for seed in range(30):
        sample = make.training(record, rng(seed))
        seen.setdefault(int(sample["category"]), set()).add(tuple(sample["tokens"].tolist()))
    assert set(seen) == {category_id("drusen"), category_id("my own class")}
    assert len(seen[category_id("my own class")]) == 1  # nothing known but its name
    assert len(seen[category_id("drusen")]) > 1  # its name or a description
    # Beside a caption it is the source's own text, which no description replaces.
    original = image(disc_at("left"), "a few drusen", ("drusen",))
    assert len({str(make.training(original, rng(seed))["tokens"]) for seed in range(30)}) == 1
    # Without categories the names of the labels serve.
    assert make.training(image(disc_at("left")), rng())["category"] == category_id("drusen")


def test_language_falls_back_to_the_one_that_exists():
    both, only = {"en": "a", "zh": "b"}, {"en": "a", "zh": ""}
    assert choose_text(both, "zh") == "b"
    assert choose_text(only, "zh") == "a"
    assert choose_text({"en": "", "zh": ""}, "zh") == ""
    assert choose_text(both, "mixed") == "a"
    assert {choose_text(both, "mixed", rng(seed)) for seed in range(20)} == {"a", "b"}
    assert {choose_text(only, "mixed", rng(seed)) for seed in range(20)} == {"a"}
