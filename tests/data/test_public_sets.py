"""Public sets: each in every layout that is known, with the faults of its release."""

import csv
import re

import pytest
import yaml
from public_releases import CASES, Case
from test_importers import everything

from retfm_jax import cli
from retfm_jax.data import tasks
from retfm_jax.data.building import registry
from retfm_jax.data.building.builder import SUMMARY_FILE, BuildOptions, write_dataset
from retfm_jax.data.building.public_sets import SOURCE_LABELS_FILE
from retfm_jax.data.public_sets import reading
from retfm_jax.data.public_sets.bundled import public_sets
from retfm_jax.data.public_sets.counts import differences
from retfm_jax.data.public_sets.description import parse
from retfm_jax.errors import UserError
from retfm_jax.files import read_json


def shown(case: Case, photograph: reading.Photograph):
    label = public_sets()[case.name].labels[case.label]
    names = reading.labels_of(label, photograph.cells)
    one = names if names is None or label.findings else names[0]
    return photograph.split or "", one


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("above", ["", "archive/x/"])
def test_each_layout_is_read_however_deep_its_archive_nests_it(case, above, tmp_path):
    case.write(tmp_path / above)
    release = reading.read(public_sets()[case.name], tmp_path)
    assert release.layout == case.layout
    # Patterns that begin anywhere begin at the top, others where the release does.
    assert {
        each.relative.removeprefix(above): shown(case, each) for each in release.photographs
    } == case.shows
    assert all(each.found for each in release.photographs)
    assert not release.faults
    assert not release.problems.problems
    told = {each.relative: each.patient for each in release.photographs if each.patient}
    assert told == case.patients


@pytest.mark.parametrize("case", [case for case in CASES if case.task], ids=str)
def test_each_task_reads_its_release_in_place(case, tmp_path):
    task = tasks.described_tasks()[case.task]
    folder = tmp_path / task["folder"]
    case.write(folder)
    found = {}
    for split in ("train", "validation", "test"):
        try:
            source = tasks.open_task(case.task, split, str(tmp_path))
        except UserError as error:
            if "has no split" not in str(error):
                raise
            continue
        assert source.label_names == tuple(task["classes"])
        for record, labels in zip(source, source.labels, strict=True):
            assert (record.labels == labels).all()
            findings = tuple(name for name, hot in zip(task["classes"], labels, strict=True) if hot)
            found[record.record_id] = split, findings
            assert record.patient_id == case.patients.get(record.record_id, record.patient_id)
    wanted = {name: said for name, said in case.shows.items() if said[1] is not None}
    assert set(found) == set(wanted)
    for name, (split, said) in wanted.items():
        assert found[name][1] == (said if isinstance(said, tuple) else (said,))
        assert split in ("", found[name][0])
    splits_of = {}
    for name, patient in case.patients.items():
        if name in found:
            splits_of.setdefault(patient, set()).add(found[name][0])
    assert all(len(splits) == 1 for splits in splits_of.values())


@pytest.mark.parametrize("case", CASES, ids=str)
def test_each_set_is_built_with_its_codes_and_counts(case, tmp_path):
    case.write(tmp_path / "source")
    options = BuildOptions(image_size=0, threads=1)
    builder = registry.builder_class(case.name)(options=options, data_dir=tmp_path / "data")
    folder = write_dataset(builder, tmp_path / "source", overwrite=False)
    summary = read_json(folder / SUMMARY_FILE)
    assert summary["problems"] == {}
    assert sum(summary["records"].values()) == len(case.shows)
    assert case.said in "; ".join(summary["notes"])
    described = public_sets()[case.name]
    assert summary["options"]["shares"] == described.shares
    with (folder / SOURCE_LABELS_FILE).open() as file:
        codes = {row["record_id"]: row for row in csv.DictReader(file)}
    records = everything(folder)
    assert set(codes) == set(records)
    # Splits that the release gives are those of the dataset, and labels are those of its table.
    release = reading.read(described, tmp_path / "source")
    for photograph in release.photographs:
        split, record = records[reading.record_id(described, photograph)]
        assert photograph.split in (None, split)
        _, said = shown(case, photograph)
        names = {described.label_names[column] for column in (record.labels > 0).nonzero()[0]}
        if (record.labels >= 0).any():
            assert {*((said,) if isinstance(said, str) else said)} <= names
        else:  # where one of the set's labels is unknown, all are
            labels = described.labels.values()
            assert None in [reading.labels_of(each, photograph.cells) for each in labels]


def test_eyes_that_pairs_join_are_built_into_one_split(tmp_path):
    (case,) = (case for case in CASES if case.name == "messidor2" and case.layout == "grades")
    case.write(tmp_path / "source")
    builder = registry.builder_class("messidor2")(
        options=BuildOptions(threads=1, shares={"train": 0.4, "validation": 0.3, "test": 0.3}),
        data_dir=tmp_path / "data",
    )
    records = everything(write_dataset(builder, tmp_path / "source", overwrite=False))
    by_patient = {}
    for split, record in records.values():
        by_patient.setdefault(record.patient_id, []).append(split)
    assert sorted(map(len, by_patient.values())) == [2, 2]
    assert all(len(set(splits)) == 1 for splits in by_patient.values())


