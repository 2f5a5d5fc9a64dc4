"""A built dataset is read by index, and what is not built or not there is said."""

import dataclasses
import pickle

import numpy as np
import pytest
import tensorflow_datasets as tfds

from retfm_jax.data.records import ImageRecord, PatientRecord, image_example
from retfm_jax.data.sources import (
    as_images,
    balanced,
    eye_record,
    open_dataset,
    with_category,
)
from retfm_jax.errors import UserError


def test_records_come_back_as_they_were_stored(data_dir, make_jpeg):
    source = open_dataset("pairs", "train", str(data_dir))
    assert (source.name, source.kind, len(source)) == ("pairs", "patient", 23)
    assert source.label_names == ("normal", "drusen", "hard_exudates")
    record = source[4]
    assert isinstance(record, PatientRecord)
    assert (record.record_id, record.left, record.right) == ("p4", make_jpeg(8), b"")
    assert record.report["en"] == "Left eye: drusen 4. Right eye: normal."
    assert record.left_labels.tolist() == [0, 1, 0]
    assert record.right_labels.tolist() == [-1, -1, -1]
    assert [record.record_id for record in source] == [f"p{number}" for number in range(23)]


@pytest.mark.parametrize("name", ["pairs", "captions"])
def test_tfds_reads_the_same(data_dir, name):
    source = open_dataset(name, "train", str(data_dir))
    skipped = {key: tfds.decode.SkipDecoding() for key in ("left", "right", "image")}
    folder = data_dir / name / "1.0.0"
    features = tfds.builder_from_directory(folder).info.features
    decoders = {key: skip for key, skip in skipped.items() if key in features}
    theirs = tfds.builder_from_directory(folder).as_data_source("train", decoders=decoders)
    assert len(source) == len(theirs) > 0
    for record, example in zip(source, theirs, strict=True):
        for field in dataclasses.fields(record):
            found = getattr(record, field.name)
            if field.name not in example:  # a set that names no cases
                assert found == field.default == ""
                continue
            wanted = example[field.name]
            if field.name.endswith("labels"):
                assert (found != -1).all() == wanted["known"]
                assert set(np.flatnonzero(found > 0)) == set(wanted["present"])
            elif isinstance(found, dict):
                assert found == {key: text.decode() for key, text in wanted.items()}
            elif isinstance(found, tuple):
                assert found == tuple(text.decode() for text in wanted)
            else:
                assert found == (wanted if isinstance(found, bytes) else wanted.decode())


def test_a_source_travels_to_another_process(data_dir):
    source = open_dataset("pairs", "train", str(data_dir))
    first = source[3]
    assert pickle.loads(pickle.dumps(source))[3].record_id == first.record_id


def test_subsplits_and_folders(data_dir):
    part = open_dataset(str(data_dir / "pairs" / "1.0.0"), "train[10:]", "elsewhere")
    assert len(part) == 13
    assert part[0].record_id == "p10"
    whole = open_dataset("pairs/1.0.0", "train", str(data_dir))
    assert part.identity != whole.identity


def test_the_newest_version_is_read_and_configurations_are_asked_for(tmp_path, make_dataset):
    folder = make_dataset(tmp_path, "one", {"train": []}, kind="image")
    (tmp_path / "one" / "10.0.0").mkdir()
    for file in folder.iterdir():
        text = file.read_bytes().replace(b'"1.0.0"', b'"10.0.0"')
        (tmp_path / "one" / "10.0.0" / file.name).write_bytes(text)
    assert open_dataset("one", "train", str(tmp_path)).identity["dataset"] == "one/10.0.0"
    for config in ("a", "b"):
        (tmp_path / "many" / config / "1.0.0").mkdir(parents=True)
        (tmp_path / "many" / config / "1.0.0" / "dataset_info.json").write_text("{}")
    with pytest.raises(UserError, match=r"several configurations: name one of many/a, many/b"):
        open_dataset("many", "train", str(tmp_path))
    with pytest.raises(UserError, match="cannot be read"):
        open_dataset("many/a", "train", str(tmp_path))


