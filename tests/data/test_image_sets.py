"""Single photographs: IDRiD, MM-Retinal, FLAIR-style collections, a manifest of one's own."""

import argparse
import json
import re
from pathlib import Path

import numpy as np
import pytest
from test_importers import bring, everything, photograph, problems_of, write_csv

from retfm_jax.cli import data_build
from retfm_jax.data.building import registry as build
from retfm_jax.data.building.builder import SUMMARY_FILE, BuildOptions, write_dataset
from retfm_jax.data.curriculum import TABLE, read_levels
from retfm_jax.data.public_sets.bundled import public_sets
from retfm_jax.errors import UserError


def prepare(name: str, source: Path, data_dir: Path, config: str | None = None) -> Path:
    options = BuildOptions(shares={"train": 1.0, "validation": 0.0, "test": 0.0})
    builder = build.builder_class(name)(options=options, data_dir=data_dir, config=config)
    return write_dataset(builder, source, overwrite=False)


def place(root: Path, *names: str) -> None:
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(photograph(100 + number))


def idrid(folder: Path) -> Path:
    """Three training and two test photographs in IDRiD's layout; one of each is the same."""
    grading = folder / "B. Disease Grading"
    images = grading / "1. Original Images"
    train, test = images / "a. Training Set", images / "b. Testing Set"
    place(train, "IDRiD_001.jpg", "IDRiD_002.jpg", "IDRiD_003.jpg")
    place(test, "IDRiD_001.jpg", "IDRiD_002.jpg")
    (test / "IDRiD_001.jpg").write_bytes(photograph(555))
    (test / "IDRiD_002.jpg").write_bytes((train / "IDRiD_003.jpg").read_bytes())
    truths = grading / "2. Groundtruths"
    truths.mkdir()
    head = "Image name,Retinopathy grade,Risk of macular edema "
    (truths / "a. IDRiD_Disease Grading_Training Labels.csv").write_text(
        f"{head},,,\r\nIDRiD_001,3,2,,,\r\nIDRiD_002,5,0,,,\r\nIDRiD_003,1,1,,,\r\n"
    )
    (truths / "b. IDRiD_Disease Grading_Testing Labels.csv").write_text(
        f"{head}\r\nIDRiD_001,0,0\r\nIDRiD_002,1,1\r\n"
    )
    return folder


def test_idrid_keeps_its_test_set_and_says_what_left_training(tmp_path):
    folder = prepare("idrid", idrid(tmp_path / "idrid"), tmp_path / "data")
    found = everything(folder)
    assert {name: split for name, (split, _) in found.items()} == {
        "train/IDRiD_001": "train",
        "test/IDRiD_001": "test",
        "test/IDRiD_002": "test",
    }
    names = public_sets()["idrid"].label_names
    record = found["train/IDRiD_001"][1]
    present = [names[index] for index in np.flatnonzero(record.labels)]
    assert present == ["severe_npdr", "high_macular_oedema_risk"]
    said = {problem["kind"]: problem["what"] for problem in problems_of(folder)}
    assert re.match(r".*IDRiD_003.jpg of train is .*IDRiD_002.jpg", said["image_in_two_splits"])
    assert said["unreadable_row"] == "Retinopathy grade is '5', none of 0, 1, 2, 3, 4"
    with pytest.raises(UserError, match="holds no release of idrid in a layout that is known"):
        prepare("idrid", tmp_path / "data", tmp_path / "other")


def test_mm_retinal_is_one_configuration_a_modality(tmp_path):
    source = tmp_path / "mm"
    names = ("set/CFP/figure01-01A.jpg", "set/CFP/figure01-01B.jpg", "set/FFA/figure07-02.jpg")
    place(source, *names)
    rows = [{"": str(n), "image": name, "caption": f"drusen {n}"} for n, name in enumerate(names)]
    write_csv(source / "english.csv", rows)
    rows = [{"image": names[0], "caption": "玻璃膜疣"}, {"image": names[1], "caption": "other"}]
    write_csv(source / "more.csv", rows)
    write_csv(source / "scores.csv", [{"image": names[0], "score": "3"}])  # no captions in it
    folder = prepare("mm_retinal", source, tmp_path / "data")
    assert folder == tmp_path / "data/mm_retinal/cfp/1.0.0"
    found = {name: record for name, (_, record) in everything(folder).items()}
    assert set(found) == set(names[:2])
    assert found[names[0]].caption == {"en": "drusen 0", "zh": "玻璃膜疣"}
    assert found[names[1]].caption == {"en": "drusen 1", "zh": ""}
    assert {record.patient_id for record in found.values()} == {"set/CFP/figure01-01"}
    assert found[names[0]].attributes == ("cfp",)
    assert [problem["kind"] for problem in problems_of(folder)] == ["second_report"]
    angiograms = everything(prepare("mm_retinal", source, tmp_path / "data", config="ffa"))
    assert set(angiograms) == {names[2]}
    with pytest.raises(UserError, match="lies in a folder OCT"):
        prepare("mm_retinal", source, tmp_path / "data", config="oct")
    args = argparse.Namespace(
        name="mm_retinal/mri", source=str(source), data_dir=str(tmp_path), patients=None,
        population=None, overwrite=False,
    )  # fmt: skip
    with pytest.raises(UserError, match="no configuration 'mri'; it has cfp, ffa, oct"):
        data_build.run(args)


