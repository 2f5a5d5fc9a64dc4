"""Drawn patients: deterministic, anatomically right, and truthfully reported."""

import dataclasses
import re
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from retfm_jax.config import DataConfig
from retfm_jax.data.segmented import open_segmented, truth_of
from retfm_jax.data.sources import open_dataset
from retfm_jax.data_builders.synthetic_fundus.canvas import Canvas
from retfm_jax.data_builders.synthetic_fundus.drawing import (
    LESIONS,
    STRUCTURES,
    anatomy_of,
    draw_eye,
    places_of,
    structures_of,
)
from retfm_jax.data_builders.synthetic_fundus.patients import draw_examples
from retfm_jax.data_builders.synthetic_fundus.population import (
    LABELS,
    POPULATIONS,
    Eye,
    Finding,
    Look,
    Population,
    draw_patient,
)
from retfm_jax.data_builders.synthetic_fundus.reports import write_reports
from retfm_jax.data_builders.synthetic_fundus.synthetic_fundus_dataset_builder import (
    Builder,
    SyntheticFundusConfig,
    build,
)
from retfm_jax.errors import UserError

CLINIC = POPULATIONS["clinic"]
LOOK = Look(pigment=0.4, gains=(1.0, 1.0, 1.0), vignette=0.2, cut=0.0)
VARIANTS = {
    "neovascularisation": ("disc", "elsewhere"),
    "retinal_haemorrhage": ("blot", "flame"),
    "hard_exudates": ("circinate", "scattered"),
}
FORMS = [(name, variant) for name in LABELS[1:] for variant in VARIANTS.get(name, ("",))]


def eye_with(findings: dict[str, Finding], side: str = "right", seed: int = 7) -> Eye:
    cup_ratio = 0.82 if "large_cup" in findings else 0.35
    return Eye(side, cup_ratio, findings, exposure=1.0, seed=seed)


def patients(count: int, population: Population = CLINIC) -> list:
    return [draw_patient(population, 3, "train", number) for number in range(count)]


def change(name: str, variant: str, size: int, seed: int) -> np.ndarray:
    """How a finding changes the pixels of an otherwise equal eye, per channel."""
    without = draw_eye(eye_with({}, seed=seed), LOOK, size).astype(np.float32)
    finding = Finding(0.5, variant)
    return draw_eye(eye_with({name: finding}, seed=seed), LOOK, size) - without


# ---- the population ------------------------------------------------------------------------------


def test_a_patient_depends_on_seed_split_and_number_only():
    alone = draw_patient(CLINIC, 5, "train", 17)
    assert alone == [draw_patient(CLINIC, 5, "train", number) for number in range(20)][17]
    others = [(6, "train", 17), (5, "validation", 17), (5, "train", 18)]
    assert all(draw_patient(CLINIC, *other) != alone for other in others)


def test_normal_is_the_absence_of_everything_else():
    for patient in patients(200):
        for labels in (patient.labels, *(eye.labels for eye in patient.eyes)):
            assert ("normal" in labels) == (len(labels) == 1 and labels[0] == "normal")
        union = {name for eye in patient.eyes for name in eye.labels}
        assert set(patient.labels) == (union - {"normal"} or {"normal"})


def test_prevalences():
    eyes = [eye for patient in patients(3000) for eye in patient.eyes]
    for name in LABELS[1:]:
        assert 0.08 < np.mean([name in eye.findings for eye in eyes]) < 0.21, name
    one_eyed = np.mean([len(patient.eyes) == 1 for patient in patients(3000)])
    assert one_eyed == pytest.approx(CLINIC.one_eyed, abs=0.02)


def test_repetitive_patients_are_mostly_normal_and_share_labels():
    clinic = {patient.labels for patient in patients(1000)}
    repetitive = [patient.labels for patient in patients(1000, POPULATIONS["repetitive"])]
    assert np.mean([labels == ("normal",) for labels in repetitive]) > 0.6
    assert len(set(repetitive)) < len(clinic) / 2


def test_eyes_of_a_patient_are_alike_but_not_copies():
    pairs = [patient.eyes for patient in patients(1000) if len(patient.eyes) == 2]
    for name in LABELS[1:]:
        right, left = np.array([[name in eye.findings for eye in pair] for pair in pairs]).T
        assert np.corrcoef(right, left)[0, 1] > 0.2, name
        assert (right != left).any(), name


