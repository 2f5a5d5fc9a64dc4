"""Public sets: each in every layout that is known, with the faults of its release."""

import csv
import re

import numpy as np
import pytest
import yaml
from mask_releases import MASK_CASES
from public_releases import CASES, Case
from test_importers import everything

from retfm_jax import cli
from retfm_jax.data import tasks
from retfm_jax.data.building import registry
from retfm_jax.data.building.builder import SUMMARY_FILE, BuildOptions, write_dataset
from retfm_jax.data.building.public_sets import SOURCE_LABELS_FILE
from retfm_jax.data.public_sets import reading
from retfm_jax.data.public_sets.bundled import public_sets
from retfm_jax.data.public_sets.counts import counted, differences
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
    folder = tmp_path / task["folders"][0]
    case.write(folder)
    found = {}
    release = reading.read(
        public_sets()[case.name], folder, layouts=task["layouts"], labels=[case.label]
    )
    names = {each.relative: reading.record_id(task["set"], each) for each in release.photographs}
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
            given = {names[name]: patient for name, patient in case.patients.items()}
            assert record.patient_id == given.get(record.record_id, record.patient_id)
    wanted = {names[name]: said for name, said in case.shows.items() if said[1] is not None}
    assert set(found) == set(wanted)
    for name, (split, said) in wanted.items():
        assert found[name][1] == (said if isinstance(said, tuple) else (said,))
        assert split in ("", found[name][0])
    splits_of = {}
    for name, patient in case.patients.items():
        if names[name] in found:
            splits_of.setdefault(patient, set()).add(found[names[name]][0])
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
        if said is not None:
            assert {*((said,) if isinstance(said, str) else said)} <= names
        for label in described.labels.values():  # each is known by itself
            columns = [described.label_names.index(each) for each in label.classes]
            known = reading.labels_of(label, photograph.cells) is not None
            others = {
                name
                for each in described.labels.values()
                for name in each.classes
                if each is not label and reading.labels_of(each, photograph.cells) is not None
            }
            own = [c for c in columns if described.label_names[c] not in others]
            assert all((record.labels[column] >= 0) == known for column in own)


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


def test_splits_of_a_release_that_share_patients_share_none_here(tmp_path):
    """Kermany's: the test set stays whole, whichever way the release is read."""
    shows = {
        "train/CNV/CNV-11-1.jpeg": ("train", "choroidal_neovascularisation"),
        "train/DRUSEN/DRUSEN-22-1.jpeg": ("train", "drusen"),
        "train/DME/DME-22-2.jpeg": ("train", "diabetic_macular_oedema"),
        "train/NORMAL/NORMAL-33-1.jpeg": ("train", "normal"),
        "val/NORMAL/NORMAL-33-2.jpeg": ("validation", "normal"),
        "val/NORMAL/NORMAL-22-7.jpeg": ("validation", "normal"),
        "test/CNV/CNV-22-3.jpeg": ("test", "choroidal_neovascularisation"),
        "test/DME/DME-44-1.jpeg": ("test", "diabetic_macular_oedema"),
    }
    release = tmp_path / "oct2017"
    Case("oct2017", "folders", "disease", shows).write(release)
    kept = {
        "train/CNV/CNV-11-1.jpeg": "train",
        "val/NORMAL/NORMAL-33-2.jpeg": "validation",
        "test/CNV/CNV-22-3.jpeg": "test",
        "test/DME/DME-44-1.jpeg": "test",
    }
    said = (
        "left out of validation: 1 photographs of 1 patients whom another split of the release "
        "has, too",
        "left out of train: 3 photographs of 2 patients whom another split of the release has, too",
    )
    found = {}
    for split in ("train", "validation", "test"):
        source = tasks.open_task("OCT2017", split, str(tmp_path))
        found |= {record.record_id: split for record in source}
        assert set(said) <= set(source.said.sentences)
    assert found == kept
    assert set(said) <= set(built("oct2017", release, tmp_path)["notes"])
    folder = tmp_path / "data" / "oct2017" / "1.0.0"
    assert {name: split for name, (split, _) in everything(folder).items()} == kept


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
    covered = {(case.name, case.layout) for case in (*CASES, *MASK_CASES)}
    for name, described in public_sets().items():
        assert all((described.title, described.source, described.licence, described.url)), name
        assert re.match("https://", described.url), name
        # No article was opened for its citation: each of them says so.
        cites = "et al." in described.source
        assert cites == any(each.startswith("the citation") for each in described.unverified), name
        assert {(name, layout.name) for layout in described.layouts} <= covered
        assert abs(sum(described.shares.values()) - 1) < 1e-6