def test_captions_of_angiograms_stand_in_their_categories(tmp_path):
    source = tmp_path / "mm"
    start = "MM_Retinal_dataset_v1/FFA"
    rows = [
        ("figure01-05B.jpg", "Leakage, in the left eye's disc"),
        ("figure01-05C.png", "Late phase. Same person as Figure 1-5B"),
        ("figure01-07DA.png", "Short"),
        ("figure01-07DB.png", "左眼渗漏"),
        ("figure02-03.png", "The same patient as Figs. 1-7D and E"),
        ("figure11-1-1b.jpg", "Window defects"),
    ]
    write_csv(
        source_table := tmp_path / "FFA.csv",
        [
            {"": str(n), "image": f"{start}/{name}", "atributes": "[]", "categories": repr([text])}
            for n, (name, text) in enumerate(rows)
        ],
    )
    copied = f"{start}_resized_jpg"
    place(
        source, f"{start}/figure01-05B.jpg", f"{start}/figure01-05C.jpg",
        *(f"{copied}/{Path(name).stem}.jpg" for name, _ in rows[2:]),
    )  # fmt: skip
    (source / "data").mkdir()
    source_table.rename(source / "data" / "FFA.csv")
    one = [{"image": "ONE/a.jpg", "atributes": "[]", "categories": "['normal']"}]
    write_csv(source / "ONE.csv", one)
    folder = prepare("mm_retinal", source, tmp_path / "data", config="ffa")
    found = {Path(name).name: record for name, (_, record) in everything(folder).items()}
    assert {name: max(r.caption.values()) for name, r in found.items()} == dict(rows)
    assert found["figure01-07DB.png"].caption == {"en": "", "zh": "左眼渗漏"}
    assert not any(record.categories for record in found.values())
    assert {name: Path(record.patient_id).name for name, record in found.items()} == {
        "figure01-05B.jpg": "figure01-05", "figure01-05C.png": "figure01-05",
        "figure01-07DA.png": "figure01-07", "figure01-07DB.png": "figure01-07",
        "figure02-03.png": "figure01-07", "figure11-1-1b.jpg": "figure11-1-1",
    }  # fmt: skip
    assert problems_of(folder) == []
    notes = json.loads((folder / SUMMARY_FILE).read_text())["notes"]
    assert notes[0].endswith("ONE.csv is passed over: it has no column caption|caption_en")
    place(source, "ONE/a.jpg")
    assert set(everything(prepare("flair", source, tmp_path / "data"))) == {"ONE/a.jpg"}


def test_captions_are_told_from_categories_where_folders_say_nothing(tmp_path):
    source = tmp_path / "own"
    place(source, "FFA/a.jpg", "FFA/b.jpg")
    long = "Dye leaks from the disc and pools below the fovea in the late phase"
    texts = {"FFA/a.jpg": [long], "FFA/b.jpg": ["Normal filling of the arteries and of all veins"]}
    write_csv(
        source / "pairs.csv",
        [{"image": name, "categories": json.dumps(said)} for name, said in texts.items()],
    )
    found = everything(prepare("mm_retinal", source, tmp_path / "data", config="ffa"))
    assert found["FFA/a.jpg"][1].caption["en"] == long
    with pytest.raises(UserError, match="no CSV file with the columns image and categories"):
        prepare("flair", source, tmp_path / "data")
    texts["FFA/b.jpg"].append("normal")
    write_csv(
        source / "pairs.csv",
        [{"image": name, "categories": json.dumps(said)} for name, said in texts.items()],
    )
    found = everything(prepare("flair", source, tmp_path / "data"))
    assert found["FFA/a.jpg"][1].categories == (long,)


#: As a file's name that tells who a patient is.
PERSON = "FAMILYNAME GIVENNAME_19000101"


