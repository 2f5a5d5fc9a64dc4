"""Sets with masks: each in every layout that is known, read in place and built, with its faults."""

import csv
import shutil

import numpy as np
import pytest
import yaml
from mask_releases import MASK_CASES, SHAPE, Mask, MaskCase, drawn, drive, photograph
from test_importers import everything

from retfm_jax import cli
from retfm_jax.config import DataConfig
from retfm_jax.data import tasks
from retfm_jax.data.building import registry
from retfm_jax.data.building.builder import SUMMARY_FILE, BuildOptions, write_dataset
from retfm_jax.data.mask_sources import open_files
from retfm_jax.data.masks import UNKNOWN, MaskError
from retfm_jax.data.public_sets import reading
from retfm_jax.data.public_sets.bundled import public_sets
from retfm_jax.data.public_sets.description import parse
from retfm_jax.data.segmented import open_segmented, truth_of
from retfm_jax.errors import UserError
from retfm_jax.files import read_json


def expected(case: MaskCase, image: str, structures) -> np.ndarray:
    """What is to be read of a photograph, (h, w, structures)."""
    planes = []
    for structure in structures:
        path = case.shows[image][1].get(structure)
        if path is None:
            planes.append(np.full(SHAPE, UNKNOWN, np.uint8))
        else:
            planes.append(case.truth(structure, path) if path else np.zeros(SHAPE, np.uint8))
    return np.stack(planes, axis=-1)


@pytest.mark.parametrize("case", MASK_CASES, ids=str)
def test_each_layout_is_read_with_its_masks_and_faults(case, tmp_path):
    case.write(tmp_path / "archive")
    described = public_sets()[case.name]
    release = reading.read(described, tmp_path)
    assert release.layout == case.layout
    assert {each.relative.removeprefix("archive/") for each in release.photographs} == {*case.shows}
    for each in release.photographs:
        image = each.relative.removeprefix("archive/")
        split, masks = case.shows[image]
        assert (each.split or "") == split
        assert {s: p.removeprefix("archive/") for s, p in each.masks.items()} == masks
        assert each.field.removeprefix("archive/") == case.fields.get(image, "")
        assert each.patient == case.patients.get(image, "")
    assert tuple(sorted({fault.kind for fault in release.mask_faults})) == case.faults


@pytest.mark.parametrize("case", MASK_CASES, ids=str)
def test_each_set_is_built_with_what_was_drawn(case, tmp_path):
    case.write(tmp_path / "source")
    options = BuildOptions(threads=1, shares={"train": 0.4, "validation": 0.3, "test": 0.3})
    builder = registry.builder_class(case.name)(options=options, data_dir=tmp_path / "data")
    folder = write_dataset(builder, tmp_path / "source", overwrite=False)
    summary = read_json(folder / SUMMARY_FILE)
    assert tuple(sorted(summary["problems"])) == case.faults
    assert summary["options"]["image_size"] == 0
    described, records = public_sets()[case.name], everything(folder)
    assert len(records) == len(case.shows)
    splits = {}
    for each in reading.read(described, tmp_path / "source").photographs:
        split, record = records[reading.record_id(described, each)]
        assert case.shows[each.relative][0] in ("", split)
        truth = truth_of(record)
        np.testing.assert_array_equal(truth.masks, expected(case, each.relative, described.masks))
        if each.relative in case.fields:
            seed = case.files[case.fields[each.relative]].seed
            np.testing.assert_array_equal(truth.field, 1 - drawn(seed))
        else:
            assert 0.4 < truth.field.mean() < 0.7
        if each.patient:
            splits.setdefault(each.patient, set()).add(split)
    assert all(len(of) == 1 for of in splits.values())


