"""Folders of one's own with photographs and masks: read in place, imported, and their faults."""

import csv
import dataclasses
import io

import numpy as np
import pytest
from mask_releases import SHAPE, drawn, photograph
from PIL import Image
from test_importers import everything

from retfm_jax import cli
from retfm_jax.config import DataConfig
from retfm_jax.data.importing.importers import import_masks
from retfm_jax.data.mask_folders import describe_folder, is_mask_folder
from retfm_jax.data.masks import UNKNOWN
from retfm_jax.data.segmented import open_segmented, truth_of
from retfm_jax.errors import UserError


def png(mask: np.ndarray, top: int = 255) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(mask * np.uint8(top)).save(buffer, "PNG")
    return buffer.getvalue()


def write(path, data: bytes | str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)


SPLITS = {"a": "train", "b": "train", "c": "val", "d": "test"}


@pytest.fixture
def folders(tmp_path):
    """Photographs in folders of splits, masks of two structures, one of them in other folders."""
    root = tmp_path / "clinic"
    for seed, (name, split) in enumerate(SPLITS.items()):
        write(root / f"images/{split}/{name}.jpg", photograph(seed, "x.jpg"))
        write(root / f"masks/vessels/{split}/{name}.png", png(drawn(seed)))
        write(root / f"masks/drusen/{name}.png", png(drawn(50 + seed), 1))
        write(root / f"fov/{name}.png", png(1 - drawn(seed)))
    write(root / "images/Thumbs.db", b"\xd0\xcf")
    return root


@pytest.fixture
def table(tmp_path):
    """The same with a table: patients, an unknown and an absent mask, a photograph below."""
    root = tmp_path / "hospital"
    for seed, name in enumerate("abcd"):
        write(root / f"pictures/{name}.jpg", photograph(seed, "x.jpg"))
        write(root / f"drawn/{name}_v.png", png(drawn(seed)))
    write(
        root / "masks.csv",
        "Image,Mask_vessels,mask_drusen,patient,split\n"
        "pictures/a.jpg,drawn/a_v.png,absent,P1,train\n"
        "pictures/b.jpg,drawn/b_v.png,,P1,train\n"
        "pictures/c.jpg,drawn/c_v.png,drawn/c_v.png,P2,validation\n"
        "pictures/d.jpg,drawn/d_v.png,Absent,P3,test\n",
    )
    return root


def opened(folder, **entries):
    config = DataConfig(dataset=str(folder), data_dir=str(folder.parent / "data"), **entries)
    return open_segmented(config, ("train", "validation", "test"))


def test_folders_are_read_in_place(folders):
    data = opened(folders)
    assert data.structures == ("drusen", "vessels")
    found = {
        record.record_id: (split, truth_of(record))
        for split, source in data.sources.items()
        for record in source
    }
    assert {name.split("/")[-1][0]: split for name, (split, _) in found.items()} == {
        "a": "train", "b": "train", "c": "validation", "d": "test"
    }  # fmt: skip
    for seed, (name, split) in enumerate(SPLITS.items()):
        _, truth = found[f"images/{split}/{name}.jpg"]
        np.testing.assert_array_equal(truth.masks[..., 1], drawn(seed))
        np.testing.assert_array_equal(truth.masks[..., 0], drawn(50 + seed))
        np.testing.assert_array_equal(truth.field, 1 - drawn(seed))


def test_data_from_which_nothing_is_learned_is_one_split(folders):
    data = open_segmented(DataConfig(dataset=str(folders)), ("all",))
    assert len(data.sources["all"]) == 4
    assert data.sources["all"].split == "all"
    assert not any("validation" in sentence for sentence in data.said)


def test_a_table_is_read_in_place_with_what_is_absent_and_unknown(table):
    data = opened(table)
    assert data.structures == ("vessels", "drusen")
    truths = {
        record.record_id: (record.patient_id, truth_of(record).masks)
        for source in data.sources.values()
        for record in source
    }
    assert {name: patient for name, (patient, _) in truths.items()} == {
        "pictures/a.jpg": "P1", "pictures/b.jpg": "P1", "pictures/c.jpg": "P2",
        "pictures/d.jpg": "P3",
    }  # fmt: skip
    assert not truths["pictures/a.jpg"][1][..., 1].any()
    assert (truths["pictures/b.jpg"][1][..., 1] == UNKNOWN).all()
    np.testing.assert_array_equal(truths["pictures/c.jpg"][1][..., 1], drawn(2))
    assert data.sources["train"].patients_known


def test_photographs_on_which_nobody_looked_are_left_out_and_counted(table):
    data = opened(table, classes=("drusen",))
    assert [record.record_id for record in data.sources["train"]] == ["pictures/a.jpg"]
    assert "train: left out, for nobody looked for the structures: 1 photographs" in data.said