# ---- the picture ---------------------------------------------------------------------------------


def test_a_left_eye_is_the_mirror_image_of_a_right_one():
    findings = {name: Finding(0.5, variant) for name, variant in FORMS}
    right = draw_eye(eye_with(findings, "right"), LOOK, 64)
    left = draw_eye(eye_with(findings, "left"), LOOK, 64)
    np.testing.assert_array_equal(left, right[:, ::-1])


@pytest.mark.parametrize(("side", "nasal"), [("left", 0), ("right", 1)])
def test_the_disc_is_on_the_nasal_side(side, nasal):
    for patient in patients(20):
        eye = dataclasses.replace(patient.eyes[0], side=side, findings={})
        picture = draw_eye(eye, patient.look, 96)
        bright = cv2.GaussianBlur(picture[..., 1], (0, 0), 3)
        column = np.unravel_index(bright.argmax(), bright.shape)[1]
        assert (column > 48) == bool(nasal)


def test_black_outside_the_field_of_view_and_where_it_is_cut():
    canvas = Canvas(96)
    look = dataclasses.replace(LOOK, cut=0.15)
    for name, variant in FORMS:
        picture = draw_eye(eye_with({name: Finding(1.0, variant)}), look, 96)
        assert not picture[np.hypot(canvas.x, canvas.y) > 1].any()
        assert not picture[np.abs(canvas.y) > 0.86].any()
    assert picture[np.hypot(canvas.x, canvas.y) < 0.8].min(-1).all()


def test_the_same_picture_at_every_size():
    for patient in patients(6):
        eye = patient.eyes[0]
        # A lesion's least size in pixels is the one thing that depends on the picture's size.
        eye = dataclasses.replace(eye, findings={"large_cup": Finding(0.5)})
        small = draw_eye(eye, patient.look, 64).astype(float)
        large = draw_eye(eye, patient.look, 256)
        large = cv2.resize(large, (64, 64), interpolation=cv2.INTER_AREA).astype(float)
        assert np.abs(large - small).mean() < 3


@pytest.mark.parametrize(("name", "variant"), FORMS)
@pytest.mark.parametrize("size", [64, 256])
def test_a_finding_is_seen_at_every_size(name, variant, size):
    assert np.abs(change(name, variant, size, seed=7)).max() > 35


RED = ["microaneurysms", "retinal_haemorrhage", "neovascularisation"]
PALE = ["hard_exudates", "cotton_wool_spots", "drusen", "large_cup", "peripapillary_atrophy"]


@pytest.mark.parametrize(("name", "variant"), [form for form in FORMS if form[0] in RED + PALE])
def test_blood_darkens_the_green_channel_and_deposits_brighten_it(name, variant):
    for seed in range(5):
        green = change(name, variant, 128, seed)[..., 1]
        assert np.sign(green.sum()) == (-1 if name in RED else 1)
        assert abs(green.sum()) > 0.6 * np.abs(green).sum()


@pytest.mark.parametrize(
    ("name", "variant", "center", "reach"),
    [
        ("microaneurysms", "", "fovea", 0.68),
        ("hard_exudates", "circinate", "fovea", 0.6),
        ("hard_exudates", "scattered", "fovea", 0.65),
        ("drusen", "", "fovea", 0.8),
        ("neovascularisation", "disc", "disc", 0.75),
        ("large_cup", "", "disc", 0.2),
        ("peripapillary_atrophy", "", "disc", 0.5),
    ],
)
def test_a_finding_stays_where_it_occurs(name, variant, center, reach):
    canvas = Canvas(128)
    for seed in range(5):
        position = getattr(anatomy_of(eye_with({}, seed=seed)), center)
        touched = np.abs(change(name, variant, 128, seed)).max(-1) > 8
        assert touched.any()
        assert canvas.distance(position)[touched].max() < reach


def test_the_crescent_of_atrophy_is_temporal():
    canvas = Canvas(128)
    for seed in range(5):
        disc = anatomy_of(eye_with({}, seed=seed)).disc
        brighter = change("peripapillary_atrophy", "", 128, seed)[..., 2] > 30
        assert np.mean(canvas.x[brighter] < disc[0]) > 0.9