@pytest.mark.parametrize("case", MASK_CASES, ids=str)
def test_each_task_reads_its_release_in_place(case, tmp_path):
    task = tasks.described_tasks()[case.task]
    case.write(tmp_path / task["folders"][0])
    if "missing_mask" in case.faults:
        with pytest.raises(UserError, match=r"02_test.tif has no mask of vessels: test/"):
            open_segmented(DataConfig(dataset=case.task, data_dir=str(tmp_path)))
        (tmp_path / task["folders"][0] / "test/images/02_test.tif").unlink()
        (tmp_path / task["folders"][0] / "test/mask/02_test_mask.gif").unlink()
    sources, said = open_files(
        task["set"], tmp_path / task["folders"][0], task["masks"], layouts=task["layouts"]
    )
    seen = 0
    for split, source in sources.items():
        assert source.structures == tuple(task["masks"])
        for record, known in zip(source, source.known, strict=True):
            seen += 1
            assert case.shows[record.record_id][0] == split
            truth = truth_of(record)
            np.testing.assert_array_equal(
                truth.masks, expected(case, record.record_id, task["masks"])
            )
            assert known == tuple(mask is not None for mask in record.masks)
            assert record.patient_id == case.patients.get(record.record_id, record.patient_id)
            if record.record_id in case.fields:
                seed = case.files[case.fields[record.record_id]].seed
                np.testing.assert_array_equal(truth.field, 1 - drawn(seed))
    usable = [
        image
        for image, (_, masks) in case.shows.items()
        if any(structure in masks for structure in task["masks"])
    ]
    assert seen == len(usable)
    if "mask_without_image" in case.faults:
        assert any("99_manual1.gif is a mask of vessels, and its phot" in each for each in said)


def test_every_layout_with_masks_has_a_small_release():
    covered = {(case.name, case.layout) for case in MASK_CASES}
    for name, described in public_sets().items():
        if described.masks:
            assert {(name, layout.name) for layout in described.layouts} <= covered
            assert any("masks" in task for task in described.tasks.values())


def opened(tmp_path, dataset="DRIVE", splits=("train", "validation", "test"), **entries):
    config = DataConfig(dataset=dataset, data_dir=str(tmp_path), **entries)
    return open_segmented(config, splits)


@pytest.fixture
def release(tmp_path):
    """A whole release of DRIVE without faults."""
    case = drive()
    case.write(tmp_path / "drive")
    for path in ("training/1st_manual/99_manual1.gif",):
        (tmp_path / "drive" / path).unlink()
    (tmp_path / "drive/test/1st_manual/02_manual1.gif").write_bytes(Mask(2).write("x.gif"))
    return tmp_path


def test_official_splits_stay_and_validation_comes_from_training(release):
    data = opened(release, fold=(0, 2))
    assert [len(data.sources[split]) for split in ("train", "validation", "test")] == [1, 1, 2]
    assert data.structures == ("vessels",)
    assert any("fold 0 is validation" in sentence for sentence in data.said)
    again = opened(release, fold=(0, 2))
    assert all(data.sources[s].identity == again.sources[s].identity for s in data.sources)
    other = opened(release, fold=(1, 2))
    assert data.sources["train"].identity != other.sources["train"].identity


def test_a_built_set_is_divided_as_its_release(release):
    builder = registry.builder_class("drive")(
        options=BuildOptions(threads=1), data_dir=release / "data"
    )
    write_dataset(builder, release / "drive", overwrite=False)
    data = opened(release / "data", "drive", fold=(0, 2))
    assert [len(data.sources[split]) for split in ("train", "validation", "test")] == [1, 1, 2]
    assert truth_of(data.sources["test"][0]).image.shape == (*SHAPE, 3)
    with pytest.raises(UserError, match=r"no masks of 'vessel' .*did you mean 'vessels'"):
        opened(release / "data", "drive", classes=("vessel",))


def test_a_photograph_of_a_lossless_format_is_stored_without_loss(release):
    builder = registry.builder_class("drive")(
        options=BuildOptions(threads=1), data_dir=release / "data"
    )
    records = everything(write_dataset(builder, release / "drive", overwrite=False))
    in_place = {
        record.record_id: record
        for source in opened(release, fold=(0, 2)).sources.values()
        for record in source
    }
    for name, record in in_place.items():
        split, number = ("test" if "test" in name else "train"), name.split("/")[-1][:2]
        stored = records[f"{split}/{number}"][1]
        np.testing.assert_array_equal(truth_of(stored).image, truth_of(record).image)


def test_an_image_size_shrinks_masks_with_their_photographs(release):
    builder = registry.builder_class("drive")(
        options=BuildOptions(image_size=12, threads=1), data_dir=release / "data"
    )
    for _, record in everything(
        write_dataset(builder, release / "drive", overwrite=False)
    ).values():
        truth = truth_of(record)
        assert truth.image.shape[:2] == truth.masks.shape[:2] == truth.field.shape == (12, 16)
        assert set(np.unique(truth.masks)) <= {0, 1}