def test_a_release_of_nothing_known_names_what_each_layout_wants(tmp_path):
    (tmp_path / "train.tar").write_bytes(b"")
    with pytest.raises(UserError) as said:
        reading.read(public_sets()["aptos2019"], tmp_path)
    message = str(said.value)
    assert "holds no release of aptos2019 in a layout that is known" in message
    assert "repack: train_1.csv; kaggle: train.csv; retfound: files" in message
    assert "https://www.kaggle.com/competitions/aptos2019" in message


def test_a_table_that_lacks_a_column_is_refused_and_one_code_is_a_row(tmp_path):
    (case,) = (case for case in CASES if case.name == "g1020")
    folder = tmp_path / "g1020"
    case.write(folder)
    table = folder / "G1020.csv"
    whole = table.read_text()
    table.write_text(whole.replace("binaryLabels", "binaryLabel"))
    with pytest.raises(UserError, match=r"'binaryLabels' \(did you mean it by 'binarylabel'"):
        reading.read(public_sets()["g1020"], folder)
    table.write_text(whole + "image_7.jpg,0\nimage_1.jpg,2\n")
    release = reading.read(public_sets()["g1020"], folder)
    assert [each.found for each in release.photographs] == [True, True, False, True]
    label = public_sets()["g1020"].labels["glaucoma"]
    with pytest.raises(ValueError, match="binaryLabels is '2', none of 0, 1"):
        reading.labels_of(label, release.photographs[3].cells)
    with pytest.raises(UserError, match=r"G1020.csv row 4: .*image_7.jpg does not exist"):
        tasks.open_task("G1020", "train", str(tmp_path))


def test_known_versions_are_named_by_their_number_of_images():
    described = public_sets()["eyepacs"]
    (said,) = differences(described, described.images, {"train": 35126})
    assert said == "eyepacs: 35126 images are here: the training set alone"
    assert differences(described, described.images, {"train": 35126, "test": 53576}) == []
    assert len(differences(described, described.images, {"train": 3})) == 2


def test_every_set_says_its_terms_and_every_layout_has_a_small_release():
    covered = {(case.name, case.layout) for case in CASES}
    for name, described in public_sets().items():
        assert all((described.title, described.source, described.licence, described.url)), name
        assert re.match("https://", described.url), name
        assert {(name, layout.name) for layout in described.layouts} <= covered
        assert abs(sum(described.shares.values()) - 1) < 1e-6


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"title": None}, "`title` is missing"),
        ({"titel": "x"}, "no entry `titel`; did you mean 'title'"),
        ({"modality": "mri"}, "modality 'mri'; there are cfp, ffa, oct"),
        ({"images": "many"}, "images: 'many' is no number"),
        ({"images": {"tset": "1"}}, "'tset' is no split"),
        ({"labels": {"a": {"column": "c"}}}, "label a: give `classes` with a `column`, or"),
        ({"labels": {"a": {"column": "c", "classes": {"x": "1", "y": "1"}}}}, "the code '1'"),
        ({"layouts": {"a": []}}, "layout a: it has no parts"),
        ({"layouts": {"a": [{"files": "("}]}}, "is no regular expression"),
        ({"layouts": {"a": [{"table": "t.csv"}]}}, "a table wants `image`"),
        ({"layouts": {"a": [{"table": "t.csv", "files": "x"}]}}, "a part has `table`"),
        ({"layouts": {"a": [{"files": "x", "split": "tset"}]}}, "'tset' is no split"),
        ({"tasks": {"T": {"label": "none"}}}, "task T: its `label` is one of"),
    ],
)
def test_a_description_of_another_shape_is_one_message(change, said):
    whole = yaml.safe_load(
        "{title: t, source: s, licence: l, url: 'https://x', folder: f, images: '2'}"
    )
    assert parse(whole, "mine", "mine.yaml").images == 2
    with pytest.raises(UserError, match=said) as error:
        parse({**whole, **change}, "mine", "mine.yaml")
    assert str(error.value).startswith("mine.yaml: ")


def test_what_is_there_is_listed_and_a_set_says_all_that_is_known(tmp_path, capsys):
    by_name = {str(case): case for case in CASES}
    by_name["idrid-grading"].write(tmp_path / "IDRID")
    (tmp_path / "g1020").mkdir()
    whereabouts = {
        name: tasks.whereabouts(task, str(tmp_path))
        for name, task in tasks.described_tasks().items()
    }
    assert {name: said for name, said in whereabouts.items() if said} == {
        "IDRiD": "idrid (grading)",
        "IDRiD_DME": "idrid (grading)",
        "G1020": "g1020 in no known layout",
    }
    assert cli.main(["tasks", "--data_dir", str(tmp_path)]) == 0
    assert "idrid (grading)" in capsys.readouterr().out
    assert cli.main(["tasks", "mbrset_dr"]) == 0
    listed = capsys.readouterr().out
    assert "licence: PhysioNet Credentialed" in listed
    assert "not verified: the number of images without the missing one" in listed
    assert cli.main(["tasks", "aptos2018"]) == 1
    assert "did you mean 'aptos2019'" in capsys.readouterr().err