def test_a_folder_without_splits_is_divided_by_patient(tmp_path):
    root = tmp_path / "own"
    for seed in range(30):
        write(root / f"images/P{seed // 2}_{'left' if seed % 2 else 'right'}.jpg",
              photograph(seed, "x.jpg"))  # fmt: skip
        write(root / f"masks/vessels/P{seed // 2}_{'left' if seed % 2 else 'right'}.tif",
              png(drawn(seed)))  # fmt: skip
    data = opened(root)
    patients = {split: set(source.patients) for split, source in data.sources.items()}
    assert sum(map(len, patients.values())) == 15
    assert sum(map(len, data.sources.values())) == 30
    assert any("no splits are given" in sentence for sentence in data.said)


@pytest.mark.parametrize("which", ["folders", "table"])
def test_an_import_stores_what_is_read_in_place(which, request, tmp_path, capsys):
    root = request.getfixturevalue(which)
    command = ["data", "import", "--name", "mine", "--masks", str(root), "--workers", "1"]
    assert cli.main([*command, "--data_dir", str(tmp_path / "data")]) == 0
    assert "no problem in the source" in capsys.readouterr().out
    records = everything(tmp_path / "data/mine/1.0.0")
    data = opened(root)
    for split, source in data.sources.items():
        for record in source:
            stored_split, stored = records[record.record_id]
            assert stored_split == split
            ours, theirs = truth_of(record), truth_of(stored)
            for one, other in zip(ours, theirs, strict=True):
                np.testing.assert_array_equal(one, other)
    config = DataConfig(dataset="mine", data_dir=str(tmp_path / "data"))
    assert open_segmented(config).structures == data.structures
    with pytest.raises(UserError, match="patient_regex reads file names, and mine is a built"):
        open_segmented(dataclasses.replace(config, patient_regex="(.*)"))


def test_a_missing_mask_a_mask_without_a_photograph_and_a_path_outside_are_named(folders, tmp_path):
    (folders / "masks/drusen/a.png").unlink()
    write(folders / "masks/drusen/z.png", png(drawn(1)))
    with pytest.raises(UserError, match=r"images/train/a.jpg has no mask of drusen: masks/drusen/"):
        opened(folders)
    options = {"name": "mine", "data_dir": tmp_path / "data"}
    folder = import_masks(folders, **options)
    with (folder / "problems.csv").open() as file:
        problems = {problem["kind"]: problem for problem in csv.DictReader(file)}
    assert set(problems) == {"missing_mask", "mask_without_image"}
    assert problems["mask_without_image"]["file"] == "masks/drusen/z.png"
    assert (truth_of(everything(folder)["images/train/a.jpg"][1]).masks[..., 0] == UNKNOWN).all()
    (folders / "masks/drusen/a.png").symlink_to(tmp_path / "elsewhere.png")
    (tmp_path / "elsewhere.png").write_bytes(png(drawn(3)))
    with pytest.raises(UserError, match="symbolic link that leads outside"):
        opened(folders)
    assert opened(folders, follow_links=True).structures == ("drusen", "vessels")


def test_a_mask_without_a_photograph_is_counted_in_place(folders):
    write(folders / "masks/drusen/z.png", png(drawn(1)))
    (said,) = (each for each in opened(folders).said if "mask without image" in each)
    assert said == (
        "mask without image: 1 (masks/drusen/z.png is a mask of drusen, and its photograph is not "
        "there)"
    )


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ("image,vessels\na.jpg,v.png\n", "names no structure: it wants a column mask_STRUCTURE"),
        ("picture,mask_vessels\na.jpg,v.png\n", "image"),
        ("image,mask_vessels,mask_Vessels\na.jpg,v.png,v.png\n", "vessels"),
        ("image,mask_a/b\na.jpg,v.png\n", "'a/b' is no name of a structure"),
        (
            "image,mask_vessels\npictures/a.jpg,drawn/none.png\n",
            "no mask of vessels, such as drawn/none",
        ),
        (
            "image,mask_vessels\npictures/a.jpg,../../v.png\n",
            "no mask of vessels, such as ../../v.png",
        ),
        ("image,mask_vessels\npictures/none.jpg,drawn/a_v.png\n", "none.jpg does not exist"),
        ("image,mask_vessels,split\npictures/a.jpg,drawn/a_v.png,later\n", "'later' is no split"),
    ],
)
def test_a_faulty_table_is_one_message(table, rows, said):
    write(table / "masks.csv", rows)
    with pytest.raises(UserError, match=said) as found:
        opened(table)
    assert "\n" not in str(found.value)


def test_what_is_no_folder_of_masks_says_how_one_looks(tmp_path):
    (tmp_path / "images").mkdir()
    assert not is_mask_folder(tmp_path)
    with pytest.raises(UserError, match=r"NAME.jpg with .*STRUCTURE/NAME.png, or a table"):
        describe_folder(tmp_path)
    (tmp_path / "masks").mkdir()
    with pytest.raises(UserError, match="names no structure: it wants a folder of masks"):
        describe_folder(tmp_path)
    assert cli.main(["data", "import", "--name", "x", "--masks", str(tmp_path / "none")]) == 1


def test_all_masks_are_as_large_as_photographs(folders):
    write(folders / "masks/drusen/a.png", png(drawn(1)[:-2]))
    with pytest.raises(UserError, match=rf"a.png has {SHAPE[1]} x {SHAPE[0] - 2} pixels"):
        opened(folders)