MANUAL = "training/1st_manual/21_manual1.gif"
FAULTS = {
    "mask of another size": (
        MANUAL, lambda: _png(np.zeros((12, 16), np.uint8)), "mask_size",
        r"21_manual1.gif has 16 x 12 pixels, and its photograph .*21_training.tif has 32 x 24",
    ),
    "mask in color": (
        MANUAL, lambda: photograph(3, "x.png"), "mask_values",
        r"21_manual1.gif is a color picture .*one gray value a pixel",
    ),
    "values out of range": (
        MANUAL, lambda: _png(drawn(0) * 7 + drawn(1) * 2), "mask_values",
        r"21_manual1.gif holds the values 0, 2, 7, 9, and a mask holds 0 and 1, or 0 and 255",
    ),
    "mask that is none": (
        MANUAL, lambda: b"GIF89a", "broken_mask", r"21_manual1.gif.*not a readable",
    ),
    "empty field of view": (
        "training/mask/21_training_mask.gif", lambda: _png(np.zeros(SHAPE, np.uint8)),
        "empty_field", r"21_training_mask.gif is an empty field of view",
    ),
}  # fmt: skip


def _png(mask: np.ndarray) -> bytes:
    from io import BytesIO

    from PIL import Image

    buffer = BytesIO()
    Image.fromarray(mask).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_mask_is_one_message_in_place_and_one_problem_when_it_is_built(release, fault):
    path, data, kind, said = FAULTS[fault]
    (release / "drive" / path).write_bytes(data())

    def read():
        for source in opened(release, fold=(0, 2)).sources.values():
            for record in source:
                truth_of(record)

    with pytest.raises(MaskError, match=said) as found:
        read()
    assert found.value.kind == kind
    assert "\n" not in str(found.value)
    builder = registry.builder_class("drive")(
        options=BuildOptions(threads=1), data_dir=release / "data"
    )
    folder = write_dataset(builder, release / "drive", overwrite=False)
    with (folder / "problems.csv").open() as file:
        (problem,) = csv.DictReader(file)
    assert problem["kind"] == kind
    assert problem["record"] == "train/21"
    assert path.rpartition("/")[2] in problem["what"]
    truth = truth_of(everything(folder)["train/21"][1])
    if kind == "empty_field":
        assert truth.field.any()
    else:
        assert (truth.masks == UNKNOWN).all()


def test_a_missing_field_of_view_is_found_and_an_odd_one_is_named(release):
    (release / "drive/training/mask/21_training_mask.gif").unlink()
    (release / "drive/training/mask/22_training_mask.gif").write_bytes(
        _png(np.full(SHAPE, 255, np.uint8))
    )
    builder = registry.builder_class("drive")(
        options=BuildOptions(threads=1), data_dir=release / "data"
    )
    folder = write_dataset(builder, release / "drive", overwrite=False)
    with (folder / "problems.csv").open() as file:
        problems = {problem["kind"]: problem for problem in csv.DictReader(file)}
    assert set(problems) == {"missing_mask", "field_of_view"}
    assert "no mask of field of view" in problems["missing_mask"]["what"]
    assert problems["missing_mask"]["remedy"] == "found on the photograph"
    assert "covers 100.0 % of it" in problems["field_of_view"]["what"]
    assert 0.4 < truth_of(everything(folder)["train/21"][1]).field.mean() < 0.7


def test_on_error_refuse_writes_nothing(release):
    (release / "drive" / MANUAL).write_bytes(b"GIF89a")
    builder = registry.builder_class("drive")(
        options=BuildOptions(threads=1, on_error="refuse"), data_dir=release / "data"
    )
    with pytest.raises(UserError, match=r"1 broken_mask\) and nothing.*first: [^:]*\.tif: "):
        write_dataset(builder, release / "drive", overwrite=False)
    assert not list((release / "data").rglob("dataset_info.json"))


def test_a_copy_without_any_masks_says_so_once(release):
    shutil.rmtree(release / "drive/training/1st_manual")
    shutil.rmtree(release / "drive/test/1st_manual")
    with pytest.raises(
        UserError, match=r"no photograph with masks of vessels.*there is no mask of"
    ):
        opened(release)