def test_what_is_not_there_is_said(data_dir):
    with pytest.raises(
        UserError, match=r"'pears' is not built .*captions, pairs.*retfm data build"
    ):
        open_dataset("pears", "train", str(data_dir))
    with pytest.raises(UserError, match=r"no split 'test'; it has train, validation"):
        open_dataset("pairs", "test", str(data_dir))


def test_an_eye_has_only_text_that_speaks_of_it(data_dir):
    source = open_dataset("pairs", "train", str(data_dir))
    by_eye = eye_record(source[2], "right")
    assert (by_eye.record_id, by_eye.patient_id) == ("p2/right", "p2")
    # Its own text where there is one; no report that names both sides.
    assert by_eye.caption == {"en": "normal", "zh": ""}
    assert by_eye.labels.tolist() == [1, 0, 0]
    # A report that names no side speaks of each eye.
    assert eye_record(source[3], "left").caption["en"] == "Drusen in both eyes 3."


def test_patients_as_single_images(data_dir):
    source = open_dataset("pairs", "train", str(data_dir))
    eyes = as_images(source, "image")
    assert eyes.kind == "image"
    assert len(eyes) == 23 + 23 - 4  # four patients have no right eye
    assert all(isinstance(eye, ImageRecord) and eye.image for eye in eyes)
    captioned = as_images(source, "caption")
    assert all(any(eye.caption.values()) for eye in captioned)
    assert eyes.identity != captioned.identity
    labeled = as_images(source, "category")
    assert {name for eye in labeled for name in eye.shows(eyes.label_names)} == {
        "drusen",
        "normal",
    }
    images = open_dataset("captions", "train", str(data_dir))
    assert as_images(images) is images


def test_single_images_without_a_text_are_left_out_where_one_is_required(tmp_path, make_dataset):
    def write(name, captions):
        examples = [
            image_example(f"{name}{number}", image=b"bytes", caption={"en": caption})
            for number, caption in enumerate(captions)
        ]
        make_dataset(tmp_path, name, {"train": examples}, "image")
        return open_dataset(name, "train", str(tmp_path))

    some = as_images(write("some", ["drusen", "", "normal"]), "caption")
    assert [record.record_id for record in some] == ["some0", "some2"]
    with pytest.raises(UserError, match="no image of none, split train, has a text"):
        as_images(write("none", ["", ""]), "caption")


def test_banned_categories_leave_the_training(data_dir):
    source = open_dataset("captions", "train", str(data_dir))
    kept = with_category(source, ["drusen"])
    assert [record.record_id for record in kept] == [f"i{n}" for n in range(11) if n % 3 != 1]
    assert kept.identity != with_category(source).identity
    with pytest.raises(UserError, match="has a category beside the banned ones"):
        with_category(source, source.label_names)
    assert np.all([record.categories for record in kept])


def test_a_category_that_is_banned_in_vain_is_named(data_dir):
    source = open_dataset("captions", "train", str(data_dir))
    with pytest.raises(UserError, match=r"banned_categories: .* 'druzen'; did you mean 'drusen'"):
        with_category(source, banned=["druzen"])


def test_balanced_sets_take_turns(tmp_path, make_dataset, make_jpeg):
    sizes = {"ONE": 5, "TWO": 2, "THREE": 1}
    examples = [
        image_example(f"{name}/{number}.jpg", image=make_jpeg(number), categories=["normal"])
        for name, size in sizes.items()
        for number in range(size)
    ]
    make_dataset(tmp_path, "sets", {"train": examples}, "image")
    source = open_dataset("sets", "train", str(tmp_path))
    turns = [record.record_id for record in balanced(source)]
    assert {name: sum(turn.startswith(name) for turn in turns) for name in sizes} == {
        "ONE": 5, "TWO": 5, "THREE": 5,
    }  # fmt: skip
    assert all(len({turn.split("/")[0] for turn in turns[k : k + 3]}) == 3 for k in (0, 3, 12))
    assert set(turns) == {record.record_id for record in source}
    assert balanced(source).identity != source.identity


def test_eyes_of_patients_are_no_sets(data_dir):
    with pytest.raises(UserError, match=r"balance_sets: the records of pairs belong to no sets"):
        balanced(as_images(open_dataset("pairs", "train", str(data_dir))))
