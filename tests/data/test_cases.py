"""The images that one report speaks of are a case, and make one sample."""

import dataclasses
import json
import pickle
from collections import Counter

import numpy as np
import pytest

from retfm_jax.config import AugmentConfig, DataConfig, ImageConfig, TextConfig
from retfm_jax.data import case_keys, records
from retfm_jax.data.building.builder import BuildOptions
from retfm_jax.data.building.validation import ProblemLog
from retfm_jax.data.cases import _Each, as_cases
from retfm_jax.data.device_augment import prepare
from retfm_jax.data.importing.importers import import_rows
from retfm_jax.data.importing.manifest import read_manifest
from retfm_jax.data.kinds import get_kind
from retfm_jax.data.samples import DAMAGED, Unusable
from retfm_jax.data.sources import open_dataset
from retfm_jax.errors import UserError

QUIET = AugmentConfig(crop_area=(1.0, 1.0), flip="none", erasing_probability=0.0)
TEXT = TextConfig(context_length=8, words=(".", "<unk>", "eye", "leakage", "left", "right"))
CONFIG = DataConfig(image=ImageConfig(32), text=TEXT, augment=QUIET, language="en", case_images=3)


@pytest.fixture
def source(tmp_path, make_dataset, make_jpeg):
    """Patients a and b: a has two reports, and one image without any; b's first image is broken."""

    def image(number, patient, report, data=None):
        return records.image_example(
            f"i{number}", image=data or make_jpeg(number), patient_id=patient, caption=report
        )

    said = {"en": "Leakage of the left eye."}
    rows = [
        image(0, "a", said),
        image(1, "b", said, make_jpeg(1)[:400]),
        image(2, "a", {"en": "right eye"}),
        image(3, "a", said),
        image(4, "a", {"en": " "}),
        *(image(number, "b", said) for number in range(5, 9)),
    ]
    folder = make_dataset(tmp_path, "cases", {"train": rows}, kind="image")
    return open_dataset(str(folder), "train", tmp_path)


def test_images_of_a_patient_with_one_report_are_a_case(source, capsys):
    cases = as_cases(source)
    assert [tuple(case.names) for case in cases] == [
        ("i0", "i3"), ("i1", "i5", "i6", "i7", "i8"), ("i2",)
    ]  # fmt: skip
    assert [case.patient_id for case in cases] == ["a", "b", "a"]
    assert cases[0].report["en"] == "Leakage of the left eye."
    assert "1 of 9 images have no report" in capsys.readouterr().out
    other = as_cases(source.at(np.array([0, 2]), "two"))
    assert cases.identity != other.identity
    assert cases.identity == pickle.loads(pickle.dumps(cases)).identity


def test_the_eyes_of_a_patient_are_a_case(data_dir):
    cases = as_cases(open_dataset("pairs", "train", data_dir))
    assert len(cases) == 23
    assert cases[0].names == ("p0/left", "p0/right")
    assert cases[4].names == ("p4/left", "p4/right")
    assert [bool(image) for image in cases[4].images] == [True, False]


def test_cases_have_the_names_that_their_source_gives(tmp_path, make_jpeg):
    root = tmp_path / "images"
    root.mkdir()
    for number in range(9):
        (root / f"{number}.png").write_bytes(make_jpeg(number))
    (root / "12.png").write_bytes(make_jpeg(12))
    (root / "5.png").write_bytes(b"no image")
    same = "Normal fundus."
    rows = [
        {"patient_id": "p", "case_id": "1", "images": ["0.png", "1.png"], "caption": same},
        {"patient_id": "p", "case_id": "2", "images": "12.png; 2.png;3.png", "caption": same},
        {"patient_id": "q", "case_id": "1", "images": ["4.png"], "caption_zh": "正常"},
        {"patient_id": "q", "case_id": "1", "images": ["6.png"]},
        {"patient_id": "r", "images": ["5.png"], "case_id": "lost", "caption": same},
        {"images": ["7.png", "8.png"], "caption": same},
        {"patient_id": "s", "case_id": "silent", "images": ["9.png", "10.png"]},
        {"patient_id": "t", "case_id": "none", "caption": same},
    ]
    table = tmp_path / "m.jsonl"
    table.write_text("\n".join(map(json.dumps, rows)))
    problems = ProblemLog()
    found, _ = read_manifest(table, root, problems)
    options = BuildOptions(shares={"train": 1.0, "validation": 0.0, "test": 0.0}, threads=1)
    folder = import_rows(found, problems, "own", tmp_path, options)
    source = open_dataset(str(folder), "train", tmp_path)
    cases = as_cases(source)
    assert {case.record_id: [*case.names] for case in cases} == {
        "p/1": ["0.png", "1.png"], "p/2": ["2.png", "3.png", "12.png"], "q/1": ["4.png", "6.png"],
        "7.png": ["7.png", "8.png"],
    }  # fmt: skip
    assert {case.record_id: case.patient_id for case in cases}["7.png"] == "7.png"
    said = Counter(problem.kind for problem in problems.problems)
    assert said == {"empty_report": 1, "unreadable_row": 1, "broken_image": 1}
    assert any(each.what == "no image" for each in problems.problems)
    assert any(note.startswith("1 of 5 cases have no readable image") for note in problems.notes)
    # The index says what the records say, of the split and of a part of it.
    (folder / case_keys.FILE).rename(tmp_path / "kept.npz")
    again = as_cases(open_dataset(str(folder), "train", tmp_path))
    assert again.identity == cases.identity
    (tmp_path / "kept.npz").rename(folder / case_keys.FILE)
    part = open_dataset(str(folder), "train[25%:]", tmp_path)
    assert part.case_keys[:, :2].tobytes() == b"".join(map(case_keys.key_of, part))