def test_laser_spares_the_macula():
    canvas = Canvas(128)
    for seed in range(5):
        touched = np.abs(change("laser_scars", "", 128, seed)).max(-1) > 8
        fovea = anatomy_of(eye_with({}, seed=seed)).fovea
        assert not touched[canvas.distance(fovea) < 0.35].any()


def test_tessellation_covers_the_fundus():
    canvas = Canvas(128)
    touched = np.abs(change("tessellation", "", 128, 7)).max(-1) > 8
    assert touched[np.hypot(canvas.x, canvas.y) < 0.95].mean() > 0.6


def test_hazy_media_take_detail_away():
    clear = draw_eye(eye_with({}), LOOK, 128)[32:96, 32:96]
    hazy = draw_eye(eye_with({"hazy_media": Finding(0.0)}), LOOK, 128)[32:96, 32:96]
    detail = [cv2.Laplacian(picture, cv2.CV_32F).std() for picture in (clear, hazy)]
    assert detail[1] < detail[0] / 4


# ---- the report ----------------------------------------------------------------------------------

SAID = {
    "en": {
        "microaneurysms": r"micro-?aneu",
        "retinal_haemorrhage": r"ha?emorr",
        "hard_exudates": r"hard exudate",
        "cotton_wool_spots": r"cotton[- ]wool",
        "neovascularisation": r"neovascular|new vess?els",
        "drusen": r"drusen",
        "large_cup": r"large (optic )?cup|enlarged",
        "tessellation": r"tessellat",
        "peripapillary_atrophy": r"peripapillary|PPA",
        "hazy_media": r"hazy|opacity",
        "laser_scars": r"laser",
    },
    "zh": {
        "microaneurysms": r"微血管瘤|微动脉瘤",
        "retinal_haemorrhage": r"出血",
        "hard_exudates": r"硬性?[渗滲]",
        "cotton_wool_spots": r"棉[絮绒]斑",
        "neovascularisation": r"新生血管",
        "drusen": r"玻璃?膜疣",
        "large_cup": r"大视杯|视杯扩大|增大|杯盘比大",
        "tessellation": r"豹纹",
        "peripapillary_atrophy": r"萎缩",
        "hazy_media": r"屈光",
        "laser_scars": r"激光",
    },
}
CLAUSE = {"en": r"[,;.:\n]| - |  ", "zh": r"[，；。：,;:.\n ]"}
DENIED = {"en": r"^\s*(no|without)\b", "zh": r"^(?:右眼|左眼|双眼)?(未|无)"}
NORMAL = {"en": r"no[mr]?[mn]al|abno|unremarkable|healthy", "zh": r"正常|异常"}


def affirmed(text: str, language: str) -> set[str]:
    """The findings that a text affirms, clause by clause."""
    clauses = re.split(CLAUSE[language], text)
    positive = [clause for clause in clauses if not re.search(DENIED[language], clause, re.I)]
    return {
        name
        for name, pattern in SAID[language].items()
        if any(re.search(pattern, clause) for clause in positive)
    }


@pytest.mark.parametrize("language", ["en", "zh"])
def test_every_finding_is_stated_and_no_absent_one_affirmed(language):
    for patient in patients(1500):
        reports = write_reports(patient)
        text = reports.whole[language]
        assert affirmed(text, language) == set(patient.labels) - {"normal"}, text
        for eye in patient.eyes:
            part = getattr(reports, eye.side)[language]
            assert affirmed(part, language) == set(eye.findings), part
            if not eye.findings:
                assert re.search(NORMAL[language], part), part


HEADINGS = {
    "en": (r"OD: |right eye: |right eye - ", r"OS: |left eye: |left eye - "),
    "zh": (r"(?:OD|右眼)[:：]?", r"(?:OS|左眼)[:：]?"),
}


@pytest.mark.parametrize("language", ["en", "zh"])
def test_each_eye_is_reported_under_its_own_heading(language):
    both = 0
    for patient in patients(400):
        reports = write_reports(patient)
        text = reports.whole[language]
        parts = (reports.right[language], reports.left[language])
        headings = [re.search(pattern, text, re.I) for pattern in HEADINGS[language]]
        if not all(parts) or not all(headings) or not all(part in text for part in parts):
            continue  # one eye, or both in one sentence
        both += 1
        for part, heading in zip(parts, headings, strict=True):
            assert text[heading.end() :].startswith(part), text
    assert both > 100