def test_tasks_of_masks_and_of_classes_are_told_apart(tmp_path):
    with pytest.raises(UserError, match=r"task FIVES_vessels is one of masks \(vessels\)"):
        tasks.open_task("FIVES_vessels", "train", str(tmp_path))
    with pytest.raises(UserError, match=r"task FIVES is one of classes, .*FIVES_vessels"):
        opened(tmp_path, "FIVES")
    with pytest.raises(UserError, match=r"task HRF: put HRF with its folders"):
        opened(tmp_path, "HRF")


def test_masks_are_listed(release, capsys):
    assert cli.main(["tasks", "--data_dir", str(release)]) == 0
    assert "drive (folders)" in capsys.readouterr().out
    assert cli.main(["tasks", "drive"]) == 0
    assert "masks of vessels: {split}/1st_manual/{number}_manual1.gif" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"masks": {"disc": {"values": "1"}}}, "mask disc: it wants `file`"),
        ({"masks": {"disc": {"file": "a", "values": "1-300"}}}, "'1-300' is no gray value of 0"),
        (
            {"masks": {"disc": {"file": "a", "missing": "maybe"}}},
            "missing 'maybe'; there are",
        ),
        ({"masks": {"disc": {"file": "a", "unknown": "127"}}}, "`unknown` values want `values`"),
        ({"masks": {"disc": {"file": "a", "where": {"c": "("}}}}, "is no regular expression"),
        ({"masks": {"disc": {"files": "a"}}}, "no entry `files`; did you mean 'file'"),
        ({"tasks": {"T": {"masks": "cup"}}}, "task T: there is no mask 'cup'"),
    ],
)
def test_a_description_of_masks_of_another_shape_is_one_message(change, said):
    whole = yaml.safe_load(
        "{title: t, source: s, licence: l, url: 'https://x', folder: f, images: '2'}"
    )
    with pytest.raises(UserError, match=said) as error:
        parse({**whole, **change}, "mine", "mine.yaml")
    assert str(error.value).startswith("mine.yaml: ")


def test_masks_by_gray_codes_may_hold_pixels_that_nobody_knows(release):
    described = public_sets()["drive"]
    guided = parse(
        {
            **{e: getattr(described, e) for e in ("title", "source", "licence", "url")},
            "folder": "guided",
            "masks": {"vessels": {"file": "{name}.png", "values": "255", "unknown": "127"}},
            "layouts": {"own": [{"files": r"(?P<name>\w+)\.jpg", "split": "train"}]},
        },
        "guided",
        "guided.yaml",
    )
    (release / "own").mkdir()
    (release / "own/a.jpg").write_bytes(photograph(0, "a.jpg"))
    codes = drawn(1).astype(int) * 127
    codes[drawn(2) == 1] = 255
    (release / "own/a.png").write_bytes(_png(codes.astype(np.uint8)))
    sources, _ = open_files(guided, release / "own", ["vessels"])
    (record,) = sources["train"]
    truth = np.where(drawn(2) == 1, 1, np.where(drawn(1) == 1, UNKNOWN, 0))
    np.testing.assert_array_equal(truth_of(record).masks[..., 0], truth)


def test_a_check_counts_masks_and_shows_them(release, capsys):
    (release / "drive/test/1st_manual/02_manual1.gif").unlink()
    builder = registry.builder_class("drive")(
        options=BuildOptions(threads=1), data_dir=release / "data"
    )
    write_dataset(builder, release / "drive", overwrite=False)
    command = ["data", "check", "drive", "--data_dir", str(release / "data")]
    assert cli.main([*command, "--out", str(release / "check")]) == 0
    assert "vessels: present of known" in capsys.readouterr().out
    report = read_json(release / "check/check.json")
    counts = {split: numbers["masks"]["vessels"] for split, numbers in report["splits"].items()}
    assert {split: (n["known"], n["present"]) for split, n in counts.items()} == {
        "train": (2, 2),
        "test": (1, 1),
    }
    share = np.mean([drawn(21).mean(), drawn(22).mean()])
    assert abs(counts["train"]["mean_share"] - share) < 1e-6
    assert report["splits"]["train"]["broken_masks"]["count"] == 0
    from PIL import Image

    assert Image.open(release / "check/train.png").size[0] > 500
    assert "vessels" in (release / "check/train.html").read_text()