def test_a_case_is_opened_without_reading_its_images(source, monkeypatch):
    read = []
    take = type(source).__getitem__
    monkeypatch.setattr(
        type(source), "__getitem__", lambda self, index: read.append(index) or take(self, index)
    )
    keys = case_keys.table((case_keys.key_of(record), record.record_id) for record in source)
    monkeypatch.setattr(type(source), "case_keys", property(lambda self: keys))
    read.clear()
    cases = as_cases(source)
    assert read == []
    with monkeypatch.context() as patched:
        # The checks of types take one of each.
        taken = {"image": b"", "record_id": ""}
        patched.setattr(_Each, "__getitem__", lambda self, index: taken[self._attribute])
        assert [case.report["en"] for case in cases][2] == "right eye"
    assert read == [0, 1, 2]


def test_a_dataset_without_reports_is_refused(tmp_path, make_dataset, make_jpeg):
    rows = [records.image_example("i", image=make_jpeg(0))]
    folder = make_dataset(tmp_path, "silent", {"train": rows}, kind="image")
    with pytest.raises(UserError, match="no record of silent, split train, has a report"):
        as_cases(open_dataset(str(folder), "train", tmp_path))


def test_an_image_stands_at_its_own_place_in_a_sample(source):
    make, cases = get_kind("case").maker(CONFIG, ()), as_cases(source)
    sample = make.training(cases[0], np.random.default_rng(0))
    assert sample["has_image"].tolist() == [True, True, False]
    assert sample["image"].shape == (3, 32, 32, 3)
    assert sample["image"][0].any()
    assert not sample["image"][2].any()
    assert sample["tokens"].tolist() == [0, 4, 2, 2, 5, 3, 1, 0]
    assert sample[DAMAGED] == []


def test_of_many_images_a_sample_has_random_ones_in_their_order(source):
    make, case = get_kind("case").maker(CONFIG, ()), as_cases(source)[1]
    whole = {}
    one = get_kind("case").maker(dataclasses.replace(CONFIG, case_images=5), ())
    sample = one.training(case, np.random.default_rng(0))
    assert sample["has_image"].tolist() == [False] + [True] * 4
    assert sample[DAMAGED] == ["i1"]
    for place in range(1, 5):
        whole[sample["image"][place].tobytes()] = place
    seen = set()
    for seed in range(12):
        sample = make.training(case, np.random.default_rng(seed))
        places = [whole[pixels.tobytes()] for pixels in sample["image"]]
        assert places == sorted(places)
        seen.add(tuple(places))
    assert len(seen) > 1


def test_a_mirrored_case_has_the_other_sides_in_its_report(source):
    flipped = dataclasses.replace(QUIET, flip="exchange", flip_probability=1.0)
    mirrored = get_kind("case").maker(dataclasses.replace(CONFIG, augment=flipped), ())
    plain, case = get_kind("case").maker(CONFIG, ()), as_cases(source)[0]
    ours = mirrored.training(case, np.random.default_rng(0))
    theirs = plain.training(case, np.random.default_rng(0))
    assert ours["tokens"].tolist() == [0, 4, 2, 2, 6, 3, 1, 0]
    np.testing.assert_array_equal(ours["image"][:2, :, ::-1], theirs["image"][:2])


def test_a_missing_eye_keeps_its_place_and_a_mirrored_one_is_the_other(source, make_jpeg):
    case = dataclasses.replace(
        as_cases(source)[0], images=(b"", make_jpeg(3)), names=("left", "right"), eyes=True
    )
    maker = get_kind("case").maker(CONFIG, ())
    sample = maker.training(case, np.random.default_rng(0))
    assert sample["has_image"].tolist() == [False, True, False]
    flipped = dataclasses.replace(QUIET, flip="exchange", flip_probability=1.0)
    mirrored = get_kind("case").maker(dataclasses.replace(CONFIG, augment=flipped), ())
    other = mirrored.training(case, np.random.default_rng(0))
    assert other["has_image"].tolist() == [True, False, False]
    np.testing.assert_array_equal(other["image"][0, :, ::-1], sample["image"][1])
    single = get_kind("case").maker(dataclasses.replace(CONFIG, case_images=1), ())
    assert single.training(case, np.random.default_rng(0))["has_image"].all()


def test_a_case_of_which_no_image_can_be_decoded_is_no_sample(source):
    case = dataclasses.replace(as_cases(source)[0], images=(b"no", b"image"))
    with pytest.raises(Unusable):
        get_kind("case").maker(CONFIG, ()).training(case, np.random.default_rng(0))


def test_images_of_cases_are_normalized_like_single_ones(source):
    sample = (
        get_kind("case").maker(CONFIG, ()).training(as_cases(source)[0], np.random.default_rng(0))
    )
    images = sample["image"][None]
    prepared = prepare({"image": images}, CONFIG.image)["image"]
    alone = prepare({"image": images[0]}, CONFIG.image)["image"]
    np.testing.assert_array_equal(prepared[0], alone)