def test_reports_are_varied_and_short():
    texts = [write_reports(patient).whole for patient in patients(500)]
    assert len({text["en"] for text in texts}) > 400
    assert len({text["zh"] for text in texts}) > 400
    assert np.median([len(text["en"].split()) for text in texts]) < 30
    assert np.median([len(text["zh"]) for text in texts]) < 60


def test_nothing_is_reported_of_a_missing_eye():
    seen = 0
    for patient in patients(300):
        if len(patient.eyes) == 2:
            continue
        seen += 1
        reports = write_reports(patient)
        missing = "left" if patient.left is None else "right"
        assert set(getattr(reports, missing).values()) == {""}
        for language in ("en", "zh"):
            assert not re.search(r"(?i:both eyes)|\bOU\b|双眼", reports.whole[language])
    assert seen > 5


# ---- the dataset ---------------------------------------------------------------------------------


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.array_record*")}


def test_the_number_of_processes_changes_nothing(tmp_path):
    settings = {"patients": 50, "image_size": 32, "seed": 4}
    one = build(tmp_path / "one", processes=1, **settings)
    two = build(tmp_path / "two", processes=2, **settings)
    assert len(files_of(one)) == 3
    assert files_of(one) == files_of(two)


def test_a_built_dataset_reads_back_as_it_was_drawn(tmp_path):
    config = SyntheticFundusConfig(train=8, validation=1, test=1, image_size=48, one_eyed=0.5)
    builder = Builder(data_dir=str(tmp_path), config=config, processes=1)
    builder.download_and_prepare()
    source = open_dataset(str(builder.data_dir), "train", "")
    assert source.label_names == LABELS
    records = {record.record_id: record for record in source}
    task = (config.drawn_population(), config.seed, config.image_size, "train", range(8))
    missing = 0
    for drawn in draw_examples(task):
        record = records.pop(drawn["record_id"])
        assert record.report == drawn["report"]
        assert {LABELS[i] for i in np.flatnonzero(record.labels)} == set(drawn["labels"])
        for side in ("left", "right"):
            photograph, labels = getattr(record, side), getattr(record, f"{side}_labels")
            assert photograph == (drawn[side] or b"")
            if photograph:
                picture = cv2.imdecode(np.frombuffer(photograph, np.uint8), cv2.IMREAD_COLOR)
                assert picture.shape == (48, 48, 3)
                assert {LABELS[i] for i in np.flatnonzero(labels)} == set(drawn[f"{side}_labels"])
            else:
                missing += 1
                assert (labels == -1).all()
    assert not records
    assert missing
    assert "tensorflow" not in sys.modules