def test_each_retfound_task_finds_its_copy_beside_the_release(tmp_path):
    """By one rule for all eight, also where both would have the same folder."""
    by_name = {str(case): case for case in CASES}
    tasks_of = [case for case in CASES if case.task.startswith("RETFound_")]
    assert len(tasks_of) == 8
    for case in tasks_of:
        task = tasks.described_tasks()[case.task]
        first, second, third = task["folders"][:3]
        assert (first, second) == (f"RETFound/{third}", f"{third}_RETFound")
        for number, place in enumerate((third, second, first)):
            case.write(tmp_path / case.name / place)
            found = tasks.whereabouts(task, str(tmp_path / case.name))
            assert found == f"{(third, second, first)[number]} (retfound)"
    # In one folder with the release, which the set's other tasks read.
    folder = tmp_path / "both" / "IDRiD"
    by_name["idrid-grading"].write(folder)
    by_name["idrid-retfound"].write(folder)
    data_dir = str(tmp_path / "both")
    assert len(tasks.open_task("IDRiD", "test", data_dir)) == 1
    source = tasks.open_task("RETFound_IDRiD", "test", data_dir)
    assert len(source) == 5
    assert any("'grading' as well, which is not read" in said for said in source.said.sentences)


def built(name, folder, tmp_path):
    """What is said when a release is built."""
    builder = registry.builder_class(name)(
        options=BuildOptions(image_size=0, threads=1), data_dir=tmp_path / "data"
    )
    write_dataset(builder, folder, overwrite=False)
    return read_json(builder.folder / SUMMARY_FILE)


def test_what_nothing_speaks_of_is_said_and_only_what_is_there_is_counted(tmp_path):
    (case,) = (case for case in CASES if str(case) == "aptos2019-kaggle")
    case.write(tmp_path / "release")
    (tmp_path / "release" / "train_images" / "000000000004.png").unlink()
    (tmp_path / "release" / "Thumbs.db").write_bytes(b"")
    summary = built("aptos2019", tmp_path / "release", tmp_path)
    said = "; ".join(summary["notes"])
    assert "nothing in this layout speaks of them: 1 images (test_images/0005cfc8afb6.png)" in said
    assert "3662 images are published, 4 are here" in said
    assert "15_APTOS.csv: no_diabetic_retinopathy 1 of 1805" in said
    assert "pdr 0 of 295" in said
    assert summary["problems"] == {"missing_image": 1}
    assert summary["layout"] == "kaggle"


def test_names_that_a_spreadsheet_program_rewrote_are_recognized(tmp_path):
    (case,) = (case for case in CASES if str(case) == "aptos2019-kaggle")
    case.write(tmp_path)
    lines = ["id_code,diagnosis", "0,0", "1,1.0", "2.00E+00,2", "000000000003, 3 ", "gone,4"]
    (tmp_path / "train.csv").write_text("\n".join(lines))
    release = reading.read(public_sets()["aptos2019"], tmp_path)
    assert [each.found for each in release.photographs] == [False, False, False, True, False]
    said = "; ".join(release.sentences)
    assert "3 names of images look like numbers" in said
    assert "(0, 1, 2.00E+00): take the table as it was downloaded" in said