def test_names_of_oct_files_are_nowhere(tmp_path, capsys, caplog):
    source = tmp_path / "lists"
    names = [f"17_MM_OCT/{PERSON}_{number}.jpg" for number in range(4)]
    other = ["17_MM_OCT/OTHERNAME_19010101.jpg", "17_MM_OCT/OTHERNAME_19010101(2).jpg"]
    place(source, *names[:3], *other)
    noted = photograph(7)  # a comment behind the JPEG's first marker
    comment = PERSON.encode()
    noted = noted[:2] + b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment + noted[2:]
    (source / names[0]).write_bytes(noted)
    (source / names[2]).write_bytes(b"no image")
    said = ["intraretinal fluid", "drusen", "x", "missing", "macular hole", "macular hole, too"]
    rows = [
        {"image": name, "attributes": "[]", "caption": text, "stage": str(1 + number % 2),
         "img_norm_r": "0.5"}
        for number, (name, text) in enumerate(zip([*names, *other], said, strict=True))
    ]  # fmt: skip
    rows.append(rows[1] | {"caption": "another caption"})
    rows.append(rows[1] | {"attributes": f"[__import__('{PERSON}')]"})
    write_csv(source / "OCT17_MM_OCT.csv", rows)
    options = BuildOptions(shares={"train": 0.5, "validation": 0.5, "test": 0.0}, image_size=0)
    builder = build.builder_class("mm_retinal")(
        options=options, data_dir=tmp_path / "data", config="oct"
    )
    folder = write_dataset(builder, source, overwrite=False)
    found = everything(folder)
    assert {record.caption["en"]: record.attributes for _, record in found.values()} == {
        text: ("oct",) for text in ("intraretinal fluid", "drusen", *said[4:])
    }
    assert all(re.fullmatch(r"[0-9a-f]{24}", name) for name in found)
    patients = {record.caption["en"]: record.patient_id for _, record in found.values()}
    assert patients[said[0]] == patients[said[1]] != patients[said[4]] == patients[said[5]]
    levels = read_levels(folder / TABLE)
    by_text = {record.caption["en"]: levels[name] for name, (_, record) in found.items()}
    assert by_text == {said[0]: 1, said[1]: 2, said[4]: 1, said[5]: 2}
    kinds = sorted(problem["kind"] for problem in problems_of(folder))
    assert kinds == ["broken_image", "missing_image", "second_report", "unreadable_row"]
    again = everything(prepare("mm_retinal", source, tmp_path / "other", config="oct"))
    assert set(again) == set(found), "ids are of the images, whatever is asked for"
    with pytest.raises(UserError, match="no CSV file with the columns image and caption"):
        prepare("mm_retinal", source, tmp_path / "data", config="cfp")
    (source / names[1]).rename(source / "moved.jpg")
    for name in (names[0], names[2], *other):
        (source / name).unlink()
    with pytest.raises(UserError, match=r"the OCT tables of .* cannot be read") as refused:
        prepare("mm_retinal", source, tmp_path / "third", config="oct")
    written = b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())
    printed = capsys.readouterr()
    texts = [printed.out, printed.err, caplog.text, str(refused.value), repr(refused.value)]
    for name in (PERSON, "FAMILYNAME", "OTHERNAME"):
        assert name.encode() not in written
        assert not any(name in text for text in texts)


def test_a_list_that_ranks_its_rows_leaves_a_curriculum(tmp_path):
    source = tmp_path / "flair"
    place(source, "ONE/a.jpg", "ONE/b.jpg")
    rows = [
        {"image": f"ONE/{name}.jpg", "atributes": "[]", "categories": "['drusen']", "stage": stage,
         "img_norm_r": "0.1"}
        for name, stage in (("a", "3"), ("b", "1.0"))
    ]  # fmt: skip
    write_csv(source / "ONE.csv", rows)
    folder = prepare("flair", source, tmp_path / "data")
    assert read_levels(folder / TABLE) == {"ONE/a.jpg": 3, "ONE/b.jpg": 1}


