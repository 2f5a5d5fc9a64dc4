"""A dataset is found, read and replaced as a whole, and is known by what its records hold."""

import errno
import json
import shutil
import sys

import pytest

from retfm_jax import dataset_folders, files
from retfm_jax.data import datasets, tasks
from retfm_jax.data.building.builder import BuildOptions
from retfm_jax.data.building.rows import FilePicture, PatientRow
from retfm_jax.data.building.validation import ProblemLog
from retfm_jax.data.importing.importers import import_rows
from retfm_jax.data.inspection.check import check_dataset
from retfm_jax.data.pipeline import check_identity
from retfm_jax.data.sources import DamagedRecord, open_dataset
from retfm_jax.errors import UserError


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    import numpy as np
    from PIL import Image

    folder = tmp_path_factory.mktemp("photographs")
    rng = np.random.default_rng(0)
    for number in range(12):
        pixels = rng.integers(0, 255, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


def _rows(folder, exchanged: bool = False, label: str = "drusen"):
    pictures = [FilePicture(str(folder), f"{number}.png") for number in range(12)]
    rows = []
    for number in range(6):
        left, right = pictures[2 * number : 2 * number + 2]
        if exchanged:
            left, right = right, left
        rows.append(
            PatientRow(
                record_id=f"p{number}",
                file="m",
                row=number + 1,
                left=left,
                right=right,
                report={"en": f"report {number}"},
                labels=(label,),
                split="train",
            )
        )
    return rows


def _build(data_dir, photographs, overwrite=False, **change):
    options = BuildOptions(image_size=0, threads=2)
    rows = _rows(photographs, **change)
    return import_rows(rows, ProblemLog(), "own", data_dir, options, overwrite)


def test_the_same_records_have_the_same_digest_and_others_another(tmp_path, photographs):
    first = _build(tmp_path / "a", photographs)
    again = _build(tmp_path / "b", photographs)
    other = _build(tmp_path / "c", photographs, exchanged=True)
    digests = [datasets.stored_digests(folder) for folder in (first, again, other)]
    assert digests[0] == digests[1]
    assert digests[0]["train"] != digests[2]["train"]
    assert datasets.digests(other) == digests[2]


def test_a_checkpoint_knows_its_records_where_both_have_a_digest(tmp_path, photographs, capsys):
    def identity():
        return {"source": open_dataset("own", "train[:50%]", tmp_path).identity}

    folder = _build(tmp_path, photographs)
    before = identity()
    _build(tmp_path, photographs, overwrite=True, exchanged=True)
    with pytest.raises(UserError, match=r"contents\.train"):
        check_identity(before, identity())
    old = {"source": {k: v for k, v in before["source"].items() if k != "contents"}}
    check_identity(old, identity())  # version 0.1's
    assert "no digest" in capsys.readouterr().out
    (folder / datasets.CONTENTS).unlink()
    check_identity(before, identity())


def test_a_dataset_that_is_replaced_takes_nothing_from_the_old_one(tmp_path, photographs):
    _build(tmp_path, photographs)
    _build(tmp_path, photographs, overwrite=True, label="glaucoma")
    assert open_dataset("own", "train", tmp_path).label_names == ("glaucoma",)
    with pytest.raises(UserError, match="overwrite"):
        _build(tmp_path, photographs)
    assert {path.name for path in (tmp_path / "own").iterdir()} == {"1.0.0"}


@pytest.mark.parametrize(
    "left_over", ["incomplete.ABC999_1.0.0", ".1.0.0.writing-abc", "1.0.0.incompleteZ9", "9.9.9-x"]
)
def test_what_a_killed_build_left_is_no_version(tmp_path, photographs, left_over):
    folder = _build(tmp_path, photographs)
    shutil.copytree(folder, folder.with_name(left_over))
    assert dataset_folders.find("own", tmp_path) == folder
    assert dataset_folders.below(tmp_path) == [folder]
    shutil.rmtree(folder)
    assert not dataset_folders.is_built("own", tmp_path)


def test_the_newest_version_counts_as_numbers(tmp_path):
    for version in ("1.2.0", "1.10.0", "1.9.9"):
        (tmp_path / "own" / version).mkdir(parents=True)
        (tmp_path / "own" / version / dataset_folders.INFO).touch()
    assert dataset_folders.find("own", tmp_path).name == "1.10.0"


def test_a_split_that_is_not_there_is_no_other_dataset(data_dir, monkeypatch):
    monkeypatch.setattr(tasks, "described_tasks", lambda: {"pair": {}})
    with pytest.raises(UserError, match=r"has no split 'trian'.*did you mean 'train'\?$") as raised:
        tasks.open_task("pairs", "trian", str(data_dir))
    assert "'pair'" not in str(raised.value)


@pytest.mark.parametrize(
    ("dataset", "synthetic"),
    [
        ("synthetic_fundus", True),
        ("synthetic_held_out", True),
        ("synthetic_fundus/clinic_80-10-10_64px_seed0/1.0.0", True),
        ("/data/synthetic_fundus/clinic_80-10-10_64px_seed0/", True),
        ("clinic", False),
        ("/home/me/synthetic_study/data/clinic/1.0.0", False),
        ("photosynthetic", False),
        ("", False),
    ],
)
def test_a_name_tells_whether_patients_were_generated_wherever_they_lie(dataset, synthetic):
    assert dataset_folders.is_synthetic(dataset) == synthetic


@pytest.mark.parametrize("key", ["pythonClassName", "python_class_name", "type", "nested"])
def test_nothing_that_a_dataset_names_is_imported(tmp_path, photographs, monkeypatch, key):
    folder = _build(tmp_path, photographs)
    (tmp_path / "strange_features.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    document = json.loads((folder / "features.json").read_text())
    if key == "nested":
        inner = {"type": "strange_features.Features", "content": {}}
        document = {"jsonFeature": {"json": json.dumps(inner)}, **document}
    else:
        document[key] = "strange_features.Features"
    (folder / "features.json").write_text(json.dumps(document))
    with pytest.raises(UserError, match=r"features\.json names the class 'strange_features"):
        open_dataset("own", "train", tmp_path)
    assert "strange_features" not in sys.modules


def test_a_damaged_record_is_named_with_its_file_and_the_others_are_checked(tmp_path, photographs):
    folder = _build(tmp_path, photographs)
    (shard,) = folder.glob("*.array_record*")
    data = bytearray(shard.read_bytes())
    data[len(data) // 3] ^= 4
    shard.write_bytes(data)
    source = open_dataset("own", "train", tmp_path)
    errors = []
    for index in range(len(source)):
        try:
            source[index]
        except DamagedRecord as error:
            errors.append(str(error))
    assert 0 < len(errors) < len(source)
    assert all(str(shard) in error for error in errors)
    report = check_dataset("own", str(tmp_path), "train", tmp_path / "check")
    assert report["splits"]["train"]["unreadable"]["count"] == len(errors)
    assert report["splits"]["train"]["records"] == len(source) - len(errors)
    assert any(str(shard) in sentence for sentence in report["broken"])


def test_a_dataset_in_a_store_is_built_read_and_replaced(bucket, photographs):
    folder = _build(bucket, photographs)
    assert dataset_folders.below(bucket) == [folder]
    source = open_dataset("own", "train", bucket)
    before = {record.record_id: (record.left, record.right) for record in source}
    assert len(before) == 6
    _build(bucket, photographs, overwrite=True, exchanged=True)
    source = open_dataset("own", "train", bucket)
    assert {record.record_id: (record.right, record.left) for record in source} == before
    shards = [path for path in files.files_below(folder) if "array_record" in path.name]
    assert len(shards) == 1


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError(
            'Failed to finalize split "train": write() failed: No space left on device; at'
        ),
        RuntimeError("write() failed: Disk quota exceeded; writing x.array_record"),
        OSError(errno.EFBIG, "File too large"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
    ],
)
def test_a_full_disk_is_called_so_by_whichever_writer_met_it(tmp_path, error):
    def build(root):
        (root / "half").write_text("half")
        raise error

    with pytest.raises(UserError, match=r"the disk of .*/1\.0\.0 is full; nothing was written"):
        datasets.write(tmp_path / "1.0.0", build, overwrite=False)
    assert list(tmp_path.iterdir()) == []


def test_other_failures_of_a_build_stay_what_they_are(tmp_path):
    def build(root):
        raise RuntimeError("a fault")

    with pytest.raises(RuntimeError, match="a fault"):
        datasets.write(tmp_path / "1.0.0", build, overwrite=False)