@pytest.mark.parametrize("separator", [";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_tables_that_spreadsheet_programs_saved_are_read(separator, encoding, tmp_path):
    (case,) = (case for case in CASES if str(case) == "g1020-list")
    case.write(tmp_path)
    table = tmp_path / "G1020.csv"
    text = table.read_text().replace(",", separator).replace("\n", "\r\n")
    table.write_bytes(text.encode(encoding))
    release = reading.read(public_sets()["g1020"], tmp_path)
    assert {each.relative: shown(case, each) for each in release.photographs} == case.shows


def test_an_empty_source_is_refused_before_anything_is_written(tmp_path):
    (tmp_path / "release").mkdir()
    with pytest.raises(UserError, match="is an empty folder: unpack the release in it"):
        built("aptos2019", tmp_path / "release", tmp_path)
    assert not (tmp_path / "data").exists()


def test_a_part_of_a_release_is_not_taken_for_the_whole(tmp_path):
    """RETFound's `train` has the class folders of the release, and half of its images."""
    (case,) = (case for case in CASES if case.task == "RETFound_JSIEC")
    case.write(tmp_path / "jsiec")
    with pytest.raises(UserError, match="in the layout retfound, and what is wanted here"):
        tasks.open_task("JSIEC", "train", str(tmp_path))


@pytest.mark.parametrize(
    "name",
    ["acrima-names", "adam-letters", "palm-challenge", "refuge-letters", "refuge-folders",
     "refuge-official", "rimone_dl-randomly"],
)  # fmt: skip
def test_a_record_has_one_name_wherever_its_archive_puts_it(name, tmp_path):
    (case,) = (case for case in CASES if str(case) == name)
    described = public_sets()[case.name]
    names = []
    for above in ("", "a/", "a/b/"):
        case.write(tmp_path / str(len(above)) / above)
        release = reading.read(described, tmp_path / str(len(above)))
        assert release.layout == case.layout
        names.append({reading.record_id(described, each) for each in release.photographs})
    assert names[0] == names[1] == names[2]
    assert len(names[0]) == len(case.shows)


def test_images_of_a_task_are_named_by_its_list(tmp_path):
    """FLAIR's list of 3 x 20 names files, the first ones of their folders or not."""
    listed = [f"0.0.Normal/1ffa96{part}" for part in ("2e", "2f", "39", "4b")]
    listed += ["15.0.Retinitis pigmentosa/1ffa955a", "8.MH/1ffa92cc", "8.MH/1ffa92df"]
    others = ["0.0.Normal/1ffa9637", "8.MH/1ffa92cb", "8.MH/1ffa92e0", "3.RAO/1ffa962d"]
    shows = {f"{each}-8d87-11e8-9daf-6045cb817f5b..JPG": ("", None) for each in listed + others}
    Case("jsiec", "folders", "disease", shows).write(tmp_path / "jsiec")
    source = tasks.open_task("JSIEC_20x3", "test", str(tmp_path))
    wanted = [name for name in shows if name.split("-8d87")[0] in listed]
    assert sorted(source.record_ids) == sorted(wanted)
    assert any("publishes 60 images, 7 are here" in said for said in source.said.sentences)


def test_images_of_each_class_are_compared_with_what_is_published():
    label = public_sets()["fives"].labels["disease"]
    published = {"train": 600, "test": 200}
    whole = [[name] for name, many in label.images.items() for _ in range(many)]
    assert counted(label, published, whole) == []
    (said,) = counted(label, published, [*whole[1:], ["amd"]])
    assert "13_FIVES.csv: normal 199 of 200, amd 201 of 200" in said
    # Nothing is compared with a layout of other images, or with what nobody counted.
    assert counted(label, 300, whole[:300]) == counted(label, None, []) == []
    graded = public_sets()["ddr"].labels["dr"]  # 1,151 of its 13,673 have no grade
    (said,) = counted(graded, {"train": 6835, "validation": 2733, "test": 4105}, [])
    assert "no_diabetic_retinopathy 0 of 6266" in said
    for described in public_sets().values():
        for each in described.labels.values():
            assert set(each.images) in (set(), set(each.classes))


@pytest.mark.parametrize(
    ("name", "task", "expected"),
    [
        ("idrid-grading", "IDRiD", {"train": 1, "test": 1}),
        ("idrid-retfound", "RETFound_IDRiD", {"train": 5, "validation": 5, "test": 5}),
        ("rfmid-kaggle", "RFMiD", {"train": 2, "validation": 2, "test": 2}),
        ("ddr-grading", "DDR", {"train": 1, "validation": 1, "test": 1}),
    ],
)
def test_a_task_is_answered_from_the_built_set_where_the_release_is_gone(
    name, task, expected, tmp_path
):
    case = next(case for case in CASES if str(case) == name)
    case.write(tmp_path / "source")
    builder = registry.builder_class(case.name)(
        options=BuildOptions(image_size=0, threads=1), data_dir=tmp_path / "data"
    )
    write_dataset(builder, tmp_path / "source", overwrite=False)
    data_dir = str(tmp_path / "data")
    assert tasks.holds_records(task, data_dir)
    release = reading.read(public_sets()[case.name], tmp_path / "source")
    said = {
        reading.record_id(public_sets()[case.name], each): shown(case, each)[1]
        for each in release.photographs
    }
    for split, many in expected.items():
        source = tasks.open_task(task, split, data_dir)
        assert len(source) == many
        assert source.label_names == tuple(tasks.described_tasks()[task]["classes"])
        for record in source:
            names = tuple(np.array(source.label_names)[record.labels > 0])
            wanted = said[record.record_id]
            assert names == (wanted if isinstance(wanted, tuple) else (wanted,))
        assert "is read from the built dataset" in tasks.said_of(source).sentences[0]
    # Not of a set that was built of other files than the task takes.
    other = "IDRiD" if task == "RETFound_IDRiD" else "RETFound_IDRiD"
    if case.name == "idrid":
        with pytest.raises(UserError, match=f"task {other} takes the layouts .* was built of the"):
            tasks.open_task(other, "test", data_dir)
    # The release itself goes first.
    case.write(tmp_path / "data" / tasks.described_tasks()[task]["folders"][0])
    assert not tasks.holds_records(task, data_dir)


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
        (
            {"labels": {"a": {"column": "c", "classes": {"x": "1"}, "images": {"x": "3"}}}},
            "counted",
        ),
        ({"folder": []}, "`folder` is missing"),
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
        "RETFound_IDRiD": "IDRiD (grading, another layout)",
    }
    assert cli.main(["tasks", "--data_dir", str(tmp_path)]) == 0
    assert "idrid (grading)" in capsys.readouterr().out
    assert cli.main(["tasks", "mbrset_dr"]) == 0
    listed = capsys.readouterr().out
    assert "licence: PhysioNet Credentialed" in listed
    assert "not verified: the number of images without the missing one" in listed
    assert cli.main(["tasks", "aptos2018"]) == 1
    assert "did you mean 'aptos2019'" in capsys.readouterr().err