def test_a_collection_of_sets_is_read_without_evaluating_anything(tmp_path):
    source = tmp_path / "flair"
    place(source / "images", "01_ONE/a.jpg", "01_ONE/b.jpg", "02_TWO/c.jpg", "02_TWO/d.jpg")
    place(source / "images", "11_STARE/s.jpg", "03_THREE/FFA/f.jpg", "03_THREE/o.jpg")
    (source / "dataframes").mkdir()
    (source / "dataframes" / "01_ONE.csv").write_text(
        ",image,atributes,categories\n"
        "0,01_ONE/a.jpg,[],\"['drusen ', 'amd', 'drusen']\"\n"
        "1,01_ONE/b.jpg,\"['noisy']\",['normal']\n"
    )
    (source / "dataframes" / "02_TWO.csv").write_text(
        ",image,atributes,categories\n"
        "0,02_TWO/c.jpg,[],\"[__import__('os').getcwd()]\"\n"
        "1,02_TWO/d.jpg,[],['glaucoma']\n"
        "2,02_TWO/e.jpg,[],['glaucoma']\n"
    )
    (source / "dataframes" / "more.csv").write_text(
        "image,atributes,categories\n"
        "11_STARE/s.jpg,[],\"['drusen', 'old scar?']\"\n"
        "03_THREE/FFA/f.jpg,[],['leakage']\n"
        "03_THREE/o.jpg,\"['noisy', 'OCT']\",['drusen']\n"
    )
    folder = prepare("flair", source, tmp_path / "data")
    found = {name: record for name, (_, record) in everything(folder).items()}
    original, angiogram, scan = (
        found.pop(name) for name in ("11_STARE/s.jpg", "03_THREE/FFA/f.jpg", "03_THREE/o.jpg")
    )
    assert set(found) == {"01_ONE/a.jpg", "01_ONE/b.jpg", "02_TWO/d.jpg"}
    assert original.caption["en"] == "drusen; old scar?"
    assert not any(record.caption["en"] for record in found.values())
    assert (angiogram.attributes, scan.attributes) == (("ffa",), ("oct", "noisy"))
    assert found["01_ONE/a.jpg"].categories == ("drusen", "amd")
    assert found["01_ONE/b.jpg"].attributes == ("noisy",)
    said = {problem["record"]: problem["what"] for problem in problems_of(folder)}
    assert said["02_TWO/c.jpg"].startswith("categories: not a list of names")
    assert "does not exist" in said["02_TWO/e.jpg"]


def test_a_collection_without_its_images_or_tables_is_told(tmp_path):
    source = tmp_path / "flair"
    source.mkdir()
    (source / "a.txt").write_text("x")
    with pytest.raises(UserError, match=r"no CSV file with the columns image and categories"):
        prepare("flair", source, tmp_path / "data")
    write_csv(source / "one.csv", [{"image": "ONE/a.jpg", "categories": "['normal']"}])
    with pytest.raises(UserError, match=r"hold no ONE/a.jpg, which the tables name"):
        prepare("flair", source, tmp_path / "data")


def test_photographs_of_ones_own_come_in_by_a_manifest(tmp_path):
    root = tmp_path / "images"
    place(root, "a.jpg", "b.jpg", "c.jpg")
    rows = [
        {"image": "a.jpg", "patient_id": "p1", "labels": "drusen", "split": "train"},
        {"image": "b.jpg", "patient_id": "p1", "caption": "drusen"},
        {"image": "c.jpg", "patient_id": "p2", "labels": "none", "caption_zh": "正常"},
    ]
    folder = bring(write_csv(tmp_path / "m.csv", rows), root, tmp_path / "data")
    found = everything(folder)
    assert found["a.jpg"][0] == found["b.jpg"][0] == "train"
    assert found["b.jpg"][1].caption["en"] == "drusen"
    assert found["a.jpg"][1].labels.tolist() == [1]
    assert found["b.jpg"][1].labels.tolist() == [-1]
    assert found["c.jpg"][1].labels.tolist() == [0]
    assert found["a.jpg"][1].patient_id == "p1"
    (problem,) = problems_of(folder)
    assert (problem["kind"], problem["record"]) == ("empty_report", "a.jpg")
    assert problem["remedy"] == "kept for its labels"


def test_tables_of_a_collection_that_are_passed_over_are_said(tmp_path):
    source = tmp_path / "flair"
    place(source, "ONE/a.jpg")
    write_csv(source / "one.csv", [{"image": "ONE/a.jpg", "categories": "['normal']"}])
    write_csv(source / "scores.csv", [{"image": "ONE/a.jpg", "score": "3"}])
    (source / "spanish.csv").write_bytes("image,categories\nñ.jpg,leve\n".encode("cp1252"))
    folder = prepare("flair", source, tmp_path / "data")
    (problem,) = problems_of(folder)
    assert (problem["kind"], Path(problem["file"]).name) == ("unreadable_table", "spanish.csv")
    assert "is not utf-8" in problem["what"]
    note, of_patients = json.loads((folder / SUMMARY_FILE).read_text())["notes"]
    assert "by image" in of_patients
    assert note.endswith("scores.csv is passed over: it has no column categories")
    write_csv(source / "two.csv", [{"Image": "ONE/a.jpg", "Category": "['normal']"}])
    with pytest.raises(UserError, match=r"two.csv has no column 'image' .*'Image'.*'Category'"):
        prepare("flair", source, tmp_path / "other")