def test_settings_name_the_dataset():
    names = {
        SyntheticFundusConfig(**settings).name
        for settings in (
            {},
            {"seed": 1},
            {"image_size": 96},
            {"train": 8},
            {"population": "repetitive"},
            {"one_eyed": 0.0},
            {"rates": {"glaucoma": 0.5}},
        )
    }
    assert len(names) == 7


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"population": "ward"}, "population 'ward' is unknown; use one of clinic, repetitive"),
        ({"rates": {"gout": 0.1}}, "no disease 'gout'"),
        ({"image_size": 4}, "image_size is 4"),
        ({"train": 0}, "needs at least one patient"),
        ({"one_eyed": 1.5}, "one_eyed is 1.5"),
        ({"rates": {"glaucoma": 2}}, "glaucoma is 2"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(UserError, match=re.escape(message)):
        SyntheticFundusConfig(**settings)


def test_too_few_patients_are_refused(tmp_path):
    with pytest.raises(UserError, match="three splits"):
        build(tmp_path, patients=2)


@pytest.mark.parametrize(("name", "variant"), FORMS)
def test_a_finding_changes_the_picture_where_it_is_said_to_be(name, variant):
    if name in ("large_cup", "hazy_media"):  # a form of what is there anyway; all over the field
        return
    for side in ("right", "left"):
        eye = eye_with({name: Finding(0.8, variant)}, side)
        (place,) = places_of(eye, LOOK, 96).values()
        without = draw_eye(eye_with({}, side), LOOK, 96).astype(int)
        changed = np.abs(draw_eye(eye, LOOK, 96).astype(int) - without).max(2)
        assert 0 < place.mean() < 0.75
        assert changed[place].mean() > 10 * max(changed[~place].mean(), 0.1) or name in _WIDE
        assert changed[place].mean() > 2 * changed[~place].mean()


#: Their edge is soft or their pattern has gaps.
_WIDE = ("tessellation", "neovascularisation", "peripapillary_atrophy", "cotton_wool_spots")


def test_the_places_of_a_cup_and_of_haze_are_the_disc_and_the_field():
    eye = eye_with({"large_cup": Finding(0.5), "hazy_media": Finding(0.5)}, "left")
    places = places_of(eye, LOOK, 96)
    column = np.nonzero(places["large_cup"])[1].mean() / 96
    assert column == pytest.approx(0.5 - 0.48 * anatomy_of(eye).disc[0], abs=0.02)
    assert places["hazy_media"].mean() == pytest.approx(np.pi * 0.48**2, abs=0.02)


# ---- masks ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("structure", LESIONS)
def test_a_lesion_is_where_its_mask_is(structure, side):
    name = LESIONS[structure]
    findings = {name: Finding(0.6, VARIANTS.get(name, ("",))[0])}
    with_it, without = eye_with(findings, side), eye_with({}, side)
    drawn, _ = structures_of(with_it, LOOK, 128)
    changed = np.abs(draw_eye(with_it, LOOK, 128).astype(int) - draw_eye(without, LOOK, 128))
    inside = changed.max(-1)[drawn[structure] == 1]
    assert np.median(inside) > 25
    assert changed.max(-1)[cv2.dilate(drawn[structure], np.ones((5, 5))) == 0].max() < 25
    others = [mask.any() for each, mask in drawn.items() if each in LESIONS and each != structure]
    assert not any(others)


@pytest.mark.parametrize("side", ["left", "right"])
def test_vessels_are_darker_than_what_lies_beside_and_the_disc_holds_the_cup(side):
    eye = eye_with({}, side)
    drawn, field = structures_of(eye, LOOK, 192)
    gray = draw_eye(eye, LOOK, 192)[..., 1].astype(float)
    away = (drawn["optic_disc"] == 0) & (cv2.erode(field, np.ones((5, 5))) == 1)
    vessels = drawn["vessels"] == 1
    beside = (cv2.dilate(drawn["vessels"], np.ones((7, 7))) == 1) & ~vessels
    assert gray[vessels & away].mean() < 0.85 * gray[beside & away].mean()
    assert drawn["optic_cup"].any()
    assert (drawn["optic_cup"] <= drawn["optic_disc"]).all()
    disc_only = (drawn["optic_disc"] > drawn["optic_cup"]) & ~vessels
    assert gray[(drawn["optic_cup"] == 1) & ~vessels].mean() > gray[disc_only].mean()
    assert (field == (draw_eye(eye, LOOK, 192).max(-1) > 20)).mean() > 0.99
    assert list(drawn) == list(STRUCTURES)


def test_eyes_with_masks_have_the_photographs_of_the_patients(tmp_path):
    sizes = {"train": 8, "validation": 2, "test": 2, "image_size": 64, "processes": 1}
    plain, masked = build(tmp_path, **sizes), build(tmp_path, masks=True, **sizes)
    assert masked.parent.name == f"{plain.parent.name}_masks"
    eyes = {}
    for patient in open_dataset(str(plain), "train", tmp_path):
        eyes |= {f"{patient.record_id}/left": patient.left}
        eyes |= {f"{patient.record_id}/right": patient.right}
    eyes = {name: data for name, data in eyes.items() if data}
    data = open_segmented(DataConfig(dataset=str(masked)), ("train", "validation", "test"))
    assert data.structures == STRUCTURES
    source = data.sources["train"]
    assert {record.record_id: record.image for record in source} == eyes
    assert source.patients_known
    truth = truth_of(source[0])
    assert truth.masks[..., :3].any((0, 1)).all()
    assert truth.field.mean() > 0.6
    alone = open_segmented(DataConfig(dataset=str(masked), classes=("optic_disc",)))
    assert alone.sources["train"][0].masks == (source[0].masks[1],)
